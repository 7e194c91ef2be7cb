import itertools

import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as fairlearn
from sklearn.metrics import average_precision_score

from hilum.errors import UsageError
from hilum.judgement import stats
from hilum.judgement.fairness import groups
from hilum.judgement.fairness import tables as fairness
from hilum.judgement.fairness.gaps import GAPS
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
        "auprc": average_precision_score(truth, probability),
        "balanced_accuracy": (tpr + 1 - fpr) / 2,
        "tpr": tpr,
        "fnr": 1 - tpr,
        "tnr": 1 - fpr,
        "fpr": fpr,
        "ppv": tp / (tp + fp),
        "underdiagnosis": 1 - tpr,
        "selection_rate": (tp + fp) / n,
        "ece": stats.weighted_ece(np.ones((1, n)), truth, probability, n // 20)[0],
        "brier": sum((p - y) ** 2 for p, y in zip(probability, truth, strict=True)) / n,
    }


def test_every_metric_of_every_group_is_its_definition():
    truth, probability, member, patients = people()
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    for name in ("A", "B"):
        chosen = (member["group"] == name).to_numpy()
        expected = naive(truth[chosen], probability[chosen], probability[chosen] >= THRESHOLD)
        rows = found[found["group"] == name].set_index("metric")
        assert set(rows.index) == set(fairness.METRICS) == {*expected, "tpr_disparity"}
        for metric, value in expected.items():
            assert rows.loc[metric, "value"] == pytest.approx(value), metric
            assert rows.loc[metric, "low"] < value < rows.loc[metric, "high"], metric
        assert (rows["n"] == 120).all()
        assert (rows["n_patients"] == 60).all()
        assert (rows["n_positive"] == truth[chosen].sum()).all()


