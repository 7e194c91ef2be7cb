"""Letters and markers in pictures that the test draws."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from hilum.judgement.shortcuts import markers


def film(seed, size=224):
    """A soft chest: gradients, a bright middle, ribs as long arcs, fine noise; no letters."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[0:size, 0:size] / size
    grey = 60 + 110 * np.exp(-(((column - 0.5) / 0.12) ** 2)) + 60 * row * random.uniform(0.5, 1)
    for side in (-1, 1):
        grey -= 45 * np.exp(-(((column - 0.5 - side * 0.2) / 0.11) ** 2) - (((row - 0.45) / 0.28) ** 2))
    ribs = np.sin(2 * np.pi * (row * 9 - 2.0 * (column - 0.5) ** 2) + random.uniform(0, 6))
    grey += 9 * ribs * (np.abs(column - 0.5) > 0.1)
    return np.clip(ndimage.gaussian_filter(grey + random.normal(0, 4, (size, size)), 0.7), 0, 255).astype(np.uint8)


def lettered(image, text, place, grey, points=13):
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(place, text, fill=grey, font=ImageFont.load_default(points))
    return np.asarray(picture)


@pytest.mark.parametrize("seed", range(8))
def test_a_film_without_letters_is_not_marked(seed):
    assert markers.plainness(film(seed)) < markers.THRESHOLD


@pytest.mark.parametrize(
    ("text", "place", "grey"),
    [
        ("L", (200, 12), 240),
        ("R", (10, 14), 250),
        ("SUPINE", (150, 10), 240),
        ("AP ERECT", (12, 195), 235),
        ("A", (206, 196), 10),  # dark letters, as a typesetter adds them
    ],
)
def test_letters_near_the_edge_are_found(text, place, grey):
    found = [markers.plainness(lettered(film(seed), text, place, grey)) >= markers.THRESHOLD for seed in range(8)]
    assert sum(found) >= 7


def test_letters_in_the_middle_are_not_looked_for():
    assert markers.plainness(lettered(film(1), "L", (106, 100), 250)) < markers.THRESHOLD


def test_a_line_across_the_film_and_its_frame_are_no_letters():
    wire = film(2).copy()
    wire[:, 30:32] = 230
    wire[3:5, :] = 255
    assert markers.plainness(wire) < markers.THRESHOLD


def test_sizes_follow_the_image():
    small, large = film(3), film(3, size=448)
    assert markers.plainness(lettered(large, "L", (400, 24), 240, points=26)) >= markers.THRESHOLD
    assert markers.plainness(large) < markers.THRESHOLD
    images = np.stack([small, lettered(small, "L", (200, 12), 240), small])
    assert markers.marked(images, np.array([1, 2])).tolist() == [1.0, 0.0]
