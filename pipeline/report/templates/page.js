"use strict";
// Filters, the threshold, "show more", larger pictures and judgments; without it the page shows everything.
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// A list shows its first cards; a card without a pair that the form lets through is no card of the list.
const pagers = new Map();
for (const list of all("[data-more]")) {
  const step = Math.ceil(Number(list.dataset.more) / (innerWidth < 600 ? 2 : 1));
  const cards = all("[data-card]", list);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  let limit = step;
  const show = () => {
    const left = cards.filter((card) => !card.matches("[data-item][data-out]") &&
      (card.matches("[data-item]") || !card.querySelector("[data-item]") || card.querySelector("[data-item]:not([hidden])")));
    const shown = new Set(left.slice(0, limit));
    for (const card of cards) card.hidden = !shown.has(card);
    button.hidden = left.length <= limit;
    button.textContent = `Show ${Math.min(step * 2, left.length - limit)} more of ${left.length - limit}`;
  };
  button.addEventListener("click", () => {
    const next = cards.filter((card) => card.hidden);
    limit += step * 2;
    show();
    const first = next.find((card) => !card.hidden);
    if (first) { first.tabIndex = -1; first.focus({ preventScroll: true }); }
  });
  list.after(button);
  pagers.set(list, show);
  show();
}

for (const form of all("[data-filters]")) {
  const list = document.getElementById(form.dataset.filters);
  const items = all("[data-item]", list);
  const field = (name) => form.elements.namedItem(name);
  const slider = field("level");
  const at = slider ? JSON.parse(slider.dataset.at) : [];
  const levels = slider ? JSON.parse(slider.dataset.levels) : {};

  function measured() {
    const place = Number(slider.value);
    const [pairs, expected, known, right, asked, yes] =
      ["pairs", "expected", "known", "right", "asked", "yes"].map((name) => levels[name][place]);
    const count = (value) => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
    const share = (part, whole) => `${Math.round((100 * part) / whole)} %`;
    form.querySelector(".at").textContent = at[place].toFixed(2);
    let said = `${count(pairs)} pairs; by their probabilities ${count(expected)} of them ${slider.dataset.what}`;
    if (pairs) said += ` (${share(expected, pairs)})`;
    if (known) said += `; in truth ${count(right)} of ${count(known)} known (${share(right, known)})`;
    if (asked) said += `; ${yes} of ${asked} judged`;
    form.querySelector(".precise").value = said;
  }

  function show() {
    const words = field("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    const choice = field("choice") ? field("choice").value : "";
    const least = slider && slider.value > 0 ? at[slider.value] : -1;
    let shown = 0, below = 0;
    for (const item of items) {
      const text = item.dataset.text.toLowerCase();
      const hit = (!choice || item.dataset.choice === choice) && words.every((word) => text.includes(word)) &&
        !(item.dataset.chance < least);
      item.hidden = !hit;
      item.toggleAttribute("data-out", !hit);
      shown += hit;
      below += hit && slider && item.dataset.chance < at[0];
    }
    const said = `${shown} of the ${items.length} ${form.dataset.noun} on this page`;
    form.querySelector(".shown").value = below ? `${said}, ${below} of them with a lower probability` : said;
    if (slider) measured();
    for (const [pager, again] of pagers) if (pager === list || list.contains(pager)) again();
  }

  form.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  form.hidden = items.length === 0;
  show();
}

// Pictures enlarge.
const dialog = document.getElementById("enlarged");
function enlarge(picture) {
  const shown = dialog.querySelector("svg");
  shown.setAttribute("viewBox", picture.getAttribute("viewBox"));
  shown.querySelector("title").textContent = picture.querySelector("title").textContent;
  shown.querySelector("use").setAttribute("href", picture.querySelector("use").getAttribute("href"));
  dialog.showModal();
}
document.addEventListener("click", (event) => {
  const picture = event.target.closest(".picture");
  if (picture) enlarge(picture);
  else if (dialog.open && (event.target === dialog || event.target.closest("#enlarged"))) dialog.close();
});

// Judgments: one answer to each picture and caption, wherever the page asks. `given` are those with which the page was
// made. The browser keeps those that a person `changed` since, each with the verdict that it `was`: where the page was
// made with another one, that one is newer. An answer that was taken back is kept with the verdict "".
const main = document.getElementById("main");
const panel = document.querySelector(".judging");
const store = `judgments-${main.dataset.key}`;
const COLUMNS = ["split", "image", "caption", "verdict", "list", "stratum", "chosen"];
const idOf = ({ image, caption }) => JSON.stringify([image.trim(), caption.trim().replace(/\s*[\r\n]+\s*/g, " ")]);
const escaped = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function parsed(text) {
  const rows = [[""]];
  let quoted = false;
  for (let place = 0; place < text.length; place += 1) {
    const character = text[place], row = rows.at(-1);
    if (quoted && character === '"' && text[place + 1] === '"') { row[row.length - 1] += '"'; place += 1; }
    else if (character === '"') quoted = !quoted;
    else if (!quoted && character === ",") row.push("");
    else if (!quoted && character === "\n") rows.push([""]);
    else if (quoted || character !== "\r") row[row.length - 1] += character;
  }
  const [header, ...content] = rows.filter((row) => row.length > 1);
  return content.map((row) => Object.fromEntries(header.map((name, column) => [name, row[column]])));
}

const given = new Map(parsed(document.getElementById("given").textContent).map((row) => [idOf(row), row]));
const changed = new Map();
let kept = true; // false where the browser has no place for them, or none left
const givenVerdict = (id) => given.get(id)?.verdict ?? "";
const current = (id) => {
  const change = changed.get(id);
  return change && (change.was ?? "") === givenVerdict(id) ? change : given.get(id);
};
const judged = () => [...new Set([...given.keys(), ...changed.keys()])].map(current).filter((row) => row?.verdict);

const asking = new Map(); // the questions about each picture and caption
for (const question of all(".question")) {
  const id = idOf(question.dataset);
  asking.set(id, [...(asking.get(id) ?? []), question]);
}

function show(ids) {
  for (const id of ids) {
    const verdict = current(id)?.verdict ?? "";
    const buttons = (asking.get(id) ?? []).flatMap((question) => all("button", question));
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.value === verdict));
  }
  if (!panel) return;
  const drawn = new Set(all("#judge .question").map((question) => idOf(question.dataset)));
  const done = [...drawn].filter((id) => current(id)?.verdict).length;
  const said = `${judged().length} answers` + (drawn.size ? `; ${done} of the ${drawn.size} pairs of this section` : "");
  panel.querySelector(".tally").value = kept ? said : `${said}; this browser does not keep them: download them`;
}

