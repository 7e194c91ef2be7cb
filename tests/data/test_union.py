"""Datasets united: whole, streamed, without collisions, and without one picture on both sides of a split."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from making import make_dataset

from hilum.cli import cli
from hilum.data import parquet, union
from hilum.data.images import pixel_digest
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, Dataset
from hilum.errors import DatasetError, UsageError


def make(path: Path, source: str, seed: int, **changes: object) -> Path:
    """A made dataset of 10 patients with another source; `changes` go into its facts."""
    n_patients = int(changes.pop("n_patients", 10))  # type: ignore[call-overload]
    size = int(changes.pop("size", 32))  # type: ignore[call-overload]
    make_dataset(path, n_patients=n_patients, seed=seed, size=size)
    rewrite(path, lambda table: table.assign(source=source))
    facts = json.loads((path / FACTS).read_text())
    (path / FACTS).write_text(json.dumps({**facts, **changes}))
    return path


def rewrite(path: Path, change) -> None:  # type: ignore[no-untyped-def]
    parquet.write(change(parquet.read(path / MANIFEST)), path / MANIFEST)


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [make(tmp_path / name, name, seed) for seed, name in enumerate(("north", "south", "west"))]


def test_rows_pixels_and_facts_of_the_parts_follow_each_other(three: list[Path], tmp_path: Path) -> None:
    (three[1] / REJECTED).write_text("image_id,reason\np900-0,corrupt\n", encoding="utf-8")
    facts = json.loads((three[1] / FACTS).read_text())
    (three[1] / FACTS).write_text(json.dumps({**facts, "n_rejected": 1, "licence": "CC BY", "caution": ""}))
    united = union.unite(three, tmp_path / "all")
    parts = [Dataset.open(folder) for folder in three]

    assert np.array_equal(united.images, np.concatenate([part.images for part in parts]))
    assert Dataset.open(tmp_path / "all").manifest.equals(united.manifest)
    expected = [f"{part.path.name}:{row.image_id}" for part in parts for row in part.manifest.itertuples()]
    assert united.manifest["image_id"].tolist() == expected
    assert united.manifest["patient_id"].str.split(":").str[0].tolist() == united.manifest["source"].tolist()
    splits = pd.concat([part.manifest["split"] for part in parts], ignore_index=True)
    assert united.manifest["split"].equals(splits)
    assert (united.facts.n_images, united.facts.n_patients, united.facts.n_rejected) == (60, 30, 1)
    assert united.facts.licence == "north: none. south: CC BY. west: none."
    assert "south" not in united.facts.caution
    assert "west: made by a test." in united.facts.caution
    assert (tmp_path / "all" / REJECTED).read_text().splitlines()[1:] == ["south:p900-0,corrupt"]
    assert not list(tmp_path.glob("*.uniting"))


def test_what_a_source_does_not_know_is_nan(three: list[Path], tmp_path: Path) -> None:
    rewrite(three[0], lambda table: table.drop(columns="no_finding").assign(ward="A"))
    rewrite(three[1], lambda table: table.rename(columns={"pneumonia": "edema"}).assign(ward=np.arange(20.0)))
    for folder, labels, attributes in (
        (three[0], ["pneumonia"], ["ward"]),
        (three[1], ["edema", "no_finding"], ["ward"]),
    ):
        facts = json.loads((folder / FACTS).read_text())
        (folder / FACTS).write_text(json.dumps({**facts, "labels": labels, "attributes": attributes}))
    united = union.unite(three[:2], tmp_path / "all")
    assert united.facts.labels == ("pneumonia", "edema", "no_finding")
    north = (united.manifest["source"] == "north").to_numpy()
    assert united.manifest.loc[north, ["edema", "no_finding"]].isna().all(axis=None)
    assert united.manifest.loc[~north, "pneumonia"].isna().all()
    known = Dataset.open(three[0]).manifest["pneumonia"]
    assert united.manifest.loc[north, "pneumonia"].tolist() == pytest.approx(known.tolist(), nan_ok=True)
    assert united.manifest["ward"].tolist()[19:22] == ["A", "0.0", "1.0"]  # text here, numbers there: text


def test_a_union_in_two_steps_is_the_union_in_one(three: list[Path], tmp_path: Path) -> None:
    at_once = union.unite(three, tmp_path / "at-once")
    first = union.unite(three[:2], tmp_path / "first")
    stepwise = union.unite([first.path, three[2]], tmp_path / "stepwise")
    assert stepwise.manifest.equals(at_once.manifest)
    same = {"digest", "source_digest", "licence", "citation", "caution", "labels", "n_images", "n_patients"}
    assert stepwise.facts.model_dump(include=same) == at_once.facts.model_dump(include=same)
    turned = union.unite(three[::-1], tmp_path / "turned")
    assert turned.facts.digest != at_once.facts.digest


def test_the_same_call_finds_its_union_and_another_is_refused(three: list[Path], tmp_path: Path) -> None:
    made = union.unite(three, tmp_path / "all")
    stamp = (tmp_path / "all" / IMAGES).stat().st_mtime_ns
    assert union.unite(three, tmp_path / "all").facts == made.facts
    assert (tmp_path / "all" / IMAGES).stat().st_mtime_ns == stamp
    with pytest.raises(UsageError, match="no union of these datasets"):
        union.unite(three[:2], tmp_path / "all")
    with pytest.raises(UsageError, match="no union of these datasets"):
        union.unite(three, tmp_path / "all", as_train=["west"])


def share(ours: Path, i: int, theirs: Path, j: int) -> None:
    """Put image j of one dataset in the place of image i of another."""
    picture = np.load(theirs / IMAGES)[j]
    images = np.load(ours / IMAGES)
    images[i] = picture
    np.save(ours / IMAGES, images)

    def named(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[i, "pixel_digest"] = pixel_digest(picture)
        table.loc[i, ["pixel_min", "pixel_max"]] = [float(picture.min()), float(picture.max())]
        return table

    rewrite(ours, named)


def split_of(dataset: Dataset) -> dict[str, str]:
    """The split of each patient, each in one only."""
    splits = dataset.manifest.groupby("patient_id")["split"].agg(["nunique", "first"])
    assert (splits["nunique"] == 1).all()
    return {str(patient): str(split) for patient, split in splits["first"].items()}


def test_patients_who_share_a_picture_go_where_nothing_is_learnt(three: list[Path], tmp_path: Path) -> None:
    # Splits of the made patients: 0, 1, 2 train; 3 val; 4 test; two images each.
    share(three[1], 0, three[0], 8)  # south p000 (train) has a picture of north p004 (test)
    share(three[2], 2, three[1], 1)  # west p001 (train) has the other picture of south p000: connected through it
    share(three[2], 4, three[0], 6)  # west p002 (train) has a picture of north p003 (val)
    share(three[2], 10, three[0], 0)  # west p005 and north p000 are both in train: nothing moves
    united = union.unite(three, tmp_path / "all")
    splits = split_of(united)
    assert splits["south:p000"] == splits["west:p001"] == splits["north:p004"] == "test"
    assert splits["west:p002"] == splits["north:p003"] == "val"
    assert splits["west:p005"] == splits["north:p000"] == "train"
    plain = {
        f"{folder.name}:{patient}": split
        for folder in three
        for patient, split in split_of(Dataset.open(folder)).items()
    }
    assert {patient for patient in plain if plain[patient] != splits[patient]} == {
        "south:p000",
        "west:p001",
        "west:p002",
    }
    assert union.shared_pictures(tmp_path / "all") == {"pictures": 4, "between_sources": 4, "patients": 7, "moved": 3}
    of_picture = united.manifest.groupby("pixel_digest")["split"].nunique()
    assert (of_picture == 1).all()


def test_a_blank_picture_connects_nobody(three: list[Path], tmp_path: Path) -> None:
    images = np.load(three[0] / IMAGES)
    images[[0, 8]] = 7
    np.save(three[0] / IMAGES, images)

    def named(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[[0, 8], "pixel_digest"] = pixel_digest(images[0])
        table.loc[[0, 8], ["pixel_min", "pixel_max"]] = 7.0
        return table

    rewrite(three[0], named)
    splits = split_of(union.unite(three, tmp_path / "all"))
    assert (splits["north:p000"], splits["north:p004"]) == ("train", "test")


def test_a_source_goes_to_train_whole_but_never_what_another_holds_out(three: list[Path], tmp_path: Path) -> None:
    share(three[1], 0, three[0], 8)  # south p000 has a picture of north p004, which is in test
    splits = split_of(union.unite(three, tmp_path / "all", as_train=["south"]))
    south = {patient: split for patient, split in splits.items() if patient.startswith("south:")}
    assert {patient for patient, split in south.items() if split != "train"} == {"south:p000"}
    assert south["south:p000"] == "test"
    assert splits["north:p004"] == "test"
    with pytest.raises(UsageError, match="'east'"):
        union.unite(three, tmp_path / "other", as_train=["east"])


def test_parts_that_do_not_fit_are_refused_with_what_differs(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "all"
    with pytest.raises(UsageError, match="at least two"):
        union.unite(three[:1], out)
    wider = make(tmp_path / "wider", "wider", 3, size=48)
    with pytest.raises(UsageError, match="size 32 and 48"):
        union.unite([three[0], wider], out)
    again = make(tmp_path / "again", "north", 4)
    with pytest.raises(UsageError, match="source 'north'"):
        union.unite([three[0], again], out)
    facts = json.loads((three[1] / FACTS).read_text())
    (three[1] / FACTS).write_text(json.dumps({**facts, "labels": ["no_finding"], "covariates": ["pneumonia"]}))
    with pytest.raises(UsageError, match="pneumonia is among the labels"):
        union.unite(three[:2], out)
    with pytest.raises(DatasetError, match="is not a dataset"):
        union.unite([three[0], tmp_path], out)
    assert not out.exists()


def test_two_datasets_of_one_source_unite_when_one_is_named(three: list[Path], tmp_path: Path) -> None:
    again = make(tmp_path / "again", "north", 4)
    united = union.unite([three[0], f"clinic={again}"], tmp_path / "all")
    assert united.manifest["source"].unique().tolist() == ["north", "clinic"]
    assert united.facts.n_patients == 20
    with pytest.raises(UsageError, match="is a union"):
        union.unite([three[1], f"clinic={united.path}"], tmp_path / "more")


def test_damaged_pixels_are_found_and_leave_nothing(three: list[Path], tmp_path: Path) -> None:
    images = np.load(three[1] / IMAGES)
    images[5, 0, 0] ^= 1
    np.save(three[1] / IMAGES, images)
    with pytest.raises(DatasetError, match="image 5 has other pixels"):
        union.unite(three, tmp_path / "all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["north", "south", "west"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    with pytest.raises(DatasetError, match="make room"):
        union.unite(three, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_no_more_than_a_block_of_pixels_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [make(tmp_path / name, name, seed, n_patients=30, size=256) for seed, name in enumerate("ab")]
    whole = sum(Dataset.open(part).images.nbytes for part in parts)
    assert whole == 120 * 256**2
    monkeypatch.setattr(union, "BLOCK_BYTES", whole // 16)
    tracemalloc.start()
    try:
        united = union.unite(parts, tmp_path / "all")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < whole / 3
    assert np.array_equal(united.images, np.concatenate([Dataset.open(part).images for part in parts]))


def test_the_verb_says_what_it_made_and_found(three: list[Path], tmp_path: Path) -> None:
    share(three[1], 0, three[0], 8)
    told = CliRunner().invoke(
        cli, ["unite", *map(str, three[:2]), "--out", str(tmp_path / "all")], catch_exceptions=False
    )
    assert told.exit_code == 0
    assert "40 images of 20 patients" in told.output
    assert "1 pictures under two patients or more, 1 of them in two sources; 1 patients moved" in told.output


def test_real_sources_unite(real_data, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from hilum.data.ingest import ingest
    from hilum.recipe import Ingest, Preprocessing

    sources = {
        "nih": "nih-chestxray14-1000",
        "kermany": "kermany-chest-xray",
        "covid_chestxray": "covid-chestxray-dataset",
    }
    parts = [
        ingest(
            real_data(name),
            tmp_path / layout,
            Ingest(layout=layout, limit=150, preprocessing=Preprocessing(size=32)),
            workers=2,
        )
        for layout, name in sources.items()
    ]
    united = union.unite([part.path for part in parts], tmp_path / "all", as_train=["kermany", "covid_chestxray"])
    assert len(united.images) == sum(len(part.images) for part in parts)
    nih = united.manifest[united.manifest["source"] == "nih"]
    assert nih["split"].tolist() == parts[0].manifest["split"].tolist()
    held_out = united.manifest[united.manifest["split"] != "train"]
    assert not set(held_out["pixel_digest"]) & set(
        united.manifest.loc[united.manifest["split"] == "train", "pixel_digest"]
    )
