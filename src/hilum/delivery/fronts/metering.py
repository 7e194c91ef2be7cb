"""hilum's own counters on TorchServe, under the names and labels of the maintained front (fronts.counters).

TorchServe's workers tell its Java what to count, line by line; Java keeps the sums, so they outlive a worker, and shows
them on the metrics port. Which counters there are, and the order of their labels, is said in serving/metrics.yaml.
Three things are TorchServe's own and cannot be changed: a further label Hostname, the bounds of the buckets of seconds,
and that calls which reach no handler (no token, no such model, queue full) are in its Requests4XX and Requests5XX only.

The cache of metrics is known by its shape alone, so that nothing here imports TorchServe.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from hilum.delivery.fronts.wire import Reply
from hilum.delivery.predictor import Release

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


def serve(metrics: Cache | None, releases: Sequence[Release], engine: str) -> None:
    """Name the releases that answer.

    Args:
        metrics: TorchServe's; None where there are none, and nothing is counted then.
        releases: They.
        engine: That runs their graphs.
    """
    for release in releases:
        card = release.card
        labels = [card.name, card.version, card.modality, release.short_id, engine, card.gate.verdict]
        _tell(metrics, RELEASES, 1, labels)


def count(metrics: Cache | None, model: str, reply: Reply, seconds: float) -> None:
    """Count a call that a handler has answered."""
    _tell(metrics, REQUESTS, 1, [model, str(reply.status)])
    _tell(metrics, SECONDS, round(seconds, 6), [model])
    for outcome in reply.outcomes:
        kind, _, why = outcome.partition(":")
        if kind != "declined":
            _tell(metrics, IMAGES, 1, [model, kind])
        if kind == "abstained":
            _tell(metrics, ABSTENTIONS, 1, [model, why])
        elif kind in ("refused", "declined"):
            _tell(metrics, REFUSALS, 1, [model, why])


def _tell(metrics: Cache | None, name: str, value: float, labels: list[str]) -> None:
    """Count where the server was started with serving/metrics.yaml; with another file there is no such metric."""
    for of_kind in metrics.cache.values() if metrics is not None else ():
        if name in of_kind:
            of_kind[name].add_or_update(value, labels)
