"""`medaug`: momentum contrast whose positives are other films of the same patient.

Vu et al. 2021 (MedAug: contrastive learning leveraging patient metadata improves representations for chest X-ray
interpretation). Which films are admitted is the recipe's `pairing` (hilum.learning.pairs); their best rule was the
same study and any laterality, DisCeRn's is the same patient. Both films are augmented. Their harder negatives, which
they found to bring nothing, are left out.
"""

from hilum.learning.momentum import MomentumContrast
from hilum.recipe import MedAug


def build(section: MedAug, size: int) -> MomentumContrast:  # noqa: ARG001  averaged features fit any size
    """An untrained encoder; it takes images of any size, and is told `size` as every encoder is."""
    encoder = MomentumContrast(section)
    encoder.pairing = section.pairing
    return encoder
