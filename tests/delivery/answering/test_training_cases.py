"""Nearest training cases and the out-of-distribution score, against loops."""

import numpy as np
import pytest

from hilum.delivery.answering import neighbours
from hilum.delivery.answering.exposure import Exposure
from hilum.delivery.releasing.cases import whitening
from hilum.errors import ReleaseError

READABLE = Exposure(0, 0, 255, 1, 1)


@pytest.fixture(scope="module")
def bank():
    """300 embeddings of two clouds, each long in one direction and thin in the others, and what was kept of them."""
    random = np.random.default_rng(3)
    mixing = random.normal(size=(6, 6))
    z_MD = (random.normal(size=(360, 6)) * [8, 1, 1, 1, 1, 0.05]) @ mixing
    z_MD[::2] += 4 * mixing[1]
    z_MD = z_MD.astype(np.float32)
    kept = neighbours.fit(z_MD[:300], np.arange(300), np.arange(300) % 2, whitening(z_MD[:300]), z_MD[300:], READABLE)
    return z_MD[:300].astype(float), kept, mixing


def distances(x_MD, x_D):
    return [np.sqrt(sum((a - b) ** 2 for a, b in zip(row, x_D, strict=True)) / len(x_D)) for row in x_MD]


def shrunk(z_MD):
    """The covariance of Ledoit and Wolf 2004, by their definitions, one image at a time."""
    x_MD, unit = z_MD - z_MD.mean(axis=0), np.eye(z_MD.shape[1])
    covariance = x_MD.T @ x_MD / len(x_MD)
    mean_variance = np.trace(covariance) / len(unit)
    apart = ((covariance - mean_variance * unit) ** 2).sum()
    uncertain = sum(((np.outer(x, x) - covariance) ** 2).sum() for x in x_MD) / len(x_MD) ** 2
    share = min(uncertain / apart, 1.0)
    return share * mean_variance * unit + (1 - share) * covariance


def test_the_score_is_the_distance_to_the_tenth_nearest_whitened(bank):
    z_MD, kept, _ = bank
    precision = np.linalg.inv(shrunk(z_MD))
    for z_D in np.random.default_rng(0).normal(size=(5, 6)) * 3:
        ordered = sorted(np.sqrt((z - z_D) @ precision @ (z - z_D) / 6) for z in z_MD)
        assert kept.score(z_D.astype(np.float32)) == pytest.approx(ordered[9], rel=1e-3)


def test_cases_are_named_by_the_standardised_distance(bank):
    z_MD, kept, _ = bank
    z_D = z_MD[7] + 0.3
    scale = z_MD.std(axis=0)
    expected = distances(z_MD / scale, z_D / scale)
    found = kept.nearest(z_D.astype(np.float32), 4)
    assert [one.number for one in found] == list(np.argsort(expected)[:4])
    assert [one.distance for one in found] == pytest.approx(sorted(expected)[:4], rel=1e-3)


def test_what_is_small_but_unheard_of_is_strange(bank):
    z_MD, kept, mixing = bank
    step = mixing[5]  # along which proper images hardly differ
    assert kept.score((z_MD[0] + 3 * step).astype(np.float32)) > kept.limit
    assert kept.score((z_MD[0] + 1 * mixing[0]).astype(np.float32)) < kept.limit


def test_constant_dimensions_and_few_cases_have_a_whitening():
    z_MD = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    z_MD[:, 5] = 1.0
    assert np.isfinite(whitening(z_MD)).all()


def test_a_bank_of_another_shape_is_refused(bank, tmp_path):
    _, kept, _ = bank
    kept.save(tmp_path / "cases.npz")
    assert neighbours.Neighbours.load(tmp_path / "cases.npz", 6).limit == kept.limit
    with pytest.raises(ReleaseError, match="not cases of 7 dimensions"):
        neighbours.Neighbours.load(tmp_path / "cases.npz", 7)
