// What names a layer leads to its place in the map: a click, or Enter, on everything that has `data-shows`.
// Without the map the names stay plain text.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const map = gradscope.map;
  if (!map) return;

  function show(element) {
    if (map.show(element.dataset.shows) === false) return;
    for (const row of document.querySelectorAll("tr[aria-current]")) row.removeAttribute("aria-current");
    if (element.matches("tr")) element.setAttribute("aria-current", "true");
  }

  for (const element of document.querySelectorAll("[data-shows]")) {
    element.tabIndex = 0;
    element.title = "show this layer in the map";
    if (!element.matches("tr")) element.setAttribute("role", "link"); // a row stays a row
  }
  document.addEventListener("click", (event) => {
    const element = event.target.closest("[data-shows]");
    const within = event.target.closest("a, button, input, summary");
    if (element && !within && getSelection().isCollapsed) show(element);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches("[data-shows]")) show(event.target);
  });
});
