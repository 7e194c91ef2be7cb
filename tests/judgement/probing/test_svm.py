import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

from hilum.judgement.probing import machines, svm
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
    found = machines.fit_and_score(z[:120], y[:120], patients[:120], z[120:], "binary", kernel, ONE, judge)
    live = z[:, :4]
    mean, sd = live[:120].mean(0), live[:120].std(0)
    fit, held = (live[:120] - mean) / sd, (live[120:] - mean) / sd
    # On features of unit variance: gamma="scale" is 1/D, and a linear C is C/D because lengths are divided by sqrt(D).
    reference = SVC(kernel=kernel, C=1.0 if kernel == "rbf" else 0.25, gamma=0.25, class_weight="balanced")
    np.testing.assert_allclose(found.score, reference.fit(fit, y[:120]).decision_function(held), atol=1e-3)


def test_regression_equals_scikit_learn_and_keeps_its_unit(rows):
    z, _, patients = rows
    age = 50 + z[:, 0] * 8
    found = machines.fit_and_score(z[:120], age[:120], patients[:120], z[120:], "regression", "rbf", ONE, mean_error)
    live = z[:, :4]
    fit, held = ((live[part] - live[:120].mean(0)) / live[:120].std(0) for part in (slice(0, 120), slice(120, None)))
    mean, sd = age[:120].mean(), age[:120].std()
    reference = SVR(C=1.0, gamma=0.25, epsilon=0.1).fit(fit, (age[:120] - mean) / sd).predict(held) * sd + mean
    np.testing.assert_allclose(found.score, reference, atol=0.05)
    assert np.corrcoef(found.score, age[120:])[0, 1] > 0.8


def test_whole_scaling_keeps_proportions(rows):
    z, _, _ = rows
    scaled = svm.scaler(z, "whole")(z)
    assert (scaled**2).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled.std(0) / scaled.std(0).max(), z.std(0) / z.std(0).max())
    each = svm.scaler(z, "feature")(z)
    assert (each**2).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(each[:, :4].std(0), 0.5)
    assert np.isfinite(svm.scaler(np.ones((4, 2)), "whole")(np.ones((4, 2)))).all()


def test_two_and_three_classes_have_a_column_each():
    random = np.random.default_rng(0)
    for n_classes in (2, 3):
        y = np.repeat(np.arange(60) % n_classes, 2).astype(float)
        z = random.normal(size=(120, 4)) + 4 * np.eye(4)[y.astype(int)]
        found = machines.fit_and_score(z, y, np.repeat(np.arange(60), 2), z, "multiclass", "linear", ONE, judge)
        assert found.score.shape == (120, n_classes)
        assert (found.score.argmax(1) == y).mean() > 0.95


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_the_approximation_is_the_primal_machine_on_all_rows(kernel, kind, monkeypatch):
    """Against liblinear, on the embedding or on scikit-learn's own Nystroem features of every row."""
    monkeypatch.setattr(svm, "LANDMARKS", 40)
    random = np.random.default_rng(0)
    z = random.normal(size=(500, 6))
    y = np.digitize(z[:, 0] + 0.5 * random.normal(size=500), [-0.5, 0.8]).astype(float)
    y = {"binary": (y == 2).astype(float), "multiclass": y, "regression": 60 + 10 * z[:, 1]}[kind]
    z = svm.scaler(z, "feature")(z)
    fit, held = z[:400], z[400:]
    found = svm.approximate(fit, y[:400], held, kind, kernel, (0.1, 10.0), seed=3)
    if kernel == "rbf":
        mapping = Nystroem(kernel="rbf", gamma=1.0, n_components=40, random_state=3).fit(fit)
        fit, held = mapping.transform(fit), mapping.transform(held)
    for c, scores in zip((0.1, 10.0), found, strict=True):
        if kind == "regression":
            mean, sd = y[:400].mean(), y[:400].std()
            loss = "squared_epsilon_insensitive"
            reference = LinearSVR(C=c, epsilon=svm.EPSILON_SD, loss=loss, dual=False, tol=1e-8, max_iter=10_000)
            expected = reference.fit(fit, (y[:400] - mean) / sd).predict(held) * sd + mean
        else:
            names = [1] if kind == "binary" else [0, 1, 2]
            machine = LinearSVC(C=c, class_weight="balanced", dual=False, tol=1e-8, max_iter=10_000)
            each = [machine.fit(fit, y[:400] == name).decision_function(held) for name in names]
            expected = each[0] if kind == "binary" else np.stack(each, axis=1)
        np.testing.assert_allclose(scores, expected, atol=0.02 * np.abs(expected).max())


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
    recipe = Probe(exact_rows=150, c_grid=(0.1, 1.0), scalings=("feature",))
    worth = mean_error if kind == "regression" else lambda truth, score, fold: 0.0
    found = machines.fit_and_score(z, y, patients, z, kind, kernel, recipe, worth)
    assert len(found.notes) == 1, "no sample is fitted on unless a limit is asked for"
    assert "more than 150" in found.notes[0]
    if kind == "regression":
        assert np.corrcoef(found.score, y)[0, 1] > 0.8
    else:
        score = found.score if kind == "binary" else found.score[:, 1]
        exact = Probe(exact_rows=1000, c_grid=(1.0,), scalings=("feature",))
        reference = machines.fit_and_score(z, y, patients, z, "binary", kernel, exact, judge).score
        assert auroc(label, score) == pytest.approx(auroc(label, reference), abs=0.05)


def test_beyond_the_exact_rows_every_row_is_fitted_on():
    """A patient whom the sample of 100 leaves out still moves the scores."""
    random = np.random.default_rng(0)
    z, y, patients = random.normal(size=(400, 4)), np.arange(400) % 2.0, np.arange(400)
    recipe = Probe(exact_rows=100, c_grid=(1.0,), scalings=("feature",))
    sampled = machines.sample_patients(patients, 100, recipe.seed, y)
    outside = np.setdiff1d(patients, sampled)[:1]
    for kernel in ("linear", "rbf"):
        one = machines.fit_and_score(z, y, patients, z[:50], "binary", kernel, recipe, judge)
        moved = z.copy()
        moved[outside] += 5
        two = machines.fit_and_score(moved, y, patients, z[:50], "binary", kernel, recipe, judge)
        assert np.abs(one.score - two.score).max() > 1e-3
