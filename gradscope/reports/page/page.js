// What every page does: it embeds Bokeh's figures when they come into view, and hands out the JSON documents.
"use strict";
const gradscope = (() => {
  const embedded = new Map(); // name of a figure → promise of its view

  function documentOf(name) {
    return JSON.parse(document.getElementById(name).textContent);
  }

  function target(name) {
    return document.querySelector(`[data-figure="${CSS.escape(name)}"]`);
  }

  // The view of a figure; it is embedded when it is first asked for.
  function figure(name) {
    if (!embedded.has(name)) {
      const place = target(name);
      place.id ||= `place-${name}`;
      embedded.set(
        name,
        Bokeh.embed.embed_item(documentOf(`figure-${name}`), place.id).then((views) => {
          place.dataset.embedded = "yes";
          return [...views][0];
        }),
      );
    }
    return embedded.get(name);
  }

  function embedAll() {
    return Promise.all([...document.querySelectorAll("[data-figure]")].map((place) => figure(place.dataset.figure)));
  }

  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) {
          seen.unobserve(entry.target);
          figure(entry.target.dataset.figure);
        }
      }
    },
    { rootMargin: "400px" },
  );
  for (const place of document.querySelectorAll("[data-figure]")) seen.observe(place);
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    embedAll();
  });

  return { documentOf, figure, embedAll };
})();
