import time

import numpy as np
import pandas as pd
import pytest

from hilum.judgement import stats
from hilum.ranking import auroc


def test_bootstrap_resamples_whole_patients(cohort):
    patients, y, score = cohort
    seen = []

    def spy(w_RN, *arrays):
        seen.append(w_RN)
        return stats.weighted_auroc(w_RN, *arrays)

    stats.patient_bootstrap(spy, patients, 200, 0, y, score)
    weights = pd.DataFrame(np.concatenate(seen[1:]).T, index=patients)
    per_patient = weights.groupby(level=0).nunique()
    assert (per_patient == 1).all().all(), "all rows of a patient are drawn equally often"
    assert (weights.groupby(level=0).first().sum() == 40).all(), "as many patients are drawn as there are"


def test_bootstrap_agrees_with_a_naive_loop(cohort):
    patients, y, score = cohort
    interval = stats.patient_bootstrap(stats.weighted_auroc, patients, 4000, 0, y, score)
    random, names = np.random.default_rng(9), np.unique(patients)
    rows_of = {name: np.flatnonzero(patients == name) for name in names}
    replicates = []
    for _ in range(4000):
        rows = np.concatenate([rows_of[name] for name in random.choice(names, len(names))])
        replicates.append(auroc(y[rows], score[rows]))
    assert interval.value == pytest.approx(auroc(y, score))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(replicates, [0.025, 0.975])), abs=0.01)
    assert (interval.n, interval.n_patients, interval.n_dropped) == (len(y), 40, 0)


def test_bootstrap_does_not_depend_on_row_order_and_repeats(cohort):
    patients, y, score = cohort
    first = stats.patient_bootstrap(stats.weighted_auroc, patients, 300, 4, y, score)
    order = np.random.default_rng(0).permutation(len(y))
    again = stats.patient_bootstrap(stats.weighted_auroc, patients[order], 300, 4, y[order], score[order])
    assert first.facts() == pytest.approx(again.facts())
    assert first != stats.patient_bootstrap(stats.weighted_auroc, patients, 300, 5, y, score)


def test_bootstrap_is_quick():
    random = np.random.default_rng(0)
    y, score = (random.random(2000) < 0.3).astype(float), random.normal(size=2000)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        stats.patient_bootstrap(stats.weighted_auroc, np.arange(2000) // 2, 1000, 0, y, score)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_undefined_is_said_and_never_a_number():
    one_class = stats.patient_bootstrap(stats.weighted_auroc, np.arange(9), 100, 0, np.ones(9), np.arange(9.0))
    assert np.isnan([one_class.value, one_class.low, one_class.high]).all()
    assert "insufficient data" in one_class.note
    assert str(one_class) == one_class.note
    assert one_class.facts()["value"] is None
    empty = stats.patient_bootstrap(stats.weighted_mean, [], 100, 0, np.array([]))
    assert empty.n == 0
    assert "no rows" in empty.note
    alone = stats.patient_bootstrap(stats.weighted_mean, ["a", "a"], 100, 0, np.array([1.0, 2.0]))
    assert alone.value == 1.5
    assert not alone.bounded


def test_replicates_without_a_class_are_dropped_and_counted():
    y = np.array([1.0, 1, 0, 0, 0, 0, 0, 0])
    rare = stats.patient_bootstrap(stats.weighted_auroc, [0, 0, 1, 2, 3, 4, 5, 6], 1000, 0, y, np.arange(8.0))
    # The only positive patient is left out with probability (6/7)^7, about 0.34.
    assert 280 < rare.n_dropped < 400
    assert rare.bounded
    y[1:7] = np.nan  # one positive and one negative patient: most resamples lack one of them
    lone = stats.patient_bootstrap(stats.weighted_auroc, [0, 0, 1, 2, 3, 4, 5, 6], 1000, 0, y, np.arange(8.0))
    assert lone.n_dropped > 500
    assert not lone.bounded
    assert "no interval" in lone.note


def test_perfect_separation_is_noted():
    y = np.repeat([0.0, 1.0], 10)
    perfect = stats.patient_bootstrap(stats.weighted_auroc, np.arange(20), 200, 0, y, y)
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)
    assert "no width" in perfect.note
