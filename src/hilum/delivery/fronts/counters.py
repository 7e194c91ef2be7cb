"""What a front counts, in Prometheus' form: calls and images by outcome, abstentions by reason, seconds, workers.

No label comes from a caller: questions, outcomes and codes are hilum's own words.
"""

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hilum.delivery.fronts.wire import Reply
from hilum.delivery.predictor import Release

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
SECONDS: Final = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)


class Counters:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = into = CollectorRegistry()
        self.calls = Counter("hilum_requests", "Calls by question and HTTP status.", ("model", "status"), registry=into)
        self.images = Counter(
            "hilum_images",
            "Images by question and outcome: answered, abstained, refused.",
            ("model", "outcome"),
            registry=into,
        )
        self.abstentions = Counter("hilum_abstentions", "Abstentions by reason.", ("model", "reason"), registry=into)
        self.refusals = Counter(
            "hilum_refusals", "Refusals of images and of whole calls by code.", ("model", "code"), registry=into
        )
        self.seconds = Histogram(
            "hilum_request_seconds",
            "From the last byte of a call to its answer.",
            ("model",),
            buckets=SECONDS,
            registry=into,
        )
        self.reloads = Counter("hilum_reloads", "Reloads of releases by outcome.", ("outcome",), registry=into)
        self._releases = Gauge(
            "hilum_release_info",
            "1 for each release that answers.",
            ("model", "version", "modality", "dossier", "engine", "gate"),
            registry=into,
        )

    def watch(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when the counters are."""
        gauge = Gauge(name, help_text, registry=self._registry)
        gauge.set_function(value)

    def serve(self, releases: Sequence[Release], engine: str) -> None:
        """Name the releases that answer from now on."""
        self._releases.clear()
        for release in releases:
            card = release.card
            self._releases.labels(
                card.name, card.version, card.modality, release.short_id, engine, card.gate.verdict
            ).set(1)

    def count(self, model: str, reply: Reply, seconds: float | None = None) -> None:
        """Count a call."""
        self.calls.labels(model, str(reply.status)).inc()
        if seconds is not None:
            self.seconds.labels(model).observe(seconds)
        for outcome in reply.outcomes:
            kind, _, why = outcome.partition(":")
            if kind != "declined":  # a call that nobody looked into holds no image that was refused
                self.images.labels(model, kind).inc()
            if kind == "abstained":
                self.abstentions.labels(model, why).inc()
            elif kind in ("refused", "declined"):
                self.refusals.labels(model, why).inc()

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
