import itertools

import numpy as np
import pandas as pd
import pytest

from hilum.errors import UsageError
from hilum.judgement.fairness import groups
from hilum.judgement.fairness import tables as fairness
from hilum.recipe import Audit

RECIPE = Audit(bootstrap=200, min_group=5)
THRESHOLD = 0.5


def people(n_each=60, images_each=2, seed=0, miss=0.0):
    """Two groups of patients with a score that ranks the finding; `miss` is how much lower group B's score is."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(2 * n_each), images_each)
    group = np.where(patient < n_each, "A", "B")
    truth = np.repeat(random.random(2 * n_each) < 0.5, images_each).astype(float)
    score = 0.35 + 0.3 * truth - miss * truth * (group == "B") + random.normal(0, 0.12, len(patient))
    return truth, np.clip(score, 0, 1), pd.DataFrame({"group": group}), pd.Series(patient.astype(str))


def naive(truth, probability, decided):
    """Every metric from its definition, by counting."""
    pairs = [
        (p > q) + 0.5 * (p == q)
        for (y, p), (x, q) in itertools.product(zip(truth, probability, strict=True), repeat=2)
        if y == 1 and x == 0
    ]
    tp = sum(1 for y, d in zip(truth, decided, strict=True) if y == 1 and d)
    fp = sum(1 for y, d in zip(truth, decided, strict=True) if y == 0 and d)
    positive, n = sum(1 for y in truth if y == 1), len(truth)
    tpr, fpr = tp / positive, fp / (n - positive)
    return {
        "auroc": sum(pairs) / len(pairs),
        "balanced_accuracy": (tpr + 1 - fpr) / 2,
        "tpr": tpr,
        "fnr": 1 - tpr,
        "fpr": fpr,
        "ppv": tp / (tp + fp),
        "selection_rate": (tp + fp) / n,
    }


def test_every_metric_of_every_group_is_its_definition():
    truth, probability, member, patients = people()
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    for name in ("A", "B"):
        chosen = (member["group"] == name).to_numpy()
        expected = naive(truth[chosen], probability[chosen], probability[chosen] >= THRESHOLD)
        rows = found[found["group"] == name].set_index("metric")
        assert set(rows.index) == set(fairness.METRICS) == set(expected)
        for metric, value in expected.items():
            assert rows.loc[metric, "value"] == pytest.approx(value), metric
            assert rows.loc[metric, "low"] < value < rows.loc[metric, "high"]
        assert (rows["n"] == 120).all()
        assert (rows["n_patients"] == 60).all()
        assert (rows["n_positive"] == truth[chosen].sum()).all()


def test_the_weighted_metrics_of_the_bootstrap_are_those_of_fairlearn():
    truth, probability, member, patients = people(seed=3)
    cases = fairness._cases(truth, probability, THRESHOLD, member, patients)
    exact = fairness._by_group(cases, "group")
    rows = (cases["group"] == "A").to_numpy()
    y, p, d = (cases[name].to_numpy()[rows] for name in ("truth", "probability", "decided"))
    doubled = np.repeat(np.arange(len(y)), 2)  # every image twice is the same as weight 2
    for metric in fairness.METRICS:
        once = fairness._weighted(metric, np.full((1, len(y)), 2.0), y, p, d)[0]
        assert once == pytest.approx(exact.loc["A", metric])
        twice = fairness._weighted(metric, np.ones((1, 2 * len(y))), y[doubled], p[doubled], d[doubled])[0]
        assert twice == pytest.approx(once)


def test_intervals_widen_when_images_belong_to_fewer_patients():
    truth, probability, member, patients = people(n_each=80, images_each=4)
    probability = np.repeat(probability[::4], 4)  # all images of a patient agree: four of them tell no more than one
    one_each = pd.Series(np.arange(len(truth)).astype(str))
    width = {}
    for name, of in (("patient", patients), ("image", one_each)):
        rows = fairness.table(truth, probability, THRESHOLD, member, of, RECIPE)
        chosen = rows[(rows["group"] == "A") & (rows["metric"] == "tpr")].iloc[0]
        width[name] = chosen["high"] - chosen["low"]
    assert width["patient"] > 1.5 * width["image"]


def test_a_group_too_small_is_blank_and_says_why():
    truth, probability, member, patients = people()
    member.loc[patients.isin(["0", "1", "2"]), "group"] = "C"
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    small = found[found["group"] == "C"]
    assert len(small) == len(fairness.METRICS)
    assert small[["value", "low", "high"]].isna().all(axis=None)
    assert small["note"].str.startswith("insufficient data").all()
    assert (small["n"] == 6).all()
    assert found.loc[found["group"] == "A", "value"].notna().all()


def test_many_images_of_few_patients_are_still_too_few():
    truth, probability, member, patients = people(n_each=4, images_each=50)
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    assert found.loc[found["group"] == "A", "value"].isna().all()
    assert (found.loc[found["group"] == "A", "n"] == 200).all()


def test_a_group_with_one_class_is_blank_not_zero_or_one():
    truth, probability, member, patients = people()
    truth[(member["group"] == "B").to_numpy()] = 0.0
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    assert found.loc[found["group"] == "B", "value"].isna().all()
    gap = fairness.gaps(truth, probability, THRESHOLD, member, patients, RECIPE)
    assert gap["value"].isna().all()
    assert gap["note"].str.startswith("insufficient data").all()


def test_rows_of_unknown_truth_take_no_part():
    truth, probability, member, patients = people()
    hidden = truth.copy()
    hidden[:40] = np.nan
    found = fairness.table(hidden, probability, THRESHOLD, member, patients, RECIPE)
    expected = fairness.table(
        truth[40:], probability[40:], THRESHOLD, member[40:].reset_index(drop=True), patients[40:], RECIPE
    )
    pd.testing.assert_frame_equal(found, expected)


def test_a_rate_of_one_has_an_interval_with_width():
    truth, probability, member, patients = people()
    probability = np.where(truth == 1, 0.9, probability)
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    caught = found[(found["group"] == "A") & (found["metric"] == "tpr")].iloc[0]
    assert caught["value"] == 1.0
    assert 0.8 < caught["low"] < 1.0
    assert caught["note"] == "Wilson interval"


def test_ppv_without_a_positive_call_is_undefined():
    truth, probability, member, patients = people()
    found = fairness.table(truth, probability, 1.1, member, patients, RECIPE)
    ppv = found[(found["group"] == "A") & (found["metric"] == "ppv")].iloc[0]
    assert np.isnan(ppv["value"])
    assert "called positive" in ppv["note"]
    assert (found.loc[found["metric"] == "selection_rate", "value"] == 0).all()


def test_gaps_are_the_largest_differences():
    truth, probability, member, patients = people(miss=0.15)
    by_group = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    values = by_group[by_group["attribute"] == "group"].pivot_table(index="group", columns="metric", values="value")
    difference = (values.loc["A"] - values.loc["B"]).abs()
    found = fairness.gaps(truth, probability, THRESHOLD, member, patients, RECIPE).set_index("metric")["value"]
    assert found["auroc"] == pytest.approx(difference["auroc"])
    assert found["demographic_parity"] == pytest.approx(difference["selection_rate"])
    assert found["equal_opportunity"] == pytest.approx(difference["tpr"])
    assert found["equalized_odds"] == pytest.approx(max(difference["tpr"], difference["fpr"]))


def test_a_planted_gap_is_found_and_named():
    truth, probability, member, patients = people(n_each=150, miss=0.2)
    row = fairness.gaps(truth, probability, THRESHOLD, member, patients, RECIPE).set_index("metric")
    assert row.loc["equal_opportunity", "low"] > 0.3
    assert row.loc["equal_opportunity", "note"] == "lowest tpr: B, highest: A"


def test_equal_groups_rarely_show_a_gap_however_many_there_are():
    """The bootstrap's own percentiles of a largest difference would lie above zero nearly every time."""
    above = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        truth = (random.random(300) < 0.5).astype(float)
        probability = np.clip(0.4 + 0.2 * truth + random.normal(0, 0.2, 300), 0, 1)
        member = pd.DataFrame({"group": np.arange(300) % 5}).astype(str)
        found = fairness.gaps(
            truth, probability, THRESHOLD, member, pd.Series(np.arange(300).astype(str)), Audit(bootstrap=100)
        )
        above += int((found.loc[found["metric"] == "equal_opportunity", "low"] > 0).sum())
    assert above <= 1


