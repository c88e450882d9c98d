/* A measured number leads to its runs: it becomes a button that opens a box with the value of each arm and seed, each a
   link to its run's row on the page of the runs. Ids of runs in tables become such links too. All that comes from records
   is set as text, never as HTML. Without this script the numbers stay as they are. */
(() => {
  "use strict";
  const ID = /^[a-z]+-[0-9a-f]{12}$/;
  const SHOWN = { mean: "mean", spread: "mean ± standard deviation", interval: "95 % interval of the mean" };
  const METRICS = { accuracy: "accuracy", many: "accuracy on many", medium: "accuracy on medium", few: "accuracy on few",
    ece: "ECE", mce: "MCE" };
  const root = document.documentElement.dataset.content_root || "";

  function element(name, attributes, ...content) {
    const made = Object.assign(document.createElement(name), attributes);
    made.append(...content);
    return made;
  }

  const linkTo = (id, text = id) =>
    element("a", { href: document.getElementById(id) ? `#${id}` : `${root}notebooks/runs.html#${id}`, title: id }, text);

  function named(path) {
    const parts = path.split(".");
    const metric = parts.pop();
    const name = METRICS[metric] ?? metric.replaceAll("_", " ");
    return parts.includes("posthoc") ? `${name}, the bias removed at test` : name;
  }

  /* A sign and, unless it is 1, a weight: what stands before each term of a sum. */
  function before(weight, first) {
    const sign = weight < 0 ? (first ? "−" : " − ") : first ? "" : " + ";
    return Math.abs(weight) === 1 ? sign : `${sign}${Math.abs(weight)} × `;
  }

  function seedsInWords(seeds) {
    const run = seeds.length > 2 && seeds.every((seed, i) => seed === seeds[0] + i);
    return `seed${seeds.length > 1 ? "s" : ""} ${run ? `${seeds[0]} to ${seeds.at(-1)}` : seeds.join(", ")}`;
  }

  function describe(number) {
    const [terms, arms, seeds, values] = ["terms", "arms", "seeds", "values"].map((key) => JSON.parse(number.dataset[key]));
    const digits = Number(number.dataset.digits ?? 1) + 1;
    const written = (x) => (x === null ? "none" : x.toFixed(digits).replace("-", "−"));
    const metrics = [...new Set(terms.map(([, metric]) => metric))];
    const apart = metrics.length > 1;
    const name = (i) => (apart ? `${arms[i]} (${named(terms[i][1])})` : arms[i]);
    const sum = terms.map(([weight], i) => `${before(weight, i === 0)}${name(i)}`).join("");
    const what = `${apart ? "" : `${named(metrics[0])}, `}${sum}`;
    const over = seeds.length ? `, ${seeds.length > 1 ? `${SHOWN[number.dataset.show]} over ` : ""}${seedsInWords(seeds)}` : ": no runs";
    const items = seeds.map((seed, s) => {
      const parts = terms.flatMap(([weight, , ids], i) =>
        [`${before(weight, i === 0)}${name(i)} `, linkTo(ids[s], written(values[i][s]))]);
      const each = terms.map(([weight], i) => (values[i][s] === null ? null : weight * values[i][s]));
      const total = each.includes(null) ? null : each.reduce((a, b) => a + b, 0);
      const single = terms.length === 1 && terms[0][0] === 1;
      return element("li", {}, ...parts, ...(single ? [] : [` = ${written(total)}`]), `, seed ${seed}`);
    });
    const note = seeds.length ? ["A value links to its run."] : [];
    return [element("p", {}, `${number.textContent}: ${what}${over}.`), element("ul", {}, ...items), element("p", {}, ...note)];
  }

  /* A line may end on either side of a button: what touches it, a parenthesis or a comma, stays on its line. */
  function glue(button) {
    const text = (node) => (node?.nodeType === Node.TEXT_NODE ? node : null);
    const [before, after] = [text(button.previousSibling), text(button.nextSibling)];
    const head = before?.data.match(/\S*$/)[0] ?? "";
    const tail = after?.data.match(/^\S*/)[0] ?? "";
    if (!head && !tail) return;
    before?.deleteData(before.length - head.length, head.length);
    after?.deleteData(0, tail.length);
    const whole = element("span", { className: "livt-whole" });
    button.replaceWith(whole);
    whole.append(head, button, tail);
  }

  function start() {
    // In the top layer, no table that scrolls cuts the box; the browser closes it at Escape or a click elsewhere, and
    // gives the focus back.
    const box = element("div", { className: "livt-runs", id: "livt-runs", popover: "auto" });
    box.setAttribute("role", "dialog");
    box.setAttribute("aria-label", "Runs behind this number");
    document.body.append(box);
    let button = null;
    // "toggle" would come a task later, when the next click may have been read already.
    box.addEventListener("beforetoggle", (event) => {
      if (event.newState === "closed") button?.setAttribute("aria-expanded", "false");
    });

    function open(number) {
      button?.setAttribute("aria-expanded", "false");
      button = number;
      box.replaceChildren(...describe(number));
      box.showPopover({ source: number });
      number.setAttribute("aria-expanded", "true");
      const at = number.getBoundingClientRect();
      const most = document.documentElement.clientWidth - box.offsetWidth - 8;
      const below = at.bottom + 4 + box.offsetHeight <= innerHeight || at.top < box.offsetHeight + 4;
      box.style.top = `${scrollY + (below ? at.bottom + 4 : at.top - 4 - box.offsetHeight)}px`;
      box.style.left = `${scrollX + Math.max(8, Math.min(at.left, most))}px`;
      box.querySelector("a")?.focus({ preventScroll: true });
    }

    for (const number of document.querySelectorAll("span[data-terms]")) {
      const made = element("button", { type: "button", className: "livt-number" }, ...number.childNodes);
      Object.assign(made.dataset, number.dataset);
      made.title = "Show the runs behind this number";
      made.setAttribute("aria-haspopup", "dialog");
      made.setAttribute("aria-expanded", "false");
      // A click on the button of the open box: the browser has closed it by now, unless it is told whose button it is.
      let wasOpen = false;
      made.addEventListener("pointerdown", () => { wasOpen = made.getAttribute("aria-expanded") === "true"; });
      made.addEventListener("click", () => { if (wasOpen) box.hidePopover(); else open(made); wasOpen = false; });
      number.replaceWith(made);
      glue(made);
    }

    document.querySelectorAll(".livt-measured td, .livt-measured th").forEach((cell) => {
      if (ID.test(cell.textContent.trim()) && !cell.querySelector("a")) cell.replaceChildren(linkTo(cell.textContent.trim()));
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
