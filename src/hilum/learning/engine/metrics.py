"""What a run tells of itself while it goes on: a line per step, TensorBoard events, a bar, and a stop at NaN.

metrics.jsonl   one line per step: step, epoch, loss, gradient_norm, lr, images_per_s, and the encoder's own figures
events/         the same for TensorBoard

A figure is read when it has been computed. On a GPU that is one step late: to wait for each step's loss would leave the
GPU idle while the next step is prepared. A loss that is no number may so reach the weights in memory, but no
checkpoint, since a checkpoint settles all figures first.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from tensorboardX import SummaryWriter
from torch import Tensor
from tqdm import tqdm

from hilum.errors import TrainingError

METRICS: Final = "metrics.jsonl"
EVENTS: Final = "events"
FLUSH_SECONDS: Final = 10


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
    """

    def __init__(self, out: Path, start: int, offset: int, shown: "tqdm[Any] | None") -> None:
        """Open the stream.

        Args:
            out: The run's folder.
            start: Steps done before.
            offset: Bytes of metrics.jsonl that belong to them.
            shown: The bar to move; None for the workers that neither write nor show.
        """
        self._pending: list[_Step] = []
        self._stream: TextIO | None = None
        self._epoch: list[float] = []
        self._then = time.monotonic()
        self._bar = shown
        if shown is not None:
            path = out / METRICS
            path.touch()
            self._stream = path.open("r+", encoding="utf-8")
            self._stream.truncate(min(offset, path.stat().st_size))
            self._stream.seek(0, 2)
            self._events = SummaryWriter(str(out / EVENTS), purge_step=start + 1, flush_secs=FLUSH_SECONDS)

    def note(self, facts: dict[str, Any], figures: dict[str, Tensor], rows_G: NDArray[np.int64]) -> None:
        """Take the figures of a step, and write those of the step before, which are surely computed.

        Args:
            facts: step (from 1), epoch, lr, n: known without waiting.
            figures: Scalars on the device; `loss` and `gradient_norm` among them.
            rows_G: Manifest rows of the batch, to name them where the loss is no number.

        Raises:
            TrainingError: A loss or gradient is no number.
        """
        stacked = torch.stack([value.detach().float().reshape(()) for value in figures.values()])
        computed = None
        if stacked.is_cuda:
            landing = torch.empty_like(stacked, device="cpu", pin_memory=True)
            stacked = landing.copy_(stacked, non_blocking=True)
            computed = torch.cuda.Event()  # type: ignore[no-untyped-call]
            computed.record()
        self._pending.append(_Step(facts, tuple(figures), stacked, rows_G, computed))
        while len(self._pending) > (computed is not None):
            self._write(self._pending.pop(0))

    def settle(self) -> None:
        """Write all figures that are still under way."""
        while self._pending:
            self._write(self._pending.pop(0))
        if self._stream:
            self._stream.flush()

    @property
    def bytes_written(self) -> int:
        """Length of metrics.jsonl up to the last settled step."""
        return self._stream.tell() if self._stream else 0

    def epoch_loss(self) -> float:
        """The mean loss of the steps since this was last asked."""
        losses, self._epoch = self._epoch, []
        return float(np.mean(losses))

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream:
            self._stream.close()
            self._events.close()

    def _write(self, step: "_Step") -> None:
        if step.computed is not None:
            step.computed.synchronize()
        facts, figures = step.facts, dict(zip(step.names, step.values.tolist(), strict=True))
        if not np.isfinite([figures["loss"], figures["gradient_norm"]]).all():
            raise TrainingError(
                f"the loss is {figures['loss']} and its gradient's norm {figures['gradient_norm']} at step "
                f"{facts['step'] - 1}, on manifest rows {sorted(set(step.rows_G.tolist()))}; look at these images, or lower "
                "train.optimizer.learning_rate"
            )
        self._epoch.append(figures["loss"])
        now = time.monotonic()
        pace, self._then = facts["n"] / (now - self._then), now
        if self._stream is None or self._bar is None:
            return
        told = {key: value for key, value in facts.items() if key != "n"} | figures | {"images_per_s": round(pace, 1)}
        self._stream.write(json.dumps(told) + "\n")
        for name, value in told.items():
            if name not in ("step", "epoch"):
                self._events.add_scalar(name, value, facts["step"])
        self._bar.update()
        self._bar.set_postfix(loss=f"{figures['loss']:.3f}", img_s=f"{pace:.0f}", refresh=False)
