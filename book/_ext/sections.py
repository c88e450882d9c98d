"""Search by section: the text of every section, read off the finished pages, for a script that needs no server.

Sphinx's own search knows pages alone and would fetch each to show a line of it, which browsers refuse under file://.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag
from sphinx.application import Sphinx
from sphinx.config import Config

HERE = Path(__file__).resolve().parent
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
# What a reader does not search: programs, drawings, the code behind a result, the table with a row for each run.
UNREAD = ".headerlink, script, style, svg, .cell_input, .livt-all-runs, .livt-interactive, p.livt-download, button"
# What the theme loads on every page for Sphinx's own search.
SPHINX = ("searchindex.js", "_static/searchtools.js", "_static/language_data.js")
LOADED = re.compile(r'\s*<script src="[^"]*\b(?:searchindex|searchtools|language_data)\.js[^"]*"></script>')


def sections(html: str) -> Iterator[tuple[str, str, str]]:
    """Yield the anchor, the heading and the text of each section, entry of the glossary and object of a page."""
    soup = BeautifulSoup(re.sub(r'"data:[^"]*"', '""', html), "html.parser")
    article = soup.select_one("article.bd-article")
    if article is None:
        return
    for element in article.select(UNREAD):
        element.extract()
    found = []
    for section in article.select("section[id]"):
        heading = section.find(HEADINGS, recursive=False)
        if heading:
            found.append((str(section["id"]), words(heading.extract()), section, ""))
    for term in article.select("dl.glossary > dt[id], dl.py > dt[id]"):
        objects = "py" in (term.parent or term).get_attribute_list("class")
        heading = str(term["id"]) if objects else words(term)
        found.append((str(term["id"]), heading, term.find_next_sibling("dd"), f"{words(term)} " if objects else ""))
        term.clear()
    # From the inside out, so that no text is in two sections.
    for anchor, heading, element, begin in reversed(found):
        yield anchor, heading, begin + (words(element.extract()) if element else "")


def words(element: Tag) -> str:
    """Return an element's text on one line, a formula as its TeX without backslashes."""
    text = re.sub(r"\\(?:[()\[\]]|(?=[a-zA-Z]))", "", element.get_text(" "))
    return re.sub(r"(?<=[(\[])\s+|\s+(?=[.,;:)\]])", "", " ".join(text.split()))


def write_index(app: Sphinx, error: Exception | None) -> None:
    """Write ``_static/sections.js``, and take Sphinx's own search out of the pages."""
    if error or app.builder.name != "html":
        return
    out = Path(app.outdir)
    pages = []
    for name in sorted(app.env.found_docs):
        page = f"{name}.html"
        found = list(sections((out / page).read_text(encoding="utf-8")))
        pages += [[page, found[-1][1], found[::-1]]] if found else []
    data = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
    (out / "_static" / "sections.js").write_text(f'"use strict";\nconst livtSections = {data};\n', encoding="utf-8")
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if LOADED.search(text):
            path.write_text(LOADED.sub("", text), encoding="utf-8")
    for name in SPHINX:
        (out / name).unlink(missing_ok=True)


def add_scripts(app: Sphinx, config: Config) -> None:
    config.html_static_path = [*config.html_static_path, str(HERE / "static")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", add_scripts)
    app.connect("build-finished", write_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
