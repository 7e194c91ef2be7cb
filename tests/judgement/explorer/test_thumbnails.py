import io

import numpy as np
import pytest
from PIL import Image

from hilum.errors import UsageError
from hilum.judgement.explorer.thumbnails import SIDES, sheets


def pictures(n, size, seed=0):
    """Smooth pictures, each with its own mean."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(-30, 30, size)
    level = random.uniform(40, 215, (n, 1, 1))
    return np.clip(level + ramp[None, :, None] * random.uniform(-1, 1, (n, 1, 1)), 0, 255).astype(np.uint8)


def unpacked(made, n):
    """Every thumbnail, cut out of its sheet."""
    found = []
    for jpeg in made.jpegs:
        with Image.open(io.BytesIO(jpeg)) as picture:
            sheet = np.asarray(picture)
        for place in range(made.per_sheet):
            y, x = made.side * (place // made.across), made.side * (place % made.across)
            if y + made.side <= sheet.shape[0] and x + made.side <= sheet.shape[1]:
                found.append(sheet[y : y + made.side, x : x + made.side])
    return np.stack(found[:n])


@pytest.mark.parametrize(("n", "size"), [(3, 32), (700, 48), (41, 200)])
def test_thumbnails_lie_where_they_are_said_to_lie(n, size):
    images = pictures(n, size)
    rows = np.random.default_rng(1).permutation(n)
    made = sheets(images, rows, 10**8)
    assert made.side == min(160, size)
    cut = unpacked(made, n).astype(float)
    assert len(cut) == n
    np.testing.assert_allclose(cut.mean(axis=(1, 2)), images[rows].mean(axis=(1, 2)), atol=2)
    if made.side == size:
        assert np.abs(cut - images[rows]).mean() < 4


def test_thumbnails_do_not_shine_through_into_the_next():
    images = np.zeros((16, 64, 64), dtype=np.uint8)
    images[5] = 255
    cut = unpacked(sheets(images, np.arange(16), 10**7), 16)
    assert cut[5].min() > 250
    assert np.delete(cut, 5, axis=0).max() < 5


def test_more_images_get_smaller_thumbnails_within_the_budget():
    images = np.random.default_rng(2).integers(0, 255, (3000, 64, 64), dtype=np.uint8)  # noise: as bad as it gets
    sides = []
    for budget in (30_000_000, 8_000_000, 2_500_000):
        made = sheets(images, np.arange(3000), budget)
        assert sum(4 * -(-len(jpeg) // 3) for jpeg in made.jpegs) <= budget
        sides.append(made.side)
    assert sides[0] == 64
    assert sides == sorted(set(sides), reverse=True)
    assert set(sides) <= set(SIDES)


def test_a_budget_that_cannot_be_kept_is_refused():
    with pytest.raises(UsageError, match=r"thumbnails of 500 images at 16 px do not fit into 0\.01 MB"):
        sheets(np.random.default_rng(0).integers(0, 255, (500, 32, 32), dtype=np.uint8), np.arange(500), 10_000)
