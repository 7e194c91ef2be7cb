"""The phantom: same bytes, sound table, and every planted cause can be found again in what was written."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hilum.data import layouts
from hilum.data.anatomy import causes
from hilum.data.anatomy.cohort import shots
from hilum.data.images import decode
from hilum.data.layouts import phantom
from hilum.data.manifest import Cohort, assign_splits, conform
from hilum.errors import ImageError, SourceError, UsageError
from hilum.recipe import Ingest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort as the repository embeds it."""
    return phantom.generate(tmp_path_factory.mktemp("phantom") / "data")


@pytest.fixture(scope="module")
def cohort(folder: Path) -> Cohort:
    return layouts.read("phantom", folder)


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    """The whole table, causes included, in the order of the cohort's rows."""
    return pd.read_csv(folder / phantom.COHORT)


@pytest.fixture(scope="module")
def images(cohort: Cohort) -> np.ndarray:
    return np.stack([cohort.load(locator) for locator in cohort.rows["locator"]])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.generate(tmp_path_factory.mktemp("phantom") / "small", patients=12, size=32)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_arguments_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    again = phantom.generate(tmp_path / "again", patients=12, size=32)
    other = phantom.generate(tmp_path / "other", patients=12, size=32, seed=1)
    assert _content(small) == _content(again)
    assert (small / "cohort.csv").read_bytes() != (other / "cohort.csv").read_bytes()


def test_a_larger_cohort_begins_with_the_same_people(small: Path, tmp_path: Path) -> None:
    larger = phantom.generate(tmp_path / "larger", patients=15, size=32)
    few, more = pd.read_csv(small / "cohort.csv"), pd.read_csv(larger / "cohort.csv")
    pd.testing.assert_frame_equal(few, more.head(len(few)), check_dtype=False)
    assert more["patient_id"].nunique() == 15


def test_the_embedded_cohort_has_the_promised_extent(folder: Path, table: pd.DataFrame) -> None:
    assert table["patient_id"].nunique() == 260
    kinds = table["modality"].value_counts()
    assert 800 <= kinds["XR"] <= 1000
    assert 500 <= kinds["MR"] <= 700
    assert set(table["view"]) == {"PA", "AP", "LATERAL", "AXIAL", "CORONAL", "SAGITTAL"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert len(files) <= 16
    studies = table.groupby(["patient_id", "modality"])["study_id"].nunique()
    assert studies.loc[:, "XR"].between(2, 4).all()
    assert studies.loc[:, "MR"].between(1, 3).all()


def test_days_follow_the_order_of_studies(table: pd.DataFrame) -> None:
    for _, studies in table.drop_duplicates("study_id").groupby(["patient_id", "modality"]):
        assert studies["study_order"].tolist() == list(range(len(studies)))
        assert studies["days"].iloc[0] == 0
        assert studies["days"].is_monotonic_increasing


def test_the_cohort_conforms_and_hides_its_causes(cohort: Cohort, table: pd.DataFrame) -> None:
    manifest = conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes)
    assert len(manifest) == len(table)
    assert not [name for name in (*cohort.rows, *manifest) if name.startswith("cause_")]
    assert manifest["split"].isna().all()
    assert "test body" in cohort.caution
    chest, brain = manifest["modality"] == "XR", manifest["modality"] == "MR"
    assert manifest.loc[brain, ["pneumonia", "no_finding", "o2_saturation_pct"]].isna().all(axis=None)
    assert manifest.loc[chest, "dementia"].isna().all()


def test_every_image_loads(images: np.ndarray) -> None:
    assert images.dtype == np.uint8
    assert images.shape[1:] == (96, 96)
    assert (images.std(axis=(1, 2)) > 15).all()
    assert ((images == 255).mean(axis=(1, 2)) < 0.25).all()
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_the_causes_file_says_what_the_code_does(folder: Path) -> None:
    stated = json.loads((folder / phantom.CAUSES).read_text(encoding="utf-8"))
    assert stated["constants"]["site_shift"] == causes.SITE_SHIFT
    assert stated["constants"]["pneumonia_contrast_in_women"] == causes.PNEUMONIA_CONTRAST_IN_WOMEN
    assert stated["generator"] == {
        "seed": 0, "patients": 260, "size_px": 96, "site_shift": True, "site_contrast": True,
    }  # fmt: skip
    assert "test body" in (folder / "README.md").read_text(encoding="utf-8")


