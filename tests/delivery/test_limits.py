"""Input limits: by the formula, and on real images of two modalities."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from releasing import photograph

from hilum.delivery import limits
from hilum.errors import ReleaseError


def naive_edges(image):
    """Histograms of oriented gradients, pixel by pixel."""
    small = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    down, across = np.gradient(small)
    cells = np.zeros((8, 8, 8))
    for row in range(64):
        for column in range(64):
            gx, gy = across[row, column], down[row, column]
            position = (np.arctan2(gy, gx) % np.pi) / (np.pi / 8)
            lower = int(position) % 8
            rest = position - int(position)
            cells[row // 8, column // 8, lower] += np.hypot(gx, gy) * (1 - rest)
            cells[row // 8, column // 8, (lower + 1) % 8] += np.hypot(gx, gy) * rest
    flat = np.sqrt(cells).ravel()
    return (flat - flat.mean()) / flat.std()


def test_edges_equal_the_naive_reference():
    image = np.random.default_rng(0).integers(0, 256, (48, 48)).astype(np.uint8)
    assert limits.edges(image) == pytest.approx(naive_edges(image), abs=1e-9)


def test_edges_are_blind_to_brightness_and_contrast_and_empty_on_blank():
    image = photograph()
    other = np.clip(image * 0.5 + 20, 0, 255).astype(np.uint8)
    assert np.corrcoef(limits.edges(image), limits.edges(other))[0, 1] > 0.97
    assert not limits.edges(np.full((32, 32), 128, np.uint8)).any()


def test_distance_and_density_equal_those_of_the_full_covariance():
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (60, 32, 32)).astype(np.uint8)
    found = limits.fit(images[:50], images[50:])
    k = len(found.variance_K)
    assert k == 12
    components = found.components_KP
    covariance = components.T @ np.diag(found.variance_K) @ components
    covariance += found.rest_variance * (np.eye(limits.FEATURES) - components.T @ components)
    apart = limits.edges(images[55]) - found.mean_P
    squared = apart @ np.linalg.inv(covariance) @ apart
    assert found.distances(images[55:56])[0] == pytest.approx(squared / limits.FEATURES)
    density = -0.5 * (squared + np.linalg.slogdet(covariance)[1] + limits.FEATURES * np.log(2 * np.pi))
    assert found.log_densities(images[55:56])[0] == pytest.approx(density / limits.FEATURES)


def test_blank_is_refused_and_saving_keeps_everything(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (60, 32, 32)).astype(np.uint8)
    found = limits.fit(images[:50], images[50:])
    assert not found.accepts(np.zeros((1, 32, 32), np.uint8))[0]
    found.save(tmp_path / "limits.npz")
    again = limits.Limits.load(tmp_path / "limits.npz")
    assert np.array_equal(again.distances(images), found.distances(images))
    assert again.limit == found.limit


def test_damaged_limits_are_refused(tmp_path):
    path = tmp_path / "limits.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(ReleaseError, match=r"limits\.npz"):
        limits.Limits.load(path)
    np.savez(path, mean_P=np.zeros(3), components_KP=np.zeros((2, 3)), variance_K=np.ones(2), rest_variance=1, limit=1)
    with pytest.raises(ReleaseError, match="export again"):
        limits.Limits.load(path)


def read(folder, pattern, count=400):
    paths = sorted(folder.glob(pattern))
    paths = paths[:: max(1, len(paths) // count)]
    return np.stack([np.asarray(ImageOps.pad(Image.open(path).convert("L"), (64, 64))) for path in paths])


def test_real_films_and_real_mris_are_told_apart(real_data):
    films = read(real_data("nih-chestxray14-1000"), "images/*.png")
    children = read(real_data("kermany-chest-xray"), "chest_xray/train/*/*.jpeg", 100)
    brains = read(real_data("oasis-1"), "*/*.jpg")
    cut = int(0.7 * len(films))
    found = limits.fit(films[:cut], films[cut : cut + 50])
    mr = limits.fit(brains[::2], brains[1::4])
    assert found.accepts(films[cut + 50 :]).mean() >= 0.95
    assert found.accepts(brains).mean() <= 0.01
    assert not found.accepts(photograph(64)[None])[0]
    assert not found.accepts(np.random.default_rng(0).integers(0, 256, (20, 64, 64)).astype(np.uint8)).any()
    assert mr.accepts(brains[3::4]).mean() >= 0.95
    assert mr.accepts(np.concatenate([films, children])).mean() <= 0.01
    # Where both limits are at hand, the density decides, for children too, whom the films do not show.
    assert (found.log_densities(children) > mr.log_densities(children) + 0.25).mean() == 1.0
    assert (mr.log_densities(brains) > found.log_densities(brains) + 0.25).mean() == 1.0
