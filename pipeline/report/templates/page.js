"use strict";
// Search, filter and order of the lists; without it the page shows everything.
for (const form of document.querySelectorAll("[data-filters]")) {
  const list = document.getElementById(form.dataset.filters);
  const items = [...list.querySelectorAll("[data-item]")];
  const field = (name) => form.elements.namedItem(name);
  const output = form.querySelector("output");

  function show() {
    const words = field("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const choice = field("choice") ? field("choice").value : "";
    let shown = 0;
    for (const item of items) {
      const text = item.dataset.text.toLowerCase();
      const hit = (!choice || item.dataset.choice === choice) && words.every((word) => text.includes(word));
      item.hidden = !hit;
      shown += hit;
    }
    output.value = `${shown} of ${items.length} ${form.dataset.noun} shown`;
  }

  function order() {
    const by = field("order").value;
    const first = field("order").options[0].value; // the order of the page: ties stay as they are
    const sorted = by === first ? items : [...items].sort((a, b) => b.dataset[by] - a.dataset[by]);
    list.append(...sorted);
  }

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (field("order")) field("order").addEventListener("change", order);
  form.addEventListener("reset", () => setTimeout(() => { show(); if (field("order")) order(); }));
  form.hidden = items.length === 0;
  show();
}