def test_examples_are_of_test_patients_and_decode(folder: Path, table: pd.DataFrame) -> None:
    stated = json.loads((folder / phantom.CAUSES).read_text(encoding="utf-8"))["examples"]
    assert set(stated) == {"xray-pneumonia.png", "xray-normal.png", "brain-axial.png", "xray-pneumonia.dcm"}
    rows = table.set_index("image_id").loc[list(stated.values())]
    ingest = Ingest()
    assert set(assign_splits(rows["patient_id"], ingest.split_shares, ingest.seed)) == {"test"}
    assert rows["view"].tolist() == ["PA", "PA", "AXIAL", "PA"]
    assert rows["pneumonia"].tolist()[:2] == [1, 0]
    for name in stated:
        decoded = decode((folder / phantom.EXAMPLES / name).read_bytes())
        assert decoded.pixels.shape == (192, 192)
        assert (decoded.modality, decoded.view) == (("XR", "PA") if name.endswith("dcm") else (None, None))


def _shift_px(profile: np.ndarray, reference: np.ndarray) -> int:
    """The shift to the right that makes `reference` most like `profile`, by trying each."""
    return max(range(-10, 11), key=lambda by: np.corrcoef(profile[12:-12], np.roll(reference, by)[12:-12])[0, 1])


def _south_of_north_px(images: np.ndarray, table: pd.DataFrame, view: str) -> int:
    south, north = (images[(table["view"] == view) & (table["site"] == site)] for site in ("south", "north"))
    return _shift_px(south.mean(axis=(0, 1)), north.mean(axis=(0, 1)))


@pytest.mark.parametrize("view", ["PA", "AP", "LATERAL", "AXIAL", "CORONAL", "SAGITTAL"])
def test_the_planted_site_shift_is_in_the_pixels(images: np.ndarray, table: pd.DataFrame, view: str) -> None:
    assert abs(_south_of_north_px(images, table, view) - causes.SITE_SHIFT * 96) <= 1


def test_without_site_effects_the_sites_look_alike_and_nothing_else_changes(
    table: pd.DataFrame, images: np.ndarray, tmp_path: Path
) -> None:
    control = phantom.generate(tmp_path / "control", site_shift=False, site_contrast=False)
    unmoved = pd.read_csv(control / phantom.COHORT)
    pd.testing.assert_frame_equal(unmoved.drop(columns="cause_shift_x"), table.drop(columns="cause_shift_x"))
    cohort = phantom.read(control)
    plain = np.stack([cohort.load(locator) for locator in cohort.rows["locator"]])
    south = (table["site"] == "south").to_numpy()
    for view in ("PA", "LATERAL", "AXIAL"):
        assert abs(_south_of_north_px(plain, table, view)) <= 1
    axial = (table["view"] == "AXIAL").to_numpy()
    bright, dark = plain[axial & ~south].std(axis=(1, 2)).mean(), plain[axial & south].std(axis=(1, 2)).mean()
    assert abs(bright / dark - 1) < 0.05
    bright, dark = images[axial & ~south].std(axis=(1, 2)).mean(), images[axial & south].std(axis=(1, 2)).mean()
    assert bright / dark > 1.12


def test_pneumonia_is_fainter_in_women_and_as_frequent(table: pd.DataFrame) -> None:
    added: dict[str, list[float]] = {"F": [], "M": []}
    for shot in shots(160, seed=0):
        if shot.row["view"] in ("PA", "AP") and shot.row["cause_pneumonia"]:
            healthy = replace(shot, body=replace(shot.body, pneumonia=0.0))
            plain = replace(shot.exposure, noise=0.0, gain=1.0, gamma=1.0, offset=0.0)
            ill, well = replace(shot, exposure=plain).draw(48), replace(healthy, exposure=plain).draw(48)
            difference = ill.astype(float) - well
            assert difference.min() >= -1
            added[shot.row["sex"]].append(float(difference.max()))
    ratio = np.median(added["F"]) / np.median(added["M"])
    assert causes.PNEUMONIA_CONTRAST_IN_WOMEN - 0.15 < ratio < causes.PNEUMONIA_CONTRAST_IN_WOMEN + 0.15
    studies = table[table["modality"] == "XR"].drop_duplicates("study_id")
    prevalence = studies.groupby("sex")["cause_pneumonia"].mean()
    assert abs(prevalence["F"] - prevalence["M"]) < 0.12
    assert 0.28 < studies["cause_pneumonia"].mean() < 0.42


