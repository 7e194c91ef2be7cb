"""What the points of a map may be coloured by: attributes, labels, a probe's scores and errors; no id, no free text.

Values that few patients share are named together, as in the audit (hilum.judgement.fairness.groups): a rare level of a
text column may name a person. Ages above 89 are shown as 90, as the HIPAA Safe Harbor rule asks (45 CFR 164.514(b)(2)).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data import parquet
from hilum.data.manifest import SPLITS, UNCERTAIN
from hilum.data.store import Dataset, read_json
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError
from hilum.judgement.explorer.maps import MAX_LEVELS
from hilum.judgement.fairness.groups import MIN_LEVEL_PATIENTS

OLDEST_YEARS: Final = 90.0
OTHER: Final = "other"
LONGEST: Final = 40  # characters of a level's name
ATTRIBUTES, LABELS, COVARIATES, SCORES, ERRORS, DISTANCES = (
    "Attributes", "Labels", "Covariates", "Probe scores", "Probe errors", "Embedding",
)  # fmt: skip
_SPOKEN: Final = {"age_years": "age (years; 90 is 90 or more)"}
_LABEL_LEVELS: Final = {1.0: "present", 0.0: "absent", UNCERTAIN: "uncertain"}


@dataclass(frozen=True)
class Column:
    """A property of the points.

    Attributes:
        name: As people say it.
        group: Under which heading it is offered.
        levels: Names of the levels; empty for a number.
        values: (N,): number of the level, or the number; NaN where unknown.
        note: What its values mean, where the name does not say it.
    """

    name: str
    group: str
    levels: tuple[str, ...]
    values: NDArray[np.float64]
    note: str = ""


def of_dataset(dataset: Dataset, table: pd.DataFrame) -> list[Column]:
    """Columns that the manifest fills.

    Args:
        dataset: Whose labels, covariates and attributes are meant.
        table: Its manifest's rows, one per point.
    """
    facts, patients = dataset.facts, table["patient_id"]
    found = []
    for name in ("view", "sex", "age_years", "site", "source", "split", *facts.attributes):
        values = table[name].clip(upper=OLDEST_YEARS).round() if name == "age_years" else table[name]
        found.append(_column(name, ATTRIBUTES, values, patients))
    for name in facts.labels:
        levels = [_LABEL_LEVELS[value] for value in _LABEL_LEVELS if (table[name] == value).any()]
        found.append(_levels(name, LABELS, table[name].map(_LABEL_LEVELS).astype("str"), levels))
    found += [_column(name, COVARIATES, table[name], patients) for name in facts.covariates]
    return [column for column in found if np.isfinite(column.values).any()]


def of_probe(folder: Path, vectors: Vectors) -> list[Column]:
    """Scores and errors of a probe's headline machine, for the images that it had not seen.

    The error of a finding (or of a class) is the share of images with the opposite truth that are ranked on the wrong
    side of the image; its mean over either truth is 1 - AUROC. That of a number is its absolute error.

    Raises:
        DatasetError: The probe is not whole, or is of another embedding.
    """
    facts = read_json(folder / "probe.json")
    if facts["embedding_run"] != vectors.facts.run or facts["encoder"] != vectors.facts.encoder:
        raise DatasetError(f"{folder} probes another embedding than this one; probe this one first")
    answers = parquet.read(folder / "predictions.parquet")
    answers = answers[answers["kernel"] == facts["headline_kernel"]]
    place_of = pd.Series(np.arange(vectors.facts.n), index=vectors.rows["row"].to_numpy())
    scores, errors = [], []
    for task, of in answers.groupby("task", sort=False):
        score, error = (np.full(vectors.facts.n, np.nan) for _ in range(2))
        at = place_of[of["row"]].to_numpy()
        truth, binary = of["truth"].to_numpy(dtype=np.float64), set(of["truth"].dropna()) <= {0.0, 1.0}
        score[at] = of["score"]
        if binary:
            for fold in of["fold"].unique():
                held = (of["fold"] == fold).to_numpy()
                error[at[held]] = wrong_side(truth[held], score[at[held]])
        else:
            error[at] = np.abs(truth - score[at])
        name = str(task).replace("_", " ")
        scores.append(Column(name, SCORES, (), score, "The probe's answer for images it was not fitted on."))
        note = "Share of images with the opposite truth on the wrong side; its mean is 1 - AUROC."
        errors.append(Column(name, ERRORS, (), error, note if binary else "Absolute error, in the unit of the truth."))
    return [column for column in (*scores, *errors) if np.isfinite(column.values).any()]


def wrong_side(truth_N: NDArray[np.float64], score_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of images with the opposite truth that the score ranks on the wrong side of each image; ties count half.

    0 where the score parts an image from all of the other kind, 1 where it takes it for one of them; NaN where there is
    no other kind, or the truth is unknown. The mean over the positives, as that over the negatives, is 1 - AUROC.
    """
    wrong_N = np.full(len(truth_N), np.nan)
    for own, sign in ((1.0, 1.0), (0.0, -1.0)):
        others = np.sort(sign * score_N[truth_N == 1.0 - own])
        if len(others):
            mine = sign * score_N[truth_N == own]
            above = len(others) - np.searchsorted(others, mine, side="right")
            level = np.searchsorted(others, mine, side="right") - np.searchsorted(others, mine, side="left")
            wrong_N[truth_N == own] = (above + level / 2) / len(others)
    return wrong_N


def _column(name: str, group: str, values: pd.Series, patients: pd.Series) -> Column:
    """A number where there are many numbers, else levels: the most frequent, and what is rare as `other`."""
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > MAX_LEVELS:
        return Column(_SPOKEN.get(name, name.replace("_", " ")), group, (), values.to_numpy(dtype=np.float64))
    numeric = pd.api.types.is_numeric_dtype(values)
    text = values.map(lambda value: f"{value:g}" if numeric else str(value), na_action="ignore")
    text = text.astype("str").where(values.notna())
    shared = patients.groupby(text).nunique()
    common = text.value_counts().index.intersection(shared.index[shared >= MIN_LEVEL_PATIENTS], sort=False)
    kept = list(common[:MAX_LEVELS])
    rare = text.notna() & ~text.isin(kept)
    if rare.any():
        kept = kept[: MAX_LEVELS - 1]
        rare = text.notna() & ~text.isin(kept)
        text = text.mask(rare, OTHER)
    ordered = [split for split in SPLITS if split in kept] if set(kept) <= set(SPLITS) else sorted(kept)
    if numeric:
        ordered = sorted(kept, key=float)
    return _levels(name, group, text, [*ordered, *([OTHER] if rare.any() else [])])


def _levels(name: str, group: str, text: pd.Series, levels: Sequence[str]) -> Column:
    codes = text.map({level: float(i) for i, level in enumerate(levels)}).to_numpy(dtype=np.float64)
    shown = tuple(level if len(level) <= LONGEST else level[: LONGEST - 1] + "…" for level in levels)
    return Column(_SPOKEN.get(name, name.replace("_", " ")), group, shown, codes)
