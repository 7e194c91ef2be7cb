"""Checkpoints survive kills and damage, or say that they did not."""

import logging
import os
from pathlib import Path

import pytest
import torch
from disks import no_file_above

from hilum.errors import TrainingError
from hilum.learning.engine import checkpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": {"a": torch.full((1000,), float(step))}, "run": {"data_digest": "d"}}


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None


def test_the_newest_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, state(step))
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["a"], torch.full((1000,), 3.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    newest = tmp_path / checkpoint.NEWEST
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[content.find(torch.full((1000,), 2.0).numpy().tobytes()) + 2000] ^= 1  # torch alone would not notice
        assert torch.load(newest, weights_only=True)["step"] == 2
    else:
        content = bytearray()
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 1
    assert "checkpoint.pt is damaged" in caplog.text


def test_a_kill_between_the_two_renames_costs_one_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    (tmp_path / checkpoint.NEWEST).replace(tmp_path / checkpoint.PREVIOUS)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 2


def test_a_half_written_file_is_never_taken_for_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / checkpoint.NEWEST, state(1))
    assert checkpoint.load(tmp_path) is None
    checkpoint.discard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_readable_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    (tmp_path / checkpoint.NEWEST).write_bytes(b"no archive")
    with pytest.raises(TrainingError, match=r"none of checkpoint\.pt in .* can be read; remove them"):
        checkpoint.load(tmp_path)


def test_a_full_disk_leaves_the_checkpoints_that_were_there(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step), best=step == 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        no_file_above(1000),
        pytest.raises(
            TrainingError, match=r"checkpoint\.pt could not be written to .*; free some space and train again"
        ),
    ):
        checkpoint.save(tmp_path, state(3), best=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded["step"] == 2


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint.save(tmp_path, state(step), best=step == 2)
    assert torch.load(tmp_path / checkpoint.BEST, weights_only=True)["step"] == 2
    assert torch.load(tmp_path / checkpoint.NEWEST, weights_only=True)["step"] == 4
    checkpoint.discard(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.best.pt", "checkpoint.pt"]


def test_the_best_is_a_copy_where_a_file_cannot_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    checkpoint.save(tmp_path, state(1), best=True)
    assert (tmp_path / checkpoint.BEST).read_bytes() == (tmp_path / checkpoint.NEWEST).read_bytes()


def test_two_damaged_ones_are_an_error(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, state(step))
    for name in (checkpoint.NEWEST, checkpoint.PREVIOUS):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-50])
    with pytest.raises(TrainingError, match=r"none of checkpoint\.pt, checkpoint\.previous\.pt in .* can be read"):
        checkpoint.load(tmp_path)
