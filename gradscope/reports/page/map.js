// Draws the map at any zoom, tells what the pointer is on, and chooses the layer whose story is told.
// A drawn cell stands for several rows or columns where the zoom is out: it shows the extreme of them, never a mean.
"use strict";
gradscope.map = (() => {
  const { UNSEEN, ZERO, NONFINITE } = gradscope.codes;
  const { layers } = gradscope;
  const [planeChoice, layerChoice] = ["map-plane", "map-layer"].map((id) => document.getElementById(id));
  const tip = document.getElementById("map-tip");
  const marks = gradscope.documentOf("data-marks");
  const findings = (row) => marks.filter((mark) => mark.rows.includes(row));
  let model, colours, shown, due; // `shown` is the plane that is drawn

  const named = (name) => model.document.get_model_by_name(name);

  // "#rrggbb" → the 32 bits of an opaque pixel
  function packed(colour) {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }

  // The code that stands for the cells [r0, r1) × [c0, c1): what is broken, else what is farthest from the middle;
  // of shares the largest, as there zero is the healthy one, and codes rise as their numbers do.
  function extreme(r0, r1, c0, c1) {
    const { codes, middle, scale } = shown;
    let found = UNSEEN;
    let distance = -1;
    for (let row = r0; row < r1; row++) {
      for (let at = row * layers.columns + c0; at < row * layers.columns + c1; at++) {
        const code = codes[at];
        if (code === NONFINITE) return NONFINITE;
        const usual = code === ZERO ? Infinity : Math.abs(code - middle);
        const far = code === UNSEEN ? -1 : scale === "share" ? code : usual;
        if (far > distance) [found, distance] = [code, far];
      }
    }
    return found;
  }

  function colourOf(code) {
    if (code === UNSEEN) return 0;
    if (code === NONFINITE) return colours.nonfinite;
    if (code === ZERO && shown.scale === "log") return colours.zero;
    const log = gradscope.codes.log(shown.grid, code);
    const [low, high] = shown.limits;
    const value = shown.scale === "log" ? log : code === ZERO ? 0 : 10 ** log; // a zero has no logarithm
    const share = (value - low) / (high - low);
    return colours.palette[Math.round(Math.min(Math.max(share, 0), 1) * (colours.palette.length - 1))];
  }

  // Where each of the drawn cells begins, and the last ends, among the rows or columns from `from` to `to`.
  const edges = (from, to, cells) => Array.from({ length: cells + 1 }, (_, i) => Math.floor(from + ((to - from) * i) / cells));

  function draw() {
    due = undefined;
    const source = named("map-image");
    const image = source.data.image[0];
    const [height, width] = image.shape;
    const [across, up] = [named("map-columns"), named("map-rows")];
    const [left, bottom] = [Math.max(0, across.start), Math.max(0, up.start)];
    const [right, top] = [Math.min(layers.columns, across.end), Math.min(layers.count, up.end)];
    const [xs, ys] = [edges(left, right, width), edges(bottom, top, height)];
    for (let i = 0; i < height; i++) {
      if (i > 0 && ys[i] === ys[i - 1] && ys[i + 1] <= ys[i] + 1) {
        image.copyWithin(i * width, (i - 1) * width, i * width); // the same row of the map once more
        continue;
      }
      for (let j = 0; j < width; j++) {
        image[i * width + j] = colourOf(extreme(ys[i], Math.max(ys[i] + 1, ys[i + 1]), xs[j], Math.max(xs[j] + 1, xs[j + 1])));
      }
    }
    Object.assign(source.data, { x: [left], y: [bottom], dw: [right - left], dh: [top - bottom] });
    source.change.emit(); // the image is the same array: to assign it would be no change
    nameRows(top - bottom);
  }

  // As many names as have room: 14 pixels for each.
  function nameRows(rows) {
    const every = Math.max(1, Math.ceil((rows * 14) / (model.inner_height || 400)));
    const ticks = [];
    for (let row = 0; row < layers.count; row += every) ticks.push(row + 0.5);
    named("map-ticks").ticks = ticks;
  }

  // What no zoom may hide: where each row breaks, and where each finding begins at each of its layers. A row that breaks
  // again and again leaves room for the marks of the others.
  function overlay() {
    const broken = { x: [], y: [] };
    const most = Math.max(1, Math.floor(2000 / layers.count));
    for (let row = 0; row < layers.count; row++) {
      for (let column = 0, marked = 0; column < layers.columns && marked < most; column++) {
        const at = row * layers.columns + column;
        if (shown.codes[at] !== NONFINITE || (column > 0 && shown.codes[at - 1] === NONFINITE)) continue;
        broken.x.push(column + 0.5);
        broken.y.push(row + 0.5);
        marked++;
      }
    }
    named("map-broken").data = broken;
    for (const severity of ["error", "warning", "info"]) {
      const found = marks.filter((mark) => mark.severity === severity);
      named(`map-${severity}`).data = {
        x: found.flatMap((mark) => mark.rows.map(() => layers.columnOf(mark.first) + 0.5)),
        y: found.flatMap((mark) => mark.rows.map((row) => row + 0.5)),
      };
    }
  }

  async function choosePlane() {
    shown = await layers.planes[Number(planeChoice.value)].read();
    [named("map-colours").low, named("map-colours").high] = shown.limits;
    document.getElementById("map-scale").textContent = `Colour: ${shown.scale === "log" ? "log₁₀ of the " : ""}${shown.label}.`;
    overlay();
    draw();
  }

  function chooseLayer(row) {
    layerChoice.value = String(row);
    named("map-chosen").data = { y: [row + 0.5], height: [1] };
    gradscope.story.tell(row, findings(row));
  }

  function under(event) {
    const [column, row] = [Math.floor(event.x), Math.floor(event.y)];
    return row >= 0 && row < layers.count && column >= 0 && column < layers.columns ? [row, column] : undefined;
  }

  const ready = (async () => {
    layers.planes[0].read();
    model = (await gradscope.figure("map")).model;
    const { nonfinite, zero } = document.getElementById("map-frame").dataset;
    const palette = named("map-colours").palette.map(packed);
    colours = { palette, nonfinite: packed(nonfinite), zero: packed(zero) };
    await choosePlane();
    document.documentElement.dataset.ready = String(performance.now());
    chooseLayer(marks.find((mark) => mark.rows.length)?.rows[0] ?? 0);
  })();
  gradscope.first(ready);

  planeChoice.addEventListener("change", choosePlane);
  layerChoice.addEventListener("change", () => chooseLayer(Number(layerChoice.value)));

  return {
    ready,
    step: (tick) => (tick < layers.columns ? String(layers.first(Math.max(0, Math.floor(tick)))) : ""),
    name(tick) {
      const whole = layers.name(Math.min(Math.max(0, Math.floor(tick)), layers.count - 1));
      const name = whole.replace(/\p{Cc}+|[\u2028\u2029]/gu, " "); // a line break would run into the next row
      return name.length > 28 ? `…${name.slice(-27)}` : name;
    },
    moved() {
      if (shown) due ??= requestAnimationFrame(draw);
    },
    tap(event) {
      const cell = shown && under(event);
      if (cell) chooseLayer(cell[0]);
    },
    mousemove(event) {
      const cell = shown && under(event);
      tip.hidden = !cell;
      if (!cell) return;
      const [row, column] = cell;
      const figures = gradscope.codes.text(shown.grid, shown.codes[row * layers.columns + column]);
      tip.textContent = [
        layers.name(row),
        layers.steps(column),
        `${shown.label}: ${figures}`,
        ...findings(row).map((mark) => mark.title),
      ].join(" · ");
      tip.style.top = `${event.sy + 16}px`;
      tip.style.left = `${Math.min(event.sx + 16, tip.parentElement.clientWidth - tip.offsetWidth - 4)}px`;
    },
    mouseleave() {
      tip.hidden = true;
    },
    // Tells the story of that layer, or of the first within it; false where the map has none.
    show(module) {
      const row = layers.rowOf(module);
      if (row === undefined) return false;
      chooseLayer(row);
      document.getElementById("map").scrollIntoView({ behavior: "smooth" });
      return true;
    },
  };
})();
