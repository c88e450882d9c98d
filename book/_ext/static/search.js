/* The page of search results: sections that have every word of the query, best first, each with a line of its text.
   livtSections, from sections.js: [page, title, [[anchor, heading, text], ...]] for each page. */
(() => {
  "use strict";

  const MOST = 60;
  const out = document.getElementById("search-results");
  const query = (new URLSearchParams(location.search).get("q") ?? "").trim();
  const words = [...new Set(query.toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? [])];
  // A word of the query is the beginning of a word of the text.
  const beginning = (word) => new RegExp(`(?<![\\p{L}\\p{N}_])${word}`, "gu");
  const count = (text, word) => (text.match(beginning(word)) ?? []).length;

  function add(parent, name, attributes = {}, ...content) {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...content);
    parent.append(made);
    return made;
  }

  function score(title, heading, text) {
    const [t, h, x] = [title, heading, text].map((part) => part.toLowerCase());
    if (!words.every((word) => count(`${t} ${h} ${x}`, word))) return 0;
    const own = words.filter((word) => count(`${h} ${x}`, word));
    if (!own.length) return 0;
    const each = own.map((word) => 20 * Math.min(1, count(h, word)) + Math.min(5, count(x, word)));
    const phrase = words.length > 1 ? query.toLowerCase() : "";
    return each.reduce((a, b) => a + b, 0) + (phrase && h.includes(phrase) ? 20 : 0) + (phrase && x.includes(phrase) ? 10 : 0);
  }

  /* Some text around the first match, each match marked. */
  function snippet(text) {
    const all = new RegExp(words.map((word) => beginning(word).source).join("|"), "giu");
    const phrase = text.toLowerCase().indexOf(query.toLowerCase());
    const first = phrase >= 0 ? phrase : Math.max(0, text.search(all));
    const from = first < 90 ? 0 : text.indexOf(" ", first - 80) + 1;
    const end = from + 240 >= text.length ? text.length : text.lastIndexOf(" ", from + 240);
    const shown = text.slice(from, end);
    const parts = [from ? "… " : ""];
    let at = 0;
    for (const match of shown.matchAll(all)) {
      parts.push(shown.slice(at, match.index), Object.assign(document.createElement("mark"), { textContent: match[0] }));
      at = match.index + match[0].length;
    }
    return [...parts, shown.slice(at), end < text.length ? " …" : ""];
  }

  for (const field of document.querySelectorAll('input[name="q"]')) field.value = query;
  if (!words.length) return;
  const found = livtSections
    .flatMap(([page, title, sections]) => sections.map(([anchor, heading, text]) =>
      ({ page, title, anchor, heading, text, score: score(title, heading, text) })))
    .filter((section) => section.score)
    .sort((a, b) => b.score - a.score);
  const pages = new Set(found.map(({ page }) => page)).size;
  const said = found.length
    ? `${found.length} section${found.length > 1 ? "s" : ""} on ${pages} page${pages > 1 ? "s" : ""}`
      + (found.length > MOST ? `; the first ${MOST}:` : ":")
    : "No section has all these words.";
  add(out, "p", { className: "search-summary", role: "status" }, said);
  const list = add(out, "ul", { className: "search" });
  for (const { page, title, anchor, heading, text } of found.slice(0, MOST)) {
    const item = add(list, "li");
    const name = heading === title ? title : `${title} › ${heading}`;
    add(item, "a", { href: `${document.documentElement.dataset.content_root}${page}#${anchor}` }, name);
    add(item, "p", { className: "context" }, ...snippet(text));
  }
})();
