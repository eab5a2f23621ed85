// The story of one layer: each quantity over the steps, the onsets of its findings, and where it was not finite.
"use strict";
gradscope.story = (() => {
  const { UNSEEN, LEAST, ZERO, NONFINITE } = gradscope.codes;
  const place = (id) => document.getElementById(`story-${id}`);
  let latest = 0; // a figure that is embedded late must not show a layer that was left

  const codesOf = (plane, row) => [...plane.codes.subarray(row * gradscope.layers.columns, (row + 1) * gradscope.layers.columns)];

  // Where the axis of the values begins and ends: around all of them, and never so near that noise fills the figure.
  function limits(plane, values) {
    if (plane.scale === "share") return [-0.03, 1.03];
    const known = values.filter((value) => value > 0);
    if (!known.length) return [0.1, 10];
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const room = Math.max(1.2, Math.sqrt(2 / (high / low)));
    return [low / room, high * room];
  }

  function fill(model, plane, row, found) {
    const named = (part) => model.document.get_model_by_name(`story-${plane.key}-${part}`);
    const codes = codesOf(plane, row);
    const values = codes.map((code) => {
      if (code >= LEAST) return 10 ** gradscope.codes.log(plane.grid, code);
      return code === ZERO && plane.scale === "share" ? 0 : NaN;
    });
    const steps = codes.map((_, column) => gradscope.layers.first(column));
    const where = (wanted) => steps.filter((_, column) => codes[column] === wanted);
    const [bottom, top] = limits(plane, values);
    Object.assign(named("values"), { start: bottom, end: top, reset_start: bottom, reset_end: top });
    named("line").data = { x: steps, y: values };
    named("zeros").data = plane.scale === "share" ? { x: [], y: [] } : { x: where(ZERO), y: where(ZERO).map(() => bottom) };
    named("broken").data = { x: where(NONFINITE) };
    named("onsets").data = { x: found.map((mark) => mark.first) };
  }

  async function draw(plane, row, found, turn) {
    await plane.read();
    const name = `story-${plane.key}`;
    const place = document.querySelector(`[data-figure="${name}"]`);
    place.hidden = codesOf(plane, row).every((code) => code === UNSEEN);
    if (place.hidden) return;
    const model = (await gradscope.shown(name)).model;
    if (turn === latest) fill(model, plane, row, found);
  }

  function told(mark) {
    const line = document.createElement("p");
    const severity = document.createElement("strong");
    severity.className = mark.severity;
    severity.textContent = `${mark.severity} ${mark.title} `;
    line.append(severity, mark.message);
    return line;
  }

  return {
    async tell(row, found) {
      const turn = ++latest;
      place("name").textContent = gradscope.layers.name(row);
      place("type").textContent = gradscope.layers.type(row);
      place("findings").replaceChildren(...found.map(told));
      await Promise.all(gradscope.layers.planes.map((plane) => draw(plane, row, found, turn)));
    },
  };
})();
