"""Ingest: the dataset is right, is the same however it was made, and is whole or not there."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from hilum.data.decoding import Chunk, Decoder, decode_all
from hilum.data.images import content_box, decode_file, pixel_digest, preprocess
from hilum.data.ingest import ingest
from hilum.data.journal import JOURNAL
from hilum.data.store import IMAGES, MANIFEST, Dataset
from hilum.errors import CheckFailed, DatasetError, ImageError, UsageError
from hilum.recipe import Ingest, Preprocessing

SMALL = {"layout": "folder", "options": {"labels": "pneumonia,edema"}, "preprocessing": Preprocessing(size=24)}


def make_source(folder: Path, n_patients: int = 20, side: int = 40, splits: bool = False) -> Path:
    """Films of patients p0, p1, ... with 1 to 3 images each; `pneumonia` cycles through 1, 0, -1 and blank.

    From the 40th patient on, films are those of the patient 39 before: encoding noise takes longer than decoding it.
    """
    random = np.random.default_rng(5)
    (folder / "films").mkdir(parents=True)
    rows = []
    for patient in range(n_patients):
        for image in range(1 + patient % 3):
            x_HW = random.integers(1, 255, (side, side - 7 * image), dtype=np.uint8)
            name = f"films/{patient}-{image}.png"
            if patient < 39:
                Image.fromarray(x_HW).save(folder / name, compress_level=1)
            else:
                shutil.copy(folder / f"films/{patient - 39}-{image}.png", folder / name)
            rows.append(
                {
                    "image": name,
                    "image_id": f"i{patient}-{image}",
                    "patient_id": f"p{patient}",
                    "modality": "XR",
                    "view": ("PA", "AP", "LATERAL")[image],
                    "sex": "FM"[patient % 2],
                    "pneumonia": ("1", "0", "-1", "")[len(rows) % 4],
                    "edema": ("-1", "0")[len(rows) % 2],
                    **({"split": ("train", "", "test")[patient % 3]} if splits else {}),
                }
            )
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


def recipe(**changes: object) -> Ingest:
    return Ingest.model_validate({**SMALL, **changes})


def rejected(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="", encoding="utf-8") as stream:
        return {row["image_id"]: row["reason"] for row in csv.DictReader(stream)}


def test_pixels_and_their_statistics_are_those_of_the_rows(source: Path, tmp_path: Path) -> None:
    dataset = ingest(source, tmp_path / "out", recipe(), workers=1)
    paths = pd.read_csv(source / "table.csv").set_index("image_id")["image"]
    assert list(dataset.manifest["image_id"]) == list(paths.index)
    for i, row in dataset.manifest.iterrows():
        pixels = decode_file(source / paths[row["image_id"]])
        square = preprocess(pixels, Preprocessing(size=24))
        assert np.array_equal(dataset.images[i], square)
        inside = square[content_box(pixels.shape, 24)].astype(float)
        assert row["pixel_digest"] == pixel_digest(square)
        expected = [inside.mean(), inside.std(), inside.min(), inside.max(), (inside == 255).mean()]
        measured = row[["pixel_mean", "pixel_std", "pixel_min", "pixel_max", "saturated_share"]]
        assert np.allclose(measured.astype(float), expected, atol=1e-9)
    assert dataset.facts.n_images == len(paths)
    assert dataset.facts.n_patients == 20
    assert dataset.facts.labels == ("pneumonia", "edema")
    assert rejected(tmp_path / "out") == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json", "images.npy", "ingest.json", "manifest.parquet", "rejected.csv",
    ]  # fmt: skip


def test_a_patient_is_in_one_split_and_the_shares_are_met(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", n_patients=300, side=16)
    table = ingest(source, tmp_path / "out", recipe(), workers=1).manifest
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()
    shares = table.groupby("patient_id")["split"].first().value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.08)
    assert shares["test"] == pytest.approx(0.2, abs=0.08)


def test_official_splits_stay_and_other_patients_get_one(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", splits=True)
    table = ingest(source, tmp_path / "out", recipe(), workers=1).manifest
    patient = table["patient_id"].str[1:].astype(int)
    assert (table.loc[patient % 3 == 0, "split"] == "train").all()
    assert (table.loc[patient % 3 == 2, "split"] == "test").all()
    assert table["split"].notna().all()
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()


def test_same_source_and_recipe_same_digest_whatever_the_workers(source: Path, tmp_path: Path) -> None:
    made = [ingest(source, tmp_path / f"out{n}", recipe(), workers=n) for n in (1, 2, 3)]
    assert len({dataset.facts.digest for dataset in made}) == 1
    assert all(np.array_equal(dataset.images, made[0].images) for dataset in made)
    others = [
        ingest(source, tmp_path / "size", recipe(preprocessing=Preprocessing(size=25)), workers=1),
        ingest(source, tmp_path / "seed", recipe(seed=1), workers=1),
    ]
    x_HW = np.asarray(Image.open(source / "films/0-0.png")).copy()
    x_HW[10:20, 10:20] ^= 255
    Image.fromarray(x_HW).save(source / "films/0-0.png", compress_level=1)
    others.append(ingest(source, tmp_path / "pixel", recipe(), workers=1))
    assert len({dataset.facts.digest for dataset in (made[0], *others)}) == 4


def test_views_are_kept_and_a_view_nobody_has_is_refused(source: Path, tmp_path: Path) -> None:
    table = ingest(source, tmp_path / "out", recipe(views=("pa", "LATERAL")), workers=1).manifest
    assert set(table["view"]) == {"PA", "LATERAL"}
    with pytest.raises(UsageError, match="AXIAL; the source has AP, LATERAL, PA"):
        ingest(source, tmp_path / "other", recipe(views=("AXIAL",)))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("limit", "n_images"), [(1, 1), (3, 3), (5, 3), (6, 6), (7, 7), (1000, 39)])
def test_limit_takes_whole_patients(source: Path, tmp_path: Path, limit: int, n_images: int) -> None:
    table = ingest(source, tmp_path / "out", recipe(limit=limit), workers=1).manifest
    assert len(table) == n_images
    everything = pd.read_csv(source / "table.csv").groupby("patient_id").size()
    kept = table.groupby("patient_id").size()
    assert kept.equals(everything.loc[kept.index])


def test_uncertain_labels_follow_the_policy_of_each(source: Path, tmp_path: Path) -> None:
    kept = ingest(source, tmp_path / "kept", recipe(), workers=1).manifest
    table = ingest(source, tmp_path / "out", recipe(uncertain={"edema": "ones"}), workers=1).manifest
    assert (kept["edema"] == -1).sum() > 0
    assert (table.loc[kept["edema"] == -1, "edema"] == 1).all()
    assert table["pneumonia"].equals(kept["pneumonia"])
    assert (table["pneumonia"] == -1).any()
    assert table["pneumonia"].isna().any()
    with pytest.raises(UsageError, match="gout"):
        ingest(source, tmp_path / "other", recipe(uncertain={"gout": "ones"}))


def test_unreadable_images_are_quarantined_with_the_reason(source: Path, tmp_path: Path) -> None:
    (source / "films/4-0.png").write_bytes(b"")
    content = (source / "films/5-1.png").read_bytes()
    (source / "films/5-1.png").write_bytes(content[: len(content) // 2])
    (source / "films/19-0.png").write_bytes(b"GIF89a")
    out = tmp_path / "out"
    dataset = ingest(source, out, recipe(max_rejected_share=0.1), workers=2)
    reasons = rejected(out)
    assert set(reasons) == {"i4-0", "i5-1", "i19-0"}
    assert [reasons[name].partition(":")[0] for name in ("i4-0", "i5-1", "i19-0")] == [
        "empty", "corrupt", "unsupported",
    ]  # fmt: skip
    assert dataset.facts.n_rejected == 3
    assert len(dataset.images) == len(dataset.manifest) == 36
    assert not dataset.manifest["image_id"].isin(reasons).any()
    paths = pd.read_csv(source / "table.csv").set_index("image_id")["image"]
    for i, image_id in enumerate(dataset.manifest["image_id"]):
        assert np.array_equal(
            dataset.images[i], preprocess(decode_file(source / paths[image_id]), Preprocessing(size=24))
        )


def test_too_many_rejected_refuse_the_dataset(source: Path, tmp_path: Path) -> None:
    for name in ("4-0", "5-1", "7-0"):
        (source / f"films/{name}.png").write_bytes(b"")
    out = tmp_path / "out"
    with pytest.raises(CheckFailed, match=r"3 of 39 images .* 0\.05 .* 3 x empty") as caught:
        ingest(source, out, recipe(), workers=1)
    assert "i4-0" not in str(caught.value)
    assert not out.exists()
    assert set(rejected(tmp_path / "out.partial")) == {"i4-0", "i5-1", "i7-0"}
    for path in (source / "films").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="none of 39"):
        ingest(source, out, recipe(max_rejected_share=1), workers=1)


def test_the_same_call_again_uses_what_is_there(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    ingest(source, out, recipe(), workers=1)
    before = (out / MANIFEST).stat().st_mtime_ns
    ingest(source, out, recipe(), workers=2)
    assert (out / MANIFEST).stat().st_mtime_ns == before
    assert "used as it is" in capsys.readouterr().err
    with pytest.raises(UsageError, match="another source, recipe or version"):
        ingest(source, out, recipe(seed=9))
    (source / "table.csv").write_text((source / "table.csv").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="another source, recipe or version"):
        ingest(source, out, recipe())


def test_what_is_no_dataset_is_never_replaced(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ingest(source, out, recipe(), workers=1)  # an empty folder is free
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UsageError, match="no dataset that ingest made"):
        ingest(source, tmp_path / "mine", recipe())
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years"


RUN = """
import sys
from pathlib import Path
from hilum.data.ingest import ingest
from hilum.recipe import Ingest
if __name__ == "__main__":
    source, out, recipe = sys.argv[1:]
    ingest(Path(source), Path(out), Ingest.model_validate_json(recipe), source_digest="given", workers=2)
