// Reads the grids that reports/codes.py writes.
"use strict";
gradscope.codes = (() => {
  const [UNSEEN, ZERO, NONFINITE, LEAST] = [0, 1, 2, 3];

  // What stands in base64; older browsers lack the direct way.
  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const letters = atob(text);
    const found = new Uint8Array(letters.length);
    for (let i = 0; i < found.length; i++) found[i] = letters.charCodeAt(i);
    return found;
  }

  // {shape, low, step, codes} → the same with `codes` as a Uint16Array
  async function read(grid) {
    const stream = new Blob([bytes(grid.codes)]).stream().pipeThrough(new DecompressionStream("deflate"));
    return { ...grid, codes: new Uint16Array(await new Response(stream).arrayBuffer()) };
  }

  // log10 of a number; only codes from LEAST on have one
  const log = (grid, code) => grid.low + (code - LEAST) * grid.step;

  // the number as a person reads it
  function text(grid, code) {
    if (code === ZERO) return "0";
    if (code === NONFINITE) return "NaN or Inf";
    if (code === UNSEEN) return "not observed";
    const [digits, power] = (10 ** log(grid, code)).toPrecision(3).split("e");
    const short = digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
    return power === undefined ? short : `${short}e${power.replace("-", "−")}`;
  }

  return { UNSEEN, ZERO, NONFINITE, LEAST, read, log, text };
})();
