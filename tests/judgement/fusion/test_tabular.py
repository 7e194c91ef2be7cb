"""Trees on covariates and the stacking of two logits: what they learn from, and what they never see."""

import numpy as np
import pytest

from hilum.judgement.fusion.tabular import PENALTIES, SETTINGS, _folds, fit_stack, fit_trees
from hilum.ranking import auroc


def measured(n_patients=150, seed=0):
    """Two rows per patient; the first column knows the label where it is measured, the second is noise."""
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), 2)
    y = np.repeat((random.random(n_patients) < 0.35).astype(float), 2)
    raw = np.stack([97 - 5 * y + random.normal(0, 1.5, len(y)), random.normal(80, 10, len(y))], axis=1)
    raw[random.random(len(y)) < 0.3] = np.nan
    return raw, y, patients


def test_trees_find_what_is_there_and_live_with_what_is_missing():
    raw, y, patients = measured()
    other, truth, _ = measured(seed=1)
    trees = fit_trees(raw, y, patients, seed=0)
    known = np.isfinite(other[:, 0])
    assert auroc(truth[known], trees.logits(other)[known]) > 0.95
    assert len(set(trees.logits(other)[~known])) == 1  # nothing measured, one answer
    assert trees.setting in SETTINGS
    assert len(trees.log_losses) == len(SETTINGS)
    assert np.argmin(trees.log_losses) == SETTINGS.index(trees.setting)
    assert np.array_equal(trees.logits(other), fit_trees(raw, y, patients, seed=0).logits(other))


def test_settings_are_chosen_over_patients_not_rows():
    """Noise that only names the patient: by rows it would look perfect, by patients it is worth nothing."""
    random = np.random.default_rng(2)
    patients = np.repeat(np.arange(120), 2)
    y = np.repeat((random.random(120) < 0.4).astype(float), 2)
    trees = fit_trees(np.repeat(random.normal(size=(120, 1)), 2, axis=0), y, patients, seed=0)
    of_prevalence = -(y.mean() * np.log(y.mean()) + (1 - y.mean()) * np.log(1 - y.mean()))
    assert min(trees.log_losses) > of_prevalence
    for rest, held in _folds(y, patients, 0):
        assert not set(patients[rest]) & set(patients[held])
        assert set(y[rest]) == {0.0, 1.0}


def test_a_stack_trusts_the_logit_that_knows():
    random = np.random.default_rng(3)
    patients, y = np.arange(400), (random.random(400) < 0.4).astype(float)
    knows, noise = 2 * (2 * y - 1) + random.normal(0, 2, 400), 30 * random.normal(size=400)
    stack = fit_stack(np.stack([noise, knows], axis=1), y, patients, seed=0)
    assert stack.penalty in PENALTIES
    assert abs(stack.weight_2[0]) * 30 < 0.3 * stack.weight_2[1] * knows.std()
    stacked = stack.logits(np.stack([noise, knows], axis=1))
    assert auroc(y, stacked) == pytest.approx(auroc(y, knows), abs=0.02)
    swapped = fit_stack(np.stack([knows, noise], axis=1), y, patients, seed=0)
    np.testing.assert_allclose(swapped.logits(np.stack([knows, noise], axis=1)), stacked, atol=1e-3)


def test_few_patients_of_a_class_give_fewer_folds_but_both_classes_in_each_fit():
    y = np.r_[np.ones(6), np.zeros(60)]
    patients = np.r_[[0, 0, 1, 1, 2, 2], np.arange(10, 70)]
    parts = _folds(y, patients, 0)
    assert 1 < len(parts) <= 3
    assert all(set(y[rest]) == {0.0, 1.0} for rest, _ in parts)
