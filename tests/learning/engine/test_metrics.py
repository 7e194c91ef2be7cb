"""The stream of a run: what is written when, what stops it, and what TensorBoard reads of it."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from disks import no_file_above
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tqdm import tqdm

from hilum.errors import TrainingError
from hilum.learning.engine.metrics import EVENTS, METRICS, Metrics

ROWS = np.array([4, 9, 4, 2])


def note(metrics: Metrics, step: int, loss: float, gradient: float = 1.0, **told: float) -> None:
    figures = {"loss": loss, "gradient_norm": gradient, **told}
    metrics.note({"step": step, "epoch": 0, "lr": 0.1, "n": 4}, {k: torch.tensor(v) for k, v in figures.items()}, ROWS)


def bar() -> "tqdm[None]":
    return tqdm(disable=True)


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / METRICS).read_text(encoding="utf-8").splitlines()]


def records(path: Path) -> Iterator[Event]:
    """A TFRecord file, read by its published layout: length, its checksum, content, its checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12]) == (masked_crc32c(content[:8]),)
        data = content[12 : 12 + length]
        assert struct.unpack("<I", content[12 + length : 16 + length]) == (masked_crc32c(data),)
        content = content[16 + length :]
        yield Event.FromString(data)


def shown(out: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: files by their names; a START makes void what was written of its step and later ones."""
    series: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((out / EVENTS).iterdir()):
        events = list(records(path))
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            if event.session_log.status == SessionLog.START:
                series = {tag: [p for p in points if p[0] < event.step] for tag, points in series.items()}
            for value in event.summary.value:
                series.setdefault(value.tag, []).append((event.step, value.simple_value))
    return series


def test_a_line_and_an_event_per_step(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, 0, bar()) as metrics:
        for step in (1, 2, 3):
            note(metrics, step, step / 2, kl=float("nan") if step == 2 else 0.25)
    found = lines(tmp_path)
    assert [(line["step"], line["loss"], line["lr"], line["kl"]) for line in found] == [
        (1, 0.5, 0.1, 0.25),
        (2, 1.0, 0.1, None),
        (3, 1.5, 0.1, 0.25),
    ]
    assert set(found[0]) == {"step", "epoch", "lr", "loss", "gradient_norm", "kl", "images_per_s"}
    series = shown(tmp_path)
    assert series["loss"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert set(series) == {"lr", "loss", "gradient_norm", "kl", "images_per_s"}
    assert metrics.bytes_written == (tmp_path / METRICS).stat().st_size


def test_a_resumed_stream_repeats_nothing(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, 0, bar()) as metrics:
        for step in (1, 2):
            note(metrics, step, float(step))
        metrics.settle()
        offset = metrics.bytes_written
        for step in (3, 4, 5):
            note(metrics, step, -1.0)
    with Metrics(tmp_path, 2, offset, bar()) as metrics:
        for step in (3, 4):
            note(metrics, step, float(step))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert shown(tmp_path)["loss"] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert len(list((tmp_path / EVENTS).iterdir())) == 2


def test_event_files_do_not_name_the_machine(tmp_path: Path) -> None:
    import socket

    with Metrics(tmp_path, 0, 0, bar()):
        pass
    (path,) = (tmp_path / EVENTS).iterdir()
    assert socket.gethostname() not in path.name


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_what_is_no_number_stops_at_once_and_names_the_rows(tmp_path: Path, loss: float, gradient: float) -> None:
    with Metrics(tmp_path, 0, 0, bar()) as metrics:
        note(metrics, 1, 1.0)
        with pytest.raises(TrainingError, match=r"the loss is .* at step 2, on manifest rows \[2, 4, 9\]; look at"):
            note(metrics, 2, loss, gradient)
    assert [line["step"] for line in lines(tmp_path)] == [1]


@pytest.mark.parametrize("silent", [False, True])
def test_one_step_behind_it_stops_one_step_late_but_before_a_checkpoint(tmp_path: Path, silent: bool) -> None:
    """As on a GPU, where a figure is read when the next step has been given out; on every worker."""

    def fresh() -> Metrics:
        return Metrics(tmp_path, 0, 0, None if silent else bar(), behind=1)

    with fresh() as metrics:
        note(metrics, 1, 1.0)
        assert metrics.losses == []
        note(metrics, 2, float("nan"))
        assert metrics.losses == [1.0]
        with pytest.raises(TrainingError, match="at step 2,"):
            note(metrics, 3, 1.0)
    with fresh() as metrics:
        note(metrics, 1, float("nan"))
        with pytest.raises(TrainingError, match="at step 1,"):
            metrics.settle()  # what a checkpoint does first


def test_the_mean_over_an_epoch_survives_a_resume(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0, 0, None) as metrics:
        for step, loss in enumerate((1.0, 2.0), 1):
            note(metrics, step, loss)
        kept = metrics.losses
    with Metrics(tmp_path, 2, 0, None, losses=kept) as metrics:
        note(metrics, 3, 6.0)
        assert metrics.epoch_loss() == 3.0
        note(metrics, 4, 5.0)
        assert metrics.epoch_loss() == 5.0


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, 0, 0, bar())
    note(metrics, 1, 1.0)
    metrics.settle()
    before = (tmp_path / METRICS).read_bytes()
    with no_file_above(1), metrics:
        note(metrics, 2, 1.0)
        with pytest.raises(TrainingError, match=r"could not be written to .*; free some space and train again"):
            metrics.settle()
        with pytest.raises(TrainingError, match="the real cause"), metrics:
            raise TrainingError("the real cause")
    assert (tmp_path / METRICS).read_bytes() == before
    with no_file_above(0), pytest.raises(TrainingError, match="could not be written"):
        Metrics(tmp_path / "x", 0, 0, bar())
