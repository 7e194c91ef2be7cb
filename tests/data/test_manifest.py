"""The manifest's schema, its splits by patient, and the policies for uncertain labels."""

import numpy as np
import pandas as pd
import pytest

from hilum.data.images import pixel_digest
from hilum.data.manifest import IDENTITY, assign_splits, conform, resolve_uncertain
from hilum.errors import DatasetError, UsageError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def _rows(**changes: object) -> pd.DataFrame:
    rows = {"image_id": ["a", "b"], "patient_id": ["p", "q"], "modality": ["XR", "MR"], "view": ["PA", "AXIAL"]}
    return pd.DataFrame({**rows, "pneumonia": [1, np.nan], **changes})


def test_conform_gives_every_column_in_order_with_its_type() -> None:
    rows = _rows(locator=["x", "y"], o2_saturation_pct=["97", None], mmse=[29, 30], pixel_mean=[3, 4])
    table = conform(rows, ["pneumonia"], ["o2_saturation_pct"], ["mmse"])
    assert list(table) == [*IDENTITY, "pneumonia", "o2_saturation_pct", "mmse", "pixel_mean"]
    assert {name: str(table[name].dtype) for name in IDENTITY} == IDENTITY
    assert table["pneumonia"].dtype == table["o2_saturation_pct"].dtype == "float64"
    assert table["o2_saturation_pct"].tolist()[0] == 97


def test_unknown_stays_nan() -> None:
    table = conform(_rows(), ["pneumonia"], [])
    assert np.isnan(table["pneumonia"][1])
    assert table[["age_years", "sex", "split", "site", "days"]].isna().all(axis=None)


def test_an_image_without_study_is_a_study_of_its_own() -> None:
    assert conform(_rows(study_id=["s", None]), ["pneumonia"], [])["study_id"].tolist() == ["s", "b"]


def test_rows_are_numbered_anew() -> None:
    rows = _rows().set_index(pd.Index([7, 3]))
    assert conform(rows, ["pneumonia"], []).index.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patient_id": ["p", None]}, "every row needs a patient_id"),
        ({"image_id": ["a", "a"]}, "image_id must be unique.*'a'"),
        ({"modality": ["XR", "CT"]}, "modality is one of XR, MR.*'CT'"),
        ({"sex": ["F", "female"]}, "sex is one of F, M.*'female'"),
        ({"split": ["train", "dev"]}, "split is one of train, val, test.*'dev'"),
        ({"view": ["AXIAL", "AXIAL"]}, "view is one of PA, AP, LATERAL.*'AXIAL'"),
    ],
)
def test_what_does_not_conform_is_refused_with_its_value(changes: dict[str, list[str]], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        conform(_rows(**changes), ["pneumonia"], [])


def test_a_required_column_must_be_there() -> None:
    with pytest.raises(DatasetError, match="every row needs a modality"):
        conform(_rows().drop(columns="modality"), ["pneumonia"], [])


def test_splits_keep_patients_whole_and_hold_the_shares() -> None:
    patients = pd.Series([f"p{number // 3}" for number in range(9000)])
    split = assign_splits(patients, SHARES, seed=0)
    assert split.groupby(patients).nunique().max() == 1
    for name, share in SHARES.items():
        assert (split == name).mean() == pytest.approx(share, abs=0.03)


def test_more_patients_move_nobody_and_the_order_does_not_count() -> None:
    patients = pd.Series([f"p{number}" for number in range(500)])
    alone = dict(zip(patients, assign_splits(patients, SHARES, seed=4), strict=True))
    shuffled = pd.concat([patients, pd.Series([f"q{number}" for number in range(300)])]).sample(frac=1, random_state=1)
    among = dict(zip(shuffled, assign_splits(shuffled, SHARES, seed=4), strict=True))
    assert all(among[patient] == split for patient, split in alone.items())
    other = assign_splits(patients, SHARES, seed=5)
    assert (other.to_numpy() != np.array(list(alone.values()))).mean() > 0.2


def test_a_split_without_a_share_stays_empty() -> None:
    patients = pd.Series([f"p{number}" for number in range(300)])
    assert set(assign_splits(patients, {"train": 0.5, "val": 0.0, "test": 0.5}, seed=0)) == {"train", "test"}


@pytest.mark.parametrize("shares", [{"train": 0.7, "test": 0.2}, {"train": 1.2, "test": -0.2}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        assign_splits(pd.Series(["p"]), shares, seed=0)


def test_pixel_digests_are_equal_exactly_where_pixels_are() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    other = image.copy()
    other[2, 3] += 1
    assert pixel_digest(image) == pixel_digest(np.asfortranarray(image)) == pixel_digest(image[::-1][::-1])
    assert pixel_digest(other) != pixel_digest(image)
    assert len(pixel_digest(image)) == 32


def test_each_policy_resolves_only_what_is_uncertain() -> None:
    labels = pd.DataFrame({name: [1.0, 0.0, -1.0, np.nan] for name in ("ignore", "zeros", "ones", "keep", "rest")})
    policy = {name: name for name in ("ignore", "zeros", "ones", "keep")}
    resolved = resolve_uncertain(labels, policy)
    expected = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0, "keep": -1.0, "rest": np.nan}
    for name, value in expected.items():
        np.testing.assert_array_equal(resolved[name].to_numpy(), [1.0, 0.0, value, np.nan])
    assert labels["zeros"][2] == -1.0  # the input is left alone


def test_the_order_in_which_shares_are_named_moves_nobody():
    patients = pd.Series([f"p{number}" for number in range(200)])
    one = assign_splits(patients, {"train": 0.7, "val": 0.1, "test": 0.2}, 0)
    other = assign_splits(patients, {"test": 0.2, "val": 0.1, "train": 0.7}, 0)
    assert one.equals(other)


def test_a_split_of_another_name_is_refused():
    with pytest.raises(UsageError, match="splits are train, val, test, not dev"):
        assign_splits(pd.Series(["a"]), {"train": 0.8, "dev": 0.2}, 0)
