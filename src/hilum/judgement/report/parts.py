"""What Evidently reports of columns that differ between two sets, and of a head's decisions, each as a part of a page.

Of Evidently's presets the figures are its own; the limits of drift are those of `hilum.judgement.report.drift`.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement.report import drift
from hilum.judgement.report.door import (
    BinaryClassification,
    ClassificationPreset,
    DataDefinition,
    DataDriftPreset,
    EvidentlyDataset,
    Report,
)
from hilum.judgement.report.evidently_page import Part, harmless
from hilum.judgement.report.sides import Sides
from hilum.page import table as html_table
from hilum.progress import bar
from hilum.recipe import Audit


def columns(
    table: pd.DataFrame, sides: Sides, recipe: Audit, title: str, said: str, elsewhere: Mapping[str, str] | None = None
) -> Part:
    """Drift of each column between two sets of images.

    Args:
        table: Of `drift.columns`, one row per row of `sides`.
        sides: Which set each row belongs to.
        recipe: Distance and share that count as drift, and the seed.
        title: Of the part.
        said: What is compared with what: `Drift of ... from ...`.
        elsewhere: Columns that are not in the table, and why.
    """
    kept, left = drift.comparable(table, sides)
    left = left | dict(elsewhere or {})
    omitted = _left_out(left)
    skipped = {name: {"distance": None, "limit": None, "drifted": None, "note": why} for name, why in left.items()}
    if not kept:
        nothing = {"share": None, "drifted": None, "columns": skipped}
        return Part(title, f"{said} could not be measured.{omitted}", nothing)
    table = harmless(table[kept])
    limits = drift.limits(table, sides, recipe.drift_distance, recipe.seed)
    numbers = [name for name in kept if pd.api.types.is_numeric_dtype(table[name])]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in kept if name not in numbers]
    )
    preset = DataDriftPreset(
        columns=kept,
        drift_share=recipe.drift_share,
        num_method="wasserstein",
        cat_method="jensenshannon",
        per_column_threshold=limits,
    )
    with bar("Evidently: drift", total=1, unit="report") as shown:
        snapshot = Report([preset]).run(
            EvidentlyDataset.from_pandas(table[sides.now_N], definition),
            EvidentlyDataset.from_pandas(table[sides.before_N], definition),
        )
        shown.update()
    found = {}
    for name in kept:
        measured = drift.distance(table[name], sides)
        found[name] = {"distance": measured, "limit": limits[name], "drifted": bool(measured >= limits[name])}
    changed = [name for name, column in found.items() if column["drifted"]]
    share = len(changed) / len(kept)
    before, now = sides.n_rows
    words = (
        f"{said} (current: {now:,} images, reference: {before:,}): {len(changed)} of {len(kept)} columns differ"
        f"{': ' + ', '.join(changed) if changed else ''}. A column differs where its distance is at least "
        f"{recipe.drift_distance:g}{_chance(sides)}; the set counts as drifted from a share of "
        f"{recipe.drift_share:.0%}.{omitted}"
    )
    facts = {"share": share, "drifted": share >= recipe.drift_share, "columns": found | skipped}
    rows = [
        (name, f"{one['distance']:.3f}", f"{one['limit']:.3f}", "yes" if one["drifted"] else "no")
        for name, one in found.items()
    ]
    # `_widgets` is the only way to set several of Evidently's reports on one page.
    return Part(
        title,
        words,
        facts,
        list(snapshot._widgets),
        html_table(["column", "distance", "limit", "differs"], rows, numeric=["distance", "limit"]),
    )


def _chance(sides: Sides) -> str:
    if len(sides.patient_N) > drift.MAX_ROWS:
        return f" (chance alone stays far below that among more than {drift.MAX_ROWS:,} images)"
    return " and above what 95 of 100 random deals of the patients between the two sets stay below"


def _left_out(left: Mapping[str, str]) -> str:
    """Columns that were not compared, by the reason."""
    if not left:
        return ""
    reasons = {why: ", ".join(name for name, other in left.items() if other == why) for why in left.values()}
    return f" Left out: {'; '.join(f'{names} ({why})' for why, names in reasons.items())}."


def quality(truth: NDArray[np.float64], probability: NDArray[np.float64], threshold: float, label: str) -> Part:
    """Quality of the head's decisions on the test split; left out, in words, where it has one class only.

    Args:
        truth: 1 present, 0 absent, NaN unknown, (N,).
        probability: Of presence.
        threshold: A probability at or above it is called present.
        label: The finding.
    """
    title = "Quality on the test split"
    known = ~np.isnan(truth)
    n_positive = int((truth[known] == 1).sum())
    counts = f"{int(known.sum()):,} test images with a known label, {n_positive:,} of them with {label}"
    facts = {"n": int(known.sum()), "n_positive": n_positive}
    if n_positive in (0, int(known.sum())):
        return Part(title, f"There is no part on quality: of {counts}, so one class is missing.", facts)
    frame = pd.DataFrame({"probability": probability[known]})
    frame["label"] = np.where(truth[known] == 1, "present", "absent")
    task = BinaryClassification(target="label", prediction_probas="probability", pos_label="present")
    definition = DataDefinition(numerical_columns=["probability"], categorical_columns=["label"], classification=[task])
    with bar("Evidently: quality", total=1, unit="report") as shown:
        # No reference: on the train split the head would be marked on what it learnt from.
        snapshot = Report([ClassificationPreset(probas_threshold=threshold)]).run(
            EvidentlyDataset.from_pandas(frame, definition)
        )
        shown.update()
    said = (
        f"Quality on {counts}, at the threshold {threshold:.3g} that was locked before. The figures of this part have "
        "no intervals; those with intervals are in fairness.html and on the leaderboard."
    )
    return Part(title, said, facts, list(snapshot._widgets))
