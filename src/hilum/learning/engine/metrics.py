"""What a run tells of itself while it goes on: a line per step, TensorBoard events, a bar, and a stop at NaN.

metrics.jsonl   one line per step: step, epoch, loss, gradient_norm, lr, images_per_s, and the encoder's own figures;
                null is a figure that is not a number; at the end of an epoch also whether embeddings still spread
events/         the same for TensorBoard

A figure is read when it has been computed. On a GPU that is one step late: to wait for each step's loss would leave the
GPU idle while the next step is prepared. A loss that is no number may so reach the weights in memory, but no
checkpoint, since a checkpoint settles all figures first.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hilum.errors import TrainingError
from hilum.learning.engine.events import Events

METRICS: Final = "metrics.jsonl"
EVENTS: Final = "events"
FLUSH_SECONDS: Final = 5.0  # for those who look on


@dataclass(frozen=True)
class _Step:
    facts: dict[str, Any]
    names: tuple[str, ...]
    values: Tensor
    rows_G: NDArray[np.int64]
    computed: torch.cuda.Event | None


class Metrics:
    """The stream of one run; worker 0 writes it, the others only look for NaN.

    Attributes:
        bytes_written: Of metrics.jsonl; a checkpoint keeps it, and a resumed run cuts the file there.
        losses: Of the steps since `epoch_loss` was last asked; a checkpoint keeps them, too.
    """

    def __init__(
        self,
        out: Path,
        start: int,
        offset: int,
        shown: "tqdm[Any] | None",
        behind: int = 0,
        losses: list[float] | None = None,
    ) -> None:
        """Open the stream.

        Args:
            out: The run's folder.
            start: Steps done before.
            offset: Bytes of metrics.jsonl that belong to them.
            shown: The bar to move; None for the workers that neither write nor show.
            behind: How many steps may be under way before their figures are read: 0, or 1 on a GPU.
            losses: What `losses` was after the step `start`.

        Raises:
            TrainingError: The files cannot be written.
        """
        self.losses = list(losses or [])
        self.bytes_written = 0
        self._behind = behind
        self._pending: list[_Step] = []
        self._out = out
        self._then = self._flushed = time.monotonic()
        self._bar = shown
        self._stream: BinaryIO | None = None
        self._events: Events | None = None
        if shown is not None:
            try:
                self._open(start, offset)
            except OSError as error:
                raise self._unwritable(error) from error

    def note(self, facts: dict[str, Any], figures: dict[str, Tensor], rows_G: NDArray[np.int64]) -> None:
        """Take the figures of a step, and write those that may no longer be under way.

        Args:
            facts: step (from 1), epoch, lr, n, and what else is known without waiting.
            figures: Scalars on the device; `loss` and `gradient_norm` among them.
            rows_G: Manifest rows of the batch, to name them where the loss is no number.

        Raises:
            TrainingError: A loss or gradient is no number, or the line cannot be written.
        """
        stacked = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
        computed = None
        if stacked.is_cuda:
            landing = torch.empty_like(stacked, device="cpu", pin_memory=True)
            stacked = landing.copy_(stacked, non_blocking=True)
            computed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            computed.record()
        self._pending.append(_Step(facts, tuple(figures), stacked, rows_G, computed))
        self._read(self._behind)

    def settle(self) -> None:
        """Write all figures that are still under way.

        Raises:
            TrainingError: As `note`.
        """
        self._read(0)
        self._flush()

    def epoch_loss(self) -> float:
        """The mean loss of the steps since this was last asked."""
        losses, self.losses = self.losses, []
        return float(np.mean(losses))

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the files; an error on the way here is not hidden by one in closing."""
        for stream in (self._stream, self._events):
            if stream is None:
                continue
            try:
                stream.close()
            except OSError as error:
                if kind is None:
                    raise self._unwritable(error) from error

    def _open(self, start: int, offset: int) -> None:
        path = self._out / METRICS
        path.touch()
        self._stream = path.open("r+b")
        self.bytes_written = self._stream.truncate(min(offset, path.stat().st_size))
        self._stream.seek(self.bytes_written)
        self._events = Events(self._out / EVENTS, start + 1)

    def _read(self, behind: int) -> None:
        while len(self._pending) > behind:
            step = self._pending.pop(0)
            if step.computed is not None:
                step.computed.synchronize()
            figures = dict(zip(step.names, step.values.tolist(), strict=True))
            if not math.isfinite(figures["loss"] + figures["gradient_norm"]):
                self._flush()
                raise TrainingError(
                    f"the loss is {figures['loss']} and its gradient's norm {figures['gradient_norm']} at step "
                    f"{step.facts['step']}, on manifest rows {sorted(set(step.rows_G.tolist()))}; look at these "
                    "images, or lower train.optimizer.learning_rate"
                )
            self.losses.append(figures["loss"])
            now = time.monotonic()
            pace, self._then = step.facts["n"] / (now - self._then), now
            self._tell(step.facts, figures, pace)

    def _tell(self, facts: dict[str, Any], figures: dict[str, float], pace: float) -> None:
        if self._stream is None or self._events is None or self._bar is None:
            return
        told = {key: value for key, value in facts.items() if key != "n"} | figures | {"images_per_s": round(pace, 1)}
        line = {key: value if math.isfinite(value) else None for key, value in told.items()}
        try:
            self.bytes_written += self._stream.write(json.dumps(line).encode() + b"\n")
            self._events.scalars(facts["step"], {k: v for k, v in told.items() if k not in ("step", "epoch")})
        except OSError as error:
            raise self._unwritable(error) from error
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()
        self._bar.set_postfix(loss=f"{figures['loss']:.3f}", img_s=f"{pace:.0f}", refresh=False)
        self._bar.update()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        try:
            if self._stream is not None:
                self._stream.flush()
            if self._events is not None:
                self._events.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> TrainingError:
        return TrainingError(
            f"{METRICS} or {EVENTS} could not be written to {self._out}: {error.strerror}; free some space and train "
            "again: the run goes on from its last checkpoint"
        )
