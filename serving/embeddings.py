"""TorchServe handler of `embeddings`: an image of any served modality in, its embedding out.

TorchServe wants exactly one class in this module, and calls `initialize` once and `handle` per batch.
"""

import hilum  # noqa: F401  first: it switches ONNX Runtime's telemetry off
from hilum.delivery.fronts import exchange


class EmbeddingsHandler:
    """Answers with the embedding of each image, by the release of the image's modality."""

    def initialize(self, context: exchange.Context) -> None:
        """Load and prove every release of the archive."""
        self.desk, self.meter = exchange.open_desk(context, "embeddings")

    def handle(self, data: list[exchange.Row], context: exchange.Context) -> list[str | bytes]:
        """Answer a batch."""
        return exchange.respond(self.desk, data, context, self.meter)
