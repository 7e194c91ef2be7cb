"""Random numbers that depend on seed and step alone: not on what was drawn before, nor on how many workers there are.

Every worker draws for the whole global batch and takes its part. That costs a little arithmetic and makes two things
exact: a resumed run draws what the uninterrupted one would have, and two workers see what one would.

B: images of this worker's part, G: images of the global batch.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from hilum.learning.engine import workers

LARGEST: Final = np.uint64(2**63 - 1)  # what torch takes as a seed


def mixed(*numbers: int) -> int:
    """One seed from several numbers, such that neighbours have nothing in common; 0 to 2^63 - 1."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] & LARGEST)


class Draws:
    """The random numbers of one step.

    Attributes:
        generator: On the images' device; what is drawn from it directly must be drawn for the global batch.
        n: G.
        part: Which of the G images are this worker's.
    """

    def __init__(self, seed: int, n: int, device: torch.device | str = "cpu", part: slice | None = None) -> None:
        """Begin the draws of one step.

        Args:
            seed: Of this step; `mixed(recipe.seed, step)`.
            n: G.
            device: Where the images lie.
            part: This worker's part; by default as `workers.part_of` deals it.
        """
        self.generator = torch.Generator(device=device).manual_seed(seed)
        self.n = n
        self.part = workers.part_of(n) if part is None else part

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), float32, (B, *shape)."""
        drawn = torch.rand((self.n, *shape), generator=self.generator, device=self.generator.device)
        return low + (high - low) * drawn[self.part]

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32, (B, *shape)."""
        return torch.randn((self.n, *shape), generator=self.generator, device=self.generator.device)[self.part]

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform among 0 to high - 1, int64, (B, *shape)."""
        drawn = torch.randint(high, (self.n, *shape), generator=self.generator, device=self.generator.device)
        return drawn[self.part]

    def signs(self, *shape: int) -> Tensor:
        """-1 or 1 with equal probability (Rademacher), float32, (B, *shape)."""
        return self.integers(2, *shape).float() * 2 - 1

    def order(self) -> Tensor:
        """A permutation of the global batch, int64, (G,): the same on every worker."""
        return torch.randperm(self.n, generator=self.generator, device=self.generator.device)
