"""Answers for files: one row each, also for those that are refused."""

import contextlib
import json
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from releasing import dicom, drawn_image, encoded, photograph
from threadpoolctl import threadpool_info

from hilum.delivery import batch
from hilum.delivery.engines import DEFAULT
from hilum.errors import UsageError


@pytest.fixture
def files(tmp_path):
    contents = {
        "a.png": encoded(drawn_image("PA")),
        "b.dcm": dicom(drawn_image("PA")),
        "c.png": encoded(photograph()),
        "d.png": encoded(drawn_image("AXIAL")),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in contents]


def test_parquet(xr_release, files, tmp_path):
    assert batch.predict(xr_release, files, tmp_path / "out.parquet") == 0
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table.columns) == list(batch.COLUMNS)
    assert list(table["number"]) == [0, 1, 2, 3]
    assert not table["error"].any()
    assert np.stack(table["embedding"][:2]).shape == (2, 12)
    assert table["probability"][:2].between(0, 1).all()
    assert table["probability"][2:].isna().all()
    assert list(table["abstention"]) == ["", "", "out_of_distribution", "out_of_distribution"]
    assert list(table["decision"][2:]) == ["abstained"] * 2
    assert table["at_or_above_threshold"].isna().tolist() == [False, False, True, True]
    assert table["dossier"].nunique() == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "out" in path.name) == ["out.parquet"]


def test_json_lines(mr_release, files, capsys):
    assert batch.predict(mr_release, [*files, files[0].parent / "none.png"], None) == 4
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(row["error"]) for row in rows] == [True, True, True, False, True]
    assert "probability" not in rows[3]
    assert "cannot be read" in rows[4]["error"]


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Parts of 3 files, so that 20 are many; the first is the answer of one process."""
    monkeypatch.setattr(batch, "PART", 3)
    folder = tmp_path / "many"
    folder.mkdir()
    contents = [encoded(drawn_image("PA", size)) for size in range(80, 98)] + [b"", b"rubbish"]
    found = [folder / f"{number:02d}" for number in range(len(contents))]
    for path, content in zip(found, contents, strict=True):
        path.write_bytes(content)
    return found


def test_several_processes_answer_as_one_does(xr_release, many, tmp_path, monkeypatch):
    assert batch.predict(xr_release, many, tmp_path / "one.parquet", workers=1) == 2
    monkeypatch.setattr(batch, "IN_PROCESS", 0)
    assert batch.predict(xr_release, many, tmp_path / "two.parquet", workers=2) == 2
    pd.testing.assert_frame_equal(*(pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two")))


def test_a_process_of_several_leaves_their_cores_to_the_others(xr_release):
    with batch._pool(batch._Job(xr_release, DEFAULT), 1) as pool:
        found = pool.submit(threadpool_info).result()
    assert {one["num_threads"] for one in found if one["user_api"] == "blas"} == {1}


def test_a_run_that_was_stopped_does_only_what_is_missing(xr_release, many, tmp_path, monkeypatch):
    whole = batch.predict(xr_release, many, tmp_path / "whole.parquet")
    done = []
    write = batch._write

    def until_the_third(rows, path):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(path.name)
        write(rows, path)

    out = tmp_path / "out.parquet"
    monkeypatch.setattr(batch, "_write", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        batch.predict(xr_release, many, out)
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.parquet.parts").glob("*.parquet")}
    assert sorted(kept) == done

    again = []
    monkeypatch.setattr(batch, "_write", lambda rows, path: (again.append(path.name), write(rows, path)))
    assert batch.predict(xr_release, many, out) == whole
    assert not set(again) & set(done)
    assert len(again) + len(done) == 7
    pd.testing.assert_frame_equal(pd.read_parquet(out), pd.read_parquet(tmp_path / "whole.parquet"))


@pytest.mark.parametrize("other", ["files", "release"])
def test_parts_of_another_job_are_not_joined(xr_release, mr_release, many, tmp_path, other):
    parts = tmp_path / "out.parquet.parts"
    parts.mkdir()
    release = batch.Release.open(xr_release)
    batch._claim(parts, release, batch._Job(xr_release, "onnxruntime-fp32"), many)
    asked = (xr_release, many[1:]) if other == "files" else (mr_release, many)
    with pytest.raises(UsageError, match="parts of another job"):
        batch.predict(*asked, tmp_path / "out.parquet")
    assert parts.is_dir()
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_that_ends_its_process_costs_one_row(xr_release, many, tmp_path, monkeypatch):
    """A pipe in place of a file tells who reads it; the reader is killed, as a decoder that crashes would be."""
    monkeypatch.setattr(batch, "IN_PROCESS", 0)
    many[4].unlink()
    os.mkfifo(many[4])
    stop, killed = threading.Event(), []

    def kill_readers():
        while not stop.wait(0.05):
            with contextlib.suppress(OSError):  # ENXIO: nobody reads it
                end = os.open(many[4], os.O_WRONLY | os.O_NONBLOCK)
                for child in psutil.Process().children(recursive=True):
                    if any(link.readlink() == many[4] for link in Path(f"/proc/{child.pid}/fd").iterdir()):
                        child.kill()
                        killed.append(child.pid)
                os.close(end)

    killer = threading.Thread(target=kill_readers)
    killer.start()
    try:
        assert batch.predict(xr_release, many, tmp_path / "out.parquet", workers=2) == 3
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 2  # once in its part, once alone
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert list(table["number"]) == list(range(20))
    assert [number for number, error in enumerate(table["error"]) if error] == [4, 18, 19]
    assert "ended" in table["error"][4]
