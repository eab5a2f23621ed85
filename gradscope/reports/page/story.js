// The story of one layer: each quantity over the steps, the onsets of its findings, and where it was not finite.
"use strict";
gradscope.story = (() => {
  const { LEAST, ZERO, NONFINITE } = gradscope.codes;
  const place = (id) => document.getElementById(`story-${id}`);
  let latest = 0; // a figure that is embedded late must not show a layer that was left

  async function fill(layers, plane, row, found, turn) {
    const target = document.querySelector(`[data-figure="story-${plane.key}"]`);
    const columns = [...Array(layers.columns).keys()];
    const codes = columns.map((column) => plane.code(row, column));
    target.hidden = codes.every((code) => code < LEAST && code !== ZERO && code !== NONFINITE);
    if (target.hidden) return;
    const model = (await gradscope.figure(`story-${plane.key}`)).model;
    if (turn !== latest) return;
    const named = (part) => model.document.get_model_by_name(`story-${plane.key}-${part}`);
    const value = (code) =>
      code >= LEAST ? 10 ** gradscope.codes.log(plane.grid, code) : code === ZERO && plane.scale === "share" ? 0 : NaN;
    named("line").data = { x: columns.map((column) => layers.first(column)), y: codes.map(value) };
    named("onsets").data = { x: found.map((mark) => mark.first) };
    named("broken").data = { x: columns.filter((column) => codes[column] === NONFINITE).map((column) => layers.first(column)) };
    model.change.emit();
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
      const layers = await gradscope.layers;
      place("name").textContent = layers.name(row);
      place("type").textContent = layers.type(row);
      place("findings").replaceChildren(...found.map(told));
      await Promise.all(layers.planes.map((plane) => fill(layers, plane, row, found, turn)));
    },
  };
})();
