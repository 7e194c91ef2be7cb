"""Which images an encoder learns from, in which order, and what a batch carries.

B: images of this worker's part of a batch, R: those and their partners, N: images of the train split, C: 1 channel,
H x W: pixels, L: labels.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning.engine import places, room, workers
from hilum.learning.engine.draws import mixed
from hilum.learning.pairs import Pairs
from hilum.recipe import Pairing

BLOCK: Final = 256  # images read at once where order does not matter
ORDER, PARTNER, STEP = range(3)  # what a seed is mixed with, so that no two uses share random numbers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What one step of training sees: this worker's part of the global batch.

    Attributes:
        x_BCHW: Images, float32 in [0, 1].
        rows_G: Row numbers in the dataset's manifest of the whole global batch, partners included; int64, on the CPU.
        patients_B: Their patients as numbers, int64: equal exactly where the patient is.
        numbers_B: Their numbers within the train split, int64, 0 to N - 1.
        labels_BL: The labels that the encoder asked for: 1, 0, NaN unknown; float32.
        partners_BCHW: Where the encoder asked for pairs, another image of the same patient, or the image itself.
        n: Images of the global batch.
        step: From 0.
        done: Share of the run's steps that lie behind, in [0, 1).
    """

    x_BCHW: Tensor
    rows_G: NDArray[np.int64]
    patients_B: Tensor
    numbers_B: Tensor
    labels_BL: Tensor
    partners_BCHW: Tensor | None = None
    n: int = 0
    step: int = 0
    done: float = 0.0


@dataclass(frozen=True)
class _Plan:
    """A batch before its images are there: the numbers of the global batch and of its partners, and this part of it."""

    numbers_G: Tensor
    partners_G: Tensor | None
    part: slice
    step: int
    done: float

    def wanted(self) -> Tensor:
        """Numbers of the images to read, those of the partners last, int64 (R,)."""
        numbers_B = self.numbers_G[self.part]
        return numbers_B if self.partners_G is None else torch.cat([numbers_B, self.partners_G[self.part]])