def test_beside_the_calibration_error_of_a_group_stands_what_chance_makes_of_it():
    truth, probability, member, patients = people()
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    random = np.random.default_rng(0)
    for name in ("A", "B"):
        chosen = (member["group"] == name).to_numpy()
        p, n = probability[chosen], int(chosen.sum())
        outcomes = (random.random((2000, n)) < p).astype(float)
        shown = [stats.weighted_ece(np.ones((1, n)), y, p, n // 20)[0] for y in outcomes]
        rows = found[found["group"] == name].set_index("metric")["chance"]
        assert rows["ece"] == pytest.approx(np.mean(shown), rel=0.03)
        assert rows.drop("ece").isna().all()


def test_underdiagnosis_is_of_the_ill_whatever_the_label_says():
    truth, probability, member, patients = people()
    values = {}
    for label in ("pneumonia", "no_finding"):
        recipe = Audit(bootstrap=100, min_group=5, label=label)
        found = fairness.table(truth, probability, THRESHOLD, member, patients, recipe)
        values[label] = found[found["attribute"] == "all"].set_index("metric")["value"]
    called = probability >= THRESHOLD
    assert values["pneumonia"]["underdiagnosis"] == pytest.approx((~called)[truth == 1].mean())
    assert values["no_finding"]["underdiagnosis"] == pytest.approx(called[truth == 0].mean())


def test_every_gap_that_fairlearn_has_is_fairlearns():
    truth, probability, member, patients = people(miss=0.1, seed=4)
    member["group"] = np.where(np.arange(len(truth)) % 5 == 0, "C", member["group"])
    found = fairness.gaps(truth, probability, THRESHOLD, member, patients, RECIPE).set_index("metric")["value"]
    y, group, d = truth.astype(int), member["group"], (probability >= THRESHOLD).astype(int)
    given = (y, d)
    theirs = {
        "demographic_parity": fairlearn.demographic_parity_difference(*given, sensitive_features=group),
        "demographic_parity_ratio": fairlearn.demographic_parity_ratio(*given, sensitive_features=group),
        "equal_opportunity": fairlearn.equal_opportunity_difference(*given, sensitive_features=group),
        "equal_opportunity_ratio": fairlearn.equal_opportunity_ratio(*given, sensitive_features=group),
        "equalized_odds": fairlearn.equalized_odds_difference(*given, sensitive_features=group),
        "equalized_odds_ratio": fairlearn.equalized_odds_ratio(*given, sensitive_features=group),
        "equalized_odds_medfair": 1
        - (
            fairlearn.true_positive_rate_difference(*given, sensitive_features=group)
            + fairlearn.false_positive_rate_difference(*given, sensitive_features=group)
        )
        / 2,
        "underdiagnosis": fairlearn.false_negative_rate_difference(*given, sensitive_features=group),
        "worst_group_auroc": fairlearn.roc_auc_score_group_min(y, probability, sensitive_features=group),
        "worst_group_tpr": fairlearn.recall_score_group_min(*given, sensitive_features=group),
    }
    for metric, value in theirs.items():
        assert found[metric] == pytest.approx(value), metric
    assert set(found.index) == {*theirs, "auroc", "predictive_parity", "calibration"} == set(GAPS)


def test_the_disparity_is_from_the_median_group():
    truth, probability, member, patients = people(miss=0.1)
    member["group"] = np.where(np.arange(len(truth)) % 5 == 0, "C", member["group"])
    found = fairness.table(truth, probability, THRESHOLD, member, patients, RECIPE)
    of = found[found["attribute"] == "group"].pivot_table(index="group", columns="metric", values="value")
    np.testing.assert_allclose(of["tpr_disparity"], of["tpr"] - of["tpr"].median())
    whole = found[(found["attribute"] == "all") & (found["metric"] == "tpr_disparity")].iloc[0]
    assert np.isnan(whole["value"])
    assert "no other group" in whole["note"]


def test_p_values_are_corrected_over_the_whole_table():
    truth, probability, member, patients = people(n_each=150, miss=0.2)
    member["chance"] = np.where(patients.astype(int) % 2, "x", "y")
    found = fairness.gaps(truth, probability, THRESHOLD, member, patients, RECIPE)
    np.testing.assert_allclose(found["p_holm"], stats.holm(found["p"]))
    asked = found.dropna(subset=["p"])
    assert len(asked) == 12  # six of each attribute; ratios, MEDFAIR, worst groups and underdiagnosis say no more
    assert (asked.loc[asked["attribute"] == "chance", "p_holm"] > 0.05).all()
    planted = asked[(asked["attribute"] == "group") & (asked["metric"] == "equal_opportunity")].iloc[0]
    assert planted["p_holm"] < 0.01


def test_intervals_widen_when_images_belong_to_fewer_patients():
    truth, probability, member, patients = people(n_each=80, images_each=4)
    probability = np.repeat(probability[::4], 4)  # all images of a patient agree: four of them tell no more than one
    one_each = pd.Series(np.arange(len(truth)).astype(str))  # as if each image were of another patient
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


def test_coverage_is_every_attribute_with_two_known_groups_and_pairs_with_a_personal_one():
    manifest = pd.DataFrame(
        {
            "sex": ["F", "M"] * 10,
            "age_years": [30.0, 50.0, 50.0, np.nan] * 5,
            "view": ["PA"] * 20,
            "site": ["a", "b", "b", "a", "a"] * 4,
            "source": ["s"] * 20,
            "race": ["x", "y", "x", "x"] * 5,
            "survived": ["Y", "N"] * 10,
            "patient_id": [f"p{i}" for i in range(20)],
        }
    )
    found = groups.coverage(manifest, ("race", "survived"))
    assert found == (
        "sex", "age_band", "race", "site", "sex+age_band", "sex+race", "sex+site", "age_band+race", "age_band+site",
        "race+site",
    )  # fmt: skip
    assert "race" not in groups.coverage(manifest)
    assert set(groups.attributes(manifest, found, ("race",)).columns) == set(found)