def test_the_unknown_group_is_shown_but_parts_no_gap():
    truth, probability, member, patients = people(miss=0.0)
    extra = people(n_each=30, seed=9, miss=0.3)
    member = pd.concat([member, extra[2].assign(group=groups.UNKNOWN)], ignore_index=True)
    truth, probability = np.r_[truth, extra[0]], np.r_[probability, np.zeros(len(extra[1]))]
    patients = pd.concat([patients, "x" + extra[3]], ignore_index=True)
    assert groups.UNKNOWN in set(fairness.table(truth, probability, 0.5, member, patients, RECIPE)["group"])
    found = fairness.gaps(truth, probability, 0.5, member, patients, RECIPE)
    assert (found["n_groups"] == 2).all()
    assert found.loc[found["metric"] == "equal_opportunity", "value"].iloc[0] < 0.3


def test_the_same_seed_gives_the_same_table():
    case = (*people()[:2], THRESHOLD, *people()[2:], RECIPE)
    pd.testing.assert_frame_equal(fairness.table(*case), fairness.table(*case))
    pd.testing.assert_frame_equal(fairness.gaps(*case), fairness.gaps(*case))


def test_age_bands_take_their_lower_end_and_unknown_stays_unknown():
    manifest = pd.DataFrame({"age_years": [0, 19.9, 20, 59.9, 60, 80, 101, np.nan], "patient_id": list("abcdefgh")})
    bands = groups.attributes(manifest, ["age_band"])["age_band"]
    assert list(bands) == ["0-20", "0-20", "20-40", "40-60", "60-80", "80+", "80+", "unknown"]


def test_intersections_and_rare_levels():
    manifest = pd.DataFrame(
        {
            "sex": ["F", "M", np.nan, "F"] * 5,
            "view": ["PA", "AP", "PA", "AP"] * 5,
            "site": ["big"] * 18 + ["tiny"] * 2,
            "patient_id": [f"p{i}" for i in range(20)],
        }
    )
    found = groups.attributes(manifest, ["sex+view", "site"])
    assert list(found["sex+view"][:4]) == ["F, PA", "M, AP", "unknown", "F, AP"]
    assert list(found["site"].unique()) == ["big", "other"]
    with pytest.raises(UsageError, match="no attribute 'race'"):
        groups.attributes(manifest, ["race"])
