"""Partners against the rule written as a loop over all images, and on CheXpert's own table."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hilum.learning.pairs import Pairs
from hilum.recipe import Pairing

RULES = [
    Pairing.model_validate({"within": within, "laterality": laterality})
    for within in ("patient", "study")
    for laterality in ("any", "same", "distinct")
]


def name(rule: Pairing) -> str:
    return f"{rule.within}-{rule.laterality}"


def table_of(n: int, seed: int) -> pd.DataFrame:
    """Studies are numbered anew in every patient; one in six is unknown, and one view in six."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "patient_id": pd.Series([f"p{i}" for i in random.integers(0, n // 2, n)], dtype="str"),
            "study_id": pd.Series(random.choice(["s1", "s2", "s3", "s4", "s5", None], n), dtype="str"),
            "view": pd.Series(random.choice(["PA", "AP", "LATERAL", "AXIAL", "CORONAL", None], n), dtype="str"),
        }
    )


def laterality(view: object) -> object:
    return {"PA": "frontal", "AP": "frontal"}.get(view, view) if isinstance(view, str) else None


def admitted(table: pd.DataFrame, rule: Pairing, i: int) -> set[int]:
    """The rule, one image at a time."""
    here = table.iloc[i]
    found = {i}
    for j in range(len(table)):
        there = table.iloc[j]
        if j == i or there["patient_id"] != here["patient_id"]:
            continue
        if rule.within == "study" and (pd.isna(here["study_id"]) or here["study_id"] != there["study_id"]):
            continue
        mine, its = laterality(here["view"]), laterality(there["view"])
        if rule.laterality != "any" and (mine is None or its is None):
            continue
        if rule.laterality == "same" and mine != its:
            continue
        if rule.laterality == "distinct" and mine == its:
            continue
        found.add(j)
    return found - {i} if rule.laterality == "distinct" and len(found) > 1 else found


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_all_partners_that_the_rule_admits_are_drawn_and_no_others(rule: Pairing) -> None:
    table = table_of(80, seed=3)
    pairs = Pairs(table, rule)
    numbers = torch.arange(80)
    drawn = torch.stack([pairs.draw(numbers, seed) for seed in range(400)], dim=1)
    expected = [admitted(table, rule, i) for i in range(80)]
    assert drawn.dtype == torch.int64
    assert [set(row.tolist()) for row in drawn] == expected
    assert pairs.fallback_share == np.mean([partners == {i} for i, partners in enumerate(expected)])
    assert 0 < pairs.fallback_share < 1
    shuffled = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert all(int(j) in expected[int(i)] for i, j in zip(shuffled, pairs.draw(shuffled, 7), strict=True))


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_partners_are_drawn_evenly(rule: Pairing) -> None:
    """Of one patient's study with two frontal and three lateral films; chi-square at 0.1 %, 4 degrees: 18.5."""
    views = ["PA", "LATERAL", "AP", "LATERAL", "LATERAL"]
    table = pd.DataFrame({"patient_id": ["a"] * 5, "study_id": ["s"] * 5, "view": views})
    drawn = Pairs(table, rule).draw(torch.zeros(6000, dtype=torch.int64), seed=1)
    counts = drawn.bincount(minlength=5).double()
    partners = sorted(admitted(table, rule, 0))
    assert partners == {"any": [0, 1, 2, 3, 4], "same": [0, 2], "distinct": [1, 3, 4]}[rule.laterality]
    even = 6000 / len(partners)
    assert float(((counts[partners] - even) ** 2 / even).sum()) < 18.5
    assert counts.sum() == counts[partners].sum()


def test_a_draw_follows_from_numbers_and_seed_alone() -> None:
    pairs = Pairs(table_of(80, seed=3), Pairing())
    numbers = torch.arange(80)
    before = torch.random.get_rng_state()
    first = pairs.draw(numbers, 5)
    pairs.draw(numbers[:9], 6)
    assert torch.equal(first, pairs.draw(numbers, 5))
    assert not torch.equal(first, pairs.draw(numbers, 6))
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_studies_are_not_one_study() -> None:
    table = pd.DataFrame({"patient_id": ["a", "a", "a"], "study_id": pd.Series([None] * 3, dtype="str"), "view": "PA"})
    assert Pairs(table, Pairing(within="study")).fallback_share == 1.0
    assert Pairs(table, Pairing(within="patient")).fallback_share == 0.0


def test_a_patients_studies_are_not_another_patients() -> None:
    table = pd.DataFrame({"patient_id": ["a", "b"], "study_id": ["s1", "s1"], "view": ["PA", "PA"]})
    assert Pairs(table, Pairing(within="study")).fallback_share == 1.0


def test_377_000_images_are_grouped_and_drawn_from_in_no_time() -> None:
    """MIMIC-CXR's number of images; the limits are ten times what two cores take, and far below a loop's."""
    random = np.random.default_rng(0)
    n = 377_000
    table = pd.DataFrame(
        {
            "patient_id": pd.Series(random.integers(10_000_000, 10_065_000, n).astype(str), dtype="str"),
            "study_id": pd.Series(random.integers(0, 4, n).astype(str), dtype="str"),
            "view": pd.Series(np.array(["PA", "AP", "LATERAL"])[random.integers(0, 3, n)], dtype="str"),
        }
    )
    start = time.perf_counter()
    pairs = Pairs(table, Pairing(within="study", laterality="distinct"))
    assert time.perf_counter() - start < 10
    numbers = torch.from_numpy(random.integers(0, n, 512))
    took = []
    for seed in range(21):
        start = time.perf_counter()
        pairs.draw(numbers, seed)
        took.append(time.perf_counter() - start)
    assert sorted(took)[10] < 5e-3


def test_chexperts_groups_are_as_small_as_its_table_says(real_data: Callable[[str], Path]) -> None:
    """18.1 % of studies hold more than one image (31.2 % of images), but 65.0 % of patients do (89.9 % of images)."""
    raw = pd.read_csv(real_data("metadata") / "chexpert_train.csv.gz")
    where = raw["Path"].str.extract(r"(patient\d+)/(study\d+)/")
    frontal = raw["Frontal/Lateral"] == "Frontal"
    table = pd.DataFrame(
        {"patient_id": where[0], "study_id": where[1], "view": np.where(frontal, "AP", "LATERAL")}
    ).astype("str")
    assert (len(table), table["patient_id"].nunique()) == (223_414, 64_540)

    def fallback(**rule: str) -> float:
        return Pairs(table, Pairing.model_validate(rule)).fallback_share

    per_study = table.groupby(["patient_id", "study_id"]).size()
    assert len(per_study) == 187_641
    assert (per_study > 1).mean() == pytest.approx(0.181, abs=5e-4)
    assert fallback(within="study") == pytest.approx(1 - 0.312, abs=5e-4)
    assert fallback(within="study") == pytest.approx((per_study == 1).sum() / len(table))
    assert fallback(within="patient") == pytest.approx(1 - 0.899, abs=5e-4)
    narrower = [fallback(within="study", laterality=rule) for rule in ("any", "distinct", "same")]
    assert all(one < other for one, other in pairwise(narrower))  # a study's second film is mostly the lateral one
