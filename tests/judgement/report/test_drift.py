import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from hilum.judgement.report import drift
from hilum.judgement.report.sides import Sides


def table(n_patients=60, images_each=5, seed=0):
    """Numbers and levels that belong to the patient: its images are all alike."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), images_each)
    frame = pd.DataFrame(
        {"age_years": random.normal(60, 12, n_patients)[patient], "sex": random.choice(["F", "M"], n_patients)[patient]}
    )
    return frame, Sides.parted(patient % 4 == 0, patient)


def between(before, now):
    """Distance between two samples."""
    sides = Sides.parted(np.arange(len(before) + len(now)) >= len(before), np.arange(len(before) + len(now)))
    return drift.distance(pd.concat([before, now], ignore_index=True), sides)


def test_distance_of_numbers_is_the_area_between_the_distribution_functions():
    random = np.random.default_rng(1)
    before, now = pd.Series(random.normal(0, 2, 70)), pd.Series(random.normal(1, 3, 50))
    at = np.sort(np.r_[before, now])
    area = sum(
        abs((before <= left).mean() - (now <= left).mean()) * (right - left) for left, right in itertools.pairwise(at)
    )
    assert between(before, now) == pytest.approx(area / np.std(before))


def test_distance_of_levels_is_the_jensen_shannon_distance():
    before, now = pd.Series(["a"] * 6 + ["b"] * 4), pd.Series(["a"] * 2 + ["b"] * 3 + ["c"] * 5)
    p, q = np.array([0.6, 0.4, 0.0]), np.array([0.2, 0.3, 0.5])
    m = (p + q) / 2
    divergence = 0.5 * sum(
        float(np.sum(x[x > 0] * np.log(x[x > 0] / m[x > 0]))) for x in (p, q)
    )  # Lin 1991, equation 3.3, in nats
    assert between(before, now) == pytest.approx(np.sqrt(divergence))
    assert between(now, now) == 0.0


def test_unknown_numbers_take_no_part_and_many_partings_are_each_their_own():
    random = np.random.default_rng(2)
    column = pd.Series(random.normal(size=60)).mask(random.random(60) < 0.3)
    current = random.random((4, 60)) < 0.4
    current[3] = column.isna()  # nothing known on one side
    found = drift.distances(column, ~current, current)
    for row in range(3):
        before, now = column[~current[row]].dropna(), column[current[row]].dropna()
        assert found[row] == pytest.approx(wasserstein_distance(before, now) / np.std(before))
    assert np.isnan(found[3])


def test_the_limit_allows_for_images_that_belong_together():
    frame, sides = table()
    together = drift.limits(frame, sides, 0.1, 0)
    apart = drift.limits(frame, Sides.parted(sides.now_N, np.arange(len(frame))), 0.1, 0)
    for name in frame.columns:
        assert together[name] > 1.3 * apart[name]


def test_patients_split_at_random_seldom_drift():
    """A fixed limit alone would cry drift at nearly every column of a few patients split at random."""
    beyond_chance = beyond_fixed = 0
    for seed in range(4):
        frame, sides = table(n_patients=40, images_each=4, seed=seed)
        limits = drift.limits(frame, sides, 0.1, seed)
        measured = {name: drift.distance(frame[name], sides) for name in limits}
        beyond_chance += sum(measured[name] >= limits[name] for name in limits)
        beyond_fixed += measured["age_years"] >= 0.1
    assert beyond_fixed == 4
    assert beyond_chance <= 2


def test_a_shift_by_one_standard_deviation_is_drift():
    frame, sides = table(n_patients=160, images_each=2)
    frame["age_years"] += 12 * sides.now_N
    limit = drift.limits(frame, sides, 0.1, 0)["age_years"]
    assert drift.distance(frame["age_years"], sides) > 1.5 * limit


def test_what_no_deal_can_change_is_not_beyond_chance():
    """One patient with other values in each set: swapping its rows gives the same distance again."""
    frame = pd.DataFrame({"sex": ["F"] * 30 + ["M"] * 30})
    sides = Sides(np.arange(60) < 30, np.arange(60) >= 30, np.zeros(60, dtype=int))
    limit = drift.limits(frame, sides, 0.1, 0)["sex"]
    measured = drift.distance(frame["sex"], sides)
    assert measured == pytest.approx(np.sqrt(np.log(2)))  # nothing in common
    assert measured < limit


def test_columns_hold_nothing_that_names_an_image_or_a_patient():
    manifest = pd.DataFrame(
        {
            "image_id": [f"secret{i}" for i in range(40)],
            "patient_id": [f"secret{i // 2}" for i in range(40)],
            "study_id": "secret",
            "age_years": np.linspace(20, 80, 40),
            "sex": ["F", "M", np.nan, "M"] * 10,
            "view": "PA",
            "site": "A",
            "o2_saturation_pct": [np.nan, 95.0] * 20,
            "pneumonia": [1.0, 0.0, -1.0, np.nan] * 10,
        }
    )
    found = drift.columns(manifest, ["o2_saturation_pct"], ["pneumonia"])
    assert list(found) == ["age_years", "o2_saturation_pct", "sex", "view", "site", "pneumonia"]
    assert "secret" not in found.to_csv()
    assert list(found["pneumonia"][:4]) == ["present", "absent", "uncertain", "unknown"]
    assert list(found["sex"][:3]) == ["F", "M", "unknown"]
    sides = Sides.parted(np.arange(40) >= 20, np.arange(40) // 2)
    kept, left = drift.comparable(found, sides)
    assert kept == ["age_years"]
    assert left["o2_saturation_pct"].startswith("insufficient data: 10 known")
    assert left["view"] == "the same everywhere"
