"""`discern`: momentum contrast over films of a patient, its negatives weighted by how much the diseases differ.

After the report "DisCeRn: Disease-Contrastive Representations From Multi-Modal Medical Data". Mode `mass` is its
equations 5 and 6; mode `exp`, the default, grades the weight by the Jaccard distance of the findings
(hilum.learning.losses.log_weights). With beta = 0 it is `medaug`, and with the image as its own partner `moco`.

The labels that weigh must not be those that a probe will be asked for, nor nearly say the same: the encoder would have
been shown the answer, and `discern` would be compared with encoders that were not.
"""

import logging

import torch
from torch import Tensor

from hilum.errors import TrainingError, UsageError
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.losses import Queue, log_weights
from hilum.learning.momentum import MomentumContrast
from hilum.recipe import Discern

log = logging.getLogger(__name__)


class DiseaseContrast(MomentumContrast):
    """Momentum contrast whose negatives weigh by their findings; the queue carries the keys' labels."""

    _section: Discern

    def __init__(self, section: Discern) -> None:
        """Begin untrained.

        Raises:
            UsageError: A weighting label is also a target, and the recipe does not allow it.
        """
        overlap = [label for label in section.weight_labels if label in section.target_labels]
        if overlap and not section.allow_overlap:
            raise UsageError(
                f"discern would be weighted by {', '.join(overlap)}, which is also among its target_labels and would "
                "leak the answer; take it out of weight_labels, or write allow_overlap: true"
            )
        if overlap:
            log.warning(
                "discern is weighted by %s, which is also a target label, as allow_overlap says: its embeddings have "
                "been shown this answer, and a probe for it says nothing about what was learned from images alone",
                ", ".join(overlap),
            )
        super().__init__(section)
        self.pairing = section.pairing
        self._weigh_by(section.weight_labels)

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure grey values, and settle which labels weigh.

        Raises:
            TrainingError: The dataset has no such label, or none that is not a target.
        """
        super().fit(images, seed)
        targets = self._section.target_labels
        chosen = self._section.weight_labels or tuple(label for label in images.labels if label not in targets)
        if not chosen:
            raise TrainingError(
                f"the dataset has no label to weight negatives by: it has {', '.join(images.labels) or 'none at all'}, "
                f"and {', '.join(targets) or 'nothing'} is kept out as a target; medaug needs no labels"
            )
        labelled = (images.label_values(chosen) == 1).any(dim=1).float().mean().item()
        left = [label for label in images.labels if label not in chosen]
        log.info(
            "discern weights negatives by %s, and not by %s; %.1f %% of the train images have one of them",
            ", ".join(chosen),
            ", ".join(left) or "no other",
            100 * labelled,
        )
        if labelled == 0:
            log.warning("no train image has any of the weighting labels, so that discern is medaug here")
        if targets and not set(targets) & set(images.labels):
            log.warning("the dataset has none of discern's target_labels (%s): is one misspelt?", ", ".join(targets))
        self._weigh_by(chosen)

    def log_weights(self, labels_BL: Tensor, labels_KL: Tensor, keep_BK: Tensor) -> Tensor:
        """By the recipe's mode."""
        section = self._section
        return log_weights(
            labels_BL, labels_KL, keep_BK, section.mode, section.beta, section.hard_share, section.unknown_labels
        )

    def _weigh_by(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        size, width = self.queue.keys_KD.shape
        self.queue = Queue(size, width, len(labels)).to(self.queue.keys_KD.device)

    def _tell(self, batch: Batch, logits_BN: Tensor, keep_BK: Tensor) -> None:
        super()._tell(batch, logits_BN, keep_BK)
        with torch.no_grad():
            self.told["labelled_share"] = (batch.labels_BL == 1).any(dim=1).float().mean()


def build(section: Discern, size: int) -> DiseaseContrast:  # noqa: ARG001  averaged features fit any size
    """An untrained encoder; it takes images of any size, and is told `size` as every encoder is."""
    return DiseaseContrast(section)
