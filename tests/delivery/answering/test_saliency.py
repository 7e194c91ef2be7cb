"""Saliency: on classifiers of which one knows where they look."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from hilum.delivery.answering import saliency
from hilum.delivery.answering.saliency import CLEAR, GRID, LEAST, explain, patches, picture

SIZE = 72  # patches of 16 pixels, a step of 8
SQUARE = (slice(16, 32), slice(40, 56))


def film(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)


def sigmoid(logit_B: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logit_B))).astype(np.float32)


def looks_at(box, weight=0.1):
    """A classifier by the roughness of one square, of which blurring leaves nothing."""

    def run(images_BSS):
        return sigmoid(weight * (images_BSS[:, *box].astype(np.float64).std(axis=(1, 2)) - 60))

    return run


def weighted(seed):
    """A classifier by random weights of all pixels."""
    weight = np.random.default_rng(seed).normal(size=(SIZE, SIZE)) / 3000
    return lambda images_BSS: sigmoid(((images_BSS - 128.0) * weight).sum(axis=(1, 2)))


def naive(run, image, grid):
    """The definition, pixel by pixel: the mean, over the patches that cover it, of the fall of the logit."""
    blurred = np.asarray(Image.fromarray(image).filter(saliency.ImageFilter.GaussianBlur(len(image) / saliency.BLUR)))
    p = float(run(image[None])[0])
    step, changes = len(image) / (grid + 1), {}
    for i in range(grid):
        for j in range(grid):
            covered = image.copy()
            for y in range(round(i * step), round((i + 2) * step)):
                for x in range(round(j * step), round((j + 2) * step)):
                    covered[y, x] = blurred[y, x]
            q = float(run(covered[None])[0])
            changes[i, j] = np.log(p / (1 - p)) - np.log(q / (1 - q))
    found = np.zeros(image.shape)
    for y in range(len(image)):
        for x in range(len(image)):
            here = [
                change
                for (i, j), change in changes.items()
                if round(i * step) <= y < round((i + 2) * step) and round(j * step) <= x < round((j + 2) * step)
            ]
            found[y, x] = sum(here) / len(here)
    return found


@pytest.mark.parametrize("grid", [3, GRID])
def test_the_map_is_that_of_the_definition(grid):
    run = weighted(7)
    found = explain(run, film(), grid)
    assert found.passes == grid**2 + 1
    assert np.allclose(found.map_SS, naive(run, film(), grid), atol=1e-5)


def test_the_mass_lies_in_the_square_that_is_looked_at_and_red_raises():
    found = explain(looks_at(SQUARE), film())
    # A patch that touches the square reaches 8 pixels beyond it at most.
    around = (slice(8, 40), slice(32, 64))
    mass = np.abs(found.map_SS)
    assert mass[around].sum() > 0.99 * mass.sum()
    y, x = np.unravel_index(found.map_SS.argmax(), found.map_SS.shape)
    assert SQUARE[0].start <= y < SQUARE[0].stop
    assert SQUARE[1].start <= x < SQUARE[1].stop
    assert found.strongest > 1
    assert found.map_SS.min() > -0.01 * found.strongest
    lowered = explain(looks_at(SQUARE, -0.1), film())
    assert np.allclose(lowered.map_SS, -found.map_SS, atol=1e-4)
    shown, other = (np.asarray(Image.open(io.BytesIO(one.png))).astype(int) for one in (found, lowered))
    scale = len(shown) // SIZE
    middle = (slice(20 * scale, 28 * scale), slice(44 * scale, 52 * scale))
    assert (shown[middle][..., 0] > shown[middle][..., 2]).mean() > 0.95
    assert (other[middle][..., 0] < other[middle][..., 2]).mean() > 0.95


def test_another_classifier_gives_another_map():
    """Adebayo et al. 2018: a map that survives randomised weights shows the image, not the model."""
    runs = [looks_at(SQUARE), *(weighted(seed) for seed in range(6))]
    maps = np.corrcoef([explain(run, film()).map_SS.ravel() for run in runs])
    apart = np.abs(maps[~np.eye(len(maps), dtype=bool)])
    assert apart.mean() < 0.35
    assert apart.max() < 0.8


def test_a_classifier_that_looks_at_nothing_has_an_empty_map_and_says_so():
    found = explain(lambda images: np.full(len(images), 0.3, np.float32), film())
    assert not found.map_SS.any()
    assert found.what.startswith("No single part of the image moves this answer")
    shown = np.asarray(Image.open(io.BytesIO(found.png)))
    assert np.array_equal(shown[..., 0], shown[..., 2])  # grey, without any colour


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_certainty_stays_finite(probability):
    def run(images_BSS):
        return np.where(np.arange(len(images_BSS)) == 5, 0.5, probability).astype(np.float32)

    found = explain(run, film())
    assert np.isfinite(found.map_SS).all()
    assert found.strongest > 1


def test_weak_effects_are_faint_and_said_to_be_weak():
    def coloured(strength):
        map_SS = np.zeros((SIZE, SIZE), np.float32)
        map_SS[SQUARE] = strength
        image = np.asarray(Image.open(io.BytesIO(picture(np.full((SIZE, SIZE), 128, np.uint8), map_SS)))).astype(int)
        return (image[..., 0] - image[..., 2]).max(), saliency.words(map_SS)

    (none, _), (weak, said), (strong, plain) = coloured(LEAST / 2), coloured(CLEAR / 10), coloured(10 * CLEAR)
    assert none == 0
    assert 0 < weak < strong / 5
    assert "That is little" in said
    assert "That is little" not in plain
    assert "factor of 2.7" in plain
    assert "not where a finding is" in plain


def test_the_same_image_gives_the_same_bytes_at_its_own_size_or_larger():
    first, second = (explain(looks_at(SQUARE), film()) for _ in range(2))
    assert first.png == second.png
    assert base64.b64decode(first.body()["png"]) == first.png
    for size in (5, 48, 224, 384, 500):
        shown = Image.open(io.BytesIO(picture(np.zeros((size, size), np.uint8), np.zeros((size, size), np.float32))))
        assert shown.width == shown.height >= max(size, 224)
        assert shown.width % size == 0


@pytest.mark.parametrize("size", [3, 8, 9, 48, 224, 225])
@pytest.mark.parametrize("grid", [1, 2, 8, 15])
def test_patches_cover_every_pixel(size, grid):
    count = np.zeros((size, size), int)
    boxes = patches(size, grid)
    for box in boxes:
        assert count[box].size
        count[box] += 1
    assert len(boxes) == grid**2
    assert count.min() >= 1
