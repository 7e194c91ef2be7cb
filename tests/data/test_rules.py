"""Rules across rows, against loops that say the same thing slowly, and by cases planted one at a time."""

import numpy as np
import pandas as pd
import pytest

from hilum.data import rules
from hilum.data.manifest import SPLITS


@pytest.fixture
def table() -> pd.DataFrame:
    """120 images of 40 patients, drawn: splits, digests and sexes collide by chance, so every rule finds something."""
    random = np.random.default_rng(5)
    n = 120
    return pd.DataFrame(
        {
            "patient_id": [f"p{number}" for number in random.integers(0, 40, n)],
            "split": random.choice(SPLITS, n, p=(0.9, 0.05, 0.05)),
            "pixel_digest": [f"d{number}" for number in random.integers(0, 300, n)],
            "sex": pd.Series(random.choice(["F", "M", None], n, p=(0.5, 0.1, 0.4)), dtype="str"),
            "age_years": np.where(random.random(n) < 0.1, np.nan, 50 + random.normal(0, 0.5, n)),
            "days": np.where(random.random(n) < 0.5, np.nan, random.integers(0, 300, n)),
            "study_order": random.integers(0, 4, n).astype(float),
        }
    )


def looped(table: pd.DataFrame, unit: str, seen: str) -> list[int]:
    """Rows of every `unit` that has more than one known value of `seen`."""
    rows = []
    for row in range(len(table)):
        mine = table[unit][row]
        values = {table[seen][other] for other in range(len(table)) if table[unit][other] == mine}
        if len({value for value in values if isinstance(value, str)}) > 1:
            rows.append(row)
    return rows


@pytest.mark.parametrize(
    ("rule", "unit", "seen"),
    [
        (rules.patients_in_two_splits, "patient_id", "split"),
        (rules.duplicates_across_splits, "pixel_digest", "split"),
        (rules.patients_of_two_sexes, "patient_id", "sex"),
    ],
)
def test_rules_about_two_values_agree_with_a_loop(table, rule, unit, seen) -> None:
    expected = looped(table, unit, seen)
    found = rule(table)
    assert len(expected) > 3
    assert found.n_failing == len(expected)
    assert list(found.rows) == expected[: rules.MAX_ROWS]


def test_duplicates_within_a_split_are_those_that_cross_none(table) -> None:
    across = looped(table, "pixel_digest", "split")
    expected = [
        row
        for row in range(len(table))
        if row not in across and (table["pixel_digest"] == table["pixel_digest"][row]).sum() > 1
    ]
    found = rules.duplicates_within_split(table)
    assert len(expected) > 3
    assert found.n_failing == len(expected)
    assert list(found.rows) == expected[: rules.MAX_ROWS]


def test_ages_out_of_step_agrees_with_a_loop(table) -> None:
    failing = set()
    for _, rows in table.groupby("patient_id"):
        known = rows[rows["age_years"].notna()]
        for dated in [known[known["days"].notna()]]:
            offsets = [row["age_years"] - row["days"] / 365.25 for _, row in dated.iterrows()]
            if offsets and max(offsets) - min(offsets) > 1.1:
                failing |= set(dated.index)
        ordered = known[known["days"].isna()].sort_values("study_order", kind="stable")
        for place, (row, values) in enumerate(ordered.iterrows()):
            before = ordered["age_years"].iloc[:place]
            if (before > values["age_years"] + 1.1).any():
                failing.add(row)
    found = rules.ages_out_of_step(table)
    assert len(failing) > 3
    assert found.n_failing == len(failing)
    assert list(found.rows) == sorted(failing)[: rules.MAX_ROWS]


