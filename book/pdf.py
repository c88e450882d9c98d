"""Print the built book as one PDF: a single HTML page by Sphinx, printed by Chromium.

Writes ``book/_build/singlehtml/`` and ``book/_build/livt.pdf``. The notebooks must have been executed by ``build.py``.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from build import BOOK, SOURCES, fail, render

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
PAGE = BOOK / "_build" / "singlehtml" / "intro.html"
PDF = BOOK / "_build" / "livt.pdf"
# A4 less its margins, in CSS pixels (96 to the inch): the width at which the page is laid out.
MARGINS = {"top": "16mm", "bottom": "18mm", "left": "15mm", "right": "15mm"}
WIDTH = round((210 - 15 - 15) / 25.4 * 96)
FOOTER = """<div style="width: 100%; font: 8px sans-serif; text-align: center; color: #555">
<span class="pageNumber"></span> / <span class="totalPages"></span></div>"""
# Formulae, fonts and images are complete before anything is measured; then what is too wide is scaled down.
PREPARE = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => null);
  }
  // A link written for the pages, "claims.html#claim-C1", leads to its place on this one.
  const chapters = [...document.querySelectorAll("span[id^='document-']")];
  for (const link of document.querySelectorAll("article a[href]")) {
    const [, name, anchor] = link.getAttribute("href").match(/^(?:[\\w/-]*\\/)?([\\w-]+)\\.html(#.+)?$/) ?? [];
    const chapter = name && chapters.find(({id}) => id === `document-${name}` || id.endsWith(`/${name}`));
    if (anchor && document.getElementById(anchor.slice(1))) link.href = anchor;
    else if (chapter) link.href = `#${chapter.id}`;
  }
  for (const element of document.querySelectorAll("article table, article mjx-container[display]")) {
    const box = element.closest(".livt-table, .cell_output, section, article") ?? element.parentElement;
    const inner = element.localName === "table" ? element : element.querySelector("mjx-math") ?? element;
    const ratio = box.clientWidth / Math.max(inner.scrollWidth, inner.getBoundingClientRect().width);
    if (ratio < 1) element.style.zoom = ratio * 0.98;
  }
}"""


def main() -> int:
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if chromium is None:
        return fail(f"a PDF needs Chromium on the PATH, as one of {', '.join(CHROMIUM_NAMES)}")
    if find_spec("playwright") is None:
        return fail("a PDF needs the Python package playwright: run `make install`")
    missing = [source.name for source in SOURCES.glob("*.ipynb") if not (BOOK / "notebooks" / source.name).exists()]
    if missing:
        return fail(f"{', '.join(sorted(missing))} not executed yet: run `make book` first")
    status = render("singlehtml", PAGE)
    if status == 0:
        print_page(PAGE, PDF, chromium)
        print(f"book: open {PDF.as_uri()}")
    return status


def print_page(page: Path, pdf: Path, chromium: str) -> None:
    """Print an HTML page to A4, with an outline and page numbers."""
    from playwright.sync_api import sync_playwright

    temporary = pdf.with_name(f".{pdf.name}.tmp")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 1000})
        tab.emulate_media(media="print", color_scheme="light", reduced_motion="reduce")
        tab.goto(page.as_uri())
        tab.evaluate(PREPARE)
        tab.pdf(
            path=temporary,
            format="A4",
            margin=MARGINS,
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            outline=True,
            tagged=True,
        )
        browser.close()
    os.replace(temporary, pdf)


if __name__ == "__main__":
    sys.exit(main())