def test_vital_signs_and_laboratory_values_follow_pneumonia(table: pd.DataFrame) -> None:
    studies = table[table["modality"] == "XR"].drop_duplicates("study_id")
    means = studies.groupby("cause_pneumonia")[list(phantom.COVARIATES)].mean()
    for name, (_, added, _) in {**causes.VITALS, **causes.LABS}.items():
        moved = means.loc[1, name] - means.loc[0, name]
        assert np.sign(moved) == np.sign(added), name
        assert 0.4 * abs(added) < abs(moved) < 1.1 * abs(added), name
    ill = studies[studies["cause_pneumonia"] == 1]
    assert ill["cause_pneumonia_severity"].corr(ill["o2_saturation_pct"]) < -0.5
    assert studies["o2_saturation_pct"].max() <= 100


def test_values_are_missing_not_at_random(table: pd.DataFrame) -> None:
    studies = table[table["modality"] == "XR"].drop_duplicates("study_id")
    for name in ("o2_saturation_pct", "crp_mg_per_l"):
        measured = studies[name].notna().groupby([studies["site"], studies["cause_no_finding"]]).mean()
        for site in ("north", "south"):
            assert measured[site, 0] > measured[site, 1] + 0.15, (name, site)
        for well in (0, 1):
            assert measured["north", well] > measured["south", well], (name, well)


def test_labels_are_a_little_wrong_and_a_little_unknown(table: pd.DataFrame) -> None:
    studies = table.drop_duplicates("study_id")
    wrong, unknown, n = 0, 0, 0
    for name in phantom.LABELS:
        asked = studies[studies[f"cause_{name}"].notna()]
        unknown += int(asked[name].isna().sum())
        wrong += int((asked[name] != asked[f"cause_{name}"])[asked[name].notna()].sum())
        n += len(asked)
    assert 0.02 < unknown / n < 0.04
    assert 0.02 < wrong / n < 0.04


def test_the_ill_are_imaged_lying_more_often(table: pd.DataFrame) -> None:
    frontal = table[table["view"].isin(["PA", "AP"])]
    share = (frontal["view"] == "AP").groupby(frontal["cause_no_finding"]).mean()
    assert share[0] - share[1] == pytest.approx(causes.AP_WHEN_ILL - causes.AP_WHEN_WELL, abs=0.12)


def test_dementia_and_age_widen_the_ventricles(images: np.ndarray, table: pd.DataFrame) -> None:
    axial = (table["view"] == "AXIAL").to_numpy()
    core = images[axial][:, 30:66, 34:62].astype(float)
    dark = (core < 0.4 * np.percentile(core, 90, axis=(1, 2), keepdims=True)).mean(axis=(1, 2))
    rows = table[axial]
    well = (rows["cause_dementia"] == 0).to_numpy()
    assert np.corrcoef(dark[well], rows["age_years"][well])[0, 1] > 0.4
    assert dark[~well].mean() > 1.3 * dark[well].mean()


def test_each_test_patient_group_is_large_enough_to_be_judged(table: pd.DataFrame) -> None:
    ingest = Ingest()
    test = table[assign_splits(table["patient_id"], ingest.split_shares, ingest.seed) == "test"]
    counts = test[test["modality"] == "XR"].groupby(["sex", "pneumonia"]).size()
    assert counts.min() >= 20
    for name in phantom.LABELS:
        assert test.groupby(name)["patient_id"].nunique().min() >= 10, name


