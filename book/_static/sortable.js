/* Tables to sort, by click or by keyboard: each header of table.livt-sortable becomes a button; aria-sort on the header
   says the order. A header with data-kind "number" sorts by the number its cells begin with, largest first; "text" by
   the text, A first; "none" not at all. data-sort on a cell stands for its text. Cells without a value come last in
   either order, rows of equal value keep theirs. Without this script the table stays as it was written. */
(() => {
  "use strict";

  const ARROWS = { ascending: " ▲", descending: " ▼", none: " ↕" };

  function setUp(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const sortable = heads.filter((head) => head.dataset.kind !== "none");

    function mark() {
      for (const head of sortable) {
        head.querySelector(".livt-arrow").textContent = ARROWS[head.getAttribute("aria-sort") ?? "none"];
      }
    }

    function sort(head) {
      const column = heads.indexOf(head);
      const number = head.dataset.kind === "number";
      const now = head.getAttribute("aria-sort");
      const up = now ? now === "descending" : !number;
      const key = (row) => {
        const text = row.cells[column].dataset.sort ?? row.cells[column].innerText.trim();
        return number ? parseFloat(text) : text;
      };
      const missing = (x) => x === "" || Number.isNaN(x);
      const order = (x, y) => (up ? 1 : -1) * (number ? x - y : x.localeCompare(y, "en", { numeric: true }));
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([x], [y]) => (missing(x) || missing(y) ? missing(x) - missing(y) : order(x, y)));
      body.append(...rows.map(([, row]) => row));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      mark();
    }

    for (const head of sortable) {
      const button = document.createElement("button");
      const arrow = document.createElement("span");
      button.type = "button";
      button.title = `Sort by ${head.textContent}`;
      button.style = "font: inherit; color: inherit; background: none; border: 0; padding: 0.2rem 0; cursor: pointer; "
        + "text-align: inherit";
      arrow.className = "livt-arrow";
      arrow.setAttribute("aria-hidden", "true");
      button.append(...head.childNodes, arrow);
      button.addEventListener("click", () => sort(head));
      head.append(button);
    }
    mark();
  }

  const start = () => document.querySelectorAll("table.livt-sortable").forEach(setUp);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
