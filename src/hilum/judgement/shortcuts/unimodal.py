"""Are there two heaps or one? Silverman's test for one mode, between two places on a line.

Any algorithm that looks for clusters finds some in one even cloud. Two clusters count here as apart only where a third
look, at images that did not take part in finding the direction, sees two heaps with a valley between.
"""

from typing import Final

import numpy as np

from hilum.judgement.stats import Floats

DRAWS: Final = 199  # the least p-value is then 0.005
GRID: Final = 129  # places at which the density is looked at
HALVINGS: Final = 20  # of the bracket of the critical bandwidth: to a millionth of it


def one_mode(value_N: Floats, low: float, high: float, seed: int) -> float:
    """p-value of the density having one mode only between `low` and `high` (Silverman 1981; Hall & York 2001).

    The statistic is the smallest bandwidth at which a Gaussian kernel estimate has one mode there. How large it would
    be with one mode is drawn from that very estimate, shrunk to the variance of the values (Silverman's smoothed
    bootstrap), so that a draw has two modes at this bandwidth as seldom as chance allows.

    Args:
        value_N: Independent values.
        low: Where the first heap is, if there are two.
        high: Where the second is.
        seed: Of the draws.

    Returns:
        In (0, 1]; 1 where the places coincide.
    """
    spread = float(value_N.std())
    if not low < high or spread == 0 or len(value_N) < 4:
        return 1.0
    grid = np.linspace(low, high, GRID)
    narrow, wide = 1e-3 * spread, 2.0 * spread
    if _modes(value_N, grid, narrow) < 2:
        return 1.0
    for _ in range(HALVINGS):
        middle = (narrow + wide) / 2
        narrow, wide = (middle, wide) if _modes(value_N, grid, middle) > 1 else (narrow, middle)
    random = np.random.default_rng(seed)
    shrink = 1 / np.sqrt(1 + (wide / spread) ** 2)
    reached = 0
    for _ in range(DRAWS):
        picked = random.choice(value_N, len(value_N))
        drawn = picked.mean() + shrink * (picked - picked.mean() + wide * random.standard_normal(len(value_N)))
        reached += _modes(drawn, grid, wide) > 1
    return (1 + reached) / (1 + DRAWS)


def _modes(value_N: Floats, grid: Floats, bandwidth: float) -> int:
    """Number of separate rises of the density along the grid: the valleys between heaps, plus one."""
    density = np.exp(-0.5 * ((grid[:, None] - value_N[None]) / bandwidth) ** 2).sum(axis=1)
    slope = np.sign(np.diff(density))
    slope = slope[slope != 0]
    valleys = int(((slope[:-1] < 0) & (slope[1:] > 0)).sum())
    return 1 + valleys
