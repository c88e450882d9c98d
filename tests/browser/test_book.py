"""The built book in a real browser: opened from file://, with every other request aborted and recorded."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from livt.runs import RunStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

QUERY = "Bal-BCE"
PHONE_WIDTH = 390
LOCAL_SCHEMES = ("file:", "data:", "blob:", "about:")
REDIRECT = re.compile(r'<meta\s+http-equiv="refresh"', re.IGNORECASE)
# Sphinx falls back to the image's path where no alternative text is given.
PATH_AS_ALT = re.compile(r"\.(png|svg|jpe?g|gif|webp)$", re.IGNORECASE)

# Fonts, formulae and images settle before anything is read off the page.
SETTLE = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => null);
  }
}"""
READ_PAGE = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  // What stays as text in a formula: MathJax typesets an inner environment alone where braces do not match.
  const rawText = (math) => {
    const copy = math.cloneNode(true);
    copy.querySelectorAll("mjx-container, .eqno").forEach((element) => element.remove());
    return copy.textContent.trim();
  };
  return {
    formulae: all(".math").map((math) => ({
      raw: rawText(math).slice(0, 60),
      typeset: math.querySelectorAll("mjx-container").length,
    })),
    typeset: all("mjx-container").length,
    // MathJax sets an unknown macro as red text, without an error.
    math_errors: all("mjx-merror, mjx-mtext[style*='color: red']").map((error) =>
      `in error: ${error.closest("mjx-container").querySelector("math")?.textContent.slice(0, 60)}`),
    images: all("img").map((image) => ({src: image.src, alt: image.alt, width: image.naturalWidth})),
    links: all("a[href]").map((link) => link.href),
    ids: all("[id], a[name]").map((element) => element.id || element.name),
    resources: all("link[href]:not([rel=canonical]), [src], object[data]")
      .map((element) => element.src || element.href || element.data),
    cells: all("div.cell").length,
  };
}"""
# Elements which reach past the window and lie in no box of their own that scrolls.
WIDE_ELEMENTS = """(width) => {
  const scrolls = (element) => element && element !== document.body &&
    (getComputedStyle(element).overflowX !== "visible" || scrolls(element.parentElement));
  return [...document.body.querySelectorAll("*")]
    .filter((element) => element.getBoundingClientRect().right > width + 1 && !scrolls(element))
    .slice(0, 5)
    .map((element) => `<${element.localName} class="${element.className}">` +
      element.textContent.slice(0, 60));
}"""


@dataclass
class Visit:
    """What one page did, and what stood on it once it had settled."""

    name: str
    offsite: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)


@contextmanager
def watched_page(browser: Browser, name: str, width: int = 1280) -> Iterator[tuple[Page, Visit]]:
    """A page in a fresh profile without a network, and the record of what happens on it."""
    visit = Visit(name)

    def allow_files_only(route: Route) -> None:
        if route.request.url.startswith(LOCAL_SCHEMES):
            route.continue_()
        else:
            route.abort()

    def note_request(url: str) -> None:
        if not url.startswith(LOCAL_SCHEMES):
            visit.offsite.append(url)

    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.route("**/*", allow_files_only)
    page.on("request", lambda request: note_request(request.url))
    page.on("websocket", lambda socket: note_request(socket.url))
    page.on("requestfailed", lambda request: visit.failed.append(f"{request.url}: {request.failure}"))
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("console", lambda note: visit.errors.append(note.text) if note.type == "error" else None)
    try:
        yield page, visit
    finally:
        context.close()


def pages_of(book_html: Path) -> list[Path]:
    """Every page a reader can open; templates under _static and pages that only redirect are none."""
    found = sorted(p for p in book_html.rglob("*.html") if p.relative_to(book_html).parts[0] != "_static")
    return [page for page in found if not REDIRECT.search(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def visits(browser: Browser, book_html: Path) -> list[Visit]:
    visits = []
    for path in pages_of(book_html):
        with watched_page(browser, path.relative_to(book_html).as_posix()) as (page, visit):
            page.goto(path.as_uri())
            page.evaluate(SETTLE)
            visit.content = page.evaluate(READ_PAGE)
        visits.append(visit)
    assert len(visits) > 2, f"hardly a book: {[visit.name for visit in visits]}"
    return visits


def no_problems(problems: list[str]) -> None:
    assert not problems, "\n".join(problems)


def test_the_book_builds_without_warnings(book_html: Path) -> None:
    """The fixture built it with -n -W --keep-going; these are its pages."""
    names = {page.relative_to(book_html).as_posix() for page in book_html.rglob("*.html")}
    assert {"index.html", "intro.html", "bibliography.html"} <= names
    assert {"notebooks/logit_bias_derivation.html", "notebooks/loss_ablation.html"} <= names


def test_displayed_numbers_are_those_of_the_records(book_html: Path) -> None:
    if "LIVT_BOOK_HTML" in os.environ:
        pytest.skip("a book built elsewhere: its run store is not known")
    soup = BeautifulSoup((book_html / "notebooks" / "loss_ablation.html").read_text(), "html.parser")
    store = RunStore(book_html.parents[2] / "runs")
    shown = {}
    for table in soup.select("table.dataframe"):
        columns = [cell.get_text(strip=True) for cell in table.select("thead th")]
        if {"run", "accuracy"} <= set(columns):
            for row in table.select("tbody tr"):
                values = dict(
                    zip(columns, (cell.get_text(strip=True) for cell in row.find_all(["th", "td"])), strict=True)
                )
                shown[values["run"]] = values
    assert len(shown) == 12, "four losses, three seeds"
    assert set(shown) == {run_id for run_id in store.ids() if run_id.startswith("finetune")}
    for run_id, values in shown.items():
        result = store.load(run_id).result
        for metric in ("many", "medium", "few", "accuracy", "ece", "mce"):
            assert float(values[metric]) == pytest.approx(result[metric], abs=0.0501), (run_id, metric)
    page = soup.get_text()
    assert "Over 3 seeds" in page


def test_pages_ask_no_other_host(visits: list[Visit]) -> None:
    no_problems([f"{v.name}: requested {url}" for v in visits for url in v.offsite])
    # Catches what is not requested at once too: preconnects, lazy images, prefetches.
    no_problems(
        [
            f"{v.name}: refers to {url}"
            for v in visits
            for url in v.content["resources"]
            if not url.startswith(LOCAL_SCHEMES)
        ]
    )


def test_pages_load_without_errors(visits: list[Visit]) -> None:
    no_problems([f"{v.name}: {what}" for v in visits for what in v.failed + v.errors])


def test_every_formula_is_typeset(visits: list[Visit]) -> None:
    problems = []
    for v in visits:
        formulae = v.content["formulae"]
        problems += [f"{v.name}: {error}" for error in v.content["math_errors"]]
        problems += [
            f"{v.name}: not typeset: {math['raw']}" for math in formulae if math["typeset"] != 1 or math["raw"]
        ]
        if v.content["typeset"] != len(formulae):
            problems.append(f"{v.name}: {len(formulae)} formulae, {v.content['typeset']} typeset")
    no_problems(problems)
    assert any(v.content["formulae"] for v in visits), "no page has a formula"


def test_every_image_is_loaded_and_described(visits: list[Visit]) -> None:
    problems = []
    for v in visits:
        for image in v.content["images"]:
            alt = image["alt"].strip()
            if not image["width"]:
                problems.append(f"{v.name}: not loaded: {image['src']}")
            if not alt or PATH_AS_ALT.search(alt):
                problems.append(f"{v.name}: no alternative text ({alt!r}): {image['src'][:120]}")
    no_problems(problems)
    assert any(v.content["images"] for v in visits), "no page has an image"


def test_internal_links_lead_somewhere(visits: list[Visit], book_html: Path) -> None:
    ids = {(book_html / v.name).resolve(): set(v.content["ids"]) for v in visits}
    problems = []
    for v in visits:
        for link in v.content["links"]:
            url = urlsplit(link)
            if url.scheme != "file":
                continue
            target, anchor = Path(unquote(url.path)).resolve(), unquote(url.fragment)
            if not target.is_relative_to(book_html):
                problems.append(f"{v.name}: leaves the book: {link}")
            elif not target.is_file():
                problems.append(f"{v.name}: no such file: {link}")
            elif anchor and target in ids and anchor not in ids[target]:
                problems.append(f"{v.name}: no such anchor: {link}")
    no_problems(problems)


def test_notebooks_can_be_downloaded(visits: list[Visit]) -> None:
    notebooks = [v for v in visits if v.content["cells"]]
    assert notebooks, "no page shows a notebook"
    for v in notebooks:
        files = [Path(unquote(urlsplit(link).path)) for link in v.content["links"] if link.endswith(".ipynb")]
        assert files, f"{v.name}: no download link"
        for file in files:
            assert json.loads(file.read_text(encoding="utf-8"))["cells"], f"{v.name}: {file.name} is empty"


def test_index_leads_to_the_first_page(browser: Browser, book_html: Path) -> None:
    with watched_page(browser, "index.html") as (page, visit):
        page.goto((book_html / "index.html").as_uri())
        page.wait_for_selector("article h1", timeout=10_000)
        assert not visit.offsite + visit.failed + visit.errors, visit


def test_pages_fit_a_phone(browser: Browser, book_html: Path) -> None:
    problems = []
    for path in pages_of(book_html):
        name = path.relative_to(book_html).as_posix()
        with watched_page(browser, name, width=PHONE_WIDTH) as (page, _):
            page.goto(path.as_uri())
            page.evaluate(SETTLE)
            width = page.evaluate("document.documentElement.scrollWidth")
            if width > PHONE_WIDTH:
                wide = page.evaluate(WIDE_ELEMENTS, PHONE_WIDTH)
                problems.append(f"{name}: {width} px wide at {PHONE_WIDTH} px: {wide}")
    no_problems(problems)


def test_search_finds_a_page(browser: Browser, book_html: Path) -> None:
    with watched_page(browser, "search.html") as (page, visit):
        page.goto((book_html / "index.html").as_uri())
        page.wait_for_selector("article h1", timeout=10_000)
        page.locator(".search-button__button:visible").first.click()
        page.locator("#pst-search-dialog input[name=q]").fill(QUERY)
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=*", timeout=10_000)
        # Sphinx splits the query into words and looks for pages which have them all.
        hits = page.locator("#search-results ul.search li a")
        hits.first.wait_for(timeout=10_000)
        hits.first.click()
        page.wait_for_selector("article h1", timeout=10_000)
        source = Path(unquote(urlsplit(page.url).path)).read_text(encoding="utf-8").lower()
        assert all(word in source for word in QUERY.lower().split("-")), f"{page.url} lacks {QUERY}"
        assert not visit.offsite + visit.failed + visit.errors, visit


def test_theme_switch_offers_light_and_dark(browser: Browser, book_html: Path) -> None:
    with watched_page(browser, "index.html") as (page, visit):
        page.goto((book_html / "index.html").as_uri())
        page.wait_for_selector("article h1", timeout=10_000)
        backgrounds = {}
        for _ in range(3):  # light, dark and the system's choice, in the theme's order
            page.locator(".theme-switch-button:visible").first.click()
            theme = page.evaluate("document.documentElement.dataset.theme")
            backgrounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert set(backgrounds) == {"light", "dark"}, backgrounds
        assert backgrounds["light"] != backgrounds["dark"]
        assert not visit.offsite + visit.failed + visit.errors, visit
