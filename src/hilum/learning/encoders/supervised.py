"""`supervised`: a network trained from scratch on labels, which an encoder that needs none has to beat.

The embedding is the backbone's globally averaged features, before the classifier, which is thrown away: what the labels
made the network look for, in a form from which they can be read off linearly. Of what the labels do not ask (age, view)
it keeps what happens to help. With `backbone.weights` it begins with ImageNet weights instead of random ones.

B: images, L: labels, D: width of the features.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import TrainingError
from hilum.learning.augment import augment
from hilum.learning.encoders import Encoder
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.nets.embedder import Embedder, embedder
from hilum.recipe import Supervised

# One positive among 21 images: in a batch of 64 there are then about three, which together weigh as much as the rest. A
# rarer finding is in many batches not at all; weighed in full, its one image in a batch would own the whole gradient.
LARGEST_WEIGHT: Final = 20.0


class SupervisedEncoder(Encoder):
    """A backbone and a linear classifier, trained together on augmented images."""

    embedder: Embedder
    positive_weight_L: Tensor
    share_known_L: Tensor

    def __init__(self, section: Supervised) -> None:
        net = embedder(section.backbone)
        super().__init__(net)
        self.labels = section.labels
        self._augment = section.augment
        self._weigh = section.imbalance == "weight"
        self.classifier = nn.Linear(net.dim, len(section.labels))
        self.register_buffer("positive_weight_L", torch.ones(len(section.labels)))
        self.register_buffer("share_known_L", torch.ones(len(section.labels)))

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure the grey values, and count the labels.

        Raises:
            TrainingError: The dataset lacks a label, or no train image has it, or all have.
        """
        self.embedder.measure(images, seed)
        labels_NL = images.label_values(self.labels)
        weight_L = positive_weights(labels_NL, self.labels)
        if self._weigh:
            self.positive_weight_L.copy_(weight_L)
        self.share_known_L.copy_((~labels_NL.isnan()).float().mean(dim=0))

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """Weighted cross-entropy of the labels of augmented images; see `known_cross_entropy`."""
        features_BD = self.embedder(augment(batch.x_BCHW, self._augment, draws))
        with torch.autocast(features_BD.device.type, enabled=False):
            logits_BL = self.classifier(features_BD.float())
        return known_cross_entropy(logits_BL, batch.labels_BL, self.positive_weight_L, self.share_known_L)


def positive_weights(labels_NL: Tensor, names: Sequence[str]) -> Tensor:
    """Negatives per positive among the known labels of all train images, at most LARGEST_WEIGHT; float32 (L,).

    Raises:
        TrainingError: A label has no positive or no negative, and nothing can be learned from it.
    """
    n_positive_L, n_negative_L = (labels_NL == 1).sum(dim=0), (labels_NL == 0).sum(dim=0)
    for name, n_positive, n_negative in zip(names, n_positive_L.tolist(), n_negative_L.tolist(), strict=True):
        if n_positive == 0 or n_negative == 0:
            raise TrainingError(
                f"the train split has {n_positive} images with {name} and {n_negative} without; `supervised` needs "
                "some of both, so name another label in its `labels`"
            )
    return (n_negative_L / n_positive_L).float().clamp(max=LARGEST_WEIGHT)


def known_cross_entropy(
    logits_BL: Tensor, labels_BL: Tensor, positive_weight_L: Tensor, share_known_L: Tensor
) -> Tensor:
    """Binary cross-entropy over known labels, in expectation the mean over labels of the mean over known images.

    L = -1/(B L) sum_bl known_bl / share_l [ w_l y_bl log p_bl + (1 - y_bl) log(1 - p_bl) ]

    It is divided by how many labels are known in the whole train split, not in the batch: else an image's weight would
    depend on its batch mates, and on how many workers share the batch.

    Args:
        logits_BL: Logits of p.
        labels_BL: y: 1, 0, NaN unknown, which contributes nothing.
        positive_weight_L: w.
        share_known_L: Share of the train images whose label is known.

    Returns:
        A scalar in float32; 0, with a gradient of 0, where no label is known.
    """
    known_BL = ~labels_BL.isnan()
    loss_BL = F.binary_cross_entropy_with_logits(
        logits_BL.float(), torch.where(known_BL, labels_BL, 0.0), pos_weight=positive_weight_L, reduction="none"
    )
    return (loss_BL * known_BL / share_known_L).mean()


def build(section: Supervised, size: int) -> SupervisedEncoder:  # noqa: ARG001  averaged features fit any size
    """An untrained encoder; it takes images of any size."""
    return SupervisedEncoder(section)
