// The numbers of the map: layers, columns and planes as reports/layer_grid.py describes them. A plane is unpacked when
// it is first asked for: `await plane.read()`, and then `plane.codes[row * columns + column]`.
"use strict";
gradscope.layers = (() => {
  const { LEAST, log } = gradscope.codes;
  const { layers, first, last, planes } = gradscope.documentOf("data-layers");
  const columns = first.length;

  function plane({ key, label, scale, grid }) {
    const made = { key, label, scale, grid };
    let reading;

    // Where its middle lies, so that what is far from it can be told; and where its colours begin and end: but for a
    // few cells, which must not leave one colour for all others.
    async function read() {
      made.codes = (await gradscope.codes.read(grid)).codes;
      const known = made.codes.filter((code) => code >= LEAST).sort();
      const at = (share) => known[Math.floor(share * (known.length - 1))];
      made.middle = known.length ? at(0.5) : LEAST;
      if (scale === "share") made.limits = [0, 1];
      else {
        const [low, high] = known.length ? [Math.floor(log(grid, at(0.002))), Math.ceil(log(grid, at(0.99)))] : [-1, 0];
        made.limits = [high > low ? low : high - 1, high];
      }
      return made;
    }

    made.read = () => (reading ??= read());
    return made;
  }

  return {
    count: layers.length,
    columns,
    planes: planes.map(plane),
    name: (row) => layers[row][0] || "(model)",
    type: (row) => layers[row][1],
    first: (column) => first[column],
    // The column in which a step is; the nearest where it was not recorded.
    columnOf(step) {
      const found = last.findIndex((end) => end >= step);
      return found < 0 ? columns - 1 : found;
    },
    // The row of that module, or of the first within it; undefined where there is none.
    rowOf(module) {
      const rows = [...layers.keys()];
      return rows.find((row) => layers[row][0] === module) ?? rows.find((row) => layers[row][0].startsWith(`${module}.`));
    },
    steps: (column) =>
      first[column] === last[column] ? `step ${first[column]}` : `steps ${first[column]} to ${last[column]}, the extreme`,
  };
})();
