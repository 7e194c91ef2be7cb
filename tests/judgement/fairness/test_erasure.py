import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hilum.errors import CheckFailed
from hilum.judgement.fairness import erasure


def embeddings(n=600, d=12, levels=3, rank=None, seed=0):
    """Correlated features that tell `levels` groups, of full rank or of less."""
    random = np.random.default_rng(seed)
    level = random.integers(0, levels, n)
    inner = random.normal(size=(n, rank or d)) + 2.0 * random.normal(size=(levels, rank or d))[level]
    return inner @ random.normal(size=(rank or d, d)) + random.normal(size=d) * 5, level


def naive(z, level):
    """r(x) = x - W+ P W (x - mu), each matrix made as the paper writes it."""
    n = len(z)
    x = z - z.mean(axis=0)
    onehot = np.stack([(level == name).astype(float) for name in np.unique(level)], axis=1)
    covariance = x.T @ x / n
    cross = x.T @ (onehot - onehot.mean(axis=0)) / n
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-10 * values.max()
    w = sum(np.outer(v, v) / np.sqrt(value) for value, v in zip(values[kept], vectors.T[kept], strict=True))
    whitened = w @ cross
    p = whitened @ np.linalg.pinv(whitened, rcond=1e-8)
    return z - x @ (np.linalg.pinv(w, rcond=1e-8) @ p @ w).T


@pytest.mark.parametrize(("rank", "n"), [(None, 600), (5, 600), (None, 9)], ids=["full", "deficient", "few rows"])
def test_it_is_the_formula_of_the_paper(rank, n):
    z, level = embeddings(n=n, rank=rank)
    np.testing.assert_allclose(erasure.fit(z, level)(z), naive(z, level), atol=1e-7 * np.abs(z).max())


@pytest.mark.parametrize("rank", [None, 5])
def test_nothing_of_the_attribute_is_left_and_erasing_twice_is_erasing_once(rank):
    z, level = embeddings(rank=rank)
    eraser = erasure.fit(z, level)
    erased = eraser(z)
    onehot = np.eye(3)[level]
    cross = (erased - erased.mean(axis=0)).T @ (onehot - onehot.mean(axis=0)) / len(z)
    assert np.abs(cross).max() < 1e-8 * z.std()
    np.testing.assert_allclose(eraser(erased), erased, atol=1e-9 * np.abs(z).max())
    np.testing.assert_allclose(erased.mean(axis=0), z.mean(axis=0))
    again = erasure.fit(erased, level)
    np.testing.assert_allclose(again(erased), erased, atol=1e-8 * np.abs(z).max())


def test_no_linear_probe_tells_the_attribute_afterwards():
    z, level = embeddings(levels=2)
    before = LogisticRegression(max_iter=5000).fit(z, level)
    assert roc_auc_score(level, before.decision_function(z)) > 0.95
    erased = erasure.fit(z, level)(z)
    after = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(erased, level)
    # With equal class means the constant probe is the best: theorem 3.4 of the paper.
    assert np.abs(erased @ after.coef_[0] - (erased @ after.coef_[0]).mean()).max() < 1e-6
    gap = erased[level == 1].mean(axis=0) - erased[level == 0].mean(axis=0)
    assert np.abs(gap).max() < 1e-9 * np.abs(z).max()


def test_what_does_not_tell_the_attribute_stays():
    random = np.random.default_rng(1)
    level = random.integers(0, 2, 4000)
    z = random.normal(size=(4000, 6))
    z[:, 0] += 3 * level
    erased = erasure.fit(z, level)(z)
    moved = np.abs(erased - z).mean(axis=0)
    assert moved[0] > 10 * moved[1:].max()


def test_a_feature_of_tiny_scale_is_erased_too():
    z, level = embeddings(levels=2)
    z[:, 3] = 1e-7 * (level + 0.1 * np.random.default_rng(0).normal(size=len(z)))
    z[:, 4] = 7.0  # never varies
    erased = erasure.fit(z, level)(z)
    gap = np.abs(erased[level == 1].mean(axis=0) - erased[level == 0].mean(axis=0))
    assert gap[3] < 1e-6 * 1e-7
    assert (erased[:, 4] == 7.0).all()


def test_an_erased_embedding_can_be_folded_into_a_linear_score():
    z, level = embeddings()
    eraser = erasure.fit(z, level)
    weight, bias = np.random.default_rng(2).normal(size=12), 0.3
    folded, shifted = eraser.folded(weight, bias)
    np.testing.assert_allclose(eraser(z) @ weight + bias, z @ folded + shifted, atol=1e-9 * np.abs(z).max())


def test_names_of_levels_are_as_good_as_numbers_and_one_level_is_refused():
    z, level = embeddings(levels=2)
    np.testing.assert_array_equal(erasure.fit(z, level)(z), erasure.fit(z, np.array(["F", "M"])[level])(z))
    with pytest.raises(CheckFailed, match="1 known level"):
        erasure.fit(z, np.zeros(len(z)))


def test_an_attribute_that_is_not_told_moves_nothing():
    z = np.tile(np.random.default_rng(3).normal(size=(50, 4)), (2, 1))
    level = np.repeat([0, 1], 50)  # both levels have the very same embeddings
    np.testing.assert_allclose(erasure.fit(z, level)(z), z, atol=1e-12)
