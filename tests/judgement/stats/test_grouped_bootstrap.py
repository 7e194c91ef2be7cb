"""Many groups on shared resamples: equal to resampling row by row, paired, bounded in memory, and quick."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hilum.judgement import stats
from hilum.judgement.stats.kernels import kernel
from hilum.judgement.stats.resampling import times_drawn


@pytest.fixture
def cohort():
    random = np.random.default_rng(7)
    patient = random.permutation(np.repeat(np.arange(60), random.integers(1, 5, 60)))
    truth = (random.random(len(patient)) < 0.4).astype(float)
    probability = np.round(np.clip(0.3 * truth + 0.6 * random.random(len(patient)), 0, 1), 2)  # ties
    group = np.array(["x", "y", "z"])[random.integers(0, 3, len(patient))]  # a patient may have rows in several
    return patient, truth, probability, group


def drawn_rows(patient, replicates, seed):
    """The rows of each resample, written out: all rows of a patient as often as it is drawn."""
    names, code = np.unique(patient, return_inverse=True)
    for times in times_drawn(np.random.default_rng(seed), replicates, len(names)):
        yield np.repeat(np.arange(len(patient)), times[code])


def test_every_replicate_is_that_of_the_rows_drawn(cohort):
    patient, truth, probability, group = cohort
    groups = {name: group == name for name in "xyz"} | {"all": np.arange(len(truth))}
    found = stats.grouped_bootstrap(stats.weighted_auroc, patient, groups, 40, 3, truth, probability)
    for r, rows in enumerate(drawn_rows(patient, 40, 3)):
        for g, name in enumerate(groups):
            own = rows if name == "all" else rows[group[rows] == name]
            assert found.drawn_RG[r, g] == pytest.approx(roc_auc_score(truth[own], probability[own]), abs=1e-12)
    assert found.groups == ("x", "y", "z", "all")
    assert found.n_G[0] == (group == "x").sum()
    assert found.n_patients_G[0] == len(np.unique(patient[group == "x"]))
    alone = stats.patient_bootstrap(stats.weighted_auroc, patient, 40, 3, truth, probability)
    assert found.interval("all") == alone, "the draws are those of patient_bootstrap"


CALLED = {"weighted_sensitivity", "weighted_specificity", "weighted_ppv", "weighted_balanced_accuracy"}
OF_TWO = (
    "auroc",
    "auprc",
    "ece",
    "binned_ece",
    "brier",
    "mae",
    "r2",
    "sensitivity",
    "specificity",
    "ppv",
    "balanced_accuracy",
)


@pytest.mark.parametrize("name", OF_TWO)
@pytest.mark.parametrize("swapped", [False, True])  # the AUROC sums the larger class: each of them is it once
def test_a_prepared_metric_equals_the_metric_of_the_weights(cohort, name, swapped):
    patient, truth, probability, _ = cohort
    statistic = getattr(stats, f"weighted_{name}")
    truth = 1 - truth if swapped else truth
    if name not in ("mae", "r2", "balanced_accuracy"):
        truth = np.where(np.arange(len(truth)) % 11 == 0, np.nan, truth)
    answer = (probability > 0.4).astype(float) if f"weighted_{name}" in CALLED else probability
    times = times_drawn(np.random.default_rng(0), 300, 60)
    prepared = kernel(statistic, patient, truth, answer)(times)
    np.testing.assert_allclose(prepared, statistic(times[:, patient].astype(float), truth, answer), atol=1e-12)


def test_prepared_means_strata_classes_and_large_weights(cohort):
    patient, truth, probability, group = cohort
    times = times_drawn(np.random.default_rng(0), 50, 60).astype(np.uint32) * 1000
    w = times[:, patient].astype(float)
    for statistic in (stats.weighted_mean, stats.weighted_selection_rate, stats.weighted_sum):
        np.testing.assert_allclose(kernel(statistic, patient, probability)(times), statistic(w, probability))
    np.testing.assert_array_equal(
        kernel(stats.weighted_auroc, patient, truth, probability, group)(times),
        stats.weighted_auroc(w, truth, probability, group),
    )
    scores = np.stack([probability, -probability, probability**2 - probability], axis=1)
    classes = np.where(truth == 1, 2, (probability > 0.3).astype(int))
    np.testing.assert_allclose(
        kernel(stats.weighted_macro_auroc, patient, classes, scores)(times),
        stats.weighted_macro_auroc(w, classes, scores),
    )
    missing = probability.copy()
    missing[0] = np.nan
    assert np.isnan(kernel(stats.weighted_auroc, patient, truth, missing)(times)).all()


def test_metrics_that_are_asked_together_are_those_that_are_asked_one_by_one(cohort):
    patient, truth, probability, group = cohort
    groups = {name: group == name for name in "xyz"} | {"empty": np.zeros(len(truth), dtype=bool)}
    called = (probability > 0.4).astype(float)
    asked = {
        "auroc": (stats.weighted_auroc, [truth, probability]),
        "sensitivity": (stats.weighted_sensitivity, [truth, called]),
        "ece": (stats.weighted_binned_ece, [truth, probability]),
        "r2": (stats.weighted_r2, [truth, probability]),  # has no quick kernel
        "n": (stats.weighted_sum, [np.ones(len(truth))]),
    }
    together = stats.grouped_bootstraps(asked, patient, groups, 60, 2, method="bca")
    assert list(together) == list(asked)
    for name, (statistic, columns) in asked.items():
        alone = stats.grouped_bootstrap(statistic, patient, groups, 60, 2, *columns, method="bca")
        assert together[name].groups == alone.groups
        for part in ("value_G", "drawn_RG", "jackknife_JG", "touched_JG", "n_G", "n_patients_G"):
            np.testing.assert_allclose(getattr(together[name], part), getattr(alone, part), atol=1e-12)
    np.testing.assert_array_equal(together["n"].replicates("y"), together["n"].drawn_RG[:, 1])
    nobody = stats.grouped_bootstraps({"n": asked["n"]}, np.zeros(len(truth)), groups, 60, 2)["n"]
    assert np.isnan(nobody.replicates("x")).all()


def test_a_difference_is_paired_and_negates_when_swapped(cohort):
    patient, truth, probability, group = cohort
    groups = {"x": group == "x", "y": group == "y", "x again": group == "x"}
    found = stats.grouped_bootstrap(stats.weighted_brier, patient, groups, 500, 0, truth, probability, method="bca")
    there, back = found.difference("x", "y"), found.difference("y", "x")
    assert there.value == pytest.approx(found.interval("x").value - found.interval("y").value)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p == back.p
    naive = [
        np.mean((truth[rows] - probability[rows])[group[rows] == "x"] ** 2)
        - np.mean((truth[rows] - probability[rows])[group[rows] == "y"] ** 2)
        for rows in drawn_rows(patient, 500, 0)
    ]
    least = min(np.sum(np.array(naive) <= 0), np.sum(np.array(naive) >= 0))
    assert there.p == pytest.approx(2 * (least + 1) / 501)
    same = found.difference("x", "x again")
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert "no width" in same.note


def test_the_gap_of_two_groups_and_of_none(cohort):
    patient, truth, probability, group = cohort
    groups = {name: group == name for name in "xyz"}
    found = stats.grouped_bootstrap(stats.weighted_brier, patient, groups, 999, 0, truth, probability)
    gap = found.gap()
    assert gap.value == pytest.approx(np.ptp(found.value_G))
    half = np.quantile(np.ptp(found.drawn_RG - found.value_G, axis=1), 0.95)
    assert (gap.low, gap.high) == (pytest.approx(max(0, gap.value - half)), pytest.approx(gap.value + half))
    assert found.gap(0.01).high == 0.01
    assert 0 < gap.p <= 1
    apart = stats.grouped_bootstrap(
        stats.weighted_mean,
        patient,
        groups,
        999,
        0,
        np.array([{"x": 0.0, "y": 5.0, "z": 0.0}[g] for g in group]) + truth,
    ).gap()
    assert apart.p == 1 / 1000
    assert apart.established
    one = stats.grouped_bootstrap(stats.weighted_mean, patient, {"x": groups["x"]}, 50, 0, truth).gap()
    assert "fewer than two groups" in one.note
    assert np.isnan(one.value)


def test_a_group_that_cannot_be_judged_says_so(cohort):
    patient, truth, probability, group = cohort
    own = np.flatnonzero(patient == 3)
    groups = {"empty": np.zeros(len(truth), dtype=bool), "positives": truth == 1, "one patient": own, "x": group == "x"}
    found = stats.grouped_bootstrap(stats.weighted_auroc, patient, groups, 200, 0, truth, probability, method="bca")
    assert found.interval("empty").note == "insufficient data: no rows"
    assert found.interval("positives").note == "insufficient data: undefined on these rows"
    assert np.isnan(found.interval("one patient").low)
    assert found.interval("x").bounded
    assert np.isnan(found.difference("x", "positives").value)
    nobody = stats.grouped_bootstrap(stats.weighted_mean, [], {}, 10, 0, np.array([]))
    assert nobody.groups == ()


def test_bounded_memory_means_the_same_numbers(cohort, monkeypatch):
    patient, truth, probability, group = cohort
    groups = {name: group == name for name in "xyz"}
    asked = (stats.weighted_auroc, patient, groups, 100, 5, truth, probability)
    whole = stats.grouped_bootstrap(*asked, method="bca")
    monkeypatch.setattr("hilum.judgement.stats.bootstrap.CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr("hilum.judgement.stats.kernels.CACHED_ELEMENTS", 100)
    pieces = stats.grouped_bootstrap(*asked, method="bca")
    np.testing.assert_array_equal(whole.drawn_RG, pieces.drawn_RG)
    np.testing.assert_array_equal(whole.jackknife_JG, pieces.jackknife_JG)


def test_two_thousand_resamples_of_twenty_groups_are_quick():
    """A twentieth of the 223,414 rows of benchmarks/resampling.py, in a tenth of its limit of 30 s."""
    random = np.random.default_rng(0)
    patient, group = random.integers(0, 3200, 11_170), random.integers(0, 20, 11_170)
    truth, score = (random.random(11_170) < 0.2).astype(float), random.normal(size=11_170)
    groups = {g: np.flatnonzero(group == g) for g in range(20)}
    began = time.process_time()
    stats.grouped_bootstrap(stats.weighted_auroc, patient, groups, 2000, 0, truth, score)
    assert time.process_time() - began < 3