@pytest.mark.parametrize(
    ("ages", "days", "n_failing"),
    [
        ((60, 61), (0, 365), 0),  # a year older after a year
        ((60, 60), (0, 360), 0),  # whole years, cut
        ((60, 61), (0, 5), 0),  # a birthday between
        ((60, 60), (0, 900), 2),  # no older after two and a half years
        ((60, 48), (0, 30), 2),
        ((90, 90), (0, 2000), 0),  # ages are capped there
        ((60, np.nan), (0, 2000), 0),
        ((60, 62), (np.nan, np.nan), 0),  # order only: older is right
        ((60, 58), (np.nan, np.nan), 1),  # order only: the younger row is named
    ],
)
def test_ages_out_of_step_by_case(ages, days, n_failing) -> None:
    table = pd.DataFrame({"patient_id": "p", "age_years": ages, "days": days, "study_order": (0.0, 1.0)}, dtype=object)
    table = table.astype({"patient_id": "str", "age_years": float, "days": float, "study_order": float})
    assert rules.ages_out_of_step(table).n_failing == n_failing


def test_no_rule_takes_unknown_for_a_value() -> None:
    table = pd.DataFrame({"patient_id": ["p"] * 3, "split": ["train"] * 3, "sex": ["F", np.nan, "F"]}, dtype="str")
    table["pixel_digest"] = pd.Series([np.nan, np.nan, "d"], dtype="str")
    assert rules.patients_of_two_sexes(table).n_failing == 0
    assert rules.duplicates_within_split(table).n_failing == 0
    assert rules.duplicates_across_splits(table).n_failing == 0


def test_empty_splits_and_modalities_without_split_name_what_lacks() -> None:
    table = pd.DataFrame({"split": ["train", "test", "train"], "modality": ["XR", "XR", "MR"]})
    assert rules.empty_splits(table) == rules.Finding("train 2, val 0, test 1", 1)
    found = rules.modalities_without_split(table)
    assert found.n_failing == 3
    assert "no MR in test" in found.observed


def test_views_of_another_modality() -> None:
    table = pd.DataFrame(
        {"modality": ["XR", "XR", "MR", "MR", "XR"], "view": ["PA", "AXIAL", "AXIAL", "PA", np.nan]}, dtype="str"
    )
    assert rules.views_of_another_modality(table).rows == (1, 3)


def test_labels_without_cases_says_which_and_why() -> None:
    table = pd.DataFrame({"a": [1.0, 0.0, np.nan], "b": [np.nan, np.nan, -1.0], "c": [0.0, 0.0, -1.0], "d": [1.0] * 3})
    found = rules.labels_without_cases(table, ["a", "b", "c", "d"])
    assert found.n_failing == 3
    assert found.observed == "b is never known, c is never present (2 absent), d is never absent (3 present)"


def cohort(missing_f: float, missing_m: float, n_patients: int = 400) -> pd.DataFrame:
    """Two images a patient; `lab` is missing in a share of the patients of each sex; `site` is unknown."""
    sex = np.repeat(np.tile(["F", "M"], n_patients // 2), 2)
    rank = np.repeat(np.arange(n_patients) // 2 / (n_patients // 2), 2)
    lab = np.where(rank < np.where(sex == "F", missing_f, missing_m), np.nan, 1.0)
    patients = [f"p{number}" for number in np.repeat(np.arange(n_patients), 2)]
    return pd.DataFrame({"patient_id": patients, "sex": sex, "site": np.nan, "lab": lab})


def test_missing_by_group_says_column_group_shares_and_sizes() -> None:
    found = rules.missing_by_group(cohort(0.5, 0.1), ["lab"], ["sex", "site"], 0.1, 50)
    assert found == rules.Finding("lab by sex: missing in F 50% of 200 patients, M 10% of 200 patients", 1)


def test_missing_by_group_is_silent_where_groups_agree_and_about_chance() -> None:
    assert rules.missing_by_group(cohort(0.3, 0.25), ["lab"], ["sex"], 0.1, 50).n_failing == 0
    # a gap of 20 points among 25 patients a group is 1.5 standard errors
    assert rules.missing_by_group(cohort(0.4, 0.2, 50), ["lab"], ["sex"], 0.1, 10).n_failing == 0


def test_missing_by_group_calls_too_little_insufficient_and_no_pass() -> None:
    found = rules.missing_by_group(cohort(0.5, 0.1, 60), ["lab"], ["sex"], 0.1, 50)
    assert found.n_failing == 1
    assert found.observed.startswith("insufficient data")


def test_every_rule_names_the_columns_it_reads() -> None:
    assert set(rules.READS) == set(rules.RULES)
