import numpy as np
import pytest

from hilum.judgement.probing import logistic


def test_weights_are_where_the_penalised_likelihood_is_level():
    """The gradient of |w|^2 / 2 + C * weighted log loss, by hand, vanishes at what is fitted."""
    random = np.random.default_rng(0)
    y = (np.arange(200) % 5 == 0).astype(float)
    z = random.normal(size=(200, 3))
    z[:, 0] += y
    probes = np.vstack([np.zeros((1, 3)), np.eye(3)])  # scores there give bias and weights back
    for c, score in zip((0.1, 10.0), logistic.scores(z, y, probes, "binary", (0.1, 10.0)), strict=True):
        bias, w = score[0], score[1:] - score[0]
        weight = np.where(y == 1, 200 / (2 * y.sum()), 200 / (2 * (1 - y).sum()))
        slope = c * weight * (1 / (1 + np.exp(-(z @ w + bias))) - y)
        np.testing.assert_allclose(w + z.T @ slope, 0, atol=0.02 * c)
        assert slope.sum() == pytest.approx(0, abs=0.02 * c)


def test_a_number_is_asked_of_ridge_regression_in_its_unit():
    random = np.random.default_rng(1)
    z = random.normal(size=(80, 4))
    age = 50 + 10 * z[:, 0] + random.normal(size=80)
    for c, score in zip((0.05, 5.0), logistic.scores(z, age, z, "regression", (0.05, 5.0)), strict=True):
        mean, centred = z.mean(0), z - z.mean(0)
        w = np.linalg.solve(2 * c * centred.T @ centred + np.eye(4), 2 * c * centred.T @ (age - age.mean()))
        np.testing.assert_allclose(score, age.mean() + (z - mean) @ w, atol=1e-6)


def test_two_and_three_classes_have_a_column_each():
    random = np.random.default_rng(2)
    for n_classes in (2, 3):
        y = np.arange(90) % n_classes
        z = random.normal(size=(90, 3)) + 4 * np.eye(3)[y]
        (score,) = logistic.scores(z, y.astype(float), z, "multiclass", (30.0,))
        assert score.shape == (90, n_classes)
        assert (score.argmax(1) == y).mean() > 0.95
