// One legend for all figures of a scenario: a click shows or hides a variant in each of them, and its maps.
"use strict";
gradscope.scenario = (() => {
  const names = gradscope.documentOf("data-variants");
  const legend = document.getElementById("legend");
  const buttons = legend ? [...legend.querySelectorAll("[data-variant]")] : [];
  const all = document.getElementById("legend-all");
  const views = []; // of the figures that were embedded so far

  const drawn = (button) => button.getAttribute("aria-pressed") === "true";

  // A figure as the legend has it.
  function apply(view) {
    for (const renderer of view.model.renderers) {
      const button = buttons[Number(/^variant-(\d+)$/.exec(renderer.name ?? "")?.[1] ?? -1)];
      if (button) renderer.visible = drawn(button);
    }
  }

  function press(button, pressed) {
    button.setAttribute("aria-pressed", String(pressed));
    for (const panel of document.querySelectorAll(`[data-panel="${button.dataset.variant}"]`)) panel.hidden = !pressed;
  }

  function pressed() {
    all.textContent = buttons.every((button) => !drawn(button)) ? "show all" : "hide all";
    views.forEach(apply);
  }

  for (const place of document.querySelectorAll(".compared")) {
    gradscope.shown(place.dataset.figure).then((view) => {
      views.push(view);
      apply(view);
    });
  }
  for (const button of buttons) {
    button.addEventListener("click", () => {
      press(button, !drawn(button));
      pressed();
    });
  }
  all?.addEventListener("click", () => {
    const show = buttons.every((button) => !drawn(button));
    for (const button of buttons) press(button, show);
    pressed();
  });
  if (legend) legend.hidden = false;

  // As the pointer tells it: three digits.
  const number = (value) => (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5) ? Number(value.toPrecision(3)) : value.toExponential(2));

  return { name: (index) => names[index], number: (value) => String(number(value)) };
})();
