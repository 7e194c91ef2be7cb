"""Decoding within label strata: against a plain loop, its level, its power, and what it must not count."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf

from hilum.judgement import stats
from hilum.judgement.shortcuts.attributes import Attribute
from hilum.judgement.shortcuts.decoding import Space, decode, held_out_scores
from hilum.recipe import Shortcuts

FEW = Shortcuts(permutations=99, bootstrap=100)


def category(code, n_levels=None):
    code = np.asarray(code, dtype=float)
    levels = tuple(f"level {k}" for k in range(n_levels or int(np.nanmax(code)) + 1))
    band = np.array(["unknown" if np.isnan(c) else levels[int(c)] for c in code], dtype=object)
    return Attribute("site", "category", levels, code, code, band)


def cohort(seed=0, n_patients=120, dim=6):
    """Patients with one to three images that are alike; a label, and a site of each patient."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), random.integers(1, 4, n_patients))
    label = random.integers(0, 2, n_patients)[patient]
    site = random.integers(0, 2, n_patients)[patient]
    z = random.normal(size=(n_patients, dim))[patient] + 0.5 * random.normal(size=(len(patient), dim))
    fold = random.integers(0, 4, n_patients)[patient]
    return patient, label, site, z, fold


def test_scores_are_those_of_a_plain_loop():
    patient, label, site, z, fold = cohort()
    z[:, 0] += 1.5 * site
    space = Space.prepare(z, label, fold, patient, conditional=True)
    rows = np.arange(len(z))
    found = held_out_scores(space, rows, site[:, None].astype(float))[:, 0]
    expected = np.empty(len(z))
    for held in range(4):
        fit = fold != held
        x = (z - z[fit].mean(axis=0)) / z[fit].std(axis=0)
        y = site.astype(float)
        for value in (0, 1):
            inside = label == value
            x[inside] -= x[inside & fit].mean(axis=0)
            y[inside] -= y[inside & fit].mean()
        weights = np.linalg.solve(ledoit_wolf(x[fit], assume_centered=True)[0], x[fit].T @ y[fit])
        expected[fold == held] = x[fold == held] @ weights
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.std())


@pytest.mark.parametrize("n_levels", [2, 3])
def test_the_permuted_statistic_of_no_permutation_is_the_reported_auroc(n_levels):
    from hilum.judgement.shortcuts.decoding import _permuted

    patient, label, _, z, fold = cohort()
    site = np.random.default_rng(1).integers(0, n_levels, patient.max() + 1)[patient].astype(float)
    z[:, 0] += site
    space = Space.prepare(z, label, fold, patient, conditional=True)
    told = decode(space, category(site), FEW)
    columns = [1] if n_levels == 2 else [0, 1, 2]
    null = _permuted(space, np.arange(len(z)), site, site, columns, False, FEW)
    assert len(null) == 100
    if n_levels == 2:
        assert null[0] == pytest.approx(told.auroc.value, abs=1e-4)
    else:
        score = held_out_scores(space, np.arange(len(z)), np.stack([(site == k) * 1.0 for k in range(3)], axis=1))
        each = [
            stats.weighted_auroc(np.ones((1, len(z))), site == k, score[:, k], fold * 2 + label)[0] for k in range(3)
        ]
        assert null[0] == pytest.approx(np.mean(each), abs=1e-4)
    assert told.p == pytest.approx((1 + (null[1:] >= null[0]).sum()) / 100)


def test_a_planted_site_is_told_and_named_right():
    patient, label, site, z, fold = cohort()
    z[:, 2] += 3.0 * site
    told = decode(Space.prepare(z, label, fold, patient, conditional=True), category(site), FEW)
    assert told.auroc.low > 0.9
    assert told.balanced_accuracy.low > 0.8
    assert told.p == pytest.approx(0.01)
    assert told.null_95 < 0.75


def test_what_the_label_gives_away_is_not_counted():
    patient, label, _, z, fold = cohort(n_patients=300)
    random = np.random.default_rng(5)
    site = np.where(random.random(300)[patient] < 0.85, label, 1 - label)  # the site nearly is the label
    z[:, 0] += 3.0 * label  # and the embedding knows the label only
    site = site[np.unique(patient, return_index=True)[1]][patient]
    within = decode(Space.prepare(z, label, fold, patient, conditional=True), category(site), FEW)
    plain = decode(Space.prepare(z, np.zeros_like(label), fold, patient, conditional=False), category(site), FEW)
    assert plain.auroc.low > 0.75
    assert plain.p == pytest.approx(0.01)
    assert within.auroc.value == pytest.approx(0.5, abs=0.08)
    assert within.p > 0.05


def test_the_p_value_holds_its_level_though_images_of_a_patient_are_alike():
    reached = 0
    for seed in range(100):
        patient, label, site, z, fold = cohort(seed, n_patients=60)
        space = Space.prepare(z, label, fold, patient, conditional=True)
        reached += decode(space, category(site), FEW).p <= 0.1
    assert 2 <= reached <= 19  # 10 expected of 100; 3 standard deviations are 9


def test_a_number_is_told_by_its_halves_and_has_no_balanced_accuracy():
    patient, label, _, z, fold = cohort()
    age = np.random.default_rng(2).uniform(20, 90, patient.max() + 1)[patient]
    z[:, 1] += age / 15
    code = (age >= np.median(age)).astype(float)
    halves = Attribute("age", "number", ("young", "old"), code, age, np.where(code == 1, "old", "young").astype(object))
    told = decode(Space.prepare(z, label, fold, patient, conditional=True), halves, FEW)
    assert told.auroc.low > 0.7
    assert not told.balanced_accuracy.bounded


def test_levels_without_enough_patients_beside_them_are_left_out_or_leave_nothing():
    patient, label, _, z, fold = cohort(n_patients=200)
    site = np.random.default_rng(3).integers(0, 2, 200)[patient].astype(float)
    site[np.isin(patient, np.arange(8))] = 2  # 8 patients
    space = Space.prepare(z, label, fold, patient, conditional=True)
    assert decode(space, category(site), FEW).levels == ("level 0", "level 1")
    alone = decode(space, category(label), FEW)  # a level for each label: nothing to compare within
    assert alone.levels == ()
    assert "fewer than two levels" in alone.short
    assert np.isnan(alone.p)
