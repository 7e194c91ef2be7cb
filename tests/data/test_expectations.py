"""Validation of a dataset folder: each fault, planted alone, is found by its check and by no row but its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import make_dataset

from hilum.data.expectations import check, rehash, validate
from hilum.data.images import pixel_digest
from hilum.data.manifest import assign_splits, conform
from hilum.data.store import IMAGES, MANIFEST, Dataset
from hilum.data.units import covariate_range
from hilum.data.verdict import Verdict
from hilum.errors import DatasetError
from hilum.recipe import Validation


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset without a fault, with honest digests and groups large enough to compare."""
    path = make_dataset(tmp_path_factory.mktemp("whole") / "dataset", n_patients=120, images_each=2, size=16)
    table, images = pd.read_parquet(path / MANIFEST), np.load(path / IMAGES)
    table["pixel_digest"] = [pixel_digest(image) for image in images]
    table["age_years"] = table["age_years"].round()
    table = table.fillna({"pneumonia": 0.0, "no_finding": 1.0, "o2_saturation_pct": 95.0})  # were missing by sex
    table["o2_saturation_pct"] = table["o2_saturation_pct"].clip(upper=100.0)  # drawn about 97
    table.to_parquet(path / MANIFEST, index=False)
    return path


@pytest.fixture(scope="module")
def opened(whole: Path) -> Dataset:
    return Dataset.open(whole)


def failing(dataset: Dataset, table: pd.DataFrame, **settings: object) -> dict[str, tuple[int, ...]]:
    """The checks that fail on a changed manifest, and the rows that each names."""
    rehashed = rehash(dataset, 10_000, 0)
    checks = check(table, dataset.facts, Validation(**settings), rehashed=rehashed)
    return {one.name: one.examples for one in checks if not one.ok}


def test_a_sound_dataset_passes_every_check(opened: Dataset) -> None:
    assert failing(opened, opened.manifest) == {}


def put(column: str, row: int, value: object):
    def plant(table: pd.DataFrame) -> None:
        table.loc[row, column] = value

    return plant


def fill(column: str, value: object):
    def plant(table: pd.DataFrame) -> None:
        table[column] = value

    return plant


def copy_of(column: str, row: int, other: int):
    def plant(table: pd.DataFrame) -> None:
        table.loc[row, column] = table.loc[other, column]

    return plant


# Rows 2n and 2n + 1 are patient n's; patients 0, 1 and 2 of each five are in train, then val, then test.
FAULTS = [
    ("age of 130", put("age_years", 4, 130.0), {"ages_and_dates": (4,)}),
    ("negative days", put("days", 4, -1.0), {"ages_and_dates": (4,)}),
    ("infinite age", put("age_years", 4, np.inf), {"ages_and_dates": (4,)}),
    ("patient in two splits", put("split", 3, "test"), {"patients_in_two_splits": (2, 3)}),
    ("unknown word", put("split", 3, "holdout"), {"vocabularies": (3,), "patients_in_two_splits": (2, 3)}),
    ("blank split", put("split", 3, np.nan), {"identifiers": (3,)}),
    ("blank patient", put("patient_id", 3, "  "), {"identifiers": (3,), "counts": ()}),
    ("unknown patient", put("patient_id", 3, np.nan), {"identifiers": (3,)}),
    ("image id twice", copy_of("image_id", 3, 9), {"image_ids_unique": (3, 9)}),
    ("MRI plane of an X-ray", put("view", 3, "AXIAL"), {"views_of_another_modality": (3,)}),
    ("label of 2", put("pneumonia", 3, 2.0), {"label_values": (3,)}),
    ("percentage of 970", put("o2_saturation_pct", 3, 970.0), {"covariate_values": (3,)}),
    ("two sexes", put("sex", 2, "F"), {"patients_of_two_sexes": (2, 3)}),
    ("wrong digest", put("pixel_digest", 3, "f" * 32), {"pixels_agree": (3,)}),
    (
        "duplicate in a split",
        copy_of("pixel_digest", 3, 10),
        {"duplicates_within_split": (3, 10), "pixels_agree": (3,)},
    ),
    ("duplicate across", copy_of("pixel_digest", 3, 6), {"duplicates_across_splits": (3, 6), "pixels_agree": (3,)}),
    ("no statistics", put("pixel_mean", 3, np.nan), {"pixel_statistics": (3,)}),
    ("one constant image", put("pixel_std", 3, 0.4), {"constant_images": (3,)}),
    ("one white image", put("saturated_share", 3, 0.9), {"saturated_images": (3,)}),
    ("label nowhere", fill("no_finding", 0.0), {"labels_without_cases": ()}),
]