function change(rows) {
  for (const row of rows) {
    const id = idOf(row), was = givenVerdict(id);
    const chosen = [row, current(id)].some((one) => one?.chosen === "proposed") ? "proposed" : "by hand";
    if (row.verdict === was && chosen === (given.get(id)?.chosen ?? chosen)) changed.delete(id);
    else changed.set(id, { ...row, chosen, was });
  }
  try { localStorage.setItem(store, JSON.stringify([...changed])); kept = true; } catch { kept = false; }
  show(rows.map(idOf));
}

function answer(question, verdict) {
  const before = current(idOf(question.dataset))?.verdict;
  change([{ ...question.dataset, verdict: before === verdict ? "" : verdict }]);
}

function download() {
  const lines = [COLUMNS, ...judged().map((row) => COLUMNS.map((name) => escaped(row[name] ?? "")))];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(lines.map((line) => `${line.join(",")}\n`), { type: "text/csv" }));
  link.download = "judgments.csv";
  link.click();
}

try { for (const [, row] of JSON.parse(localStorage.getItem(store) ?? "[]")) changed.set(idOf(row), row); } catch { /* none */ }
for (const question of all(".question")) {
  for (const button of all("button", question)) button.addEventListener("click", () => answer(question, button.value));
}
if (panel) {
  panel.querySelector("button").addEventListener("click", download);
  panel.querySelector("[type=file]").addEventListener("change", async (event) => {
    const rows = parsed(await event.target.files[0].text());
    change(rows.filter((row) => row.image && row.caption && ["yes", "no", "unsure"].includes(row.verdict)));
  });
}
show(asking.keys());
for (const part of all("[data-scripted]")) part.hidden = false;

const KEYS = { y: "yes", n: "no", u: "unsure" };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const picture = event.target.closest?.(".picture");
  if (picture && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); enlarge(picture); return; }
  const here = event.target.closest?.(".question");
  if (event.key in KEYS && here) answer(here, KEYS[event.key]);
  if (event.key === "j" || event.key === "k") {
    const within = here ? here.closest("section") : document.querySelector("#to-judge:has(.question)") ?? document;
    const seen = all(".question", within).filter((question) => question.offsetParent);
    const place = here ? seen.indexOf(here) + (event.key === "j" ? 1 : -1) : 0;
    seen[Math.max(0, Math.min(place, seen.length - 1))]?.focus();
  }
});
