"""Quality and fairness by group as a part of the audit's page: which metrics are asked, with which tests."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.judgement.fairness.tables import ALL, Judged
from hilum.judgement.report import group_metrics
from hilum.judgement.report.door import DataDefinition, EvidentlyDataset, Report, TestStatus, metric_tests_widget
from hilum.judgement.report.evidently_page import Part, harmless
from hilum.progress import bar
from hilum.recipe import Audit

TITLE: Final = "Quality and fairness by group (fairlearn)"


def by_group(
    truth: NDArray[np.float64],
    probability: NDArray[np.float64],
    threshold: float,
    groups: pd.DataFrame,
    patients: pd.Series,
    judged: Judged,
    recipe: Audit,
) -> Part:
    """GroupQuality and FairnessGap of every attribute, and a test of each gap.

    Args:
        truth: 1 present, 0 absent, NaN unknown, (N,).
        probability: Of presence.
        threshold: A probability at or above it is called present.
        groups: One column per attribute, one row per image.
        patients: Patient of each image.
        judged: What `fairness.tables.judge` found of the same; the intervals are taken from it.
        recipe: Smallest group, and the gap that is tolerated.
    """
    known = ~np.isnan(np.asarray(truth, dtype=float))
    frame = harmless(groups[known].reset_index(drop=True))
    shown = [str(name) for name in frame.columns]
    frame[group_metrics.TRUTH] = np.asarray(truth)[known].astype(int)
    frame[group_metrics.PROBABILITY] = np.asarray(probability)[known]
    frame[group_metrics.DECISION] = (frame[group_metrics.PROBABILITY] >= threshold).astype(int)
    frame[group_metrics.PATIENT] = pd.factorize(np.asarray(patients)[known], sort=True)[0]
    if not shown or frame.empty:
        why = "no test image has a known label" if frame.empty else "the test split knows of no groups"
        return Part(TITLE, f"There is no part on groups: {why}.", {"tests": []})
    metrics = [
        metric
        for attribute in shown
        for metric in (_quality(attribute, judged.groups, recipe), _gap(attribute, judged.gaps, recipe))
    ]
    numbers = [group_metrics.TRUTH, group_metrics.PROBABILITY, group_metrics.DECISION, group_metrics.PATIENT]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=shown)
    with bar("Evidently: groups", total=1, unit="report") as progress:
        snapshot = Report(metrics).run(EvidentlyDataset.from_pandas(frame, definition))
        progress.update()
    results = snapshot.tests_results
    tests = [
        {
            "attribute": one.metric_config.params["attribute"],
            "metric": one.bound_test.label,
            "limit": recipe.max_gap,
            "status": one.status.value.lower(),
            "words": str(one.description),
        }
        for one in results
    ]
    told = [one for one in results if one.status in (TestStatus.SUCCESS, TestStatus.FAIL)]  # the tables have the rest
    widgets = [*snapshot._widgets, *([metric_tests_widget(told)] if told else [])]
    return Part(TITLE, _said(tests, shown, recipe), {"tests": tests}, widgets)


def _quality(attribute: str, judged: pd.DataFrame, recipe: Audit) -> group_metrics.GroupQuality:
    rows = judged[(judged["attribute"] == attribute) & (judged["attribute"] != ALL)]
    groups = harmless(rows[["group"]])["group"]
    bounds = {
        f"{group} {metric}": _pair(low, high)
        for group, metric, low, high in zip(groups, rows["metric"], rows["low"], rows["high"], strict=True)
        if metric in group_metrics.QUALITIES
    }
    return group_metrics.GroupQuality(attribute=attribute, min_group=recipe.min_group, bounds=bounds)


def _gap(attribute: str, gaps: pd.DataFrame, recipe: Audit) -> group_metrics.FairnessGap:
    rows = gaps[(gaps["attribute"] == attribute) & gaps["metric"].isin(list(group_metrics.GAPS))]
    bounds = {
        str(metric): _pair(low, high)
        for metric, low, high in zip(rows["metric"], rows["low"], rows["high"], strict=True)
    }
    tests = {
        name: [group_metrics.GapTolerated(limit=recipe.max_gap, low=bounds[name][0], high=bounds[name][1])]
        for name in group_metrics.TESTED
    }
    return group_metrics.FairnessGap(
        attribute=attribute, min_group=recipe.min_group, bounds=bounds, limit=recipe.max_gap, tests=tests
    )


def _pair(low: float, high: float) -> list[float | None]:
    return [float(end) if math.isfinite(end) else None for end in (low, high)]


def _said(tests: Sequence[Mapping[str, Any]], attributes: Sequence[str], recipe: Audit) -> str:
    count = {status: sum(one["status"] == status for one in tests) for status in ("success", "fail")}
    open_ = len(tests) - sum(count.values())
    names = ", ".join(map(group_metrics.spoken, attributes))
    return (
        f"Groups by {names}: of {len(tests)} gaps, {count['success']} are within {recipe.max_gap:g}, {count['fail']} "
        f"are above it, and of {open_} the data does not tell; judged on 95% intervals by patient, not corrected for "
        f"how many gaps are asked. A group of fewer than {recipe.min_group} patients with the finding, or without, is "
        "insufficient data."
    )
