/* What assistive technology needs and the theme does not give. */
"use strict";

(() => {
  // A box that scrolls must be reachable by keyboard.
  const reach = () => {
    for (const box of document.querySelectorAll(".livt-table, div.math, .bd-article table")) {
      const style = getComputedStyle(box);
      const scrolls = style.overflowX !== "visible" && box.scrollWidth > box.clientWidth;
      if (scrolls) box.tabIndex = 0;
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    // The bibliography calls itself a list, but its entries are not list items.
    for (const list of document.querySelectorAll(".citation-list[role=list]")) list.removeAttribute("role");
    // The arrows beside chapters that have pages below them have no name.
    for (const arrow of document.querySelectorAll("summary:has(.toctree-toggle)")) {
      arrow.setAttribute("aria-label", `Pages of ${arrow.closest("li").querySelector("a").textContent.trim()}`);
    }
    reach();
    addEventListener("load", reach);
    addEventListener("resize", reach);
  });
})();
