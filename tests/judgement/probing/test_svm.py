import numpy as np
import pytest
from sklearn.model_selection import GroupKFold
from sklearn.svm import SVC, SVR

from hilum.judgement.probing import svm
from hilum.ranking import auroc
from hilum.recipe import Probe

ONE = Probe(c_grid=(1.0,), scalings=("feature",))


def judge(truth, score, fold):
    return auroc(truth, score)


def mean_error(truth, score, fold):
    return -float(np.abs(truth - score).mean())


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    y = np.repeat(np.arange(60) % 2, 3).astype(float)
    z = random.normal(size=(180, 5)) * [1, 10, 100, 1, 1] + 7
    z[:, 1] += 12 * y
    z[:, 4] = 2.0  # never varies
    return z, y, np.repeat(np.arange(60), 3)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_equals_scikit_learn_on_standardised_features(rows, kernel):
    z, y, patients = rows
    found = svm.fit_and_score(z[:120], y[:120], patients[:120], z[120:], "binary", kernel, ONE, judge)
    live = z[:, :4]
    mean, sd = live[:120].mean(0), live[:120].std(0)
    fit, held = (live[:120] - mean) / sd, (live[120:] - mean) / sd
    # On features of unit variance: gamma="scale" is 1/D, and a linear C is C/D because lengths are divided by sqrt(D).
    reference = SVC(kernel=kernel, C=1.0 if kernel == "rbf" else 0.25, gamma=0.25, class_weight="balanced")
    np.testing.assert_allclose(found.score, reference.fit(fit, y[:120]).decision_function(held), atol=1e-3)


def test_regression_equals_scikit_learn_and_keeps_its_unit(rows):
    z, _, patients = rows
    age = 50 + z[:, 0] * 8
    found = svm.fit_and_score(z[:120], age[:120], patients[:120], z[120:], "regression", "rbf", ONE, mean_error)
    live = z[:, :4]
    fit, held = ((live[part] - live[:120].mean(0)) / live[:120].std(0) for part in (slice(0, 120), slice(120, None)))
    mean, sd = age[:120].mean(), age[:120].std()
    reference = SVR(C=1.0, gamma=0.25, epsilon=0.1).fit(fit, (age[:120] - mean) / sd).predict(held) * sd + mean
    np.testing.assert_allclose(found.score, reference, atol=0.05)
    assert np.corrcoef(found.score, age[120:])[0, 1] > 0.8


def test_whole_scaling_keeps_proportions(rows):
    z, _, _ = rows
    scaled = svm._scaler(z, "whole")(z)
    assert (scaled**2).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled.std(0) / scaled.std(0).max(), z.std(0) / z.std(0).max())
    each = svm._scaler(z, "feature")(z)
    assert (each**2).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(each[:, :4].std(0), 0.5)
    assert np.isfinite(svm._scaler(np.ones((4, 2)), "whole")(np.ones((4, 2)))).all()


def test_settings_are_those_of_a_naive_search_and_see_no_patient_twice(rows):
    z, _, patients = rows
    age = 50 + np.repeat(np.random.default_rng(1).normal(size=60), 3) * 10 + z[:, 0]  # a patient's rows are alike
    recipe = Probe(c_grid=(0.01, 1.0, 100.0), scalings=("feature", "whole"))
    found = svm.fit_and_score(z, age, patients, z[:1], "regression", "rbf", recipe, mean_error)
    errors = {}
    for scaling in recipe.scalings:
        for c in recipe.c_grid:
            score = np.zeros(len(z))
            for fit, held in GroupKFold(3).split(z, groups=patients):
                assert not set(patients[fit]) & set(patients[held])
                one = Probe(c_grid=(c,), scalings=(scaling,))
                part = svm.fit_and_score(z[fit], age[fit], patients[fit], z[held], "regression", "rbf", one, mean_error)
                score[held] = part.score
            errors[svm.Setting(scaling, c)] = np.abs(age - score).mean()
    assert found.setting == min(errors, key=lambda setting: errors[setting])


def test_two_and_three_classes_have_a_column_each():
    random = np.random.default_rng(0)
    for n_classes in (2, 3):
        y = np.repeat(np.arange(60) % n_classes, 2).astype(float)
        z = random.normal(size=(120, 4)) + 4 * np.eye(4)[y.astype(int)]
        found = svm.fit_and_score(z, y, np.repeat(np.arange(60), 2), z, "multiclass", "linear", ONE, judge)
        assert found.score.shape == (120, n_classes)
        assert (found.score.argmax(1) == y).mean() > 0.95


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_large_data_is_approximated_and_said(kernel, kind):
    random = np.random.default_rng(0)
    n = 600
    label = (random.random(n) < 0.5).astype(float)
    z = random.normal(size=(n, 6))
    z[:, 0] += 2 * label
    y = z[:, 1] * 10 + 60 if kind == "regression" else label
    patients = np.arange(n) // 2
    recipe = Probe(exact_rows=150, max_rows=300, c_grid=(0.1, 1.0), scalings=("feature",))
    worth = mean_error if kind == "regression" else lambda truth, score, fold: 0.0
    found = svm.fit_and_score(z, y, patients, z, kind, kernel, recipe, worth)
    assert "sample of 300 of 600" in found.notes[0]
    assert "more than 150" in found.notes[1]
    if kind == "regression":
        assert np.corrcoef(found.score, y)[0, 1] > 0.8
    else:
        score = found.score if kind == "binary" else found.score[:, 1]
        exact = Probe(exact_rows=1000, c_grid=(1.0,), scalings=("feature",))
        reference = svm.fit_and_score(z, y, patients, z, "binary", kernel, exact, judge).score
        assert auroc(label, score) == pytest.approx(auroc(label, reference), abs=0.05)


def test_samples_hold_whole_patients_and_keep_the_rare():
    patients = np.repeat(np.arange(1000), 3)
    y = (patients < 5).astype(float)
    rows = svm.sample_patients(patients, 300, 0, y)
    assert 300 <= len(rows) <= 303
    assert y[rows].sum() == 15
    assert (np.bincount(patients[rows])[np.unique(patients[rows])] == 3).all()
    np.testing.assert_array_equal(rows, svm.sample_patients(patients, 300, 0, y))
    np.testing.assert_array_equal(svm.sample_patients(patients, 3000, 0), np.arange(3000))


def test_a_rare_class_of_few_patients_still_gets_a_setting():
    random = np.random.default_rng(0)
    y = (np.arange(40) < 2).astype(float)  # two patients: an inner fold may lack the class
    z = random.normal(size=(40, 3))
    found = svm.fit_and_score(z, y, np.arange(40), z, "binary", "rbf", Probe(), judge)
    assert np.isfinite(found.score).all()
