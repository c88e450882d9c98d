"""Fixtures for the browser tests: the built book, and one Chromium for the whole session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPO = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
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
def book_html() -> Path:
    """Directory of the built book: LIVT_BOOK_HTML where set, else book/_build/html."""
    html = Path(os.environ.get("LIVT_BOOK_HTML") or REPO / "book" / "_build" / "html").resolve()
    if not (html / "index.html").is_file():
        pytest.skip("no built book: run `make book`, or look at the test that builds the book")
    return html


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None or find_spec("playwright") is None:
        pytest.skip("the browser tests need the playwright package and chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()
