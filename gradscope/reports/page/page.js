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
    for (const seen of wanted.values()) seen();
    return Promise.all([...shown.values()]);
  }

  const wanted = new Map(); // place of a figure that was not yet in view → what embeds it
  const inView = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => wanted.get(entry.target)?.()),
    { rootMargin: "400px" },
  );
  const shown = new Map(); // name of a figure → promise of its view, once it has come into view
  for (const place of document.querySelectorAll("[data-figure]")) {
    const name = place.dataset.figure;
    const seen = new Promise((resolve) => wanted.set(place, resolve)).then(() => {
      inView.unobserve(place);
      return figure(name);
    });
    shown.set(name, seen);
  }
  // What a reader sees first is drawn first: all other figures wait for the promises that were handed to `first`.
  const awaited = [];
  document.addEventListener("DOMContentLoaded", async () => {
    await Promise.allSettled(awaited);
    for (const place of wanted.keys()) inView.observe(place);
  });
  window.addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
    embedAll();
  });

  return { documentOf, figure, first: (promise) => awaited.push(promise), shown: (name) => shown.get(name), embedAll };
})();
