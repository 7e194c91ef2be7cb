"""Pairs of images that an encoder should find alike: films of one patient.

B: images of a batch, N: images of the train split.
"""

from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.recipe import Pairing

LATERALITY: Final = {"PA": "FRONTAL", "AP": "FRONTAL"}  # every other view is its own: LATERAL, and the planes of MRI


class Pairs:
    """Partners by the rule of Vu et al. 2021 (MedAug), section 3: drawn evenly from the images that the rule admits.

    Admitted are images of the same patient or study, and of those the ones of any, the same or a distinct laterality.
    The image itself stays among them. Where the rule admits no other, the image is its own partner (the fallback: two
    views of one image, as in MoCo). Under `distinct` an image is its own partner only then.

    What is unknown equals nothing and differs from nothing: an image of unknown study has no partner `within: study`,
    and one of unknown view has none, and is none, under `same` and `distinct`.

    All images are laid in one row, group by group and, within a group, laterality by laterality. What an image may be
    paired with is then a stretch of that row, less the stretch of its own laterality under `distinct`; a draw is a few
    array operations.

    Attributes:
        fallback_share: Share of the N images that have no partner but themselves.
    """

    fallback_share: float

    def __init__(self, table: pd.DataFrame, section: Pairing) -> None:
        """Find each image's stretch.

        Args:
            table: Manifest rows of the train split, in the order of the images' numbers.
            section: The rule.
        """
        n = len(table)
        by_laterality = section.laterality != "any"
        kind_N, unseen_N = _codes(table["view"].replace(LATERALITY))
        group_N, unknown_N = _codes(table["patient_id"])
        if section.within == "study":
            study_N, unknown_N = _codes(table["study_id"])
            group_N = group_N * (study_N.max(initial=0) + 1) + study_N  # studies may be numbered anew in each patient
        alone_N = unknown_N | (unseen_N & by_laterality)
        group_N[alone_N] = group_N.max(initial=0) + 1 + np.arange(alone_N.sum())
        if not by_laterality:
            kind_N = np.zeros(n, dtype=np.int64)

        row_N = np.lexsort((kind_N, group_N))
        first_N, length_N = _stretches(group_N[row_N])
        kind_first_N, kind_length_N = _stretches(group_N[row_N], kind_N[row_N])
        skipped_N = np.zeros(n, dtype=np.int64)
        if section.laterality == "same":
            first_N, length_N = kind_first_N, kind_length_N
        if section.laterality == "distinct":
            alone = kind_length_N == length_N
            first_N = np.where(alone, np.arange(n), first_N)
            length_N = np.where(alone, 1, length_N - kind_length_N)
            skipped_N = np.where(alone, 0, kind_length_N)
            self.fallback_share = float(alone.mean())
        else:
            self.fallback_share = float((length_N == 1).mean())

        place_N = np.empty(n, dtype=np.int64)
        place_N[row_N] = np.arange(n)
        self._row_N = row_N.astype(np.int64)
        self._first_N, self._length_N = first_N[place_N], length_N[place_N]
        self._gap_N, self._skipped_N = kind_first_N[place_N], skipped_N[place_N]

    def draw(self, numbers_B: Tensor, seed: int) -> Tensor:
        """A partner for each image, int64 (B,): numbers within the train split, on the CPU.

        Args:
            numbers_B: Numbers of images within the train split, int64; not necessarily of one worker's part.
            seed: The draw follows from it and `numbers_B` alone.
        """
        numbers = numbers_B.cpu().numpy()
        place = self._first_N[numbers] + np.random.default_rng(seed).integers(self._length_N[numbers])
        skipped = self._skipped_N[numbers]
        place += np.where(place >= self._gap_N[numbers], skipped, 0)
        return torch.from_numpy(self._row_N[place])


def _codes(values: pd.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Numbers from 0 that are equal where the values are, and where a value is unknown (its number is 0)."""
    codes, _ = pd.factorize(values)
    return np.maximum(codes, 0).astype(np.int64), codes < 0


def _stretches(*keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each place of a sorted row, where the stretch of its equal keys begins, and how long it is."""
    n = len(keys[0])
    new = np.ones(n, dtype=bool)
    if n:
        new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, n))
    return np.repeat(starts, lengths), np.repeat(lengths, lengths)
