/* A measured number leads to its runs: a click on it lists them, each with a link to its row on the page of the runs.
   Ids of runs in tables become such links too. Without this script the numbers stay as they are. */
(() => {
  "use strict";
  const ID = /^(finetune|pretrain)-[0-9a-f]{12}$/;
  const root = document.documentElement.dataset.content_root || "";

  function linkTo(id) {
    const link = document.createElement("a");
    link.href = document.getElementById(id) ? `#${id}` : `${root}notebooks/runs.html#${id}`;
    link.textContent = id;
    return link;
  }

  function describe(number) {
    const terms = JSON.parse(number.dataset.terms);
    const box = document.createElement("div");
    box.className = "livt-runs";
    const form = terms.map(([weight, metric], i) =>
      `${i || weight < 0 ? (weight < 0 ? " − " : " + ") : ""}${Math.abs(weight) === 1 ? "" : `${Math.abs(weight)} × `}${metric}`);
    const list = document.createElement("ul");
    terms.forEach(([, metric, ids]) => ids.forEach((id, seed) => {
      const item = document.createElement("li");
      item.append(`${metric}, seed ${seed + 1} of ${ids.length}: `, linkTo(id));
      list.append(item);
    }));
    const title = document.createElement("p");
    title.textContent = `${number.textContent} is ${form.join("")}, over these runs:`;
    box.append(title, list);
    return box;
  }

  function start() {
    let open = null;
    const close = () => { if (open) { open.remove(); open = null; } };
    document.querySelectorAll("[data-terms]").forEach((number) => { number.title = "click for the runs behind this number"; });
    document.addEventListener("click", (event) => {
      const number = event.target.closest("[data-terms]");
      if (open && open.contains(event.target)) return;
      close();
      if (!number) return;
      open = describe(number);
      const at = number.getBoundingClientRect();
      document.body.append(open);
      open.style.top = `${window.scrollY + at.bottom + 4}px`;
      open.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - open.offsetWidth - 8))}px`;
    });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
    document.querySelectorAll(".livt-measured td, .livt-measured th").forEach((cell) => {
      if (ID.test(cell.textContent.trim()) && !cell.querySelector("a")) cell.replaceChildren(linkTo(cell.textContent.trim()));
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
