"""`moco`: momentum contrast, MoCo v2, with X-ray augmentations (hilum.learning.momentum)."""

from hilum.learning.momentum import MomentumContrast
from hilum.recipe import Moco


def build(section: Moco, size: int) -> MomentumContrast:  # noqa: ARG001  averaged features fit any size
    """An untrained encoder; it takes images of any size, and is told `size` as every encoder is."""
    return MomentumContrast(section)
