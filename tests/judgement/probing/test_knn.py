import math

import numpy as np
import pytest

from hilum.judgement.probing import knn


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return random.normal(size=(40, 3)), random.normal(size=(7, 3)), random.integers(0, 3, 40).astype(float)


def nearest(z, point, k):
    return sorted(range(len(z)), key=lambda i: sum((a - b) ** 2 for a, b in zip(z[i], point, strict=True)))[:k]


def test_votes_by_hand(rows):
    z, held, y = rows
    ill = (y == 2).astype(float)
    for k, binary, several in zip(
        (4, 9), knn.scores(z, ill, held, "binary", (4, 9)), knn.scores(z, y, held, "multiclass", (4, 9)), strict=True
    ):
        for point, one, each in zip(held, binary, several, strict=True):
            near = nearest(z, point, k)
            shares = [np.mean(y == name) for name in range(3)]
            expected = [math.log((sum(y[i] == name for i in near) / shares[name] + 1) / (k + 1)) for name in range(3)]
            assert list(each) == pytest.approx(expected)
            well = math.log((sum(y[i] != 2 for i in near) / (1 - shares[2]) + 1) / (k + 1))
            assert one == pytest.approx(expected[2] - well)


def test_a_number_is_the_mean_of_the_neighbours(rows):
    z, held, _ = rows
    age = np.random.default_rng(1).uniform(20, 90, 40)
    (score,) = knn.scores(z, age, held, "regression", (5,))
    assert list(score) == pytest.approx([np.mean([age[i] for i in nearest(z, point, 5)]) for point in held])


def test_more_neighbours_than_rows_are_all_rows(rows):
    z, held, y = rows
    (score,) = knn.scores(z, (y == 0).astype(float), held, "binary", (150,))
    np.testing.assert_allclose(score, 0, atol=1e-12)  # a neighbourhood that is the whole says nothing
