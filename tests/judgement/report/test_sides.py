import itertools

import numpy as np
import pandas as pd
import pytest

from hilum.judgement.report.sides import Sides, united


def test_two_sets_are_dealt_out_by_whole_patient():
    patients = np.array(["a", "a", "b", "c", "c", "c", "d"])
    sides = Sides.parted(np.isin(patients, ["c"]), patients)
    assert sides.n_rows == (4, 3)
    assert sides.n_patients == (3, 1)
    before, now = sides.deals(400, seed=0)
    assert (before ^ now).all()
    seen = {"".join(np.unique(patients[row])) for row in now}
    assert seen == {"a", "b", "c", "d"}  # one patient at a time, with all its rows, and each of them
    assert all((row[patients == one] == row[patients == one][0]).all() for row in now for one in "abcd")
    counts = [sum(bool(row[patients == one].all()) for row in now) for one in "abcd"]
    assert min(counts) > 70  # 100 expected; 4 standard deviations are 35
    again = sides.deals(400, seed=0)
    np.testing.assert_array_equal(again[1], now)


def test_where_a_patient_lies_is_dealt_out_and_a_mixed_one_changes_sides_as_a_whole():
    """a is in both sets, b in the reference, c in the current set; of d each set has a row of its own."""
    sides = Sides(
        np.array([True, True, False, True, False]),
        np.array([True, False, True, False, True]),
        np.array([0, 1, 2, 3, 3]),
    )
    assert sides.n_moved == 3
    before, now = sides.deals(300, seed=1)
    seen = {tuple(zip(b, n, strict=True)) for b, n in zip(before.tolist(), now.tolist(), strict=True)}
    both, first, second = (True, True), (True, False), (False, True)
    expected = {
        (*order, *mixed)
        for order in itertools.permutations((both, first, second))
        for mixed in ((first, second), (second, first))
    }
    assert seen == expected


def test_a_sample_is_of_whole_patients_and_loses_no_small_set():
    patients = np.repeat(np.arange(1000), 4)
    sides = Sides.parted(patients < 10, patients)
    chosen = sides.sample(400, seed=0)
    assert 390 <= len(chosen) <= 400
    assert (np.diff(chosen) > 0).all()
    assert set(np.bincount(patients[chosen])) == {0, 4}
    assert set(range(10)) <= set(patients[chosen])  # all of the small set
    taken = sides.take(chosen)
    assert taken.n_patients == (len(chosen) // 4 - 10, 10)
    np.testing.assert_array_equal(sides.sample(4000, seed=0), np.arange(4000))
    halves = Sides.parted(patients < 500, patients)
    assert halves.take(halves.sample(400, seed=3)).n_rows == (200, 200)


def test_what_both_sets_have_alike_is_one_row():
    before = pd.DataFrame({"image_id": ["1", "2", "3"], "patient_id": ["a", "a", "b"], "x": [1.0, np.nan, 3.0]})
    now = pd.DataFrame({"image_id": ["4", "2", "3"], "patient_id": ["c", "a", "b"], "x": [4.0, np.nan, 3.5]})
    chosen, sides = united(before, now, ["x"])
    np.testing.assert_array_equal(chosen, [0, 1, 2, 3, 5])  # image 2 once, image 3 twice: it was changed
    np.testing.assert_array_equal(sides.before_N, [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(sides.now_N, [0, 1, 0, 1, 1])
    np.testing.assert_array_equal(sides.patient_N, [0, 0, 1, 2, 1])
    assert united(before, before, ["x"])[1].n_moved == 0


@pytest.mark.parametrize("seed", range(3))
def test_deals_keep_how_many_patients_lie_where(seed):
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(60), random.integers(1, 5, 60))
    kind = random.integers(1, 4, 60)
    sides = Sides((kind[patients] & 1).astype(bool), (kind[patients] & 2).astype(bool), patients)
    for before, now in zip(*sides.deals(20, seed), strict=True):
        dealt = Sides(before, now, patients)
        assert dealt.n_patients == sides.n_patients
        assert dealt.n_moved == sides.n_moved