@pytest.mark.slow
def test_pixels_alone_find_pneumonia_but_not_well(images: np.ndarray, table: pd.DataFrame) -> None:
    from sklearn.decomposition import PCA
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    chest = ((table["modality"] == "XR") & table["pneumonia"].notna()).to_numpy()
    rows = table[chest]
    x = np.stack([np.asarray(Image.fromarray(image).resize((64, 64))) for image in images[chest]]).reshape(
        len(rows), -1
    )
    found = {}
    for name in ("pneumonia", "sex", "view"):
        y = rows[name].astype(str).to_numpy()
        decision, said = np.zeros(len(rows)), np.empty(len(rows), dtype=object)
        for train, test in GroupKFold(5).split(x, groups=rows["patient_id"]):
            probe = make_pipeline(PCA(128, random_state=0), StandardScaler(), SVC(class_weight="balanced"))
            probe.fit(x[train] / 255, y[train])
            said[test] = probe.predict(x[test] / 255)
            if name == "pneumonia":
                decision[test] = probe.decision_function(x[test] / 255)
        found[name] = balanced_accuracy_score(y, said.astype(str))
        if name == "pneumonia":
            found["auroc"] = roc_auc_score(y == "1.0", decision)
            for sex in "FM":
                of = (rows["sex"] == sex).to_numpy()
                found[sex] = roc_auc_score(y[of] == "1.0", decision[of])
    assert 0.70 < found["auroc"] < 0.82
    assert found["F"] < found["M"] - 0.05
    assert 0.78 < found["sex"] < 0.92
    assert found["view"] > 0.95


def test_nothing_is_overwritten(small: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        phantom.generate(small, patients=2)


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.partial" / "shards").mkdir(parents=True)
    (tmp_path / "out.partial" / "shards" / "junk").write_text("half an image")
    (tmp_path / "out").mkdir()
    phantom.generate(tmp_path / "out", patients=3, size=16)
    assert not (tmp_path / "out.partial").exists()
    assert not list((tmp_path / "out").rglob("junk"))


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"seed": -1}, {"size": 8}, {"size": 5000}])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        phantom.generate(tmp_path / "out", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_phantom_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no cohort\.csv"):
        phantom.read(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(small, damaged)
    rows = pd.read_csv(damaged / "cohort.csv")
    rows.drop(columns="pneumonia").to_csv(damaged / "cohort.csv", index=False)
    with pytest.raises(SourceError, match="lacks the columns pneumonia"):
        phantom.read(damaged)
    rows.assign(file="absent.jpg").to_csv(damaged / "cohort.csv", index=False)
    with pytest.raises(SourceError, match=r"holds no absent\.jpg"):
        phantom.read(damaged)
    rows.assign(pneumonia="perhaps").to_csv(damaged / "cohort.csv", index=False)
    with pytest.raises(SourceError, match="not the table of a phantom"):
        phantom.read(damaged)
    rows.assign(shard=np.nan).to_csv(damaged / "cohort.csv", index=False)
    with pytest.raises(SourceError, match="without a shard"):
        phantom.read(damaged)
    rows.to_csv(damaged / "cohort.csv", index=False)
    shard = damaged / "shards" / "xr-000.zip"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"xr-000\.zip is missing or damaged"):
        phantom.read(damaged)
    shard.unlink()
    with pytest.raises(SourceError, match=r"xr-000\.zip is missing or damaged"):
        phantom.read(damaged)


def test_an_image_damaged_after_reading_is_an_image_error(small: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(small, damaged)
    cohort = phantom.read(damaged)
    shard = damaged / "shards" / "xr-000.zip"
    shard.write_bytes(shard.read_bytes()[:400])
    with pytest.raises(ImageError) as caught:
        cohort.load(cohort.rows["locator"][0])
    assert caught.value.fault == "corrupt"
    shard.unlink()
    with pytest.raises(ImageError) as caught:
        cohort.load(cohort.rows["locator"][0])
    assert caught.value.fault == "empty"


@pytest.mark.parametrize("modality", ["XR", "MR"])
def test_golden_images_are_the_same_every_time_and_differ(modality: str) -> None:
    images = phantom.golden(modality, n=4, size=64)
    assert images == phantom.golden(modality, n=4, size=64)
    assert len(set(images)) == 4
    for content in images:
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (64, 64))
    assert [decode(content).pixels.std() > 15 for content in images] == [True] * 4


def test_golden_images_of_no_such_modality_are_refused() -> None:
    with pytest.raises(UsageError, match="not 'CT'"):
        phantom.golden("CT")
