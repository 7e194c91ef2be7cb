"""What the tests of the layouts share: small images on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw() -> Callable[..., Path]:
    """`draw(path, shade)`: a small grey image of one shade, its folders made on the way."""

    def write(path: Path, shade: int = 100, shape: tuple[int, int] = (6, 5)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(shape, shade, np.uint8)).save(path)
        return path

    return write
