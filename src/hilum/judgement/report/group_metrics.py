"""Quality and fairness by group as metrics of Evidently, their values fairlearn's.

Evidently's own `GroupBy` gives every group the value of the whole set for classification metrics. These metrics look
at a dataset with the columns TRUTH, DECISION, PROBABILITY and PATIENT and one column per attribute; a group counts
under the same rule as in `hilum.judgement.fairness.tables`. The bounds that are shown, and by which a gap is tested,
are that module's: fairlearn's own resample images, not patients.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import roc_auc_score

from hilum.judgement.fairness.draws import Cases
from hilum.judgement.fairness.groups import INSUFFICIENT, UNKNOWN
from hilum.judgement.fairness.tables import sufficient
from hilum.judgement.report.door import (
    ByLabelCalculation,
    ByLabelMetric,
    ByLabelValue,
    DataframeCalculation,
    DataframeMetric,
    DataframeValue,
    EvidentlyDataset,
    MetricTest,
    MetricTestResult,
    SingleValue,
    TestStatus,
    table_data,
)

TRUTH: Final = "hilum_truth"
DECISION: Final = "hilum_decision"
PROBABILITY: Final = "hilum_probability"
PATIENT: Final = "hilum_patient"  # a number, from 0

# Names as in fairness.csv, and as they are read.
QUALITIES: Final = {
    "auroc": "AUROC",
    "tpr": "sensitivity",
    "fpr": "false-positive rate",
    "selection_rate": "called positive",
}
_RATES: Final[Mapping[str, Callable[..., float]]] = {
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
    "selection_rate": selection_rate,
}
GAPS: Final = {
    "auroc": "AUROC, difference",
    "demographic_parity": "demographic parity, difference",
    "demographic_parity_ratio": "demographic parity, ratio",
    "equal_opportunity": "equal opportunity, difference",
    "equalized_odds": "equalized odds, difference",
}
_BY_DECISION: Final[Mapping[str, Callable[..., float]]] = {
    "demographic_parity": demographic_parity_difference,
    "demographic_parity_ratio": demographic_parity_ratio,
    "equal_opportunity": equal_opportunity_difference,
    "equalized_odds": equalized_odds_difference,
}
TESTED: Final = tuple(name for name in GAPS if name != "demographic_parity_ratio")  # which asks the same once more

_SPOKEN: Final = {
    TestStatus.SUCCESS: "yes",
    TestStatus.FAIL: "no",
    TestStatus.WARNING: "the data does not tell",
    TestStatus.SKIPPED: INSUFFICIENT,
}

Bounds = dict[str, list[float | None]]


def spoken(attribute: str) -> str:
    """Name of an attribute, or of an intersection, in words."""
    return attribute.replace("_", " ").replace("+", " and ")


def _cases(frame: pd.DataFrame) -> Cases:
    truth, probability, decision = (frame[name].to_numpy(dtype=float) for name in (TRUTH, PROBABILITY, DECISION))
    return Cases(truth, probability, decision, frame[PATIENT].to_numpy(dtype=np.int64))


def _judged(frame: pd.DataFrame, attribute: str, min_group: int) -> list[str]:
    return sufficient(_cases(frame), frame[attribute].astype("str"), min_group)


def _ranked(frame: pd.DataFrame, attribute: str) -> Any:
    return MetricFrame(
        metrics=roc_auc_score, y_true=frame[TRUTH], y_pred=frame[PROBABILITY], sensitive_features=frame[attribute]
    )


def _shown(value: float, bounds: list[float | None]) -> str:
    low, high = bounds
    if low is None or high is None:
        return f"{value:.3f} (no interval)"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


class GroupQuality(DataframeMetric):  # type: ignore[misc]  # Evidently has no types
    """How well the decisions serve each group of one attribute.

    The value is a table of a row per group: its name, images, patients, positives, and QUALITIES, NaN where the group
    is too small.

    Attributes:
        attribute: Column of groups.
        min_group: Patients with, and without, the finding that a group needs.
        bounds: Interval of each value, by `group quality`.
    """

    attribute: str
    min_group: int
    bounds: Bounds


class GroupQualityCalculation(DataframeCalculation[GroupQuality]):  # type: ignore[misc]
    """The values of GroupQuality, by fairlearn's MetricFrame."""

    def calculate(self, _context: Any, current_data: EvidentlyDataset, _reference_data: Any) -> DataframeValue:
        """Of the current data; a reference is not looked at."""
        frame, attribute = current_data.as_dataframe(), self.metric.attribute
        enough = _judged(frame, attribute, self.metric.min_group)
        judged = frame[frame[attribute].isin(enough)]
        counted = {"n": (TRUTH, "size"), "n_patients": (PATIENT, "nunique"), "n_positive": (TRUTH, "sum")}
        sizes = frame.groupby(attribute).agg(**counted)
        table = sizes.astype(int).rename_axis("group").reset_index()
        for quality in QUALITIES:
            table[quality] = math.nan
        if len(judged):
            of = {"y_true": judged[TRUTH], "y_pred": judged[DECISION], "sensitive_features": judged[attribute]}
            found = MetricFrame(metrics=dict(_RATES), **of).by_group
            found["auroc"] = _ranked(judged, attribute).by_group
            for quality in QUALITIES:
                table[quality] = table["group"].map(found[quality].astype(float))
        value = self.result(table)
        value.widget = [table_data(title=self.display_name(), column_names=list(_HEAD), data=self._rows(table))]
        return value

    def _rows(self, table: pd.DataFrame) -> list[list[str]]:
        rows = []
        for one in table.to_dict("records"):
            cells = [str(one["group"]), *(f"{one[name]:,}" for name in ("n", "n_patients", "n_positive"))]
            for quality in QUALITIES:
                bounds = self.metric.bounds.get(f"{one['group']} {quality}", [None, None])
                cells.append(INSUFFICIENT if math.isnan(one[quality]) else _shown(one[quality], bounds))
            rows.append(cells)
        return rows

    def display_name(self) -> str:
        """Title of its table."""
        return f"Quality by {spoken(self.metric.attribute)}"


