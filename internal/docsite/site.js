// SPDX-License-Identifier: Apache-2.0

// The search and the theme of the documentation. Pages work without this script.
"use strict";

const root = document.documentElement.dataset.root;
const input = document.getElementById("search");
const results = document.getElementById("results");
const maxResults = 20;
let searchIndex = null;

// load adds the script that sets searchIndex, once. A script also loads in pages that are opened as files.
let loading = null;
function load() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = root + "search.js";
    script.onload = resolve;
    script.onerror = reject;
    document.head.append(script);
  });
  return loading;
}

// rank returns how well a section matches all words, or 0.
function rank(entry, words) {
  const heading = (entry.page + " " + entry.heading).toLowerCase();
  const text = entry.text.toLowerCase();
  let sum = 0;
  for (const word of words) {
    const found = (heading.includes(word) ? 10 : 0) + (text.includes(word) ? 1 : 0);
    if (found === 0) return 0;
    sum += found;
  }
  return sum;
}

// excerpt returns the text around the first match.
function excerpt(text, word) {
  const at = Math.max(0, text.toLowerCase().indexOf(word) - 40);
  return (at > 0 ? "… " : "") + text.slice(at, at + 140) + (text.length > at + 140 ? " …" : "");
}

async function search() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) {
    results.hidden = true;
    return;
  }
  await load();
  const found = searchIndex
    .map((entry) => ({ entry, rank: rank(entry, words) }))
    .filter((item) => item.rank > 0)
    .sort((a, b) => b.rank - a.rank)
    .slice(0, maxResults);
  results.replaceChildren(
    ...found.map(({ entry }) => {
      const link = document.createElement("a");
      link.href = root + entry.href;
      link.textContent = entry.page === entry.heading ? entry.page : entry.page + " › " + entry.heading;
      const detail = document.createElement("small");
      detail.textContent = excerpt(entry.text, words[0]);
      link.append(detail);
      const item = document.createElement("li");
      item.append(link);
      return item;
    }),
  );
  if (found.length === 0) results.textContent = "Nothing found.";
  results.hidden = false;
}

input.addEventListener("focus", load);
input.addEventListener("input", search);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== input) {
    event.preventDefault();
    input.focus();
  } else if (event.key === "Enter" && document.activeElement === input) {
    results.querySelector("a")?.click();
  } else if (event.key === "Escape") {
    results.hidden = true;
  }
});
results.addEventListener("click", () => (results.hidden = true));

// The theme is that of the system until the reader chooses one.
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}
setTheme(localStorage.getItem("theme"));
document.getElementById("theme").addEventListener("click", () => {
  const dark = (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  localStorage.setItem("theme", dark ? "light" : "dark");
  setTheme(dark ? "light" : "dark");
});

// On a narrow screen, the list of pages starts closed.
if (matchMedia("(max-width: 48rem)").matches) document.querySelector(".navigation").open = false;
