"""Covariates as numbers: scaling against a loop, what counts as unknown, and that a server needs numpy alone."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from hilum.data.clinical import REACH, Clinical, chosen, plausible
from hilum.errors import DatasetError, UsageError

NAMES = ("o2_saturation_pct", "heart_rate_per_min", "crp_mg_per_l")


def table(seed=0, n=200):
    random = np.random.default_rng(seed)
    raw = np.stack([random.normal(95, 2, n).clip(60, 100), random.normal(80, 10, n), random.lognormal(2, 1, n)], axis=1)
    raw[random.random(raw.shape) < 0.3] = np.nan
    return raw


def test_scaling_agrees_with_a_loop():
    train, other = table(), table(1, 40)
    values, missing = Clinical.fit(train, NAMES).transform(other)
    for column in range(3):
        known = sorted(value for value in train[:, column] if not math.isnan(value))
        low, middle, high = np.percentile(known, [25, 50, 75])
        for row in range(40):
            raw = other[row, column]
            if math.isnan(raw):
                assert (values[row, column], missing[row, column]) == (0, 1)
            else:
                expected = (raw - middle) / ((high - low) / 1.3489795)
                assert values[row, column] == pytest.approx(max(-REACH, min(REACH, expected)), rel=1e-5, abs=1e-6)
                assert missing[row, column] == 0
    assert values.dtype == missing.dtype == np.float32


def test_the_scale_is_that_of_train_whatever_is_transformed():
    fitted = Clinical.fit(table(), NAMES)
    one = table(1)[:1]
    assert np.array_equal(fitted.transform(one)[0], fitted.transform(np.r_[one, table(2) * 0.9])[0][:1])


def test_what_is_not_plausible_is_unknown_and_moves_no_scale():
    clean = table()
    soiled = np.r_[clean, [[140.0, 900.0, -3.0]], [[5.0, 2.0, 99999.0]]]
    first, second = Clinical.fit(clean, NAMES), Clinical.fit(soiled, NAMES)
    assert np.array_equal(first.centre_C, second.centre_C)
    assert np.array_equal(first.scale_C, second.scale_C)
    values, missing = first.transform(soiled[-2:])
    assert missing.all()
    assert not values.any()
    assert np.isnan(first.cut(soiled[-2:])).all()
    assert not first.transform([[100.0, 10.0, 0.0]])[1].any()  # the bounds belong to the range


def test_a_column_without_a_value_is_left_out_and_named():
    raw = table()
    raw[:, 1] = np.nan
    fitted = Clinical.fit(raw, NAMES)
    assert fitted.names == ("o2_saturation_pct", "crp_mg_per_l")
    assert fitted.left_out == {"heart_rate_per_min": "no plausible value in the train split"}
    with pytest.raises(DatasetError, match="no covariates to fuse with: none of o2_saturation_pct, heart_rate_per_min"):
        Clinical.fit(np.full((5, 3), np.nan), NAMES)
    with pytest.raises(DatasetError, match="no covariates to fuse with: it has none"):
        Clinical.fit(np.zeros((5, 0)), ())


def test_a_column_without_spread_stays_finite_and_an_extreme_ends_at_the_reach():
    fitted = Clinical.fit([[97.0], [97.0], [97.0], [97.0], [90.0]], ["o2_saturation_pct"])
    assert np.isfinite(fitted.transform([[97.0], [40.0]])[0]).all()
    still = Clinical.fit([[97.0], [97.0]], ["o2_saturation_pct"])
    assert still.transform([[97.0]])[0][0, 0] == 0
    narrow = Clinical.fit(np.linspace(96, 98, 50)[:, None], ["o2_saturation_pct"])
    assert narrow.transform([[31.0]])[0][0, 0] == -REACH


def test_a_card_gives_the_same_numbers_back():
    fitted = Clinical.fit(table(), NAMES)
    again = Clinical.of(json.loads(json.dumps(fitted.facts())))
    assert all(
        np.array_equal(one, other)
        for one, other in zip(fitted.transform(table(3)), again.transform(table(3)), strict=True)
    )
    with pytest.raises(DatasetError, match="damaged"):
        Clinical.of({**fitted.facts(), "scale": [1.0]})
    with pytest.raises(DatasetError, match="damaged"):
        Clinical.of({"names": ["crp_mg_per_l"]})


def test_ranges_come_from_the_name_or_the_unit_in_it():
    assert plausible("o2_saturation_pct") == (30.0, 100.0)  # its own is narrower than that of a percentage
    assert plausible("leukocytes_per_nl") == (0.05, 1000.0)
    assert plausible("peak_pressure_mmhg") == (0, 400)
    assert plausible("o2_saturation_pct_age_hours") == (0.0, 87_600.0)


def test_covariates_are_those_asked_for_or_all():
    assert chosen((), NAMES) == NAMES
    assert chosen(("crp_mg_per_l",), NAMES) == ("crp_mg_per_l",)
    with pytest.raises(UsageError, match="no covariate lactate; it has o2_saturation_pct"):
        chosen(("lactate",), NAMES)


def test_a_server_needs_no_pandas_and_no_torch():
    code = (
        "import sys; from hilum.data.clinical import Clinical; "
        "c = Clinical.of(dict(names=['a'], low=[0], high=[9], centre=[1], scale=[2], left_out={})); "
        "print(c.transform([[3.0]])[0][0, 0], [n for n in ('pandas', 'torch', 'sklearn') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["1.0", "[]\n"]
