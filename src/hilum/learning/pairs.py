"""Pairs of images that an encoder should find alike: films of one patient.

B: images of a batch, N: images of the train split.
"""

import pandas as pd
from torch import Tensor

from hilum.recipe import Pairing


class Pairs:
    """Partners by the rule of Vu et al. 2021 (MedAug), section 3: drawn evenly from the images that the rule admits.

    The image itself stays among them, and is the only one where the rule admits no other (the fallback: two views of
    one image, as in MoCo). Groups are found once, so that a draw is a few array operations.

    Attributes:
        fallback_share: Share of the N images that have no partner but themselves.
    """

    fallback_share: float

    def __init__(self, table: pd.DataFrame, section: Pairing) -> None:
        """Find each image's group.

        Args:
            table: Manifest rows of the train split, in the order of the images' numbers.
            section: The rule.
        """
        raise NotImplementedError

    def draw(self, numbers_B: Tensor, seed: int) -> Tensor:
        """A partner for each image, int64 (B,): numbers within the train split, on the CPU."""
        raise NotImplementedError
