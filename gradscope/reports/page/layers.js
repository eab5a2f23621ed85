// The numbers of the map, read once: layers, columns and planes as reports/layer_grid.py describes them.
"use strict";
gradscope.layers = (async () => {
  const { layers, first, last, planes } = gradscope.documentOf("data-layers");
  const grids = await Promise.all(planes.map((plane) => gradscope.codes.read(plane.grid)));
  const columns = first.length;

  // Of a plane: where its middle lies, so that what is far from it can be told.
  function median(grid) {
    const known = grid.codes.filter((code) => code >= gradscope.codes.LEAST).sort();
    return known.length ? known[known.length >> 1] : gradscope.codes.LEAST;
  }

  return {
    count: layers.length,
    columns,
    name: (row) => layers[row][0] || "(model)",
    type: (row) => layers[row][1],
    first: (column) => first[column],
    last: (column) => last[column],
    // The column in which a step is; the nearest where it was not recorded.
    columnOf(step) {
      const found = last.findIndex((end) => end >= step);
      return found < 0 ? columns - 1 : found;
    },
    rowOf: (module) => layers.findIndex(([name]) => name === module),
    planes: planes.map((plane, index) => ({
      key: plane.key,
      label: plane.label,
      scale: plane.scale,
      grid: grids[index],
      middle: median(grids[index]),
      code: (row, column) => grids[index].codes[row * columns + column],
    })),
    steps: (column) =>
      first[column] === last[column] ? `step ${first[column]}` : `steps ${first[column]} to ${last[column]}, the extreme`,
  };
})();