class TrainImages:
    """The images of one modality's train split, as near to the arithmetic as they fit (hilum.learning.engine.places).

    Attributes:
        rows_N: Row numbers in the dataset's manifest, ascending.
        table: Their manifest rows, numbered from 0.
        patients_N: Patients as numbers from 0, int64. Integers, because ids kept as float32 collide above 2^24.
        size: Side of the images in pixels.
        n_patients: How many patients there are.
        labels: Names of all labels that the dataset has.
    """

    def __init__(
        self,
        dataset: Dataset,
        modality: str,
        device: torch.device,
        store: Literal["auto", "gpu", "pinned", "mapped"] = "auto",
        beside: int | None = None,
    ) -> None:
        """Find the images and bring them to their place.

        Args:
            dataset: A dataset folder, opened.
            modality: Of the images.
            device: Where the arithmetic runs.
            store: Where the images are to lie; `auto` is the nearest place that holds them.
            beside: Bytes of the GPU's memory that a step needs besides them; half of what is free where not known.

        Raises:
            TrainingError: There is nothing to train on, a patient is in two splits, or `store` cannot hold the images.
        """
        self.rows_N = dataset.rows(modality, ["train"])
        if len(self.rows_N) == 0:
            raise TrainingError(
                f"the dataset has no {modality} images in its train split; it has {_present(dataset)}, "
                "and an encoder is trained on the modality that its recipe names"
            )
        split, patient = dataset.manifest["split"], dataset.manifest["patient_id"]
        shared = set(patient.iloc[self.rows_N]) & set(patient[split.isin(["val", "test"])])
        if shared:
            raise TrainingError(
                f"{len(shared)} patients of the train split are also in val or test; "
                "a patient belongs to one split, so assign splits by patient and ingest again"
            )
        codes, known = pd.factorize(patient.iloc[self.rows_N])
        self.n_patients = len(known)
        if self.n_patients < 2:
            raise TrainingError(
                f"the train split holds {modality} images of one patient only; an encoder needs at least two"
            )
        self.table = dataset.manifest.iloc[self.rows_N].reset_index(drop=True)
        self.patients_N = torch.from_numpy(codes.astype(np.int64)).to(device)
        self.size = int(dataset.images.shape[-1])
        self.labels = dataset.facts.labels
        self._resolved = dataset.labels().iloc[self.rows_N].reset_index(drop=True)
        self._device = device
        self._images = dataset.images
        self._place = places.settle(self._images, self.rows_N, device, store, beside)
        told = room.size_told(places.store_bytes(self._images, len(self)))
        log.info("%d %s images of %d px, %s, %s", len(self), modality, self.size, told, self._place.told)
        self._labels_NL = self.label_values(())
        self._pairs: Pairs | None = None

    def __len__(self) -> int:
        return len(self.rows_N)

    def attend(self, labels: Sequence[str], pairing: Pairing | None) -> None:
        """Let every batch carry these labels and, where `pairing` is given, partners.

        Raises:
            TrainingError: The dataset has no such label.
        """
        self._labels_NL = self.label_values(labels)
        self._pairs = Pairs(self.table, pairing) if pairing else None

    @property
    def pairs(self) -> Pairs | None:
        """How partners are drawn; None where none are."""
        return self._pairs

    def label_values(self, labels: Sequence[str]) -> Tensor:
        """Labels of all images, float32 (N, L): 1, 0, NaN unknown or uncertain.

        Raises:
            TrainingError: The dataset has no such label.
        """
        absent = [label for label in labels if label not in self._resolved]
        if absent:
            raise TrainingError(
                f"the dataset has no label {', '.join(absent)}; it has {', '.join(self.labels) or 'none at all'}"
            )
        values_NL = self._resolved[list(labels)].to_numpy(dtype=np.float32).reshape(len(self), len(labels))
        return torch.from_numpy(values_NL.copy()).to(self._device)

    def pixels(self, numbers: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Images by their numbers within the train split, uint8 (n, H, W); all of them where none are named."""
        rows = self.rows_N if numbers is None else self.rows_N[numbers]
        return np.ascontiguousarray(self._images[rows])

    def images(self, numbers_B: Tensor) -> Tensor:
        """Images by their numbers within the train split, float32 in [0, 1], (B, 1, H, W)."""
        return unit_range(self._place.take(numbers_B))

    def batch(self, numbers_G: Tensor, seed: int = 0, step: int = 0, done: float = 0.0) -> Batch:
        """This worker's part of a global batch.

        Args:
            numbers_G: Numbers within the train split, int64, 0 to N - 1, of the global batch.
            seed: Of the partners.
            step: From 0; partners are a function of seed and step.
            done: Share of the run's steps that lie behind.
        """
        plan = self._plan(numbers_G, seed, step, done)
        return self._made(plan, self._place.take(plan.wanted()))

    def stream(self, start: int, n_steps: int, seed: int, batch_size: int) -> Iterator[Batch]:
        """The batches of the steps `start` to `n_steps` - 1: epoch after epoch, each in its own order."""
        plans = self._plans(start, n_steps, seed, batch_size)
        for plan, x_RHW in self._place.ahead((plan, plan.wanted()) for plan in plans):
            yield self._made(plan, x_RHW)

    def _plans(self, start: int, n_steps: int, seed: int, batch_size: int) -> Iterator["_Plan"]:
        per_epoch = self.batches_per_epoch(batch_size)
        order: tuple[Tensor, ...] = ()
        for step in range(start, n_steps):
            if not order or step % per_epoch == 0:
                order = self.epoch(step // per_epoch, seed, batch_size)
            yield self._plan(order[step % per_epoch], seed, step, step / n_steps)

    def _plan(self, numbers_G: Tensor, seed: int, step: int, done: float) -> "_Plan":
        partners_G = None if self._pairs is None else self._pairs.draw(numbers_G, mixed(seed, step, PARTNER))
        return _Plan(numbers_G, partners_G, workers.part_of(len(numbers_G)), step, done)

    def _made(self, plan: "_Plan", x_RHW: Tensor) -> Batch:
        """The batch of a plan and the images that it wanted."""
        x_RCHW = unit_range(x_RHW)
        n = plan.part.stop - plan.part.start
        named = plan.numbers_G if plan.partners_G is None else torch.cat([plan.numbers_G, plan.partners_G])
        placed_B = plan.numbers_G[plan.part].to(self._device)
        return Batch(
            x_BCHW=x_RCHW[:n],
            rows_G=self.rows_N[named.numpy()],
            patients_B=self.patients_N[placed_B],
            numbers_B=placed_B,
            labels_BL=self._labels_NL[placed_B],
            partners_BCHW=None if plan.partners_G is None else x_RCHW[n:],
            n=len(plan.numbers_G),
            step=plan.step,
            done=plan.done,
        )

    def epoch(self, epoch: int, seed: int, batch_size: int) -> tuple[Tensor, ...]:
        """Numbers of every image once, in an order that only `seed` and `epoch` decide, in batches of nearly one size.

        No image is dropped, and there is no small last batch, whose batch statistics would be noise.
        """
        generator = torch.Generator().manual_seed(mixed(seed, epoch, ORDER))
        return torch.tensor_split(torch.randperm(len(self), generator=generator), self.batches_per_epoch(batch_size))

    def batches_per_epoch(self, batch_size: int) -> int:
        """How many batches of at most `batch_size` it takes to see each image once."""
        return -(-len(self) // batch_size)

    def sample(self, n: int, seed: int) -> NDArray[np.int64]:
        """Numbers of `n` images (or of all, if there are fewer) drawn without replacement, ascending."""
        chosen = np.random.default_rng(seed).choice(len(self), size=min(n, len(self)), replace=False)
        return np.sort(chosen).astype(np.int64)


def unit_range(x_BHW: Tensor) -> Tensor:
    """From uint8 (B, H, W) to float32 (B, 1, H, W) in [0, 1], as the server does it too."""
    return x_BHW.unsqueeze(1).to(torch.float32) / 255.0


def blocks(n: int, size: int = BLOCK) -> Iterator[slice]:
    """Slices that cover 0 to n - 1 in order."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _present(dataset: Dataset) -> str:
    counts = dataset.manifest.groupby(["modality", "split"]).size()
    return ", ".join(f"{n} {modality} in {split}" for (modality, split), n in counts.items()) or "no images"
