"""Effective rank at its known values, and what counts as collapse."""

import numpy as np
import pytest

from hilum.learning.collapse import collapse, effective_rank

random = np.random.default_rng(0)


def test_a_ball_has_all_its_directions() -> None:
    assert effective_rank(random.normal(size=(20_000, 8))) == pytest.approx(8, abs=0.01)


def test_a_line_has_one_and_a_point_none() -> None:
    line = random.normal(size=(100, 1)) * np.ones((1, 5)) + 3
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert effective_rank(np.ones((10, 4))) == 0.0


def test_unequal_directions_by_hand() -> None:
    """Singular values 3 : 1 give exp(-(3/4 ln 3/4 + 1/4 ln 1/4)) = 1.7548."""
    z = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(z) == pytest.approx(1.7548, abs=1e-4)


@pytest.mark.parametrize(
    ("z", "warning"),
    [
        (random.normal(size=(50, 6)), ""),
        (5 + 1e-6 * random.normal(size=(50, 6)), "nearly one point"),
        (random.normal(size=(50, 1)) * np.ones((1, 6)), "effective rank of 1.00 out of 6"),
    ],
)
def test_collapse_is_told_from_spread(z: np.ndarray, warning: str) -> None:
    told = collapse(z.astype(np.float32))
    assert told["n"] == 50
    assert (warning in told["warning"]) if warning else told["warning"] == ""