@pytest.mark.parametrize(("plant", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_planted_fault_is_found_with_its_rows(opened: Dataset, plant, expected) -> None:
    table = opened.manifest.copy()
    plant(table)
    assert failing(opened, table) == expected


def test_faults_of_many_images_turn_from_remark_to_refusal(opened: Dataset) -> None:
    table = opened.manifest.copy()
    table.loc[:29, ["pixel_std", "saturated_share", "o2_saturation_pct"]] = (0.0, 1.0, 200.0)
    found = {one.name: one for one in check(table, opened.facts) if not one.ok}
    for remark, refusal in (
        ("constant_images", "constant_images_share"),
        ("saturated_images", "saturated_images_share"),
        ("covariate_values", "covariate_units"),
    ):
        assert found[remark].severity == "warning"
        assert found[refusal].severity == "critical"
        assert found[refusal].n_failing == 30
        assert found[refusal].examples == tuple(range(20))
    assert set(failing(opened, table, max_faulty_share=0.2, max_implausible_share=0.2)) == {
        "constant_images",
        "saturated_images",
        "covariate_values",
    }


def test_an_empty_split_refuses_the_dataset(opened: Dataset) -> None:
    table = opened.manifest.copy()
    table.loc[table["split"] == "val", "split"] = "train"
    found = {one.name: one for one in check(table, opened.facts) if not one.ok}
    assert found["empty_splits"].severity == "critical"
    assert "val 0" in found["empty_splits"].observed


def test_missing_values_that_follow_sex_are_remarked(opened: Dataset) -> None:
    table = opened.manifest.copy()
    table.loc[table["sex"] == "F", "o2_saturation_pct"] = np.nan
    found = {one.name: one for one in check(table, opened.facts) if not one.ok}
    assert set(found) == {"missing_by_group"}
    assert found["missing_by_group"].observed.startswith("o2_saturation_pct by sex: missing in F 100% of 60 patients")
    assert found["missing_by_group"].severity == "warning"


def test_absent_columns_and_wrong_types_fail_in_words(opened: Dataset) -> None:
    table = opened.manifest.drop(columns=["sex"]).assign(patient_name="Jane Roe", age_years="young", patient_id=7)
    found = {one.name: one for one in check(table, opened.facts) if not one.ok}
    assert found["columns"].observed == "missing sex; unexpected patient_name"
    assert found["column_types"].observed == "patient_id: int64; age_years: str"
    assert found["patients_of_two_sexes"].observed == "not checked: the manifest has no column sex"
    assert "not of its type" in found["ages_out_of_step"].observed
    assert "age_years: cannot be checked" in found["ages_and_dates"].observed


def test_a_manifest_without_rows_is_refused(opened: Dataset) -> None:
    with pytest.raises(DatasetError, match="no images"):
        check(opened.manifest.iloc[:0], opened.facts)


def test_check_leaves_the_manifest_alone(opened: Dataset) -> None:
    before = opened.manifest.copy()
    check(opened.manifest, opened.facts, rehashed=rehash(opened, 5, 0))
    pd.testing.assert_frame_equal(opened.manifest, before)


def test_rehash_samples_with_a_seed(opened: Dataset) -> None:
    first, again, other = rehash(opened, 20, 3), rehash(opened, 20, 3), rehash(opened, 20, 4)
    assert first.notna().sum() == 20
    assert first.equals(again)
    assert not first.equals(other)


def test_validate_writes_page_and_verdict(whole: Path, tmp_path: Path) -> None:
    verdict = validate(whole, tmp_path / "out")
    assert verdict.ok
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["validation.html", "verdict.json"]
    assert Verdict.model_validate_json((tmp_path / "out" / "verdict.json").read_text()) == verdict
    page = (tmp_path / "out" / "validation.html").read_text()
    assert "the dataset may be used" in page
    assert "made by a test" in page
    assert verdict.run["data_digest"] in page
    assert verdict.run["data_digest"] == Dataset.open(whole).facts.digest
    assert not any(words in page for words in ("http://", "https://", "<script"))


def test_changed_pixels_refuse_the_dataset(whole: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    images = np.load(damaged / IMAGES)
    images[17, 0, 0] ^= 1
    np.save(damaged / IMAGES, images)
    verdict = validate(damaged, tmp_path / "out", Validation(hashed_images=10_000))
    assert not verdict.ok
    assert [(one.name, one.examples) for one in verdict.failed] == [("pixels_agree", (17,))]


def test_nothing_written_names_a_patient(whole: Path, tmp_path: Path, caplog, capfd) -> None:
    faulty = shutil.copytree(whole, tmp_path / "faulty")
    table = pd.read_parquet(faulty / MANIFEST)
    for column in ("image_id", "patient_id", "study_id"):
        table[column] = "ROE-JANE-" + table[column]
    table.loc[3, "image_id"] = table.loc[9, "image_id"]  # the ids themselves are at fault
    table.loc[3, "patient_id"] = table.loc[20, "patient_id"]
    table.loc[5, "sex"] = "ROE-JANE"  # a shifted column
    table.loc[6, "view"] = "ROE-JANE"
    table["study_order"] = "ROE-JANE"
    table.to_parquet(faulty / MANIFEST, index=False)
    verdict = validate(faulty, tmp_path / "out", data_docs=True)
    assert {"image_ids_unique", "vocabularies", "column_types"} <= {one.name for one in verdict.failed}
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert tmp_path / "out" / "data_docs" / "index.html" in written
    assert not [path for path in written if b"ROE-JANE" in path.read_bytes()]
    printed = capfd.readouterr()
    assert "ROE-JANE" not in printed.out + printed.err + caplog.text + verdict.sentence


def test_verdict_is_the_same_twice(whole: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        validate(whole, tmp_path / name)
    assert (tmp_path / "a" / "verdict.json").read_bytes() == (tmp_path / "b" / "verdict.json").read_bytes()
    assert json.loads((tmp_path / "a" / "verdict.json").read_text())["ok"] is True


@pytest.mark.parametrize(
    ("name", "bounds"),
    [("o2_saturation_pct", (0, 100)), ("temperature_celsius", (25, 45)), ("gestalt", (-1e9, 1e9))],
)
def test_covariates_are_judged_by_their_unit(name: str, bounds: tuple[float, float]) -> None:
    assert covariate_range(name) == bounds


def test_the_real_chexpert_table_passes_but_for_labels_never_absent(real_data, opened: Dataset) -> None:
    from hilum.data.layouts import chexpert
    from hilum.data.tables import read_table
    from hilum.data.vocabulary import CHEXPERT_FINDINGS

    path = real_data("metadata") / "chexpert_train.csv.gz"
    rows = chexpert.rows_of(read_table(path, nrows=20_000), path)
    labels = tuple(CHEXPERT_FINDINGS.values())
    rows["split"] = assign_splits(rows["patient_id"], {"train": 0.7, "val": 0.1, "test": 0.2}, 0)
    rows["pixel_digest"] = [f"{number:032x}" for number in range(len(rows))]
    for name, value in (("mean", 120.0), ("std", 50.0), ("min", 0.0), ("max", 255.0)):
        rows[f"pixel_{name}"] = value
    rows["saturated_share"] = 0.0
    table = conform(rows, labels, ())
    facts = opened.facts.model_copy(
        update={
            "labels": labels,
            "covariates": (),
            "n_images": len(rows),
            "n_patients": int(rows["patient_id"].nunique()),
        }
    )
    found = {one.name: one for one in check(table, facts) if not one.ok}
    assert set(found) == {"labels_without_cases"}
    assert "no_finding is never absent" in found["labels_without_cases"].observed
