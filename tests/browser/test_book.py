"""The built book in a real browser: each page from file:// and from a local server, every other request aborted.

``LIVT_SCREENSHOTS=folder`` also writes a picture of each page in light, in dark and on a phone.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from livt.lab.promoted import read_promoted
from livt.lab.runs import RunStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Response, Route

REPO = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(2400)

QUERY = "Bal-BCE"
DESKTOP = {"width": 1280, "height": 844}
PHONE = {"width": 390, "height": 844}
LOCAL_SCHEMES = ("file:", "data:", "blob:", "about:")
REDIRECT = re.compile(r'<meta\s+http-equiv="refresh"', re.IGNORECASE)
# Sphinx falls back to the image's path where no alternative text is given.
PATH_AS_ALT = re.compile(r"\.(png|svg|jpe?g|gif|webp)$", re.IGNORECASE)
# MathJax describes its formulae to assistive technology itself; its thousands of elements only take time.
# The rows of a long table are alike.
AXE_IGNORED = ["mjx-container", "tr:nth-child(n+20)"]
# The page with the most code stands for all others where the colours of code are examined in dark: axe takes long.
CODE_PAGE = "notebooks/logit_bias_derivation.html"
# Pages are made of the same elements and style sheets: these have each kind; slow tests take the others.
EXAMINED = (CODE_PAGE, "intro.html", "api/losses.html", "notebooks/claims.html", "notebooks/loss_ablation.html")
SERIOUS = ("serious", "critical")

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
    cut: all(".bd-article table").filter((table) => table.getClientRects().length).flatMap((table) => {
      let box = table.parentElement;
      while (box !== document.body && getComputedStyle(box).overflowX === "visible") box = box.parentElement;
      return box.scrollWidth > box.clientWidth + 1 ? [`${table.className}: ${table.innerText.slice(0, 60)}`] : [];
    }),
    figures: all(".livt-figure img").filter((image) => image.getClientRects().length)
      .map((image) => image.getBoundingClientRect().width / image.naturalWidth),
    header: all(".bd-header-article a[href]").map((link) => link.href),
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
    """What one page did, and what stood on it once it had settled; ``axe`` are serious findings of axe-core."""

    name: str
    offsite: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    axe: list[str] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return self.offsite + self.failed + self.errors


@contextmanager
def watched_tab(context: BrowserContext, name: str, origin: str = "") -> Iterator[tuple[Page, Visit]]:
    """A tab without a network but for ``origin``, and the record of what happens in it."""
    visit = Visit(name)
    allowed = (*LOCAL_SCHEMES, f"{origin}/") if origin else LOCAL_SCHEMES

    def let_local_through(route: Route) -> None:
        if route.request.url.startswith(allowed):
            route.continue_()
        else:
            route.abort()

    def note_request(url: str) -> None:
        if not url.startswith(allowed):
            visit.offsite.append(url)

    def note_response(response: Response) -> None:
        if response.status >= 400:
            visit.failed.append(f"{response.url}: {response.status}")

    page = context.new_page()
    page.route("**/*", let_local_through)
    page.on("request", lambda request: note_request(request.url))
    page.on("websocket", lambda socket: note_request(socket.url))
    page.on("requestfailed", lambda request: visit.failed.append(f"{request.url}: {request.failure}"))
    page.on("response", note_response)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("console", lambda note: visit.errors.append(note.text) if note.type == "error" else None)
    try:
        yield page, visit
    finally:
        page.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[tuple[Page, Visit]]:
    """A tab in a fresh profile, for one reader's errand from file://."""
    context = browser.new_context(viewport=DESKTOP)
    with watched_tab(context, "errand") as (page, visit):
        yield page, visit
    context.close()


