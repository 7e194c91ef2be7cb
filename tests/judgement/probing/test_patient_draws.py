import hashlib

import numpy as np
import pandas as pd
import pytest

from hilum.judgement.probing import draws

FRACTIONS = (0.1, 1.0, 0.001)


@pytest.fixture
def patients():
    return pd.Series([f"p{i // 2:03d}" for i in range(400)])


def naive(patients, train, fraction, number, seed):
    """Sort the training patients by their hash, take the first."""
    names = sorted({patients[row] for row in train})
    names.sort(key=lambda name: hashlib.blake2b(f"{seed}/{number}/{name}".encode(), digest_size=16).digest())
    taken = set(names[: max(1, round(fraction * len(names)))])
    return [row for row in train if patients[row] in taken]


def test_draws_are_whole_patients_by_hash(patients):
    train = np.arange(100, 400)
    found = draws.draws(patients, train, FRACTIONS, 5, seed=3)
    assert [(draw.fraction, draw.number) for draw in found] == [
        *((0.001, k) for k in range(5)),
        *((0.1, k) for k in range(5)),
        (1.0, 0),
    ]
    for draw in found:
        assert list(draw.rows) == naive(patients, train, draw.fraction, draw.number, 3)
    assert [len(draw.rows) for draw in found] == [2] * 5 + [30] * 5 + [300]


def test_draws_are_nested_differ_and_do_not_depend_on_the_order_of_rows(patients):
    train = np.arange(400)
    found = {(draw.fraction, draw.number): set(draw.rows) for draw in draws.draws(patients, train, FRACTIONS, 5, 0)}
    for number in range(5):
        assert found[0.001, number] < found[0.1, number]
    assert len({frozenset(found[0.1, number]) for number in range(5)}) == 5
    other = {(draw.fraction, draw.number): set(draw.rows) for draw in draws.draws(patients, train, FRACTIONS, 5, 1)}
    assert other[0.1, 0] != found[0.1, 0]
    order = np.random.default_rng(0).permutation(400)
    moved = draws.draws(patients.iloc[order].reset_index(drop=True), train, FRACTIONS, 5, 0)
    for draw in moved:
        assert {int(order[row]) for row in draw.rows} == found[draw.fraction, draw.number]
    assert draws.digest_of(moved, order) == draws.digest_of(draws.draws(patients, train, FRACTIONS, 5, 0), train)
    assert draws.digest_of(moved, order) != draws.digest_of(draws.draws(patients, train, FRACTIONS, 5, 1), train)
