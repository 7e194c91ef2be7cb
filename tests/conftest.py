"""Fixtures for the whole tree."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from making import make_dataset

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """`real_data(name)`: the folder of a real image set, or a skip that says where it was looked for."""

    def find(name: str) -> Path:
        folder = SHARED_DATA / name
        if not folder.exists():
            pytest.skip(f"the real image set {name} does not lie beside the checkout, in ../shared/data")
        return folder

    return find


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 made X-rays of 60 patients, 32 px; read-only by agreement."""
    return make_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


# Chromium's own software renderer draws WebGL; the sandbox does not start as root, as which CI runs.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A real browser for pages, Debian's Chromium, without a screen; a skip where there is none."""
    from playwright.sync_api import sync_playwright

    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium is installed, in which the page could be opened: apt-get install chromium")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found[0], args=FLAGS)
        yield opened
        opened.close()
