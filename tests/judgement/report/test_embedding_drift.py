"""The tests of embedding drift on cohorts of which the truth is known."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest, kstest
from sklearn.metrics import roc_auc_score

from hilum.judgement.report import domain
from hilum.judgement.report import embedding_drift as drift
from hilum.judgement.report.sides import Sides


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")


def cohort(seed, n_patients=60, images_each=3, shift=0.0, spread=1.0, dims=6):
    """Patients whose images are nearly alike; a third of the patients are the current set."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), images_each)
    z = random.normal(size=(n_patients, dims))[patient] + 0.3 * random.normal(size=(len(patient), dims))
    current = np.isin(patient, random.permutation(n_patients)[: n_patients // 3])
    z[current] *= spread
    z[current, 0] += shift
    return z, Sides.parted(current, patient)


def compare(z, sides, seed=0):
    return drift.compare(lambda rows: z[rows], sides, 100, seed)


def test_patients_parted_at_random_are_told_apart_as_often_as_said():
    """200 cohorts without drift, each patient with three images that are nearly alike."""
    found = [compare(*cohort(seed), seed) for seed in range(200)]
    for name in ("classifier", "mmd2"):
        p = np.array([getattr(one, name).p for one in found])
        assert kstest(p, "uniform").pvalue > 0.001
        assert binomtest(int((p <= 0.05).sum()), 200, 0.05).pvalue > 0.001
    for one in found:  # of two questions the better answer is worth half
        assert (one.verdict == "drifted") is (2 * min(one.classifier.p, one.mmd2.p) <= drift.ALPHA)
    alarms = sum(one.verdict == "drifted" for one in found)
    assert binomtest(alarms, 200, drift.ALPHA, alternative="greater").pvalue > 0.001
    # Images dealt out one by one would cry wolf: they are as alike within a set as patients are with themselves.
    lone = 0
    for seed in range(10):
        z, sides = cohort(seed)
        lone += compare(z, Sides.parted(sides.now_N, np.arange(len(z))), seed).verdict == "drifted"
    assert lone >= 5


def test_a_planted_shift_is_found_and_named():
    z, sides = cohort(1, n_patients=120, shift=1.5)
    found = compare(z, sides)
    assert found.verdict == "drifted"
    assert found.auroc.low > 0.7
    assert found.classifier.p == found.mmd2.p == 1 / (drift.DEALS + 1)
    assert found.words.startswith("The embeddings drifted")
    assert "360" not in found.words
    assert "reference: 240 images of 80 patients; current: 120 images of 40 patients" in found.words
    assert json.loads(json.dumps(found.facts, allow_nan=False))["n_patients"] == [80, 40]


def test_a_wider_spread_is_seen_by_the_discrepancy_though_no_line_parts_the_sets():
    found = compare(*cohort(2, n_patients=120, spread=2.5))
    assert found.verdict == "drifted"
    assert found.mmd2.p < 0.01
    assert found.auroc.low < 0.5 < found.auroc.high


def test_the_auroc_is_that_of_the_scores_and_of_every_deal():
    z, sides = cohort(3, shift=0.8)
    deals = sides.deals(4, 0)
    found, dealt = domain.told_apart(
        z, sides, (np.r_[sides.before_N[None], deals[0]], np.r_[sides.now_N[None], deals[1]]), 100, 0
    )
    assert dealt[0] == pytest.approx(found.value)
    # Fold by fold, by a discriminant that is written out here.
    fold = domain.fold_of(domain.pd.Series(sides.patient_N), domain.FOLDS, 0)
    wins = pairs = 0.0
    for one in range(domain.FOLDS):
        held = fold == one
        scaled = (z - z[~held].mean(axis=0)) / z[~held].std(axis=0)
        covariance, _ = domain.decoding.ledoit_wolf(scaled[~held], assume_centered=True)
        away = scaled[~held & sides.now_N].mean(axis=0) - scaled[~held & sides.before_N].mean(axis=0)
        score = scaled[held] @ np.linalg.solve(covariance, away)
        n = int(sides.now_N[held].sum()) * int(sides.before_N[held].sum())
        wins, pairs = wins + n * roc_auc_score(sides.now_N[held], score), pairs + n
    assert found.value == pytest.approx(wins / pairs, abs=1e-3)  # the discriminant is kept in single precision


def test_a_revision_that_only_adds_patients_is_judged_by_those():
    random = np.random.default_rng(5)
    patient = np.repeat(np.arange(100), 2)
    z = random.normal(size=(100, 5))[patient] + 0.2 * random.normal(size=(200, 5))
    added = patient >= 75
    sides = Sides(~added, np.ones(200, dtype=bool), patient)
    assert compare(z, sides).verdict == "not told apart"
    z[added, 0] += 3
    found = compare(z, sides)
    assert found.verdict == "drifted"
    assert found.n_moved == 25
    assert found.n == (150, 200)
    seen, dealt = domain.told_apart(z, sides, (sides.before_N[None], sides.now_N[None]), 100, 0)
    assert dealt[0] == pytest.approx(seen.value)  # a row of both sets ties with itself
    assert 0.5 < found.auroc.value < 0.7  # most of the current set is what was there before


def test_too_little_is_insufficient_and_the_same_is_not_told_apart():
    z, sides = cohort(0, n_patients=57)
    short = compare(z, sides)
    assert short.verdict == "insufficient data"
    assert "38 patients in the reference and 19 in the current set; 20 of each are needed" in short.words
    assert json.loads(json.dumps(short.facts, allow_nan=False))["auroc"]["value"] is None
    z, sides = cohort(0)
    everywhere = np.ones(len(z), dtype=bool)
    assert compare(z, Sides(everywhere, everywhere, sides.patient_N)).verdict == "not told apart"
    few = Sides(everywhere, sides.patient_N >= 3, sides.patient_N)
    assert "only 3 patients are not the same in both" in compare(z, few).words
    collapsed = compare(np.ones_like(z), sides)
    assert collapsed.verdict == "insufficient data"
    assert "all are equal" in collapsed.words


def test_large_sets_are_sampled_by_patient_and_wide_embeddings_projected(monkeypatch):
    monkeypatch.setattr(drift, "CLASSIFIER_ROWS", 240)
    monkeypatch.setattr(drift, "MMD_ROWS", 150)
    monkeypatch.setattr(domain, "MAX_DIMS", 4)
    z, sides = cohort(6, n_patients=400, shift=2.0)
    read = []
    found = drift.compare(lambda rows: read.append(rows) or z[rows], sides, 100, 0)
    assert found.verdict == "drifted"
    assert [len(rows) for rows in read] == [240, 150]
    assert found.classifier.n == (120, 120)
    assert "on a sample of whole patients: 120 and 120 images" in found.words
    again = drift.compare(lambda rows: z[rows], sides, 100, 0)
    assert again.facts == found.facts
