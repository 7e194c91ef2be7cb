import numpy as np
import pytest
from fairlearn.metrics import false_positive_rate, selection_rate, true_positive_rate
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    precision_score,
    roc_auc_score,
)

from hilum.judgement import stats
from hilum.judgement.fairness import draws
from hilum.judgement.stats.resampling import times_drawn


def cohort(n_patients=60, images_each=3, seed=0):
    """Scores with ties, several images of a patient, and two groups that share patients."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), images_each)
    truth = (random.random(len(patient)) < 0.4).astype(float)
    score = np.round(np.clip(0.35 + 0.3 * truth + random.normal(0, 0.2, len(patient)), 0.01, 0.99), 2)
    cases = draws.Cases(truth, score, (score >= 0.5).astype(float), patient)
    return cases, {"a": np.flatnonzero(patient % 2 == 0), "b": np.flatnonzero(np.arange(len(patient)) % 3 == 0)}


def by_the_book(y, p, d):
    return {
        "auroc": roc_auc_score(y, p),
        "auprc": average_precision_score(y, p),
        "balanced_accuracy": balanced_accuracy_score(y, d),
        "tpr": true_positive_rate(y, d),
        "fpr": false_positive_rate(y, d),
        "ppv": precision_score(y, d),
        "selection_rate": selection_rate(y, d),
        "brier": brier_score_loss(y, p),
    }


def test_each_resample_is_the_metric_of_the_rows_it_drew():
    cases, rows = cohort()
    found = draws.draw(cases, rows, 7, seed=3)
    times = times_drawn(np.random.default_rng(3), 7, 60)
    for name, of in rows.items():
        for r in range(7):
            again = np.repeat(of, times[r, cases.patient_N[of]])
            y, p, d = (array[again] for array in (cases.truth_N, cases.probability_N, cases.decided_N))
            for metric, value in by_the_book(y.astype(int), p, d.astype(int)).items():
                assert found[name].drawn[metric][r] == pytest.approx(value, abs=1e-12), metric


def test_values_are_those_of_fairlearn_scikit_learn_and_stats():
    cases, rows = cohort(seed=1)
    for name, one in draws.draw(cases, rows, 2, seed=0).items():
        y, p, d = (array[rows[name]] for array in (cases.truth_N, cases.probability_N, cases.decided_N))
        for metric, value in by_the_book(y.astype(int), p, d.astype(int)).items():
            assert one.value[metric] == pytest.approx(value), metric
        bins = min(10, len(y) // 20)
        assert one.value["ece"] == pytest.approx(stats.weighted_ece(np.ones((1, len(y))), y, p, bins)[0])


def test_resamples_are_those_of_the_patient_bootstrap_whatever_the_groups():
    cases, rows = cohort()
    everybody = {"all": np.arange(len(cases.truth_N))}
    alone = draws.draw(cases, everybody, 100, seed=5)["all"].drawn["auroc"]
    among = draws.draw(cases, everybody | rows, 100, seed=5)["all"].drawn["auroc"]
    np.testing.assert_array_equal(alone, among)
    usual = stats.patient_bootstrap(stats.weighted_auroc, cases.patient_N, 100, 5, cases.truth_N, cases.probability_N)
    np.testing.assert_allclose(np.quantile(alone, [0.025, 0.975]), [usual.low, usual.high], rtol=1e-14)


def test_blocks_of_resamples_do_not_change_them(monkeypatch):
    cases, rows = cohort()
    whole = draws.draw(cases, rows, 50, seed=1)["a"]
    monkeypatch.setattr("hilum.judgement.stats.bootstrap.CHUNK_ELEMENTS", 500)  # eight resamples at a time
    parts = draws.draw(cases, rows, 50, seed=1)["a"]
    np.testing.assert_allclose(whole.drawn["auprc"], parts.drawn["auprc"], atol=1e-12)
    np.testing.assert_array_equal(whole.smoothed["tpr"], parts.smoothed["tpr"])


def test_a_rate_of_one_still_scatters_once_smoothed():
    cases, rows = cohort()
    always = draws.Cases(cases.truth_N, cases.probability_N, np.ones(len(cases.truth_N)), cases.patient_N)
    one = draws.draw(always, rows, 4000, seed=0)["a"]
    assert (one.drawn["tpr"] == 1).all()
    n, n_patients = int(cases.truth_N[rows["a"]].sum()), one.n_patients["tpr"]
    size = n / n_patients
    assert one.centre["tpr"] == pytest.approx((n + size) / (n + 2 * size))
    # That of a proportion among two patients more than there are (Agresti & Caffo 2000).
    p = one.centre["tpr"]
    assert one.smoothed["tpr"].std() == pytest.approx(np.sqrt(p * (1 - p) / (n_patients + 2)), rel=0.1)


def test_the_calibration_error_of_chance_is_what_simulated_calibrated_scores_show():
    random = np.random.default_rng(0)
    p = random.uniform(0.05, 0.95, 300)
    shown = []
    for _ in range(200):
        y = (random.random(300) < p).astype(float)
        cases = draws.Cases(y, p, (p > 0.5).astype(float), np.arange(300))
        one = draws.draw(cases, {"all": np.arange(300)}, 1, seed=0)["all"]
        shown.append(one.value["ece"])
    assert one.chance == pytest.approx(np.mean(shown), rel=0.05)
