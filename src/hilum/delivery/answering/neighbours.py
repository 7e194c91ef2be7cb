"""What is like an image: the nearest training cases, and whether anything is near at all.

A release keeps the embeddings of some training images. The out-of-distribution score is the distance to the K-th
nearest of them (Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors", section 3; there with
embeddings of length 1) where the training embeddings have been whitened: along directions in which proper images hardly
differ, a small difference is strange. Cases that an answer names are the nearest without whitening, standardised by
dimension: they share more with the image. Both by measurement, docs/decisions/0015-abstention.md. The limit is a
quantile of the scores of held-out images of the same dataset.

Cases are named by opaque numbers: positions in a shuffled order of the training images. Which image a number stands for
is not written anywhere; who has the dataset can find it out (hilum.delivery.releasing.cases).

Shapes: M cases, N images, D embedding dimensions, H held-out images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.delivery.answering.exposure import Exposure
from hilum.errors import ReleaseError

K: Final = 10  # Sun et al. find it hardly matters below a hundred where the bank has a few thousand embeddings
MAX_CASES: Final = 4096  # 8 MB at 512 dimensions; a hundredth of ImageNet's training set loses nothing there (table 4)
MIN_CASES: Final = 40  # fewer cannot say what is usual
QUANTILE: Final = 0.99  # of the scores of held-out images
MIN_HELD_OUT: Final = 20  # fewer have no such quantile: then nothing is called out of distribution
MAX_ASKED: Final = 20


@dataclass(frozen=True)
class Case:
    """A training case.

    Attributes:
        number: Its opaque number.
        distance: In standard deviations per dimension, root mean square.
        label: 1, 0, or None where unknown.
    """

    number: int
    distance: float
    label: int | None


@dataclass(frozen=True)
class Neighbours:
    """Training embeddings, and how far from them is too far.

    Attributes:
        z_MD: Embeddings, float32.
        number_M: Opaque numbers.
        label_M: 1, 0, or NaN where unknown, float32.
        centre_D: Mean of the embeddings by dimension.
        scale_D: Standard deviation by dimension; 1 where a dimension is constant.
        whitening_DD: W, so that the centred embeddings times W have the unit matrix as covariance.
        held_out_H: Scores of held-out images, ascending.
        exposure: Bounds on the exposure of an image.
    """

    z_MD: NDArray[np.float32]
    number_M: NDArray[np.int32]
    label_M: NDArray[np.float32]
    centre_D: NDArray[np.float32]
    scale_D: NDArray[np.float32]
    whitening_DD: NDArray[np.float32]
    held_out_H: NDArray[np.float32]
    exposure: Exposure

    @cached_property
    def limit(self) -> float | None:
        """Largest score that is not out of distribution; None where too few images were held out to say."""
        if len(self.held_out_H) < MIN_HELD_OUT:
            return None
        return float(np.quantile(self.held_out_H, QUANTILE))

    def nearest(self, z_D: NDArray[np.float32], count: int) -> list[Case]:
        """The nearest training cases, the nearest first."""
        squared_M = _squared((z_D - self.centre_D) / self.scale_D, self._standard)
        count = min(count, len(squared_M))
        chosen = np.argpartition(squared_M, count - 1)[:count] if count else np.zeros(0, int)
        ordered = chosen[np.lexsort((self.number_M[chosen], squared_M[chosen]))]
        return [
            Case(
                int(self.number_M[row]),
                float(np.sqrt(squared_M[row])),
                None if np.isnan(self.label_M[row]) else int(self.label_M[row]),
            )
            for row in ordered
        ]

    def score(self, z_D: NDArray[np.float32]) -> float:
        """Distance to the K-th nearest training case, whitened: the out-of-distribution score."""
        squared_M = _squared((z_D - self.centre_D) @ self.whitening_DD, self._white)
        rank = min(K, len(squared_M)) - 1
        return float(np.sqrt(np.partition(squared_M, rank)[rank]))

    def percentile(self, score: float) -> float:
        """Share of held-out images with a lower score, in [0, 1]."""
        return float(np.searchsorted(self.held_out_H, score)) / max(1, len(self.held_out_H))

    @cached_property
    def _standard(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised embeddings (M, D), and their squared lengths (M,)."""
        return _with_lengths((self.z_MD - self.centre_D) / self.scale_D)

    @cached_property
    def _white(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Whitened embeddings (M, D), and their squared lengths (M,)."""
        return _with_lengths((self.z_MD - self.centre_D) @ self.whitening_DD)

    def save(self, path: Path) -> None:
        """Write `path`, a .npz."""
        kept: dict[str, Any] = {name: one for name, one in vars_of(self).items() if isinstance(one, np.ndarray)}
        np.savez(path, **kept, **self.exposure.arrays())

    @classmethod
    def load(cls, path: Path, dim: int) -> "Neighbours":
        """Read what `save` wrote, for embeddings of width `dim`.

        Raises:
            ReleaseError: It cannot be read, or its shapes do not fit together.
        """
        try:
            with np.load(path, allow_pickle=False) as kept:
                arrays: dict[str, Any] = {
                    name: kept[name] for name in cls.__dataclass_fields__ if name in kept.files and name != "exposure"
                }
                found = cls(**arrays, exposure=Exposure.of(kept))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise ReleaseError(f"{path.name} of the release cannot be read as training cases: {error}") from error
        cases = len(found.z_MD)
        shapes = tuple(
            one.shape for one in (found.z_MD, found.number_M, found.label_M, found.centre_D, found.whitening_DD)
        )
        if shapes != ((cases, dim), (cases,), (cases,), (dim,), (dim, dim)) or not cases:
            raise ReleaseError(f"{path.name} of the release has shapes {shapes}, not cases of {dim} dimensions")
        return found


def fit(
    z_MD: NDArray[np.float32],
    number_M: Sequence[int] | NDArray[Any],
    label_M: NDArray[Any],
    whitening_DD: NDArray[Any],
    held_out_HD: NDArray[np.float32],
    exposure: Exposure,
) -> Neighbours:
    """From training embeddings, what whitens them, and embeddings of other patients from which the limit is set."""
    assert len(z_MD) >= MIN_CASES, "the caller asks whether there are enough"
    deviation_D = z_MD.std(axis=0)
    found = Neighbours(
        z_MD.astype(np.float32),
        np.asarray(number_M, dtype=np.int32),
        np.asarray(label_M, dtype=np.float32),
        z_MD.mean(axis=0).astype(np.float32),
        np.where(deviation_D > 1e-6 * max(float(deviation_D.max()), 1e-12), deviation_D, 1).astype(np.float32),
        np.asarray(whitening_DD, dtype=np.float32),
        np.zeros(0, np.float32),
        exposure,
    )
    scores = sorted(found.score(z_D) for z_D in held_out_HD)
    return Neighbours(**{**vars_of(found), "held_out_H": np.asarray(scores, dtype=np.float32)})


def _with_lengths(x_MD: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return x_MD, np.einsum("md,md->m", x_MD, x_MD)


def _squared(x_D: NDArray[Any], bank: tuple[NDArray[np.float32], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Squared distance to each case per dimension, (M,)."""
    x_MD, length_M = bank
    squared_M: NDArray[np.float32] = (length_M - 2 * (x_MD @ x_D) + x_D @ x_D) / np.float32(len(x_D))
    return np.maximum(squared_M, 0)


def vars_of(found: Neighbours) -> dict[str, Any]:
    """The fields of it, without what it has cached."""
    return {name: getattr(found, name) for name in found.__dataclass_fields__}
