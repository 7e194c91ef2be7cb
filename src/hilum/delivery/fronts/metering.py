"""hilum's own counters on TorchServe, under the names and labels of the maintained front (fronts.counters).

TorchServe's workers tell its Java what to count, line by line; Java keeps the sums, so they outlive a worker, and shows
them on the metrics port. Which counters there are, and the order of their labels, is said in serving/metrics.yaml.
Three things are TorchServe's own and cannot be changed: a further label Hostname, the bounds of the buckets of seconds,
and that calls which reach no handler (no token, no such model, queue full) are in its Requests4XX and Requests5XX only.

Each line costs processor time that the models would use: Java is woken for it, reads it and takes it apart. What is
counted is therefore gathered, and told twice a second in one piece; a worker that is killed takes the counts of its
last half second with it. Two lines per call that TorchServe's worker writes of its own accord are suppressed: that it
has received one, and how long the last one took.

The cache of metrics is known by its shape alone, so that nothing here imports TorchServe.
"""

import atexit
import io
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol, TextIO

from hilum.delivery.fronts.wire import Reply
from hilum.delivery.predictor import Release

EVERY_SECONDS: Final = 0.5
WRITES_METRICS: Final = "ts.metrics.caching_metric"  # TorchServe's logger that does
OWN: Final = "[METRICS]hilum_"  # as a line of ours begins
RECEIVED: Final = "Backend received inference"  # as TorchServe's line for each call does

REQUESTS: Final = "hilum_requests_total"
IMAGES: Final = "hilum_images_total"
ABSTENTIONS: Final = "hilum_abstentions_total"
REFUSALS: Final = "hilum_refusals_total"
SECONDS: Final = "hilum_request_seconds"
RELEASES: Final = "hilum_release_info"


class Metric(Protocol):
    """The part of TorchServe's metric that is used."""

    def add_or_update(self, value: float, dimension_values: list[str]) -> None:
        """Add to a counter, set a gauge, observe in a histogram."""


class Cache(Protocol):
    """The part of TorchServe's cache of metrics that is used: metrics by name, by kind of metric."""

    cache: Mapping[object, Mapping[str, Metric]]


def serve(metrics: Cache, releases: Sequence[Release], engine: str) -> None:
    """Name the releases that answer.

    Args:
        metrics: TorchServe's.
        releases: They.
        engine: That runs their graphs.
    """
    for release in releases:
        card = release.card
        labels = [card.name, card.version, card.modality, release.short_id, engine, card.gate.verdict]
        _tell(metrics, RELEASES, 1, labels)


class Meter:
    """Counts the calls that a handler has answered, and tells TorchServe of them from time to time."""

    def __init__(self, metrics: Cache, every_seconds: float = EVERY_SECONDS) -> None:
        """Begin to count.

        Args:
            metrics: TorchServe's.
            every_seconds: Between one telling and the next.
        """
        self._metrics, self._every = metrics, every_seconds
        self._counts: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self._took: list[tuple[str, float]] = []
        self._lock, self._some = threading.Lock(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        atexit.register(self.tell)

    def count(self, model: str, reply: Reply, seconds: float) -> None:
        """Count a call."""
        with self._lock:
            self._counts[REQUESTS, (model, str(reply.status))] += 1
            self._took.append((model, seconds))
            for outcome in reply.outcomes:
                kind, _, why = outcome.partition(":")
                if kind != "declined":
                    self._counts[IMAGES, (model, kind)] += 1
                if kind == "abstained":
                    self._counts[ABSTENTIONS, (model, why)] += 1
                elif kind in ("refused", "declined"):
                    self._counts[REFUSALS, (model, why)] += 1
        self._some.set()

    def tell(self) -> None:
        """Tell what was counted since the last time."""
        with self._lock:
            counts, took = self._counts, self._took
            self._counts, self._took = Counter(), []
        if not took:
            return
        with _in_one_piece():
            for (name, labels), value in counts.items():
                _tell(self._metrics, name, value, list(labels))
            for model, seconds in took:
                _tell(self._metrics, SECONDS, round(seconds, 6), [model])

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(self._every)
            self._some.clear()
            self.tell()


def quiet() -> None:
    """Keep TorchServe's worker from writing lines of its own for each call."""
    logging.getLogger().addFilter(_is_news)
    logging.getLogger(WRITES_METRICS).addFilter(_is_own)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(RECEIVED)


def _is_own(record: logging.LogRecord) -> bool:
    return str(record.msg).startswith(OWN)


@contextmanager
def _in_one_piece() -> Iterator[None]:
    """What is logged to the standard output meanwhile is written at once: each write is a reason to wake its reader."""
    with ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                stack.enter_context(_gathered(handler))
        yield


@contextmanager
def _gathered(handler: "logging.StreamHandler[TextIO]") -> Iterator[None]:
    assert handler.lock is not None, "logging makes one for each handler"
    with handler.lock:  # reentrant: other threads wait with what they log
        into, gathered = handler.stream, io.StringIO()
        handler.setStream(gathered)
        try:
            yield
        finally:
            handler.setStream(into)
            into.write(gathered.getvalue())
            into.flush()


def _tell(metrics: Cache, name: str, value: float, labels: list[str]) -> None:
    """Count where the server was started with serving/metrics.yaml; with another file there is no such metric."""
    for of_kind in metrics.cache.values():
        if name in of_kind:
            of_kind[name].add_or_update(value, labels)
