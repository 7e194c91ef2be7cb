"""TorchServe handler of `pneumonia`: a chest X-ray in, a calibrated probability out; anything else is refused.

A release whose recipe names another label has a head for that; its archive tells this handler so in model-config.yaml.

TorchServe wants exactly one class in this module, and calls `initialize` once and `handle` per batch.
"""

import hilum  # noqa: F401  first: it switches ONNX Runtime's telemetry off
from hilum.delivery.fronts import exchange


class PneumoniaHandler:
    """Answers with the probability of the label, by the release that has its head.

    The other releases of the archive only tell which images are not for it.
    """

    def initialize(self, context: exchange.Context) -> None:
        """Load and prove the releases of the archive that answer."""
        self.desk, self.meter = exchange.open_desk(context, "pneumonia")

    def handle(self, data: list[exchange.Row], context: exchange.Context) -> list[str | bytes]:
        """Answer a batch."""
        return exchange.respond(self.desk, data, context, self.meter)
