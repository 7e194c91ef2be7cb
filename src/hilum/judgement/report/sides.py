"""Which rows belong to which of two sets of images, and how that could have fallen out if it were chance.

Two sets may share images: a revision of a dataset keeps most of the one before. What is exchanged is therefore where a
whole patient lies (in the reference, in the current set, in both), dealt out anew among the patients; a patient of
whom each set has other rows keeps them together, and they change sides with probability one half. If where a patient
lies has nothing to do with its images, every such deal is as likely as what is seen (a restricted permutation by
patient, Good 2005, chapter 7).

Legend: N rows, P patients, R deals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]

MIXED: Final = 0  # a patient whose rows do not all lie alike
BEFORE: Final = 1  # bits of where a row lies
NOW: Final = 2


@dataclass(frozen=True)
class Sides:
    """Where each row lies: in the reference, in the current set, or in both.

    Attributes:
        before_N: Whether the reference has the row.
        now_N: Whether the current set has it.
        patient_N: Number of its patient, 0 to P - 1.
    """

    before_N: Bools
    now_N: Bools
    patient_N: Rows

    @classmethod
    def parted(cls, is_current_N: Bools, patients: ArrayLike) -> "Sides":
        """Two sets that share no row."""
        is_current_N = np.asarray(is_current_N, dtype=bool)
        return cls(~is_current_N, is_current_N, _numbered(patients))

    @property
    def n_patients(self) -> tuple[int, int]:
        """Patients of the reference and of the current set."""
        return len(np.unique(self.patient_N[self.before_N])), len(np.unique(self.patient_N[self.now_N]))

    @property
    def n_rows(self) -> tuple[int, int]:
        """Rows of the reference and of the current set."""
        return int(self.before_N.sum()), int(self.now_N.sum())

    @property
    def n_moved(self) -> int:
        """Patients whose rows are not the same in both sets; nobody else tells the sets apart."""
        return int((self._patients_lie() != BEFORE | NOW).sum())

    def take(self, chosen: Rows) -> "Sides":
        """The sides of some of the rows."""
        return Sides(self.before_N[chosen], self.now_N[chosen], _numbered(self.patient_N[chosen]))

    def deals(self, times: int, seed: int) -> tuple[Bools, Bools]:
        """Where the rows lie in each of so many deals: `before` and `now`, each (R, N)."""
        random = np.random.default_rng(seed)
        lying_P, lying_N = self._patients_lie(), self._rows_lie()
        whole = np.flatnonzero(lying_P != MIXED)
        swapped_N = ((lying_N & BEFORE) << 1) | (lying_N >> 1)
        dealt_RN = np.empty((times, len(lying_N)), dtype=np.uint8)
        for dealt_N in dealt_RN:
            anew_P = lying_P.copy()
            anew_P[whole] = lying_P[random.permutation(whole)]
            flipped_N = (random.random(len(lying_P)) < 0.5)[self.patient_N]
            dealt_N[:] = np.where(
                lying_P[self.patient_N] == MIXED, np.where(flipped_N, swapped_N, lying_N), anew_P[self.patient_N]
            )
        return (dealt_RN & BEFORE).astype(bool), (dealt_RN & NOW).astype(bool)

    def sample(self, max_rows: int, seed: int) -> Rows:
        """Row numbers of whole patients, drawn at random, in order; all where they fit.

        Patients are drawn by where they lie, each kind up to an equal share of the rows (less where it has fewer), so
        that a small set is not lost beside a large one. Where all patients of a kind are larger than its share, the
        smallest of those drawn first is taken, so that no kind is lost.
        """
        if len(self.patient_N) <= max_rows:
            return np.arange(len(self.patient_N))
        random = np.random.default_rng(seed)
        lying_P, rows_P = self._patients_lie(), np.bincount(self.patient_N)
        kinds = sorted(np.unique(lying_P), key=lambda kind: int(rows_P[lying_P == kind].sum()))
        left, taken = max_rows, []
        for place, kind in enumerate(kinds):
            order = random.permutation(np.flatnonzero(lying_P == kind))
            share = left // (len(kinds) - place)
            fitting = order[np.cumsum(rows_P[order]) <= share]
            taken.append(fitting if len(fitting) else order[[rows_P[order].argmin()]])
            left -= int(rows_P[taken[-1]].sum())
        return np.flatnonzero(np.isin(self.patient_N, np.concatenate(taken)))

    def _rows_lie(self) -> NDArray[np.uint8]:
        return (self.before_N * BEFORE + self.now_N * NOW).astype(np.uint8)

    def _patients_lie(self) -> NDArray[np.uint8]:
        lying_N, n_patients = self._rows_lie(), int(self.patient_N.max(initial=-1)) + 1
        least_P = np.full(n_patients, BEFORE | NOW, dtype=np.uint8)
        most_P = np.zeros(n_patients, dtype=np.uint8)
        np.minimum.at(least_P, self.patient_N, lying_N)
        np.maximum.at(most_P, self.patient_N, lying_N)
        return np.where(least_P == most_P, least_P, np.uint8(MIXED))


def united(reference: pd.DataFrame, current: pd.DataFrame, content: Sequence[str]) -> tuple[Rows, Sides]:
    """Two sets of rows as one: a row that both have alike is there once.

    Args:
        reference: One row per image, with `image_id` and `patient_id`.
        current: The same of the other set. Patients of the same name are taken for one patient.
        content: Columns in which two rows of an image must agree to be the same row.

    Returns:
        For each row of the union its number in the two tables put one after the other, and where it lies.
    """
    both = pd.concat([reference, current], ignore_index=True)
    row_N = _hashed(both, ["image_id", "patient_id", *content])
    is_current_N = np.arange(len(both)) >= len(reference)
    _, first, code_N = np.unique(row_N, return_index=True, return_inverse=True)
    before, now = (np.bincount(code_N[chosen], minlength=len(first)) > 0 for chosen in (~is_current_N, is_current_N))
    order = np.argsort(first)
    chosen = first[order]
    return chosen, Sides(before[order], now[order], _numbered(both["patient_id"].to_numpy()[chosen]))


def _hashed(table: pd.DataFrame, columns: Sequence[str]) -> NDArray[Any]:
    """One number per row; equal where the columns are (NaN equals NaN)."""
    return np.asarray(pd.util.hash_pandas_object(table[list(columns)], index=False))


def _numbered(patients: ArrayLike) -> Rows:
    return np.asarray(pd.factorize(np.asarray(patients), sort=True)[0], dtype=np.int64)
