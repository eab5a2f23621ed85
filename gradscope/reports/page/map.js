// Draws the map at any zoom, tells what the pointer is on, and chooses the layer whose story is told.
// A drawn cell stands for several rows or columns where the zoom is out: it shows the extreme of them, never a mean.
"use strict";
gradscope.map = (() => {
  const { UNSEEN, ZERO, NONFINITE, LEAST } = gradscope.codes;
  const [planeChoice, layerChoice] = ["map-plane", "map-layer"].map((id) => document.getElementById(id));
  const tip = document.getElementById("map-tip");
  const marks = gradscope.documentOf("data-marks");
  let layers, model, colours, due;

  const named = (name) => model.document.get_model_by_name(name);
  const plane = () => layers.planes[Number(planeChoice.value)];

  // [red, green, blue] as the 32 bits of an image
  function packed(colour) {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }

  // The code that stands for the rectangle of cells [r0, r1) × [c0, c1): what is broken, else what is farthest off.
  function extreme(shown, r0, r1, c0, c1) {
    let found = UNSEEN;
    let distance = -1;
    for (let row = r0; row < r1; row++) {
      for (let column = c0; column < c1; column++) {
        const code = shown.code(row, column);
        if (code === NONFINITE) return NONFINITE;
        const far = code === UNSEEN ? -1 : code === ZERO ? Infinity : Math.abs(code - shown.middle);
        if (far > distance) [found, distance] = [code, far];
      }
    }
    return found;
  }

  // Where the colours begin and end: but for a few cells, which must not leave one colour for all others.
  function limits(shown) {
    if (shown.scale === "share") return [0, 1];
    const known = shown.grid.codes.filter((code) => code >= LEAST).sort();
    if (!known.length) return [-1, 0];
    const at = (share) => gradscope.codes.log(shown.grid, known[Math.floor(share * (known.length - 1))]);
    const [low, high] = [Math.floor(at(0.002)), Math.ceil(at(0.99))];
    return high > low ? [low, high] : [low - 1, high];
  }

  function colourOf(shown, code, [low, high]) {
    if (code === UNSEEN) return 0;
    if (code === NONFINITE) return colours.nonfinite;
    if (code === ZERO && shown.scale === "log") return colours.zero;
    const log = gradscope.codes.log(shown.grid, code);
    const value = shown.scale === "share" ? 10 ** log : log;
    const at = Math.round(((value - low) / (high - low)) * (colours.palette.length - 1));
    return colours.palette[Math.min(Math.max(at, 0), colours.palette.length - 1)];
  }

  function draw() {
    due = undefined;
    const source = named("map-image");
    const image = source.data.image[0];
    const [height, width] = image.shape;
    const view = { x: named("map-columns"), y: named("map-rows") };
    const [left, bottom] = [Math.max(0, view.x.start), Math.max(0, view.y.start)];
    const [right, top] = [Math.min(layers.columns, view.x.end), Math.min(layers.count, view.y.end)];
    const shown = plane();
    const ends = limits(shown);
    const edges = (from, to, cells) =>
      Array.from({ length: cells + 1 }, (_, i) => from + ((to - from) * i) / cells);
    const [xs, ys] = [edges(left, right, width), edges(bottom, top, height)];
    for (let i = 0; i < height; i++) {
      const r0 = Math.floor(ys[i]);
      const r1 = Math.max(r0 + 1, Math.floor(ys[i + 1]));
      for (let j = 0; j < width; j++) {
        const c0 = Math.floor(xs[j]);
        image[i * width + j] = colourOf(shown, extreme(shown, r0, r1, c0, Math.max(c0 + 1, Math.floor(xs[j + 1]))), ends);
      }
    }
    Object.assign(source.data, { x: [left], y: [bottom], dw: [right - left], dh: [top - bottom] });
    source.change.emit(); // the image is the same array: to assign it would be no change
    nameRows(top - bottom);
  }

  // As many names as have room; a row has at least 14 pixels then.
  function nameRows(rows) {
    const every = Math.max(1, Math.ceil((rows * 14) / model.inner_height || 1));
    const ticks = [];
    for (let row = 0; row < layers.count; row += every) ticks.push(row + 0.5);
    named("map-ticks").ticks = ticks;
  }

  // What a zoom must not hide: one mark for each run of broken cells of a row, and one for each finding at each layer.
  function overlay() {
    const shown = plane();
    const broken = { x: [], y: [] };
    for (let row = 0; row < layers.count; row++) {
      for (let column = 0; column < layers.columns && broken.x.length < 2000; column++) {
        const before = column ? shown.code(row, column - 1) : UNSEEN;
        if (shown.code(row, column) === NONFINITE && before !== NONFINITE) {
          broken.x.push(column + 0.5);
          broken.y.push(row + 0.5);
        }
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

  function choosePlane() {
    const shown = plane();
    const mapper = named("map-colours");
    [mapper.low, mapper.high] = limits(shown);
    document.getElementById("map-scale").textContent = shown.scale === "share" ? `${shown.label}` : `log₁₀ of the ${shown.label}`;
    overlay();
    draw();
  }

  function chooseLayer(row, { scroll = false } = {}) {
    layerChoice.value = String(row);
    named("map-chosen").data = { y: [row + 0.5], height: [1] };
    gradscope.story.tell(row, marks.filter((mark) => mark.rows.includes(row)));
    if (scroll) document.getElementById("map").scrollIntoView({ behavior: "smooth" });
  }

  function at(event) {
    const [column, row] = [Math.floor(event.x), Math.floor(event.y)];
    return row >= 0 && row < layers.count && column >= 0 && column < layers.columns ? [row, column] : undefined;
  }

  const ready = (async () => {
    layers = await gradscope.layers;
    model = (await gradscope.figure("map")).model;
    const palette = named("map-colours").palette.map((colour) => packed(typeof colour === "string" ? colour : "#000000"));
    const swatches = [...document.querySelectorAll("#map .swatch")].map((swatch) => swatch.style.background);
    colours = { palette, nonfinite: fromCss(swatches[0]), zero: fromCss(swatches[1]) };
    choosePlane();
    chooseLayer(marks.find((mark) => mark.rows.length)?.rows[0] ?? 0);
    document.documentElement.dataset.ready = String(performance.now());
  })();

  function fromCss(colour) {
    const [r, g, b] = colour.match(/\d+/g).map(Number);
    return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  }

  planeChoice.addEventListener("change", choosePlane);
  layerChoice.addEventListener("change", () => chooseLayer(Number(layerChoice.value)));

  return {
    ready,
    step: (tick) => (layers && tick < layers.columns ? String(layers.first(Math.max(0, Math.floor(tick)))) : ""),
    name(tick) {
      const name = layers ? layers.name(Math.floor(tick)) : "";
      return name.length > 28 ? `…${name.slice(-27)}` : name;
    },
    moved() {
      if (layers) due ??= requestAnimationFrame(draw);
    },
    tap(event) {
      const place = at(event);
      if (place) chooseLayer(place[0]);
    },
    mousemove(event) {
      const place = layers && at(event);
      tip.hidden = !place;
      if (!place) return;
      const [row, column] = place;
      const shown = plane();
      const found = marks.filter((mark) => mark.rows.includes(row)).map((mark) => mark.title);
      tip.textContent = [
        layers.name(row),
        layers.steps(column),
        `${shown.label}: ${gradscope.codes.text(shown.grid, shown.code(row, column))}`,
        ...found,
      ].join(" · ");
      const frame = tip.parentElement.getBoundingClientRect();
      tip.style.top = `${event.sy + 16}px`;
      tip.style.left = `${Math.min(event.sx + 16, frame.width - tip.offsetWidth - 4)}px`;
    },
    mouseleave() {
      tip.hidden = true;
    },
    // The layer of that name, or the first within it; false where the map has none.
    show(module) {
      const row = layers.rowOf(module);
      const inside = row >= 0 ? row : [...Array(layers.count).keys()].find((i) => layers.name(i).startsWith(`${module}.`));
      if (inside === undefined) return false;
      chooseLayer(inside, { scroll: true });
      return true;
    },
  };
})();
