"""Momentum contrast, which `moco`, `medaug` and `discern` share. Two views of an image should be near each other, and far from other patients' images.

He et al. 2020 (Momentum Contrast, MoCo) with the head of Chen et al. 2020 (MoCo v2). What is embedded is the
backbone's averaged features, before the projection, which is thrown away: the projection unlearns what the
augmentations change (Chen et al. 2020, SimCLR, section 4.2). B: images, D: width of the features, P: of the
projection, K: length of the queue.
"""


import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.learning.augment import augment
from hilum.learning.encoders import Encoder
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.losses import Queue, info_nce, negatives_of
from hilum.learning.nets.embedder import embedder
from hilum.recipe import Moco


class MomentumContrast(Encoder):
    """A query encoder trained by gradients, a key encoder that follows it, and a queue of the keys.

    Different from He et al. 2020 in three ways. Keys of the query's own patient are no negatives. The keys of the
    batch itself join those of the queue, so that the first steps have negatives. And on one device the batch is
    shuffled and split in two before the keys are computed, which stands for their shuffling between GPUs (section 3.3):
    otherwise batch statistics that query and positive share would betray the answer.
    """

    def __init__(self, section: Moco) -> None:
        query = embedder(section.backbone)
        super().__init__(query)
        self._section = section
        self.projection = _projection(query.dim, section.projection_dim)
        self.key = nn.Sequential(embedder(section.backbone), _projection(query.dim, section.projection_dim))
        self.key.load_state_dict(nn.Sequential(query, self.projection).state_dict())
        self.key.requires_grad_(False)
        self.queue = Queue(section.queue_size, section.projection_dim)
        self._computed: tuple[Tensor, Tensor] | None = None

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure the mean and spread of grey values."""
        self.embedder.measure(images, seed)  # type: ignore[operator]
        self.key[0].load_state_dict(self.embedder.state_dict())

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """InfoNCE between two views of each image."""
        views = [augment(batch.x_BCHW, self._section.augment, draws) for _ in range(2)]
        q_BP = F.normalize(self.projection(self.embedder(views[0])).float(), dim=1)
        k_BP = self._keys(views[1], draws)
        negatives_KP = torch.cat([self.queue.keys_KD, k_BP])
        keep_BK = negatives_of(
            batch.patients_B,
            torch.cat([self.queue.patients_K, batch.patients_B]),
            torch.cat([self.queue.valid_K, torch.ones_like(batch.patients_B, dtype=torch.bool)]),
        )
        self._computed = (k_BP, batch.patients_B)
        return info_nce(q_BP, k_BP, negatives_KP, keep_BK, self._section.temperature)

    @torch.no_grad()
    def _keys(self, x_BCHW: Tensor, draws: Draws) -> Tensor:
        order_B = draws.order()
        groups = order_B.tensor_split(min(self._section.key_groups, max(1, len(x_BCHW) // 2)))
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