def pages_of(book_html: Path) -> list[str]:
    """Every page a reader can open, by its path; templates under _static and pages that only redirect are none."""
    found = sorted(p for p in book_html.rglob("*.html") if p.relative_to(book_html).parts[0] != "_static")
    real = [page for page in found if not REDIRECT.search(page.read_text(encoding="utf-8"))]
    return [page.relative_to(book_html).as_posix() for page in real]


def chapters() -> list[str]:
    """The chapters in the order of the table of contents, each a path without its ending."""
    toc = yaml.safe_load((Path(__file__).resolve().parents[2] / "book" / "_toc.yml").read_text())

    def files(entries: list[dict[str, Any]]) -> Iterator[str]:
        for entry in entries:
            if "file" in entry:
                yield entry["file"]
            yield from files(entry.get("chapters", []) + entry.get("sections", []))

    return [toc["root"], *files(toc.get("parts", []) + toc.get("chapters", []))]


def axe(page: Page, ignored: Sequence[str] = (), **options: Any) -> list[str]:
    """Run axe-core on the page but for ``ignored`` selectors; return its serious and critical findings."""
    from axe_playwright_python.sync_playwright import Axe

    # Its preload would fetch the style sheets, which browsers refuse under file://.
    settings = {"resultTypes": ["violations"], "preload": False, **options}
    context = {"exclude": [[selector] for selector in (*AXE_IGNORED, *ignored)]}
    found = Axe().run(page, context=context, options=settings).response
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:150]} {node.get('failureSummary', '')[:200]}"
        for violation in found["violations"]
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]


def take_picture(page: Page, name: str, kind: str) -> None:
    if folder := os.environ.get("LIVT_SCREENSHOTS"):
        path = Path(folder) / f"{name.removesuffix('.html').replace('/', '-')}.{kind}.png"
        page.screenshot(path=path, full_page=True)


@pytest.fixture(scope="module")
def visits(browser: Browser, book_html: Path) -> list[Visit]:
    """Each page from file:// on a desktop, read; some are examined too, in light and in dark."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    visits = []
    for name in pages_of(book_html):
        with watched_tab(context, name) as (page, visit):
            page.goto((book_html / name).as_uri())
            page.evaluate(SETTLE)
            visit.content = page.evaluate(READ_PAGE)
            take_picture(page, name, "light")
            if name in EXAMINED or "LIVT_SCREENSHOTS" in os.environ:
                visit.axe += examined(page, name)
        visits.append(visit)
    context.close()
    assert len(visits) > 2, f"hardly a book: {[visit.name for visit in visits]}"
    return visits


def examined(page: Page, name: str) -> list[str]:
    """What axe finds on a page, and once it is dark: nothing but colours differs."""
    found = [f"light: {finding}" for finding in axe(page)]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    ignored = [] if name == CODE_PAGE else ["pre"]
    take_picture(page, name, "dark")
    return found + [f"dark: {finding}" for finding in axe(page, ignored, runOnly=["color-contrast"])]


@pytest.fixture(scope="module")
def phone_visits(browser: Browser, book_html: Path, book_url: str) -> list[Visit]:
    """Each page from a local server on a phone."""
    context = browser.new_context(viewport=PHONE, color_scheme="light", reduced_motion="reduce")
    visits = []
    for name in pages_of(book_html):
        with watched_tab(context, name, book_url) as (page, visit):
            page.goto(f"{book_url}/{name}")
            page.evaluate(SETTLE)
            visit.content = page.evaluate(READ_PAGE)
            visit.content["width"] = page.evaluate("document.documentElement.scrollWidth")
            visit.content["wide"] = page.evaluate(WIDE_ELEMENTS, PHONE["width"])
            visit.axe = axe(page, runOnly=["scrollable-region-focusable"])
            take_picture(page, name, "phone")
        visits.append(visit)
    context.close()
    return visits


def no_problems(problems: list[str]) -> None:
    assert not problems, "\n".join(problems)


def test_the_book_builds_without_warnings(book_html: Path) -> None:
    """The fixture built it with -n -W --keep-going; these are its pages."""
    assert {f"{chapter}.html" for chapter in chapters()} <= set(pages_of(book_html))
    assert (book_html / "index.html").is_file()


def test_the_chapters_show_what_their_notebooks_store(book_html: Path) -> None:
    """The cells that nbval would compare: the book has run them with the same suite."""
    executed = book_html.parents[1] / "notebooks"
    if not executed.is_dir():
        pytest.skip("a book built elsewhere: its notebooks are not beside it")
    compared = 0
    for source in sorted((REPO / "notebooks").glob("*.ipynb")):
        stored, run = (code_cells(folder / source.name) for folder in (source.parent, executed))
        assert len(stored) == len(run), source.name
        for cell, again in zip(stored, run, strict=True):
            if cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
                assert plain(again) == plain(cell), f"{source.name}: {cell.source[:200]}"
                compared += 1
    assert compared > 30


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def plain(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell has printed, and the plain text of each thing that it has shown."""
    printed = "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
    return [printed, *(o.data.get("text/plain", "") for o in cell.outputs if "data" in o)]


