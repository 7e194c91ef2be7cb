"""The rows that a label is learnt from and judged on: one set per split, with labels, covariates and patients.

Legend: N rows of a split, C covariates. Rows whose label is unknown or uncertain are left out, never taken for zero.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.data import clinical as clinicals
from hilum.data.clinical import Clinical
from hilum.data.manifest import SPLITS
from hilum.data.store import Dataset
from hilum.errors import CheckFailed, TrainingError, UsageError
from hilum.learning.engine import places
from hilum.learning.engine.batches import unit_range
from hilum.recipe.finetune import Finetune


@dataclass(frozen=True)
class Cases:
    """The rows of one split whose label is known.

    Attributes:
        rows_N: Numbers in the dataset's manifest, ascending.
        patients_N: Patients as numbers, the same as a probe of this modality gives them.
        y_N: 1 or 0, float32.
        values_NC: Scaled covariates, 0 where missing; no columns where none are fused.
        missing_NC: 1 where missing.
        n_unknown: Rows left out because their label is unknown.
    """

    rows_N: NDArray[np.int64]
    patients_N: NDArray[np.int64]
    y_N: Tensor
    values_NC: Tensor
    missing_NC: Tensor
    n_unknown: int

    def __len__(self) -> int:
        return len(self.rows_N)

    def counts(self) -> dict[str, int]:
        """For a card."""
        return {
            "n": len(self),
            "n_positive": int(self.y_N.sum()),
            "n_patients": len(np.unique(self.patients_N)),
            "n_label_unknown": self.n_unknown,
        }


class Films:
    """The images of a dataset, by their row, from where they lie (hilum.learning.engine.places)."""

    def __init__(self, dataset: Dataset, where: torch.device) -> None:
        self._images = dataset.images
        self._place = places.settle(dataset.images, np.arange(len(dataset.images)), where)

    def __getitem__(self, rows_B: NDArray[np.int64]) -> Tensor:
        """Images in [0, 1], float32 (B, 1, H, W), on the device."""
        return unit_range(self._place.take(torch.from_numpy(rows_B)))

    def pixels(self, rows_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images as they lie in the dataset, uint8 (B, H, W)."""
        return np.ascontiguousarray(self._images[rows_B])


def gather(
    dataset: Dataset, modality: str, section: Finetune, with_covariates: bool, where: torch.device
) -> tuple[dict[str, Cases], Clinical | None]:
    """The cases of each split, and how their covariates are scaled (learnt on train; None where none are fused).

    Raises:
        UsageError: The dataset has no such label or covariate.
        TrainingError: A patient is in two splits.
        CheckFailed: Train or val has too few patients of a class: "insufficient data".
        DatasetError: There is no covariate with a value.
    """
    if section.label not in dataset.facts.labels:
        raise UsageError(
            f"the dataset has no label {section.label!r}; it has {', '.join(dataset.facts.labels) or 'none at all'}"
        )
    rows = dataset.rows(modality)
    table = dataset.manifest.iloc[rows]
    shared = table.groupby("patient_id")["split"].nunique() > 1
    if shared.any():
        raise TrainingError(
            f"{int(shared.sum())} patients are in more than one of {', '.join(SPLITS)}; a patient belongs to one "
            "split, so assign splits by patient and ingest again"
        )
    y_N = dataset.labels()[section.label].to_numpy(dtype=float)[rows]
    known_N, split_N = np.isfinite(y_N), table["split"].to_numpy()
    patients_N = pd.factorize(table["patient_id"], sort=True)[0].astype(np.int64)
    for split in ("train", "val"):
        mine_N = split_N == split
        _enough(y_N[mine_N], patients_N[mine_N], split, section)
    clinical, raw_NC = None, np.zeros((len(rows), 0))
    if with_covariates:
        names = clinicals.chosen(section.covariates, dataset.facts.covariates)
        fitted_N = known_N & (split_N == "train")
        clinical = Clinical.fit(table.loc[fitted_N, list(names)], names)
        raw_NC = table[list(clinical.names)].to_numpy(dtype=float)
    values_NC, missing_NC = clinical.transform(raw_NC) if clinical else (raw_NC, raw_NC)
    cases = {}
    for split in SPLITS:
        mine_N = known_N & (split_N == split)
        cases[split] = Cases(
            rows[mine_N],
            patients_N[mine_N],
            torch.from_numpy(y_N[mine_N].astype(np.float32)).to(where),
            torch.from_numpy(values_NC[mine_N].astype(np.float32)).to(where),
            torch.from_numpy(missing_NC[mine_N].astype(np.float32)).to(where),
            int(((split_N == split) & ~known_N).sum()),
        )
    return cases, clinical


def _enough(y_N: NDArray[Any], patients_N: NDArray[np.int64], split: str, section: Finetune) -> None:
    with_it, without = (len(np.unique(patients_N[y_N == value])) for value in (1, 0))
    if min(with_it, without) < section.min_patients:
        raise CheckFailed(
            f"insufficient data: {split} has {with_it} patients with {section.label} and {without} without, "
            f"at least {section.min_patients} of each are needed"
        )
