"""Fixtures for the whole tree."""

from collections.abc import Callable
from pathlib import Path

import pytest
from making import make_dataset

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
