// Sorts and filters the table of findings; without this script it stands there in full, in the order of the diagnosis.
"use strict";
(() => {
  const table = document.getElementById("findings-table");
  const controls = document.getElementById("findings-controls");
  const part = document.getElementById("findings-module");
  const body = table.tBodies[0];
  const asDiagnosed = [...body.rows];
  const collator = new Intl.Collator(undefined, { numeric: true });

  function key(row, column) {
    const cell = row.cells[column];
    return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent;
  }

  // What has no number comes last either way.
  function compare(a, b, sign) {
    if (typeof a === "string") return sign * collator.compare(a, b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  }

  // Upwards, downwards, and then as diagnosed again.
  function sort(head) {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    for (const other of table.querySelectorAll("th[data-sorts]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1;
    const rows = [...asDiagnosed];
    if (next !== "none") rows.sort((a, b) => compare(key(a, head.cellIndex), key(b, head.cellIndex), sign));
    body.append(...rows);
  }

  function filter() {
    const severities = new Set([...controls.querySelectorAll("input:checked")].map((box) => box.value));
    const wanted = part.value.trim().toLowerCase();
    let left = 0;
    for (const row of asDiagnosed) {
      const fits = severities.has(row.dataset.severity) && row.dataset.modules.toLowerCase().includes(wanted);
      row.hidden = !fits;
      left += fits;
    }
    document.getElementById("findings-shown").textContent = `${left} of ${asDiagnosed.length} shown`;
    document.getElementById("findings-none").hidden = left > 0;
  }

  for (const head of table.querySelectorAll("th[data-sorts]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sort(head));
  }
  controls.addEventListener("input", filter);
  controls.hidden = false;
  filter();
})();
