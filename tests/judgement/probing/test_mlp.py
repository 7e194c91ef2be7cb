import numpy as np
import pytest

from hilum.judgement.probing import mlp
from hilum.judgement.probing.svm import scaler
from hilum.ranking import auroc


@pytest.fixture(scope="module")
def crossed():
    """The label is the sign of a product: no line parts the classes."""
    random = np.random.default_rng(0)
    z = random.normal(size=(600, 2))
    z = scaler(z, "feature")(z)
    return z, (z[:, 0] * z[:, 1] > 0).astype(float)


def test_learns_what_no_line_parts(crossed):
    z, y = crossed
    (score,) = mlp.scores(z[:400], y[:400], z[400:], "binary", [(0.01, 100)], 0)
    assert auroc(y[400:], score) > 0.9


def test_budgets_of_one_training_equal_trainings_of_their_own(crossed):
    z, y = crossed
    grid = [(0.01, 2), (0.01, 5), (1.0, 5)]
    together = mlp.scores(z[:200], y[:200], z[200:220], "binary", grid, 0)
    for point, score in zip(grid, together, strict=True):
        np.testing.assert_array_equal(score, mlp.scores(z[:200], y[:200], z[200:220], "binary", [point], 0)[0])
    assert np.abs(together[0] - together[1]).max() > 0
    assert np.abs(together[1] - together[2]).max() > 0


def test_numbers_keep_their_unit_and_classes_have_a_column_each(crossed):
    z, _ = crossed
    age = 50 + 10 * z[:, 0] * np.sqrt(2)
    (score,) = mlp.scores(z[:400], age[:400], z[400:], "regression", [(0.01, 50)], 0)
    assert np.abs(score - age[400:]).mean() < 4
    thirds = np.digitize(z[:, 1], [-0.3, 0.3]).astype(float)
    (score,) = mlp.scores(z[:400], thirds[:400], z[400:], "multiclass", [(0.01, 50)], 0)
    assert score.shape == (200, 3)
    assert (score.argmax(1) == thirds[400:]).mean() > 0.7


def test_budgets_end_where_they_cost_too_many_steps():
    assert mlp.budgets(100) == mlp.EPOCHS
    assert mlp.budgets(20_000) == (1, 2, 5, 10, 20)
    assert mlp.budgets(10_000_000) == (1,)
    for n in (500, 20_000, 180_000):
        assert mlp.budgets(n)[-1] * -(-n // mlp.BATCH) <= mlp.MAX_STEPS
