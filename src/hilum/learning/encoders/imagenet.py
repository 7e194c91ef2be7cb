"""`imagenet`: a network trained on photographs, as it is; what transfer alone is worth.

The embedding is the globally averaged last feature map of a network that was trained to tell the thousand classes of
ImageNet apart: how strongly each of D patterns that distinguish photographs is present, on average over the image; no
feature is negative. It knows nothing of chests or heads, and nothing of the dataset: grey values are normalised as
ImageNet's were, batch normalisation uses ImageNet's statistics, and nothing is trained.

The weights are the file that `backbone.weights` names, else torchvision's (He et al. 2016, Huang et al. 2017; ImageNet:
Russakovsky et al. 2015), from the cache folder or downloaded (hilum.learning.nets.published).
"""

from typing import Final, Self

from hilum.learning.encoders import Encoder
from hilum.learning.engine.batches import TrainImages
from hilum.learning.nets.embedder import Embedder, embedder
from hilum.learning.nets.pretrained import MEAN, STD
from hilum.recipe import Imagenet

# Between ImageNet's three colours: near all of them, so that the fold's error at the image border is small.
GREY_MEAN: Final = sum(MEAN) / len(MEAN)
GREY_STD: Final = sum(STD) / len(STD)


class ImagenetEncoder(Encoder):
    """A frozen network: no parameter requires a gradient, no batch moves its statistics."""

    embedder: Embedder

    def __init__(self, section: Imagenet) -> None:
        super().__init__(embedder(section.backbone))
        self.embedder.normalise_by(GREY_MEAN, GREY_STD)
        self.requires_grad_(False)
        self.eval()

    def fit(self, images: TrainImages, seed: int) -> None:  # noqa: ARG002  nothing is learned from the images
        """Load the ImageNet weights; an encoder that is built to load its own weights never comes here."""
        self.embedder.load_imagenet()

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: there is nothing to train, and batch statistics are ImageNet's."""
        return super().train(False)


def build(section: Imagenet, size: int) -> ImagenetEncoder:  # noqa: ARG001  averaged features fit any size
    """An encoder without its weights, which `fit` loads."""
    return ImagenetEncoder(section)
