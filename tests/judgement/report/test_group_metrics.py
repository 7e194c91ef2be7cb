"""The metrics by group in Evidently against loops over groups, and against hilum's own tables."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from hilum.judgement.fairness import tables
from hilum.judgement.report import group_metrics, group_part
from hilum.judgement.report.door import EvidentlyDataset, Report
from hilum.judgement.report.group_metrics import DECISION, PATIENT, PROBABILITY, TRUTH, FairnessGap, GroupQuality
from hilum.recipe import Audit

RECIPE = Audit(bootstrap=100, min_group=5, max_gap=0.1)


@pytest.fixture(scope="module")
def cohort():
    """400 images of 200 patients; women are called positive more often, group C is too small."""
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(200), 2)
    truth = (random.random(200) < 0.4)[patient].astype(float)
    groups = pd.DataFrame(
        {
            "sex": np.array(["F", "M", "unknown"])[np.minimum(random.integers(0, 7, 200) // 3, 2)][patient],
            "site": np.array(["A", "B", "<C>"])[np.where(np.arange(200) < 4, 2, np.arange(200) % 2)][patient],
        }
    )
    score = random.random(400) * 0.6 + 0.3 * truth + 0.1 * (groups["sex"] == "F")
    truth[::17] = np.nan
    return truth, score.to_numpy(), 0.5, groups, pd.Series(patient).map("secret-{}".format)


def evidently(cohort, *metrics):
    """Values of metrics, as Evidently gives them."""
    truth, score, threshold, groups, patients = cohort
    known = ~np.isnan(truth)
    frame = groups[known].reset_index(drop=True)
    frame[TRUTH], frame[PROBABILITY] = truth[known].astype(int), score[known]
    frame[DECISION] = (frame[PROBABILITY] >= threshold).astype(int)
    frame[PATIENT] = pd.factorize(patients[known])[0]
    snapshot = Report(list(metrics)).run(EvidentlyDataset.from_pandas(frame))
    return frame, list(snapshot.metric_results.values()), snapshot


def by_hand(frame):
    """AUROC, sensitivity, false-positive rate and share called of one group."""
    y, called = frame[TRUTH].to_numpy(), frame[DECISION].to_numpy()
    return roc_auc_score(y, frame[PROBABILITY]), called[y == 1].mean(), called[y == 0].mean(), called.mean()


def test_each_group_has_its_own_quality(cohort):
    frame, (found,), _ = evidently(cohort, GroupQuality(attribute="site", min_group=5, bounds={}))
    table = found.value.set_index("group")
    for group in ("A", "B"):
        rows = frame[frame["site"] == group]
        assert tuple(table.loc[group, list(group_metrics.QUALITIES)]) == pytest.approx(by_hand(rows))
        assert table.loc[group, "n"] == len(rows)
        assert table.loc[group, "n_patients"] == rows[PATIENT].nunique()
        assert table.loc[group, "n_positive"] == rows[TRUTH].sum()
    assert table.loc["A", "auroc"] != table.loc["B", "auroc"]
    assert table.loc["<C>", list(group_metrics.QUALITIES)].isna().all()
    assert table.loc["<C>", "n"] > 0


def test_gaps_are_between_the_known_groups(cohort):
    frame, (found,), _ = evidently(cohort, FairnessGap(attribute="sex", min_group=5, bounds={}, limit=0.1))
    auroc, tpr, fpr, called = (
        np.array(values) for values in zip(*(by_hand(frame[frame["sex"] == sex]) for sex in "FM"), strict=True)
    )
    assert found.to_simple_dict() == pytest.approx(
        {
            "auroc": np.ptp(auroc),
            "demographic_parity": np.ptp(called),
            "demographic_parity_ratio": called.min() / called.max(),
            "equal_opportunity": np.ptp(tpr),
            "equalized_odds": max(np.ptp(tpr), np.ptp(fpr)),
        }
    )
    _, (short,), _ = evidently(cohort, FairnessGap(attribute="sex", min_group=500, bounds={}, limit=0.1))
    assert np.isnan(list(short.to_simple_dict().values())).all()


def test_values_are_those_of_the_table(cohort):
    """To the last digit that is written: fairness.csv holds what `judge` gives."""
    judged = tables.judge(*cohort, RECIPE)
    bare = {"min_group": RECIPE.min_group, "bounds": {}}
    for attribute in ("sex", "site"):
        metrics = GroupQuality(attribute=attribute, **bare), FairnessGap(attribute=attribute, limit=0.1, **bare)
        _, (quality, gap), _ = evidently(cohort, *metrics)
        rows = judged.groups[judged.groups["attribute"] == attribute].set_index(["group", "metric"])
        for _, one in quality.value.iterrows():
            for name in group_metrics.QUALITIES:
                assert one[name] == pytest.approx(rows.loc[(one["group"], name), "value"], abs=1e-12, nan_ok=True)
            assert tuple(one[["n", "n_patients", "n_positive"]]) == tuple(
                rows.loc[(one["group"], "auroc"), ["n", "n_patients", "n_positive"]]
            )
        expected = judged.gaps[judged.gaps["attribute"] == attribute].set_index("metric")["value"]
        for name, value in gap.to_simple_dict().items():
            assert value == pytest.approx(expected[name], abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("value", "low", "high", "status"),
    [
        (0.05, 0.01, 0.1, "success"),
        (0.05, 0.01, 0.11, "warning"),
        (0.2, 0.1, 0.3, "warning"),
        (0.2, 0.11, 0.3, "fail"),
        (0.2, None, None, "warning"),
        (float("nan"), None, None, "skipped"),
    ],
)
def test_a_gap_is_judged_on_its_bounds(value, low, high, status):
    judged, said = group_metrics.GapTolerated(limit=0.1, low=low, high=high).judge(value)
    assert judged.value.lower() == status
    assert ("insufficient data" in said) is (low is None)


def test_the_part_shows_intervals_and_tests_and_names_nobody(cohort):
    judged = tables.judge(*cohort, RECIPE)
    part = group_part.by_group(*cohort, judged, RECIPE)
    tests = part.facts["tests"]
    assert len(tests) == len(group_metrics.TESTED) * 2
    gap = judged.gaps.set_index(["attribute", "metric"]).loc[("sex", "demographic_parity")]
    words = next(one["words"] for one in tests if (one["attribute"], one["metric"]) == ("sex", "demographic_parity"))
    assert f"{gap['value']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]" in words
    shown = "".join(widget.json() for widget in part.widgets)
    assert "Quality by sex" in shown
    assert "Gaps by site" in shown
    row = judged.groups.set_index(["attribute", "group", "metric"]).loc[("site", "A", "tpr")]
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in shown
    assert "(C>" in shown
    assert "<" not in shown  # it would end Evidently's script
    assert "secret" not in shown + str(part.facts)


def test_without_groups_or_labels_it_says_so(cohort):
    truth, score, threshold, groups, patients = cohort
    judged = tables.judge(*cohort, RECIPE)
    none = group_part.by_group(truth, score, threshold, groups[[]], patients, judged, RECIPE)
    assert "knows of no groups" in none.said
    unknown = group_part.by_group(truth * np.nan, score, threshold, groups, patients, judged, RECIPE)
    assert "no test image has a known label" in unknown.said
    assert none.widgets == unknown.widgets == []
