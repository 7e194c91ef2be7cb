"""What a page asks of the network when it is opened."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

PATIENCE_MS = 120_000  # Evidently's page brings all of plotly along


@pytest.fixture
def visit(browser: Browser) -> Callable[[Path, str], tuple[list[str], list[str], str]]:
    """`visit(page, awaited)`: what it requested, its errors and its text, once `awaited` is shown in Chromium."""

    def opened(path: Path, awaited: str) -> tuple[list[str], list[str], str]:
        asked: list[str] = []
        wrong: list[str] = []
        with browser.new_page() as page:
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.set_default_timeout(PATIENCE_MS)
            page.goto(path.as_uri())
            page.get_by_text(awaited, exact=False).first.wait_for()
            page.wait_for_load_state("networkidle")
            text = page.inner_text("body")
        return [url for url in asked if not url.startswith("data:")], wrong, text

    return opened
