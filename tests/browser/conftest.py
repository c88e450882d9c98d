"""Fixtures for the browser tests: the built book, a local server for it, and one Chromium for the whole session."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

REPO = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 300_000  # milliseconds that a page may take on a busy machine: what takes longer will never come
# Keep the browser itself from calling home, so that only the pages can cause a request.
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def book_html(tmp_path_factory: pytest.TempPathFactory, smoke_runs: Path) -> Path:
    """Directory of a book built of suite smoke, in a copy; LIVT_BOOK_HTML names one that is built already."""
    if given := os.environ.get("LIVT_BOOK_HTML"):
        return Path(given).resolve()
    copy = tmp_path_factory.mktemp("copy").resolve()
    shutil.copytree(REPO / "book", copy / "book", ignore=shutil.ignore_patterns("_build", "notebooks"))
    shutil.copytree(REPO / "notebooks", copy / "notebooks")
    environment = os.environ | {"LIVT_RUNS": str(smoke_runs)}
    command = [sys.executable, copy / "book" / "build.py", "--suite", "smoke"]
    built = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    assert "book: open file://" in built.stdout
    return copy / "book" / "_build" / "html"


@pytest.fixture(scope="session")
def book_pdf(book_html: Path, browser: Browser) -> Path:
    """The PDF of the same book. It needs the folder that the book was built in, and Chromium."""
    book = book_html.parents[1]
    if not (book / "pdf.py").exists():
        pytest.skip("a book built elsewhere: its sources are not beside it")
    printed = subprocess.run([sys.executable, book / "pdf.py"], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stdout[-3000:] + printed.stderr[-3000:]
    return book / "_build" / "livt.pdf"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def book_url(book_html: Path) -> Iterator[str]:
    """Address of a server for the book on this machine alone, without a slash at the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(book_html))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None or find_spec("playwright") is None:
        pytest.skip("the browser tests need the playwright package and chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS, timeout=PATIENCE)
        make_context = chromium.new_context

        def patient_context(**options: Any) -> BrowserContext:
            context = make_context(**options)
            context.set_default_timeout(PATIENCE)
            return context

        chromium.new_context = patient_context
        chromium.new_page = lambda **options: patient_context(**options).new_page()
        yield chromium
        chromium.close()
        gc.collect()  # loading processes of other tests, forked since, hold the pipe whose end playwright waits for
