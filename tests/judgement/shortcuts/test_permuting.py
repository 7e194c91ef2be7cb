"""Permutations of patients within strata, and the corrections that they allow."""

import numpy as np
import pytest

from hilum.judgement.shortcuts.permuting import donors, p_value, together


def cohort(seed=0, n_patients=40):
    random = np.random.default_rng(seed)
    images = random.integers(1, 5, n_patients)
    patient = np.repeat(np.arange(n_patients), images)
    stratum = random.integers(0, 2, len(patient))
    return patient, stratum, random


def test_each_row_takes_from_its_own_stratum_of_one_donor_with_the_same_kind_of_rows():
    patient, stratum, _ = cohort()
    kind = {p: frozenset(stratum[patient == p]) for p in np.unique(patient)}
    for donor in donors(patient, stratum, 20, seed=1):
        assert (stratum[donor] == stratum).all()
        for p in np.unique(patient):
            given = np.unique(patient[donor[patient == p]])
            assert len(given) == 1
            assert kind[given[0]] == kind[p]


def test_every_patient_is_a_donor_once_and_what_is_constant_in_a_patient_stays_so():
    patient, stratum, random = cohort(3)
    site = random.integers(0, 3, patient.max() + 1)[patient]
    for donor in donors(patient, stratum, 10, seed=2):
        firsts = [patient[donor[patient == p][0]] for p in np.unique(patient)]
        assert sorted(firsts) == list(range(patient.max() + 1))
        dealt = site[donor]
        assert all(len(np.unique(dealt[patient == p])) == 1 for p in np.unique(patient))


def test_a_shorter_donor_is_read_again_from_the_front_in_its_order():
    patient = np.array([0, 0, 0, 0, 0, 1, 1])
    for donor in donors(patient, np.zeros(7, dtype=int), 30, seed=0):
        if donor[0] >= 5:
            begin = donor[0] - 5
            assert list(donor[:5] - 5) == [(begin + k) % 2 for k in range(5)]
            return
    pytest.fail("two patients were never exchanged in 30 permutations")


def test_the_same_seed_gives_the_same_permutations_and_another_gives_others():
    patient, stratum, _ = cohort()
    one, same, other = (np.stack(list(donors(patient, stratum, 5, seed))) for seed in (7, 7, 8))
    assert (one == same).all()
    assert (one != other).any()


def test_p_counts_the_observed_value_among_the_permutations():
    assert p_value(3.0, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(3 / 5)
    assert p_value(9.0, np.zeros(99)) == pytest.approx(1 / 100)


def test_together_is_the_share_of_permutations_whose_most_extreme_test_reaches():
    random = np.random.default_rng(0)
    null, observed = random.normal([0, 5, 1], [1, 3, 0.1], (200, 3)), np.array([2.5, 6.0, np.nan])
    found = together(observed, null)
    z = (null[:, :2] - null[:, :2].mean(axis=0)) / null[:, :2].std(axis=0)
    for m in range(2):
        mine = (observed[m] - null[:, m].mean()) / null[:, m].std()
        reached = sum(max(row) >= mine for row in z)
        assert found[m] == pytest.approx((1 + reached) / 201)
    assert np.isnan(found[2])


def test_together_holds_its_level_over_many_tests():
    false_alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        shared = random.normal(size=(200, 1))
        values = 0.5 * shared + random.normal(size=(200, 12))
        false_alarms += together(values[0], values[1:]).min() <= 0.05
    assert 1 <= false_alarms <= 20  # 10 expected of 200; 3 standard deviations are 9
