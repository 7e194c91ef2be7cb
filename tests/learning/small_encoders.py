"""One small section per encoder, for tests that ask something of all of them; 32-pixel images."""

from hilum.learning import encoders
from hilum.recipe import Backbone, Moco, Pixels, Section

SIZE = 32
SMALL: dict[str, Section] = {
    "moco": Moco(backbone=Backbone(width=8), projection_dim=16, queue_size=24),
    "pixels": Pixels(components=8),
}


def takes_steps(name: str) -> bool:
    return any(parameter.requires_grad for parameter in encoders.build(SMALL[name], SIZE).parameters())


BY_STEPS = [name for name in SMALL if takes_steps(name)]
