"""What can be wrong with a manifest across rows: between patients, splits, groups and studies.

Each rule takes a manifest and returns a `Finding`. Rules are plain pandas over the manifest's columns; the suite in
hilum.data.expectations runs them. They say rows by number, never by an id, because ids may name a patient.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from hilum.data.manifest import SPLITS, VIEWS

MAX_ROWS: Final = 20  # as many failing rows as a verdict names

# Ages are whole years, cut or rounded, so true and stated age drift apart by at most one year within a patient; the
# tenth covers leap days and ages given to a decimal.
AGE_SLACK_YEARS: Final = 1.1
# De-identified sets give 89 or 90 for everyone older (HIPAA safe harbour), which stops the clock.
AGE_CAP_YEARS: Final = 89.0
DAYS_PER_YEAR: Final = 365.25
# A gap in missing shares must also be this many standard errors wide, or small groups would raise it by chance.
GAP_STANDARD_ERRORS: Final = 3.0


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
        observed: In words, with numbers and without ids.
        n_failing: How many images, labels or columns fail; 0 where the rule holds.
        rows: Numbers of failing rows in the manifest, ascending, at most MAX_ROWS; empty where no row is to blame.
    """

    observed: str
    n_failing: int = 0
    rows: tuple[int, ...] = ()

    @classmethod
    def of_rows(cls, failing: pd.Series, observed: str) -> "Finding":
        """A finding from a boolean mask over the manifest's rows."""
        rows = np.flatnonzero(failing.to_numpy(dtype=bool))
        return cls(observed, len(rows), tuple(int(row) for row in rows[:MAX_ROWS]))


