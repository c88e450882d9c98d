/* What assistive technology needs and the theme does not give. */
"use strict";

(() => {
  const BOXES = ".livt-table, .livt-drawing, .cell_output .output, div.math, .bd-article table";

  // A box that scrolls must be reachable by keyboard, and fades where there is more to see.
  const more = (box) => box.classList.toggle("livt-more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  const reach = () => {
    for (const box of document.querySelectorAll(BOXES)) {
      if (getComputedStyle(box).overflowX === "visible") continue;
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      if (!box.onscroll) box.onscroll = () => more(box);
      more(box);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    // The bibliography calls itself a list, but its entries are not list items.
    for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
    // The arrows beside chapters that have pages below them have no name.
    for (const arrow of document.querySelectorAll("summary:has(.toctree-toggle)")) {
      arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a").textContent.trim()}`);
    }
    // On a narrow screen a figure scrolls in a box, so that its type stays as large as it was drawn.
    for (const image of document.querySelectorAll(".livt-figure img")) {
      const box = document.createElement("div");
      box.className = "livt-drawing";
      image.replaceWith(box);
      box.append(image);
    }
    reach();
    addEventListener("load", reach);
    addEventListener("resize", reach);
  });
})();
