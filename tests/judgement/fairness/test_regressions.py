import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import mean_absolute_error_group_max

from hilum.judgement.fairness import regressions
from hilum.judgement.fairness.gaps import corrected
from hilum.recipe import Audit

RECIPE = Audit(bootstrap=300, min_group=10)


def readings(n_patients=200, images_each=2, shift=0.0, seed=0):
    """Ages read with an error of 5 years, and `shift` too high in group B."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), images_each)
    group = np.array(["A", "B", "B", "C"])[patient % 4]
    truth = random.uniform(20, 90, n_patients)[patient]
    read = truth + random.normal(0, 5, len(patient)) + shift * (group == "B")
    return truth, read, pd.DataFrame({"group": group}), pd.Series(patient.astype(str))


def test_errors_are_their_definitions_and_fairlearns():
    truth, read, member, patients = readings(shift=4.0)
    found = regressions.judge(truth, read, member, patients, RECIPE)
    for name in "ABC":
        chosen = (member["group"] == name).to_numpy()
        rows = found.groups[found.groups["group"] == name].set_index("metric")
        assert rows.loc["mae", "value"] == pytest.approx(np.abs(read - truth)[chosen].mean())
        assert rows.loc["bias", "value"] == pytest.approx((read - truth)[chosen].mean())
        assert (rows["low"] < rows["value"]).all()
        assert (rows["high"] > rows["value"]).all()
    gaps = found.gaps.set_index("metric")
    biases = found.groups[(found.groups["attribute"] == "group") & (found.groups["metric"] == "bias")]["value"]
    assert gaps.loc["bias", "value"] == pytest.approx(np.ptp(biases))
    worst = mean_absolute_error_group_max(truth, read, sensitive_features=member["group"])
    assert gaps.loc["worst_group_mae", "value"] == pytest.approx(worst)
    assert gaps.loc["worst_group_mae", "low"] < worst < gaps.loc["worst_group_mae", "high"]


def test_a_planted_bias_is_found_and_none_where_there_is_none():
    shifted = regressions.judge(*readings(shift=4.0), RECIPE).gaps.set_index("metric")
    assert shifted.loc["bias", "low"] > 1.5
    assert shifted.loc["bias", "p"] < 0.001
    assert shifted.loc["bias", "note"].endswith("highest: B")
    alike = regressions.judge(*readings(), RECIPE).gaps.set_index("metric")
    assert alike.loc["bias", "low"] == 0
    both = corrected({"age": shifted.reset_index(), "other": alike.reset_index()})
    assert both["age"].set_index("metric").loc["bias", "p_holm"] < 0.01
    assert np.isnan(both["age"].set_index("metric").loc["worst_group_mae", "p_holm"])


def test_bands_of_the_quantity_itself_are_not_tested():
    truth, read, member, patients = readings()
    member["age_band"] = np.where(truth < 55, "young", "old")
    found = regressions.judge(truth, 55 + (read - 55) / 2, member, patients, RECIPE, own="age_band").gaps
    by_band = found[found["attribute"] == "age_band"].set_index("metric")
    assert by_band.loc["bias", "low"] > 5
    assert by_band["p"].isna().all()
    assert found[(found["attribute"] == "group") & (found["metric"] != "worst_group_mae")]["p"].notna().all()


def test_small_groups_and_unknown_values_take_no_part():
    truth, read, member, patients = readings()
    member.loc[patients.isin(["0", "4", "8"]), "group"] = "D"
    truth[(member["group"] == "C").to_numpy()] = np.nan
    found = regressions.judge(truth, read, member, patients, RECIPE)
    small = found.groups[found.groups["group"] == "D"]
    assert small["value"].isna().all()
    assert small["note"].str.startswith("insufficient data: 3 patients").all()
    assert "C" not in set(found.groups["group"])
    assert (found.gaps["n_groups"] == 2).all()
    none = regressions.judge(np.full(len(truth), np.nan), read, member, patients, RECIPE)
    assert len(none.groups) == 0
    assert none.gaps["value"].isna().all()