def counted(n: int, noun: str) -> str:
    """A number with its noun: `1 image`, `1,204 images`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def patients_in_two_splits(table: pd.DataFrame) -> Finding:
    """Patients with images in more than one split: their anatomy would be learnt and then asked for."""
    n_splits = table.groupby("patient_id")["split"].transform("nunique")
    failing = n_splits > 1
    n_patients = table.loc[failing, "patient_id"].nunique()
    return Finding.of_rows(
        failing, f"{n_patients:,} of {counted(table['patient_id'].nunique(), 'patient')} in several splits"
    )


def duplicates_across_splits(table: pd.DataFrame) -> Finding:
    """The same pixels in more than one split."""
    failing = table.groupby("pixel_digest")["split"].transform("nunique") > 1
    n_pictures = table.loc[failing, "pixel_digest"].nunique()
    return Finding.of_rows(failing, f"{counted(n_pictures, 'picture')} in several splits")


def duplicates_within_split(table: pd.DataFrame) -> Finding:
    """The same pixels more than once, all in one split."""
    digests = table.groupby("pixel_digest")["split"]
    failing = table["pixel_digest"].duplicated(keep=False) & table["pixel_digest"].notna()
    failing &= ~(digests.transform("nunique") > 1)
    n_pictures = table.loc[failing, "pixel_digest"].nunique()
    n_patients = table.loc[failing].groupby("pixel_digest")["patient_id"].nunique()
    between = int((n_patients > 1).sum())
    return Finding.of_rows(
        failing, f"{counted(n_pictures, 'picture')} stored more than once, {between:,} under two patients"
    )


def empty_splits(table: pd.DataFrame) -> Finding:
    """Splits without a single image."""
    counts = {split: int((table["split"] == split).sum()) for split in SPLITS}
    return Finding(_listed(f"{split} {n:,}" for split, n in counts.items()), sum(n == 0 for n in counts.values()))


def modalities_without_split(table: pd.DataFrame) -> Finding:
    """Modalities that lack one of the splits, so that their encoder could not be trained or judged."""
    counts = (
        table.groupby(["modality", "split"]).size().unstack(fill_value=0).reindex(columns=list(SPLITS), fill_value=0)
    )
    lacking = [
        (str(modality), split) for modality in counts.index for split in SPLITS if counts.loc[modality, split] == 0
    ]
    words = _listed(f"no {modality} in {split}" for modality, split in lacking)
    return Finding(words or f"{_listed(map(str, counts.index))} in every split", len(lacking))


def views_of_another_modality(table: pd.DataFrame) -> Finding:
    """Known views that belong to no image of that modality, such as an axial X-ray."""
    fits = pd.Series(False, index=table.index)
    for modality, views in VIEWS.items():
        fits |= (table["modality"] == modality) & table["view"].isin(views)
    failing = table["modality"].notna() & table["view"].notna() & ~fits
    return Finding.of_rows(failing, f"{counted(int(failing.sum()), 'view')} of another modality")


def labels_without_cases(table: pd.DataFrame, labels: Sequence[str]) -> Finding:
    """Labels that are never known, or known to be present everywhere or nowhere: no probe can learn them."""
    faults = []
    for label in labels:
        known = table[label].dropna()
        n_present, n_absent = int((known == 1.0).sum()), int((known == 0.0).sum())
        if n_present + n_absent == 0:
            faults.append(f"{label} is never known")
        elif n_present == 0:
            faults.append(f"{label} is never present ({n_absent:,} absent)")
        elif n_absent == 0:
            faults.append(f"{label} is never absent ({n_present:,} present)")
    return Finding(_listed(faults) or f"{counted(len(labels), 'label')} with both", len(faults))


def missing_by_group(
    table: pd.DataFrame, columns: Sequence[str], groups: Sequence[str], max_gap: float, min_group: int
) -> Finding:
    """Columns that are missing much more often in one group of patients than in another.

    A value that is measured where someone is ill says something by being there; a model may learn the gap instead of
    the disease. Shares are means over patients (a patient counts once per group, however many images), and a gap
    counts where it is wider than `max_gap` and than GAP_STANDARD_ERRORS of the difference.

    Args:
        table: The manifest.
        columns: Columns whose missing share is compared.
        groups: Columns that make the groups; rows of an unknown group are left out.
        max_gap: Largest difference of missing shares between two groups, 0-1.
        min_group: Patients below which a group is not compared.
    """
    faults, compared = [], 0
    for group in groups:
        tested = [name for name in columns if name != group]
        per_patient = table[tested].isna().groupby([table["patient_id"], table[group]]).mean()
        by_group = per_patient.groupby(level=1)
        n = by_group.size()
        large = n.index[n >= min_group]
        if len(large) < 2:
            continue
        shares, spreads = by_group.mean().loc[large], by_group.var().loc[large]
        for name in tested:
            compared += 1
            most, least = shares[name].idxmax(), shares[name].idxmin()
            gap = shares.loc[most, name] - shares.loc[least, name]
            error = np.sqrt(sum(spreads.loc[end, name] / n[end] for end in (most, least)))
            if gap > max_gap and gap > GAP_STANDARD_ERRORS * error:
                ends = [f"{end} {shares.loc[end, name]:.0%} of {n[end]:,} patients" for end in (most, least)]
                faults.append(f"{name} by {group}: missing in {ends[0]}, {ends[1]}")
    if not compared:  # too little to say is a remark, not a pass
        return Finding(f"insufficient data: no two groups of {min_group} patients or more to compare", 1)
    return Finding("; ".join(faults) or f"{counted(compared, 'comparison')}, none wider", len(faults))


def ages_out_of_step(table: pd.DataFrame) -> Finding:
    """Patients who age at another pace than the calendar, or grow younger: rows of two people under one id.

    Where `days` is known, age minus elapsed years must stay within AGE_SLACK_YEARS of itself; where only the order of
    studies is known, no later study may be younger than an earlier one by more than that.
    """
    known = table[table["age_years"].notna() & (table["age_years"] < AGE_CAP_YEARS)]
    dated = known[known["days"].notna()]
    offset = dated["age_years"] - dated["days"] / DAYS_PER_YEAR
    by_patient = offset.groupby(dated["patient_id"])
    drift = by_patient.transform("max") - by_patient.transform("min")

    ordered = known[known["days"].isna() & known["study_order"].notna()].sort_values("study_order", kind="stable")
    oldest_before = ordered.groupby("patient_id")["age_years"].cummax()
    drop = oldest_before - ordered["age_years"]

    failing = pd.Series(False, index=table.index)
    failing[drift.index[drift > AGE_SLACK_YEARS]] = True
    failing[drop.index[drop > AGE_SLACK_YEARS]] = True
    n_patients = table.loc[failing, "patient_id"].nunique()
    return Finding.of_rows(failing, f"{counted(n_patients, 'patient')} whose age and dates disagree")


def patients_of_two_sexes(table: pd.DataFrame) -> Finding:
    """Patients with more than one sex on record: rows of two people under one id, or a typing error."""
    failing = table.groupby("patient_id")["sex"].transform("nunique") > 1
    return Finding.of_rows(
        failing, f"{counted(table.loc[failing, 'patient_id'].nunique(), 'patient')} with both F and M"
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


RULES: Final[dict[str, Callable[..., Finding]]] = {
    rule.__name__: rule
    for rule in (
        patients_in_two_splits,
        duplicates_across_splits,
        duplicates_within_split,
        empty_splits,
        modalities_without_split,
        views_of_another_modality,
        labels_without_cases,
        missing_by_group,
        ages_out_of_step,
        patients_of_two_sexes,
    )
}

# The columns that each rule reads; those named by its arguments `labels` and `columns` come on top.
READS: Final[dict[str, tuple[str, ...]]] = {
    "patients_in_two_splits": ("patient_id", "split"),
    "duplicates_across_splits": ("pixel_digest", "split"),
    "duplicates_within_split": ("pixel_digest", "split", "patient_id"),
    "empty_splits": ("split",),
    "modalities_without_split": ("modality", "split"),
    "views_of_another_modality": ("modality", "view"),
    "labels_without_cases": (),
    "missing_by_group": ("patient_id", "sex", "site"),
    "ages_out_of_step": ("patient_id", "age_years", "days", "study_order"),
    "patients_of_two_sexes": ("patient_id", "sex"),
}
