"""Releases, built once per test run."""

from pathlib import Path

import pytest
import releasing


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder under which everything that takes time is made once."""
    return tmp_path_factory.getbasetemp() / "releasing"


@pytest.fixture(scope="session")
def xr_release(base: Path) -> Path:
    """An X-ray release with a pneumonia head; read-only by agreement."""
    return releasing.release(base, "XR")


@pytest.fixture(scope="session")
def mr_release(base: Path) -> Path:
    """An MRI release that answers embeddings only; read-only by agreement."""
    return releasing.release(base, "MR")