def test_the_book_is_small_enough_to_send(book_html: Path) -> None:
    size = sum(path.stat().st_size for path in book_html.rglob("*") if path.is_file())
    assert size < 25e6, f"{size / 1e6:.1f} MB"


@pytest.mark.parametrize("some", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["some", "others"])
def test_displayed_numbers_are_those_of_the_records(book_html: Path, smoke_runs: Path, some: bool) -> None:
    """The build checked the notebooks; here are the pages which were made of them."""
    if "LIVT_BOOK_HTML" in os.environ:
        pytest.skip("a book built elsewhere: its run store is not known")
    spec = importlib.util.spec_from_file_location("check", book_html.parents[1] / "check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    promoted = read_promoted(book_html.parents[1] / "results")
    load = check.reader(RunStore(smoke_runs), promoted)
    checked = {}
    for name in (name for name in pages_of(book_html) if (name in EXAMINED) == some):
        checked[name], problems = check.check_html(
            (book_html / name).read_text(encoding="utf-8"), load, promoted.values()
        )
        assert not problems, (name, problems)
    few, page = (24, "loss_ablation") if some else (0, "benchmarks")
    assert checked[f"notebooks/{page}.html"] > few, "four losses, six metrics, and the verdicts"


def test_pages_ask_no_other_host(visits: list[Visit], phone_visits: list[Visit]) -> None:
    no_problems([f"{v.name}: requested {url}" for v in visits + phone_visits for url in v.offsite])
    # Catches what is not requested at once too: preconnects, lazy images, prefetches.
    no_problems(
        [
            f"{v.name}: refers to {url}"
            for v in visits
            for url in v.content["resources"]
            if not url.startswith(LOCAL_SCHEMES)
        ]
    )


def test_pages_load_without_errors(visits: list[Visit], phone_visits: list[Visit]) -> None:
    no_problems([f"file: {v.name}: {what}" for v in visits for what in v.failed + v.errors])
    no_problems([f"http: {v.name}: {what}" for v in phone_visits for what in v.failed + v.errors])


def test_pages_are_accessible(visits: list[Visit]) -> None:
    no_problems([f"{v.name}: {finding}" for v in visits for finding in v.axe])


@pytest.mark.slow
def test_all_other_pages_are_accessible(browser: Browser, book_html: Path) -> None:
    context = browser.new_context(viewport=DESKTOP, color_scheme="light", reduced_motion="reduce")
    pages = pages_of(book_html)
    assert set(EXAMINED) < set(pages)
    found = []
    for name in sorted(set(pages) - set(EXAMINED)):
        with watched_tab(context, name) as (page, _):
            page.goto((book_html / name).as_uri())
            page.evaluate(SETTLE)
            found += [f"{name}: {finding}" for finding in examined(page, name)]
    no_problems(found)


def test_every_formula_is_typeset(visits: list[Visit], phone_visits: list[Visit]) -> None:
    problems = []
    for v in visits + phone_visits:
        formulae = v.content["formulae"]
        problems += [f"{v.name}: {error}" for error in v.content["math_errors"]]
        problems += [
            f"{v.name}: not typeset: {math['raw']}" for math in formulae if math["typeset"] != 1 or math["raw"]
        ]
        if v.content["typeset"] != len(formulae):
            problems.append(f"{v.name}: {len(formulae)} formulae, {v.content['typeset']} typeset")
    no_problems(problems)
    assert any(v.content["formulae"] for v in visits), "no page has a formula"


def test_every_image_is_loaded_and_described(visits: list[Visit], phone_visits: list[Visit]) -> None:
    problems = []
    for v in visits + phone_visits:
        for image in v.content["images"]:
            alt = image["alt"].strip()
            if not image["width"]:
                problems.append(f"{v.name}: not loaded: {image['src'][:120]}")
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


def test_pages_fit_a_phone(phone_visits: list[Visit]) -> None:
    no_problems(
        [
            f"{v.name}: {v.content['width']} px wide at {PHONE['width']} px: {v.content['wide']}"
            for v in phone_visits
            if v.content["width"] > PHONE["width"]
        ]
    )


def test_tables_fit_the_column_of_a_desktop(visits: list[Visit]) -> None:
    """The list of all runs may scroll in its box: it has a column for each thing in which runs differ."""
    no_problems([f"{v.name}: {table}" for v in visits for table in v.content["cut"] if "livt-all-runs" not in table])


def test_figures_are_shown_as_large_as_drawn(visits: list[Visit], phone_visits: list[Visit]) -> None:
    """On a phone they scroll: type of 9 px shrunk to the width of the screen could not be read."""
    shares = [(v.name, share) for v in (*visits, *phone_visits) for share in v.content["figures"]]
    assert len(shares) > 20
    no_problems([f"{name}: shown at {share:.2f} of its size" for name, share in shares if not 0.98 < share < 1.02])


def test_what_scrolls_on_a_phone_is_reached_by_keyboard(phone_visits: list[Visit]) -> None:
    no_problems([f"{v.name}: {finding}" for v in phone_visits for finding in v.axe])


def test_headers_offer_nothing_that_needs_a_network(visits: list[Visit]) -> None:
    no_problems(
        [f"{v.name}: {link}" for v in visits for link in v.content["header"] if not link.startswith(LOCAL_SCHEMES)]
    )


def test_notebooks_can_be_downloaded(visits: list[Visit]) -> None:
    notebooks = [v for v in visits if v.content["cells"]]
    assert notebooks, "no page shows a notebook"
    for v in notebooks:
        files = [Path(unquote(urlsplit(link).path)) for link in v.content["links"] if link.endswith(".ipynb")]
        assert files, f"{v.name}: no download link"
        for file in files:
            cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
            assert cells, f"{v.name}: {file.name} is empty"
            assert not any(cell.get("outputs") for cell in cells), f"{v.name}: {file.name} has what the page shows"


def test_the_buttons_of_the_header_work(browser: Browser, book_url: str) -> None:
    context = browser.new_context(viewport=DESKTOP)
    with watched_tab(context, "header", book_url) as (page, visit):
        page.add_init_script("window.print = () => { window.printed = true; }")
        page.goto(f"{book_url}/notebooks/loss_ablation.html")
        page.evaluate(SETTLE)
        menu = page.locator(".dropdown-download-buttons button").first
        menu.click()
        page.locator(".btn-download-pdf-button").click()
        assert page.evaluate("window.printed")
        with page.expect_download() as started:  # in this tab: a new one would be beyond watching
            page.locator("a.btn-download-source-button").evaluate("(link) => { link.target = ''; link.click(); }")
        assert json.loads(started.value.path().read_text(encoding="utf-8"))["cells"]
        page.locator(".btn-fullscreen-button").click()
        page.wait_for_function("document.fullscreenElement !== null")
        assert not visit.offsite + visit.errors, visit
    context.close()


def test_tables_can_be_downloaded(tab: tuple[Page, Visit], book_html: Path) -> None:
    page, visit = tab
    page.goto((book_html / "notebooks" / "loss_ablation.html").as_uri())
    links = page.locator("a.livt-download")
    assert links.count()
    for link in links.all():
        if not link.is_visible():  # in the tab of another suite, whose label stands before it
            link.locator("xpath=ancestor::*[@class='livt-tab']/preceding-sibling::label[1]").click()
        with page.expect_download() as started:
            link.click()
        assert started.value.suggested_filename == link.get_attribute("download")
        rows = list(csv.reader(started.value.path().read_text(encoding="utf-8").splitlines()))
        stated = re.search(r"\((\d+) rows\)", link.locator("..").inner_text())
        assert len(rows) - 1 == int(stated[1]), link.inner_text()
    assert not visit.problems, visit


def test_index_leads_to_the_first_page(tab: tuple[Page, Visit], book_html: Path) -> None:
    page, visit = tab
    page.goto((book_html / "index.html").as_uri())
    page.wait_for_selector("article h1")
    assert not visit.problems, visit


@pytest.mark.parametrize("served", [False, True], ids=["file", "http"])
def test_search_finds_a_page(browser: Browser, book_html: Path, book_url: str, served: bool) -> None:
    context = browser.new_context(viewport=DESKTOP)
    with watched_tab(context, "search.html", book_url if served else "") as (page, visit):
        page.goto(f"{book_url if served else book_html.as_uri()}/intro.html")
        page.wait_for_selector("article h1")
        page.locator(".search-button__button:visible").first.click()
        page.locator("#pst-search-dialog input[name=q]").fill(QUERY)
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=*")
        # Sphinx splits the query into words and looks for pages which have them all.
        hits = page.locator("#search-results ul.search li a")
        hits.first.wait_for()
        hits.first.click()
        page.wait_for_selector("article h1")
        text = page.content().lower()
        assert all(word in text for word in QUERY.lower().split("-")), f"{page.url} lacks {QUERY}"
        assert not visit.problems, visit
    context.close()


def test_theme_switch_offers_light_and_dark(tab: tuple[Page, Visit], book_html: Path) -> None:
    page, visit = tab
    page.goto((book_html / "intro.html").as_uri())
    page.wait_for_selector("article h1")
    backgrounds = {}
    for _ in range(3):  # light, dark and the system's choice, in the theme's order
        page.locator(".theme-switch-button:visible").first.click()
        theme = page.evaluate("document.documentElement.dataset.theme")
        backgrounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert set(backgrounds) == {"light", "dark"}, backgrounds
    assert backgrounds["light"] != backgrounds["dark"]
    assert not visit.problems, visit


@pytest.mark.slow
def test_the_pdf_holds_every_chapter(book_pdf: Path, book_html: Path) -> None:
    from pypdf import PdfReader

    def plain(text: str) -> str:
        return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))

    pages = [page.extract_text() for page in PdfReader(book_pdf).pages]
    assert len(pages) > len(chapters()), "each chapter begins on a new sheet"
    assert f"{len(pages)} / {len(pages)}" in pages[-1], "numbered"
    text = plain("".join(pages))
    for chapter in chapters():
        soup = BeautifulSoup((book_html / f"{chapter}.html").read_text(encoding="utf-8"), "html.parser")
        heading = soup.select_one("article h1")
        heading.select_one("a.headerlink").extract()
        assert plain(heading.get_text()) in text, chapter
    lost = re.findall(r".{30}(?:\?\?\?|\[\?\]|\\eqref|\\ref\{).{0,30}", text)
    assert not lost, lost
    assert "Showcodecellsource" not in text
