"""Which images an encoder learns from, in which order, and what a batch carries.

B: images in the batch, N: images of the train split, C: 1 channel, H x W: pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning import device as devices

BLOCK: Final = 256  # images read at once where order does not matter


@dataclass(frozen=True)
class Batch:
    """What one step of training sees.

    Attributes:
        x_BCHW: Images, float32 in [0, 1].
        rows_B: Their row numbers in the dataset's manifest, int64, on the CPU.
        patients_B: Their patients as numbers, int64: equal exactly where the patient is.
    """

    x_BCHW: Tensor
    rows_B: Tensor
    patients_B: Tensor


class TrainImages:
    """The images of one modality's train split; on a GPU whole where they fit, else read from the memory map.

    Attributes:
        rows_N: Row numbers in the dataset's manifest, ascending.
        patients_N: Patients as numbers from 0, int64. Integers, because ids kept as float32 collide above 2^24.
        size: Side of the images in pixels.
        n_patients: How many patients there are.
    """

    def __init__(self, dataset: Dataset, modality: str, device: torch.device) -> None:
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
        self.patients_N = torch.from_numpy(codes.astype(np.int64)).to(device)
        self.size = int(dataset.images.shape[-1])
        self._device = device
        self._images = dataset.images
        whole = len(self.rows_N) * self.size**2
        self._resident = torch.from_numpy(self.pixels()).to(device) if devices.fits(whole, device) else None

    def __len__(self) -> int:
        return len(self.rows_N)

    def pixels(self, numbers: NDArray[np.int64] | None = None) -> NDArray[np.uint8]:
        """Images by their numbers within the train split, uint8 (n, H, W); all of them where none are named."""
        rows = self.rows_N if numbers is None else self.rows_N[numbers]
        return np.ascontiguousarray(self._images[rows])

    def batch(self, numbers_B: Tensor) -> Batch:
        """The images with these numbers (int64, 0 to N - 1) within the train split."""
        if self._resident is not None:
            x_BHW = self._resident[numbers_B.to(self._device)]
        else:
            x_BHW = torch.from_numpy(self.pixels(numbers_B.numpy())).to(self._device)
        rows_B = torch.from_numpy(self.rows_N[numbers_B.numpy()])
        return Batch(unit_range(x_BHW), rows_B, self.patients_N[numbers_B.to(self._device)])

    def epoch(self, epoch: int, seed: int, batch_size: int) -> tuple[Tensor, ...]:
        """Numbers of every image once, in an order that only `seed` and `epoch` decide, in batches of nearly one size.

        No image is dropped, and there is no small last batch, whose batch statistics would be noise.
        """
        mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(mixed))
        return torch.tensor_split(order, self.batches_per_epoch(batch_size))

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
