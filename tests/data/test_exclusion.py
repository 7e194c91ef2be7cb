"""A curator's list: what it names is left out, nothing else moves, and what it cannot name is refused."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from hilum.cli import cli
from hilum.data import exclusion
from hilum.data.ingest import ingest
from hilum.data.store import Dataset
from hilum.errors import DatasetError, UsageError
from hilum.recipe import Ingest, Preprocessing

RECIPE = Ingest(layout="folder", options={"labels": "pneumonia"}, preprocessing=Preprocessing(size=16))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 films of 12 patients."""
    folder = tmp_path_factory.mktemp("source")
    random = np.random.default_rng(0)
    rows = []
    for i in range(24):
        Image.fromarray(random.integers(1, 255, (20, 20), dtype=np.uint8)).save(folder / f"{i}.png")
        rows.append(
            {
                "image": f"{i}.png",
                "image_id": f"film {i}",
                "patient_id": f"p{i // 2}",
                "modality": "XR",
                "view": "PA",
                "pneumonia": i % 2,
            }
        )
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ingest(source, tmp_path_factory.mktemp("whole") / "out", RECIPE, workers=1)


def listed(path: Path, rows: list[dict[str, str]]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def keys_of(dataset: Dataset, names: list[str]) -> list[dict[str, str]]:
    digest = dataset.facts.digest
    return [
        {"dataset": digest, "image_key": hashlib.sha256(f"{digest}\0{name}".encode()).hexdigest()[:16]}
        for name in names
    ]


@pytest.mark.parametrize("by", ["id", "key"])
def test_what_is_named_is_left_out_counted_and_listed(source: Path, whole: Dataset, tmp_path: Path, by: str) -> None:
    names = ["film 3", "film 10", "film 11"]
    rows = [{"image_id": name, "why": "arms"} for name in names] if by == "id" else keys_of(whole, names)
    made = ingest(source, tmp_path / "out", RECIPE, workers=1, exclude=[listed(tmp_path / "list.csv", rows)])
    kept = whole.manifest[~whole.manifest["image_id"].isin(names)]
    pd.testing.assert_frame_equal(made.manifest, kept.reset_index(drop=True))  # splits among them
    np.testing.assert_array_equal(made.images, whole.images[kept.index])
    said = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (said["n_images"], said["n_rejected"], said["n_excluded"]) == (21, 3, 3)
    assert said["digest"] != whole.facts.digest
    with (tmp_path / "out" / "rejected.csv").open(newline="") as stream:
        reasons = {row["image_id"]: row["reason"] for row in csv.DictReader(stream)}
    assert reasons == dict.fromkeys(names, "excluded by the curator")


def test_a_second_look_adds_to_the_first(source: Path, whole: Dataset, tmp_path: Path) -> None:
    first = listed(tmp_path / "first.csv", keys_of(whole, ["film 0"]))
    made = ingest(source, tmp_path / "once", RECIPE, workers=1, exclude=[first])
    second = listed(tmp_path / "second.csv", keys_of(made, ["film 5"]))
    both = ingest(source, tmp_path / "twice", RECIPE, workers=1, exclude=[first, second])
    assert set(whole.manifest["image_id"]) - set(both.manifest["image_id"]) == {"film 0", "film 5"}
    with pytest.raises(UsageError, match="another source, recipe or version"):
        ingest(source, tmp_path / "once", RECIPE, workers=1, exclude=[first, second])
    again = ingest(source, tmp_path / "once", RECIPE, workers=1, exclude=[first])
    assert again.facts.digest == made.facts.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_id\nfilm 1\nfilm 99\n", r"1 of the 2 images .* not among .*'film 99'"),
        ("dataset,image_key\nabc,0123456789abcdef\n", r"1 of the 1 images .*'the key 0123456789abcdef'"),
        ("name\nfilm 1\n", "has no column dataset; it has either image_id, or dataset and image_key"),
        ("image_id,why\n,blurred\n", "has a row without image_id"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(source: Path, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        ingest(source, tmp_path / "out", RECIPE, workers=1, exclude=[path])
    assert not (tmp_path / "out").exists()


def test_excluding_everything_is_refused(source: Path, whole: Dataset, tmp_path: Path) -> None:
    path = listed(tmp_path / "list.csv", [{"image_id": name} for name in whole.manifest["image_id"]])
    with pytest.raises(DatasetError, match="all 24 images"):
        ingest(source, tmp_path / "out", RECIPE, workers=1, exclude=[path])


def test_excluded_images_are_no_reason_to_refuse_the_rest(source: Path, tmp_path: Path) -> None:
    path = listed(tmp_path / "list.csv", [{"image_id": f"film {i}"} for i in range(20)])
    strict = RECIPE.model_copy(update={"max_rejected_share": 0.0})
    assert ingest(source, tmp_path / "out", strict, workers=1, exclude=[path]).facts.n_images == 4


def test_spaces_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfimage_id , why\nfilm 1 ,x\n")
    assert exclusion.read([path]) == exclusion.Exclusion(image_ids=("film 1",))


def test_the_verb_takes_lists(source: Path, tmp_path: Path) -> None:
    path = listed(tmp_path / "list.csv", [{"image_id": "film 1"}])
    call = ["ingest", "--layout", "folder", "--source", str(source), "--out", str(tmp_path / "out"), "--size", "16"]
    ran = CliRunner().invoke(cli, [*call, "--option", "labels=pneumonia", "--workers", "1", "--exclude", str(path)])
    assert ran.exit_code == 0, ran.output
    assert "23 images of 12 patients, 1 rejected (1 by the curator)" in ran.output
