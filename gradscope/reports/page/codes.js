// Reads the grids that reports/codes.py writes.
"use strict";
gradscope.codes = {
  UNSEEN: 0,
  ZERO: 1,
  NONFINITE: 2,
  LEAST: 3,

  // {shape, low, step, codes} → the same with `codes` as a Uint16Array
  async read(grid) {
    const packed = Uint8Array.from(atob(grid.codes), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return { ...grid, codes: new Uint16Array(await new Response(stream).arrayBuffer()) };
  },

  // log10 of the number; -Infinity of zero, Infinity of NaN or Inf, NaN where nothing was observed
  log(grid, code) {
    if (code >= this.LEAST) return grid.low + (code - this.LEAST) * grid.step;
    return code === this.ZERO ? -Infinity : code === this.NONFINITE ? Infinity : NaN;
  },

  // the number as a person reads it
  text(grid, code) {
    if (code === this.ZERO) return "0";
    if (code === this.NONFINITE) return "NaN or Inf";
    if (code === this.UNSEEN) return "not observed";
    return (10 ** this.log(grid, code)).toPrecision(3).replace(/\.?0+(?=e|$)/, "").replace("e-", "e−");
  },
};
