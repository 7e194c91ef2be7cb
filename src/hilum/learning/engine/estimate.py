"""What a training run will take, before it takes it: memory, arithmetic, steps, and where its images would lie."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning.engine import device as devices
from hilum.learning.engine import places
from hilum.learning.engine.batches import TrainImages
from hilum.learning.engine.cost import PROBED, Step, of_step
from hilum.learning.engine.room import Room, room, size_told
from hilum.recipe import Train

# Of a step on the CPU, on what is counted: measured 1.2 to 1.7, less (1.1) where malloc returns all that is freed.
HOST_MARGIN: Final = 1.75


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        title: Encoder, images and epochs, in words.
        step: Of one worker.
        n_images: Of the train split.
        per_epoch: Steps of an epoch.
        n_steps: Of the run; 0 for an encoder that is fitted and takes none.
        store_bytes: Of the images.
        place: Where they would lie.
        free: Memory that is free now.
    """

    title: str
    step: Step
    n_images: int
    per_epoch: int
    n_steps: int
    store_bytes: int
    place: places.Name
    free: Room

    def lines(self) -> list[str]:
        """For people."""
        step = self.step
        parts = ", ".join(f"{name} {size_told(value)}" for name, value in step.bytes.items() if value)
        gpu = "" if self.free.gpu is None else f"{size_told(self.free.gpu)} on the GPU, "
        found = [
            self.title,
            f"parameters  {step.trained:,} trained, {step.kept:,} kept, {step.parameters:,} in all",
            f"store       {self.n_images:,} images, {size_told(self.store_bytes)}, {self.place}",
            f"memory      {size_told(step.all_bytes)} for a step of {step.images} images: {parts}",
            f"free        {gpu}{size_told(self.free.host)} in host memory",
        ]
        if not self.n_steps:
            return [*found, "steps       none: it is fitted directly"]
        epoch = step.flops * self.per_epoch
        return [
            *found,
            f"arithmetic  {_count_told(step.flops)}FLOP a step, {_count_told(epoch)}FLOP an epoch, "
            f"{_count_told(step.flops * self.n_steps)}FLOP in all, by each worker",
            f"steps       {self.per_epoch:,} an epoch, {self.n_steps:,} in all",
        ]


def dry_run(dataset: Path, recipe: Train, n_workers: int = 1) -> Estimate:
    """Estimate a run of `hilum train`; nothing is trained, and nothing written.

    Args:
        dataset: A dataset folder.
        recipe: What would be trained, and how.
        n_workers: How many would share each batch.

    Raises:
        DatasetError: `dataset` is not a whole dataset.
        TrainingError: There is nothing to train on, or the memory would not do; the message says what would.
    """
    opened, where = Dataset.open(dataset), devices.pick()
    images = TrainImages(opened, recipe.modality, torch.device("cpu"), "mapped")
    n_images, share = len(images), -(-recipe.batch_size // n_workers)
    step = of_step(recipe, images.size, min(share, n_images))
    per_epoch = images.batches_per_epoch(recipe.batch_size)
    free, n_bytes = room(where), places.store_bytes(opened.images, n_images)
    refuse_what_cannot_fit(recipe, images.size, step, free, n_workers)
    return Estimate(
        title=f"{recipe.encoder.name} {recipe.modality}, {images.size} px, batches of {recipe.batch_size}, "
        f"{recipe.epochs} epochs, {recipe.precision}, {where.type}",
        step=step,
        n_images=n_images,
        per_epoch=per_epoch,
        n_steps=per_epoch * recipe.epochs if step.trained else 0,
        store_bytes=n_bytes,
        place=places.choose(recipe.store, n_bytes, free, step.all_bytes),
        free=free,
    )


def refuse_what_cannot_fit(recipe: Train, size: int, step: Step, free: Room, n_workers: int = 1) -> None:
    """Stop where a step needs more memory than is free.

    Raises:
        TrainingError: It does; the message names the largest batch that would fit.
    """
    limit, where, margin = free.host, "host memory", HOST_MARGIN
    if free.gpu is not None:
        limit, where, margin = free.gpu - places.CONTEXT_BYTES, "the GPU", places.MARGIN
    needed = int(margin * step.all_bytes)
    if needed <= limit:
        return
    said = (
        f"training {recipe.encoder.name} with batch_size {recipe.batch_size} needs about {size_told(needed)} "
        f"for a step, but {size_told(max(0, limit))} are free in {where}; "
    )
    small = of_step(recipe, size, min(PROBED, step.images)) if step.trained else step
    each = (step.all_bytes - small.all_bytes) / max(1, step.images - small.images)
    most = int((limit / margin - small.all_bytes) / each) + small.images if each > 0 else 0
    if most < PROBED:
        raise TrainingError(said + f"no batch would fit: two images need {size_told(margin * small.all_bytes)}")
    raise TrainingError(said + f"the largest batch_size that fits is {most * n_workers}")


def _count_told(count: float) -> str:
    """A count with the prefix of its thousands, for a unit to follow."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if count < 1000:
            return f"{count:.3g} {prefix}"
        count /= 1000
    return f"{count:.3g} E"
