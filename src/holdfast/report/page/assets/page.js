"use strict";
// Everything that comes from a run is set through textContent; nothing is parsed as HTML and no link is made of it.

const byId = (id) => document.getElementById(id);
const SHOWN_CASES = 200, SHOWN_RUNS = 200, SHOWN_CHARACTERS = 3000;
const count = (number) => number.toLocaleString("en");
// Controls, direction marks, invisible characters and lone surrogates: shown as symbols, as in the package's inert.py.
const UNSAFE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\u{e0000}-\u{e007f}]/gu;

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = String(text).replace(/\r\n/g, "\n").replace(UNSAFE, symbol);
  return node;
}

function symbol(char) {
  return "\u27e6U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e7";
}

function appendVisible(node, text) {
  let last = 0;
  const plain = text.replace(/\r\n/g, "\n");
  for (const found of plain.matchAll(UNSAFE)) {
    node.append(plain.slice(last, found.index));
    node.append(make("span", "control", symbol(found[0])));
    last = found.index + found[0].length;
  }
  node.append(plain.slice(last));
  return node;
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

// ---- tables that are already in the page: sorting and filters -------------------------------------------------

function sortKey(cell) {
  const raw = cell.dataset.v ?? cell.textContent.trim();
  const number = Number(raw);
  return raw !== "" && Number.isFinite(number) ? number : raw;
}

function compare(a, b) {
  if (a === "" || b === "") return (a === "") - (b === "");
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const falling = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
  rows.sort((a, b) => {
    const order = compare(a[0], b[0]);
    return a[0] === "" || b[0] === "" || !falling ? order : -order;
  });
  table.tBodies[0].append(...rows.map((pair) => pair[1]));
}

function wireTable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => sortTable(table, column));
  });
  const rows = [...table.tBodies[0].rows];
  const bar = make("div", "controls");
  const selects = Object.keys(FIRST_SHOWN).map((name) => addFilter(bar, rows, name)).filter(Boolean);
  if (!selects.length) return;
  const row = firstRow(rows);
  selects.forEach((select) => { select.value = FIRST_SHOWN[select.name] === null ? "" : row.dataset[select.name]; });
  const shown = make("output");
  bar.append(shown);
  const apply = () => {
    let left = 0;
    for (const row of rows) {
      row.hidden = selects.some((select) => select.value && !fits(row, select));
      left += !row.hidden;
    }
    const alike = hideAlikeColumns(table, rows, selects);
    shown.textContent = `${count(left)} of ${count(rows.length)} rows${alike.length ? `, all of ${alike.join(" · ")}` : ""}`;
  };
  selects.forEach((select) => select.addEventListener("change", apply));
  table.closest(".scroll").before(bar);
  apply();
}

// A column of words is left out where a filter has chosen its value, or where every shown row says the same: these are
// returned, to be told once.
function hideAlikeColumns(table, rows, selects) {
  const heads = [...table.tHead.rows[0].cells], shown = rows.filter((row) => !row.hidden), told = [];
  for (let column = 0; column < Number(table.dataset.words); column++) {
    const chosen = selects.some((select) => select.value && select.name === heads[column].textContent.toLowerCase());
    const words = shown[0]?.cells[column].textContent;
    const alike = shown.length > 1 && shown.every((row) => row.cells[column].textContent === words);
    for (const row of [table.tHead.rows[0], ...rows]) row.cells[column].hidden = chosen || alike;
    if (alike && !chosen && words !== "–") told.push(words);
  }
  return told;
}

// The filters start where they show something: at the row that has most of what is wanted, in this order; null is all.
const FIRST_SHOWN = { level: "pooled over bases and judges", estimator: "pooled", claim: "recipe", unit: "test evaluations", verdict: null };

// A row without a claim of its own fits either.
function fits(row, select) {
  const value = row.dataset[select.name];
  return value === select.value || (select.name === "claim" && value === "");
}

function firstRow(rows) {
  const rank = (row) => Object.entries(FIRST_SHOWN).reduce((sum, [name, value]) => 2 * sum + (row.dataset[name] === value), 0);
  return rows.reduce((best, row) => (rank(row) > rank(best) ? row : best));
}

function addFilter(bar, rows, name) {
  const values = [...new Set(rows.map((row) => row.dataset[name]))].filter((value) => value || name !== "claim");
  if (values.length < 2) return null;
  const select = make("select");
  select.name = name;
  addOption(select, "", `all (${name})`);
  values.forEach((value) => addOption(select, value, value || `no ${name}`));
  const label = make("label", "", name[0].toUpperCase() + name.slice(1) + " ");
  label.append(select);
  bar.append(label);
  return select;
}

function addOption(parent, value, text) {
  const option = make("option", "", text);
  option.value = value;
  parent.append(option);
  return option;
}

// ---- the page as a whole ---------------------------------------------------------------------------------------

// A select whose options are narrowed by what is typed into an input; a chosen option stays.
function makeSearchable(select, input) {
  const every = [...select.options].map((option) => [option.parentNode, option]);
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase().split(/\s+/), chosen = select.value;
    every.forEach(([, option]) => option.remove());
    for (const [parent, option] of every) {
      const name = `${parent.label ?? ""} ${option.textContent}`.toLowerCase();
      if (option.value === chosen || words.every((word) => name.includes(word))) parent.append(option);
    }
    select.value = chosen;
  });
}

// The link of the section that is being read carries aria-current.
function markSections() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...links.keys()].map(byId).filter(Boolean);
  const mark = () => {
    const top = document.querySelector("nav").offsetHeight + 40;
    const shown = sections.filter((section) => section.offsetParent);
    // Short sections at the page's end never reach the top: there the one that was asked for is marked, else the last.
    const ended = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
    const asked = shown.find((section) => `#${section.id}` === location.hash) ?? shown.at(-1);
    const now = ended && asked?.getBoundingClientRect().top >= 0 ? asked : shown.filter((section) => section.getBoundingClientRect().top < top).pop() ?? sections[0];
    links.forEach((link, name) => (name === now.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    const bar = links.get(now.id).parentNode;
    if (bar.scrollWidth > bar.clientWidth) bar.scrollLeft = links.get(now.id).offsetLeft - bar.clientWidth / 2;
  };
  let waiting = false;
  addEventListener("scroll", () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; mark(); });
    waiting = true;
  }, { passive: true });
  document.documentElement.style.scrollPaddingTop = `${document.querySelector("nav").offsetHeight + 12}px`;
  mark();
}

// What opens on a click is printed open, where its table is not folded away itself.
function openForPrint() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.basis:not([open]), details.rest:not([open])")];
    opened.forEach((details) => { details.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
}