"""


def killed(script: Path, source: Path, out: Path, wanted: Ingest, chunks: int) -> set[int]:
    """Start an ingest, kill it when some chunks are done, and wait for its workers to go; the chunks done."""
    partial = out.with_name(out.name + ".partial")
    run = subprocess.Popen(
        [sys.executable, str(script), str(source), str(out), wanted.model_dump_json()], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and run.poll() is None:
        if len(journal_of(partial)) >= chunks:
            break
        time.sleep(0.01)
    workers = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "the ingest was done before it could be killed"
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers outlived the ingest that they worked for"
    return journal_of(partial)


def journal_of(partial: Path) -> set[int]:
    done = set()
    if (partial / JOURNAL).exists():
        for line in (partial / JOURNAL).read_text(encoding="utf-8").split("\n")[1:]:
            try:
                done.add(json.loads(line)[0])
            except ValueError:
                continue
    return done


def test_a_killed_ingest_leaves_no_dataset_and_the_next_goes_on(tmp_path: Path) -> None:
    source, out, script = (
        make_source(tmp_path / "source", n_patients=200, side=400),
        tmp_path / "out",
        tmp_path / "run.py",
    )
    script.write_text(RUN, encoding="utf-8")
    wanted = recipe(max_rejected_share=0.0)
    whole = ingest(source, tmp_path / "whole", wanted, source_digest="given", workers=2)

    done = killed(script, source, out, wanted, chunks=3)
    assert not out.exists()
    assert 3 <= len(done) < 13
    with pytest.raises(DatasetError):
        Dataset.open(tmp_path / "out.partial")

    table = pd.read_csv(source / "table.csv")
    for first in done:  # were these decoded again, they would be rejected
        for name in table["image"].iloc[first : first + 32]:
            (source / name).write_bytes(b"")
    dataset = ingest(source, out, wanted, source_digest="given", workers=2)
    assert dataset.facts.digest == whole.facts.digest
    assert np.array_equal(dataset.images, whole.images)
    assert not (tmp_path / "out.partial").exists()


def test_what_a_killed_ingest_left_is_not_used_for_another_recipe_nor_where_it_is_damaged(tmp_path: Path) -> None:
    source, out, script = (
        make_source(tmp_path / "source", n_patients=200, side=400),
        tmp_path / "out",
        tmp_path / "run.py",
    )
    script.write_text(RUN, encoding="utf-8")
    done = killed(script, source, out, recipe(), chunks=3)
    images = np.load(tmp_path / "out.partial" / IMAGES, mmap_mode="r+")
    images[min(done)] ^= 1  # as after a loss of power
    images.flush()
    del images
    with (tmp_path / "out.partial" / JOURNAL).open("a", encoding="utf-8") as stream:
        stream.write('[9999, [["cut')
    whole = ingest(source, tmp_path / "whole", recipe(), source_digest="given", workers=2)
    assert ingest(source, out, recipe(), source_digest="given", workers=2).facts.digest == whole.facts.digest

    other, second = recipe(preprocessing=Preprocessing(size=32)), tmp_path / "second"
    killed(script, source, second, recipe(), chunks=3)
    dataset = ingest(source, second, other, source_digest="given", workers=2)
    assert dataset.images.shape[1:] == (32, 32)
    assert [pixel_digest(image) for image in dataset.images] == list(dataset.manifest["pixel_digest"])
    assert (dataset.images.reshape(len(dataset.images), -1).std(axis=1) > 0).all()


def test_two_at_once_on_one_folder_are_refused(source: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out.partial").mkdir()
    held = os.open(tmp_path / "out.partial", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="another ingest is at work"):
        ingest(source, tmp_path / "out", recipe(), workers=1)
    os.close(held)
    ingest(source, tmp_path / "out", recipe(), workers=1)


class Deadly:
    """Pixels for every locator but one, which ends the process: as a decoder that crashes, or the kernel, would."""

    def __init__(self, parent: int) -> None:
        self.parent = parent

    def __call__(self, locator: str) -> np.ndarray:
        time.sleep(0.002)
        if os.getpid() != self.parent:
            os._exit(9)
        return np.zeros((8, 8), dtype=np.uint8)


class Strange:
    """Raises what no decoder should, by the locator."""

    def __call__(self, locator: str) -> np.ndarray:
        if locator == "bad":
            raise KeyError("a value of the header")
        if locator == "refused":
            raise ImageError("not this one", "refused")
        return np.full((8, 8), 5, dtype=np.uint8)


def decoder_of(load: Callable[[str], np.ndarray], folder: Path, n: int) -> Decoder:
    path = folder / "images.raw"
    path.write_bytes(bytes(n * 64))
    return Decoder(load, path, 0, 8, 0)


def test_a_worker_that_dies_is_said_and_not_waited_for(tmp_path: Path) -> None:
    chunks = [Chunk(i, ("x",) * 32) for i in range(0, 32 * 60, 32)]
    with pytest.raises(DatasetError, match="process that decodes images died"):
        list(decode_all(decoder_of(Deadly(os.getpid()), tmp_path, 32 * 60), chunks, workers=2))


def test_an_unexpected_error_is_named_and_quotes_nothing(tmp_path: Path) -> None:
    decoder = decoder_of(Strange(), tmp_path, 3)
    ((_, outcomes),) = decode_all(decoder, [Chunk(0, ("good", "bad", "refused"))], workers=1)
    assert outcomes == [
        [pixel_digest(np.full((8, 8), 5, np.uint8)), 5, 0, 5, 5, 0],
        "unexpected: KeyError",
        "refused: not this one",
    ]


@pytest.mark.parametrize(
    ("layout", "name", "n_images", "n_patients"),
    [("nih", "nih-chestxray14-1000", 1000, 264), ("kermany", "kermany-chest-xray", 720, None)],
)
def test_real_sets(real_data, tmp_path: Path, layout: str, name: str, n_images: int, n_patients: int | None) -> None:
    dataset = ingest(real_data(name), tmp_path / "out", Ingest(layout=layout, preprocessing=Preprocessing(size=64)))
    assert dataset.facts.n_images == n_images
    assert n_patients in (None, dataset.facts.n_patients)
    assert dataset.facts.n_rejected == 0
    assert (dataset.manifest.groupby("patient_id")["split"].nunique() == 1).all()
    assert dataset.manifest["pixel_std"].min() > 5
    if layout == "nih":
        with Image.open(real_data(name) / "images" / f"{dataset.manifest['image_id'].iloc[7]}.png") as image:
            assert np.array_equal(dataset.images[7], np.asarray(image))  # 64 px already
