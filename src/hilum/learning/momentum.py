"""Momentum contrast, which `moco`, `medaug` and `discern` share.

Two views of a patient should be near each other, and far from other patients' images: He et al. 2020 (Momentum
Contrast, MoCo) with the head of Chen et al. 2020 (MoCo v2). What is embedded is the backbone's averaged features,
before the projection, which is thrown away: the projection unlearns what the augmentations change (Chen et al. 2020,
SimCLR, section 4.2).

B: images of this worker's part, G: of the global batch, P: width of the projection, K: negatives, L: labels.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import TrainingError
from hilum.learning.augment import augment
from hilum.learning.encoders import Encoder
from hilum.learning.engine import workers
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.losses import Queue, contrast_logits, info_nce, negatives_of
from hilum.learning.nets.embedder import embedder
from hilum.recipe import Moco


@dataclass(frozen=True)
class _Keys:
    """The keys of the global batch, which every worker holds in the same order."""

    keys_GP: Tensor
    patients_G: Tensor
    labels_GL: Tensor


class MomentumContrast(Encoder):
    """A query encoder trained by gradients, a key encoder that follows it, and a queue of the keys.

    The positive of an image is a second view of it, or a view of its partner where `pairing` asks for partners.
    Different from He et al. 2020 in four ways. Keys of the query's own patient are no negatives. The keys of the batch
    itself join those of the queue, so that the first steps have negatives. The global batch is shuffled and split into
    `key_groups` before the keys are computed, however many workers share the work: the paper shuffles between GPUs
    (section 3.3), lest batch statistics that query and positive share betray the answer, and a result must not depend
    on how many there were. And the key encoder's running statistics follow the query's as its weights do.
    """

    def __init__(self, section: Moco) -> None:
        query = embedder(section.backbone)
        super().__init__(query)
        self._section = section
        self._groups = section.key_groups if section.backbone.norm == "batch" else 0
        self.projection = nn.Sequential(  # two layers, as in MoCo v2
            nn.Linear(query.dim, query.dim), nn.ReLU(inplace=True), nn.Linear(query.dim, section.projection_dim)
        )
        self.key = copy.deepcopy(nn.Sequential(query, self.projection)).requires_grad_(False)
        for module in self.key.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0  # in `loss` the running statistics stand still; `after_step` moves them
        self.queue = Queue(section.queue_size, section.projection_dim)
        self._computed: _Keys | None = None

    def fit(self, images: TrainImages, seed: int) -> None:
        """Measure the mean and spread of grey values.

        Raises:
            TrainingError: The groups of keys cannot be dealt evenly to the workers.
        """
        if self._groups % workers.count():
            raise TrainingError(
                f"key_groups is {self._groups}, which {workers.count()} workers cannot share evenly; "
                f"give a multiple of {workers.count()}, and train with it on any number of workers that divides it"
            )
        self.embedder.measure(images, seed)  # type: ignore[operator]
        self.key[0].load_state_dict(self.embedder.state_dict())

    def log_weights(self, labels_BL: Tensor, labels_KL: Tensor, keep_BK: Tensor) -> Tensor | None:  # noqa: ARG002
        """How much each negative weighs, as hilum.learning.losses.log_weights has it; None where all weigh the same."""
        return None

    def loss(self, batch: Batch, draws: Draws) -> Tensor:
        """InfoNCE between two views of each image, or of it and its partner."""
        other_BCHW = batch.x_BCHW if batch.partners_BCHW is None else batch.partners_BCHW
        views = [augment(x_BCHW, self._section.augment, draws) for x_BCHW in (batch.x_BCHW, other_BCHW)]
        q_BP = F.normalize(self.projection(self.embedder(views[0])).float(), dim=1)
        keys_GP, patients_G = self._keys(views[1], draws), workers.gather(batch.patients_B)
        labels_GL = workers.gather(batch.labels_BL) if self.labels else keys_GP[:, :0]
        found = _Keys(keys_GP, patients_G, labels_GL)
        keep_BK = negatives_of(
            batch.patients_B,
            torch.cat([self.queue.patients_K, found.patients_G]),
            torch.cat([self.queue.valid_K, torch.ones_like(found.patients_G, dtype=torch.bool)]),
        )
        logits_BN = contrast_logits(
            q_BP,
            found.keys_GP[draws.part],
            torch.cat([self.queue.keys_KD, found.keys_GP]),
            keep_BK,
            self._section.temperature,
            self.log_weights(batch.labels_BL, torch.cat([self.queue.labels_KL, found.labels_GL]), keep_BK),
        )
        self._computed = found
        self._tell(batch, logits_BN.detach(), keep_BK)
        return info_nce(logits_BN)

    @torch.no_grad()
    def _keys(self, x_BCHW: Tensor, draws: Draws) -> Tensor:
        """Keys of unit length of the global batch, (G, P), of which this worker computes its share.

        Without batch statistics no image sees another, and every worker computes its own images' keys. With them, the
        images of all workers are shuffled and dealt out group by group; a group has two images at least.
        """
        if not self._groups:
            return workers.gather(F.normalize(self.key(x_BCHW).float(), dim=1))
        x_GCHW = workers.gather(x_BCHW)
        order_G = draws.order()
        groups = order_G.tensor_split(min(self._groups, max(1, len(order_G) // 2)))
        mine = groups[workers.part_of(len(groups))]
        k_MP = torch.cat([self.key(x_GCHW[group]) for group in mine]) if mine else self.queue.keys_KD[:0]
        return workers.gather(F.normalize(k_MP.float(), dim=1))[torch.argsort(order_G)]

    @torch.no_grad()
    def _tell(self, batch: Batch, logits_BN: Tensor, keep_BK: Tensor) -> None:
        """Note how hard the contrast is, and on how much it is made."""
        self.told = {
            "positive_similarity": logits_BN[:, 0].mean() * self._section.temperature,
            "contrast_accuracy": (logits_BN[:, 0] > logits_BN[:, 1:].amax(dim=1)).float().mean(),
            "negatives_share": keep_BK.float().mean(),
            "queue_fill": self.queue.valid_K.float().mean(),
        }
        if batch.partners_BCHW is not None:
            own, partners = batch.rows_G[: len(batch.rows_G) // 2], batch.rows_G[len(batch.rows_G) // 2 :]
            self.told["self_pair_share"] = torch.full((), float((own == partners).mean()), device=logits_BN.device)

    @torch.no_grad()
    def after_step(self) -> None:
        """Let the key encoder follow (equation 2) and put the step's keys into the queue."""
        assert self._computed is not None, "after_step follows loss"
        query = nn.Sequential(self.embedder, self.projection).state_dict()
        pairs = [(key, query[name]) for name, key in self.key.state_dict().items()]
        moved = [(key, value) for key, value in pairs if key.is_floating_point()]
        torch._foreach_lerp_([key for key, _ in moved], [value for _, value in moved], 1.0 - self._section.momentum)
        taken = [(key, value) for key, value in pairs if not key.is_floating_point()]
        if taken:
            torch._foreach_copy_([key for key, _ in taken], [value for _, value in taken])
        self.queue.enqueue(self._computed.keys_GP, self._computed.patients_G, self._computed.labels_GL)
        self._computed = None

    def hot(self) -> list[nn.Module]:
        """Both networks: half of the time goes into keys."""
        return [self.embedder, self.key]