_HEAD: Final = ("group", "images", "patients", "with the finding", *QUALITIES.values())


class FairnessGap(ByLabelMetric):  # type: ignore[misc]
    """How far the groups of one attribute lie apart; the values are GAPS, NaN where fewer than two groups count.

    Attributes:
        attribute: Column of groups; those `unknown` take no part.
        min_group: Patients with, and without, the finding that a group needs.
        bounds: Interval of each gap.
        limit: The largest tolerable gap.
    """

    attribute: str
    min_group: int
    bounds: Bounds
    limit: float


class FairnessGapCalculation(ByLabelCalculation[FairnessGap]):  # type: ignore[misc]
    """The values of FairnessGap, by fairlearn."""

    def calculate(self, _context: Any, current_data: EvidentlyDataset, _reference_data: Any) -> ByLabelValue:
        """Of the current data; a reference is not looked at."""
        frame, attribute = current_data.as_dataframe(), self.metric.attribute
        compared = [group for group in _judged(frame, attribute, self.metric.min_group) if group != UNKNOWN]
        values = dict.fromkeys(GAPS, math.nan)
        if len(compared) > 1:
            judged = frame[frame[attribute].isin(compared)]
            values["auroc"] = float(_ranked(judged, attribute).difference())
            for name, gap in _BY_DECISION.items():
                found = gap(judged[TRUTH], judged[DECISION], sensitive_features=judged[attribute])
                values[name] = float(found)
        result = self.result(values)
        rows = []
        for name, said in GAPS.items():
            bounds = self.metric.bounds.get(name, [None, None])
            shown = INSUFFICIENT if math.isnan(values[name]) else _shown(values[name], bounds)
            judged_by = GapTolerated(limit=self.metric.limit, low=bounds[0], high=bounds[1])
            rows.append([said, shown, _SPOKEN[judged_by.judge(values[name])[0]] if name in TESTED else ""])
        title = f"{self.display_name()}; groups compared: {len(compared)}"
        head = ["gap", "value", f"within {self.metric.limit:g}"]
        result.widget = [table_data(title=title, column_names=head, data=rows)]
        return result

    def display_name(self) -> str:
        """Title of its table."""
        return f"Gaps by {spoken(self.metric.attribute)}"

    def label_display_name(self, label: Any) -> str:
        """Name of one gap, under which it is tested."""
        return f"{GAPS[str(label)]}, by {spoken(self.metric.attribute)}"


class GapTolerated(MetricTest):  # type: ignore[misc]
    """Whether a gap is tolerable, judged on the bounds of its interval as hilum's gate judges, not on its value.

    Passes where the upper bound is at most the limit, fails where the lower bound is above it; between, it warns that
    the data does not tell; a gap that has no value is skipped.

    Attributes:
        limit: The largest tolerable gap.
        low: Lower bound of the gap.
        high: Its upper bound.
    """

    limit: float
    low: float | None = None
    high: float | None = None

    def to_test(self) -> Callable[..., MetricTestResult]:
        """The test as Evidently calls it."""

        def tested(_context: Any, metric: Any, value: SingleValue) -> MetricTestResult:
            status, said = self.judge(float(value.value))
            return MetricTestResult(
                id="gap_tolerated",
                name=f"{value.display_name}: at most {self.limit:g}",
                description=said,
                metric_config=metric.to_metric_config(),
                test_config=self.dict(),
                status=status,
            )

        return tested

    def judge(self, value: float) -> tuple[TestStatus, str]:
        """Status, and the reason in words."""
        if math.isnan(value):
            return TestStatus.SKIPPED, INSUFFICIENT
        shown = _shown(value, [self.low, self.high])
        if self.low is None or self.high is None:
            return TestStatus.WARNING, f"{shown}: {INSUFFICIENT} for a verdict"
        if self.high <= self.limit:
            return TestStatus.SUCCESS, f"{shown}: the upper bound is within {self.limit:g}"
        if self.low > self.limit:
            return TestStatus.FAIL, f"{shown}: the lower bound is above {self.limit:g}"
        return TestStatus.WARNING, f"{shown}: {self.limit:g} lies inside the interval, so the data does not tell"
