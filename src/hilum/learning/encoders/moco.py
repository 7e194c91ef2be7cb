"""`moco`: momentum contrast. Two views of an image should be near each other, and far from other patients' images.

He et al. 2020 (Momentum Contrast, MoCo) with the head of Chen et al. 2020 (MoCo v2). What is embedded is the
backbone's averaged features, before the projection, which is thrown away: the projection unlearns what the
augmentations change (Chen et al. 2020, SimCLR, section 4.2). B: images, D: width of the features, P: of the
projection, K: length of the queue.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.learning.augment import augment
from hilum.learning.batches import Batch, TrainImages
from hilum.learning.encoders import Encoder
from hilum.learning.losses import Queue, info_nce, negatives_of
from hilum.learning.nets.resnet import ResNet
from hilum.recipe import Moco

MEASURED: Final = 4096  # images on which the mean and spread of grey values are measured
KEY_GROUPS: Final = 2  # groups of a batch whose keys are normalised apart


class Backbone(nn.Module):
    """Normalisation of grey values, then a residual network.

    Attributes:
        dim: D.
        mean: Of the train images' grey values, on the scale 0 to 1.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.net = net
        self.dim = net.dim
        self.register_buffer("mean", torch.tensor(0.5))
        self.register_buffer("std", torch.tensor(0.25))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Embeddings (B, D) of images in [0, 1]."""
        z_BD: Tensor = self.net((x_BCHW - self.mean) / self.std)
        return z_BD.float()


class MomentumContrast(Encoder):
    """A query encoder trained by gradients, a key encoder that follows it, and a queue of the keys.

    Different from He et al. 2020 in three ways. Keys of the query's own patient are no negatives. The keys of the
    batch itself join those of the queue, so that the first steps have negatives. And on one device the batch is
    shuffled and split in two before the keys are computed, which stands for their shuffling between GPUs (section 3.3):
    otherwise batch statistics that query and positive share would betray the answer.
    """

    def __init__(self, section: Moco) -> None:
        embedder = Backbone(ResNet(section.backbone))
        super().__init__(embedder)
        self._section = section
        self.projection = _projection(embedder.dim, section.projection_dim)
        self.key = nn.Sequential(Backbone(ResNet(section.backbone)), _projection(embedder.dim, section.projection_dim))
        self.key.load_state_dict(nn.Sequential(embedder, self.projection).state_dict())
        self.key.requires_grad_(False)
        self.queue = Queue(section.queue_size, section.projection_dim)
        self._computed: tuple[Tensor, Tensor] | None = None

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure the mean and spread of grey values."""
        pixels = images.pixels(images.sample(MEASURED, seed))
        for state in (self.embedder.state_dict(), self.key[0].state_dict()):
            state["mean"].fill_(float(pixels.mean()) / 255.0)
            state["std"].fill_(max(float(pixels.std()) / 255.0, 1.0 / 255.0))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """InfoNCE between two views of each image."""
        views = [augment(batch.x_BCHW, self._section.augment, generator) for _ in range(2)]
        q_BP = F.normalize(self.projection(self.embedder(views[0])).float(), dim=1)
        k_BP = self._keys(views[1], generator)
        negatives_KP = torch.cat([self.queue.keys_KD, k_BP])
        keep_BK = negatives_of(
            batch.patients_B,
            torch.cat([self.queue.patients_K, batch.patients_B]),
            torch.cat([self.queue.valid_K, torch.ones_like(batch.patients_B, dtype=torch.bool)]),
        )
        self._computed = (k_BP, batch.patients_B)
        return info_nce(q_BP, k_BP, negatives_KP, keep_BK, self._section.temperature)

    @torch.no_grad()
    def _keys(self, x_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        order_B = torch.randperm(len(x_BCHW), generator=generator, device=generator.device)
        groups = order_B.tensor_split(min(KEY_GROUPS, max(1, len(x_BCHW) // 2)))
        k_BP = torch.cat([self.key(x_BCHW[group]) for group in groups])
        return F.normalize(k_BP.float(), dim=1)[torch.argsort(order_B)]

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the key encoder follow (equation 2) and put the step's keys into the queue."""
        followed = [*self.embedder.parameters(), *self.projection.parameters()]
        for key, query in zip(self.key.parameters(), followed, strict=True):
            key.lerp_(query, 1.0 - self._section.momentum)
        assert self._computed is not None, "after_step follows loss"
        self.queue.enqueue(*self._computed)
        self._computed = None


def _projection(dim: int, projection_dim: int) -> nn.Sequential:
    """Two layers, as in MoCo v2; their output is not kept."""
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, projection_dim))


def build(section: Moco, size: int) -> MomentumContrast:  # noqa: ARG001  averaged features fit any size
    """An untrained encoder; it takes images of any size, and is told `size` as every encoder is."""
    return MomentumContrast(section)
