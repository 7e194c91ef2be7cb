"""What a page asks of the network when it is opened."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# In a process of its own: playwright runs one driver per process, and the explorer's tests keep theirs open.
_VISIT = """
import json, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=sys.argv[1], args=["--no-sandbox"])
    page = browser.new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(120_000)
    page.goto(sys.argv[2])
    page.get_by_text(sys.argv[3], exact=False).first.wait_for()
    page.wait_for_load_state("networkidle")
    print(json.dumps([asked, wrong, page.inner_text("body")]))
"""


@pytest.fixture(scope="session")
def visit() -> Callable[[Path, str], tuple[list[str], list[str], str]]:
    """`visit(page, awaited)`: what it requested, its errors and its text, once `awaited` is shown in Chromium."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium is installed, in which the page could be opened: apt-get install chromium")

    def opened(page: Path, awaited: str) -> tuple[list[str], list[str], str]:
        command = [sys.executable, "-c", _VISIT, found[0], page.as_uri(), awaited]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        asked, wrong, text = json.loads(done.stdout)
        return [url for url in asked if not url.startswith("data:")], wrong, text

    return opened
