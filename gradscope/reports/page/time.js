// Fills the figures of a sequence's time over the steps when they come into view, from the codes that the page carries.
"use strict";
gradscope.time = (() => {
  const grids = new Map(); // name of a figure → its grid, once it is drawn

  // The values of an image, in the class of the one that is there.
  function like(image, values, shape) {
    return new image.constructor(values, shape);
  }

  async function fill(name, view) {
    const { codes } = gradscope;
    const grid = await codes.read(gradscope.documentOf(`data-${name}`));
    grids.set(name, grid);
    const logs = Float32Array.from(grid.codes, (code) => (code >= codes.LEAST ? codes.log(grid, code) : NaN));
    const special = Float32Array.from(grid.codes, (code) =>
      code === codes.ZERO ? 0 : code === codes.NONFINITE ? 1 : NaN,
    );
    const source = view.model.document.get_model_by_name(name);
    const first = source.data.image[0];
    source.data = {
      ...source.data,
      image: [like(first, logs, grid.shape)],
      special: [like(first, special, grid.shape)],
      code: [like(first, Float32Array.from(grid.codes), grid.shape)],
    };
    document.querySelector(`[data-figure="${CSS.escape(name)}"]`).dataset.filled = "yes";
  }

  for (const { dataset } of document.querySelectorAll('[data-figure^="time-map-"]')) {
    gradscope.shown(dataset.figure).then((view) => fill(dataset.figure, view));
  }

  return {
    // The number at a cell as a person reads it.
    text: (name, code) => gradscope.codes.text(grids.get(name), code),
    // What stands at an edge of blocks that begin at `first`: of step 40 to 49 "40", and "" between two cells.
    at: (first, tick) => (Number.isInteger(tick) && tick >= 0 && tick < first.length ? String(first[tick]) : ""),
    // A block in words: "40 to 49", or "40" alone.
    block(first, last, place) {
      const i = Math.min(Math.max(Math.round(place), 0), first.length - 1);
      return first[i] === last[i] ? String(first[i]) : `${first[i]} to ${last[i]}`;
    },
  };
})();
