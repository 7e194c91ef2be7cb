"""One loop for every encoder: fit what is fitted, step what is stepped, checkpoint, and write what is kept.

An encoder run is a folder:

weights.pt          the embedder's weights
decoder.pt          where the encoder has one: what turns embeddings into images again
card.json           what the encoder is, what it saw, and whether it collapsed; written last: a run with it is finished
recipe.json         the resolved recipe section
metrics.jsonl       one line per step (hilum.learning.engine.metrics); events/ says the same to TensorBoard
checkpoint.pt       what is needed to go on, bit for bit on the CPU
checkpoint.best.pt  the same, after the epoch with the lowest mean loss

Everything random is a function of the recipe's seed and the step: initial weights, the order of the images,
augmentations, dropout. So a run that goes on draws what the uninterrupted one would, and several workers (`torchrun`)
draw what one would, dropout apart. Their number may change when a run goes on.
"""

import inspect
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hilum import progress
from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.identity import Run, code_revision, require_same
from hilum.learning import embedding, encoders, outcome
from hilum.learning.collapse import Watch
from hilum.learning.engine import checkpoint, device, workers
from hilum.learning.engine.average import Average
from hilum.learning.engine.batches import STEP, Batch, TrainImages
from hilum.learning.engine.draws import Draws, mixed
from hilum.learning.engine.metrics import Metrics
from hilum.learning.engine.optimizers import learning_rate, moved_by, set_rate
from hilum.learning.nets.norm import synchronise
from hilum.recipe import Train, digest

CHECKPOINT_SECONDS: Final = 300.0  # a long epoch is not lost either

log = logging.getLogger(__name__)


def run(dataset: Path, recipe: Train, out: Path) -> Path:
    """Train one encoder on the train split of one modality.

    A finished run of the same code, data and recipe in `out` is kept as it is; an unfinished one goes on from its
    last checkpoint. Under `torchrun` every worker calls this, and worker 0 writes.

    Args:
        dataset: A dataset folder.
        recipe: What is trained, and how.
        out: The encoder run's folder; made where it does not exist.

    Returns:
        `out`.

    Raises:
        DatasetError: `dataset` is not a whole dataset.
        TrainingError: There is nothing to train on, `out` holds another run, it does not fit the GPU or the disk, or
            the loss is no longer a number.
    """
    with workers.together():
        opened = Dataset.open(dataset)
        identity = Run(code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=digest(recipe))
        out.mkdir(parents=True, exist_ok=True)
        finished = (out / embedding.CARD).exists()
        workers.wait()  # before all have looked nobody writes a card
        if finished:
            require_same(json.loads((out / embedding.CARD).read_text(encoding="utf-8")).get("run", {}), identity, out)
            log.info("the run in the output folder is finished; kept")
            return out
        where = device.pick()
        images = TrainImages(opened, recipe.modality, where, recipe.store)
        encoder = encoders.build(recipe.encoder, images.size, recipe.seed).to(where)
        device.lay_out(encoder)
        encoder.fit(images, recipe.seed)
        images.attend(encoder.labels, encoder.pairing)
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            allowed = np.zeros(len(opened.manifest), dtype=bool)
            allowed[opened.rows(recipe.modality, ["train"])] = True
            try:
                _take_steps(encoder, images, allowed, recipe, identity, where, out)
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"batches of {recipe.batch_size} images of {images.size} pixels do not fit the GPU's memory; lower "
                    "train.batch_size, or train with precision bfloat16 or on more GPUs"
                ) from error
        if workers.number() == 0:
            try:
                outcome.write(encoder, images, opened, recipe, identity, where, out)
            except OSError as error:
                raise TrainingError(
                    f"what was trained could not be written to {out}: {error.strerror}; free some space and train "
                    "again: all steps are done"
                ) from error
            checkpoint.discard(out)
        workers.wait()
    return out


class _Step(nn.Module):
    """A step's loss as a module's output, which is what torch's data parallelism takes hold of."""

    def __init__(self, encoder: encoders.Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        return self.encoder.loss(batch, draws)


@dataclass(frozen=True)
class _Moved:
    """What steps change: a checkpoint holds its state."""

    encoder: encoders.Encoder
    optimizer: torch.optim.Optimizer
    average: Average | None

    def state(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state() if self.average else {},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.encoder.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.restore(state["average"])


def _take_steps(
    encoder: encoders.Encoder,
    images: TrainImages,
    allowed: NDArray[np.bool_],
    recipe: Train,
    identity: Run,
    where: torch.device,
    out: Path,
) -> None:
    """The loop: batches in order, loss, gradient, step; resumed from the folder's checkpoint where there is one."""
    per_epoch = images.batches_per_epoch(recipe.batch_size)
    n_steps = per_epoch * recipe.epochs
    workers.check_shareable(len(images) // per_epoch)
    synchronise(encoder)
    decay = encoder.ema if recipe.ema is None else recipe.ema
    average = Average(outcome.kept(encoder), decay) if decay else None
    moved = _Moved(encoder, moved_by(encoder, recipe.optimizer), average)
    begun: dict[str, Any] = {"step": 0, "metrics_bytes": 0, "best": math.inf, "losses": []}
    if found := checkpoint.load(out):
        require_same(found["run"], identity, out)
        moved.restore(found)
        begun = {key: found[key] for key in begun}
        del found  # as large as all that is trained
    workers.agree(begun["step"], "the step to go on from")
    best = float(begun["best"])
    step_of = _for_all_workers(encoder, recipe)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    title = f"train {recipe.encoder.name} {recipe.modality}"
    watch = Watch(images, recipe.seed, where, f"{recipe.encoder.name} {recipe.modality}")
    first, cuda = workers.number() == 0, where.type == "cuda"
    encoder.train()
    with (
        torch.random.fork_rng(devices=[where] if cuda else []),
        progress.bar(title, n_steps, "step", begun["step"], silent=not first) as shown,
        Metrics(
            out, begun["step"], begun["metrics_bytes"], shown if first else None, int(cuda), begun["losses"]
        ) as metrics,
    ):
        saved = time.monotonic()
        for batch in images.stream(begun["step"], n_steps, recipe.seed, recipe.batch_size):
            _only_train(batch, allowed)
            step, epoch = batch.step + 1, batch.step // per_epoch
            rate = learning_rate(batch.step, n_steps, recipe.optimizer)
            set_rate(moved.optimizer, rate)
            # Like the loss, of the weights that the step begins with.
            spread = watch.look(encoder, epoch + 1) if first and step % per_epoch == 0 else {}
            torch.manual_seed(mixed(recipe.seed, batch.step, STEP, workers.number()))  # of dropout
            draws = Draws(mixed(recipe.seed, batch.step, STEP), batch.n, where)
            with device.autocast(where, recipe.precision):
                loss = step_of(batch, draws)
            moved.optimizer.zero_grad(set_to_none=True)
            # Torch averages gradients over workers; weighed so, it is the mean over images, whatever the parts' sizes.
            share = len(batch.x_BCHW) / batch.n
            (loss * (share * workers.count())).backward()
            norm = nn.utils.clip_grad_norm_(trainable, recipe.optimizer.clip_norm)
            metrics.note(
                {"step": step, "epoch": epoch, "lr": rate, "n": batch.n, **spread},
                {**workers.means({"loss": loss, **encoder.told}, share), "gradient_norm": norm},
                batch.rows_G,
            )
            moved.optimizer.step()
            encoder.after_step()
            if average:
                average.follow(batch.step)
            full = step % (per_epoch * recipe.checkpoint_every_epochs) == 0 or step == n_steps
            if full or time.monotonic() - saved > CHECKPOINT_SECONDS:
                metrics.settle()
                is_best = full and (mean := metrics.epoch_loss()) < best
                best = mean if is_best else best
                if first:
                    reached = {"step": step, "best": best, "losses": metrics.losses}
                    held = {"run": dict(identity), "metrics_bytes": metrics.bytes_written, **reached, **moved.state()}
                    checkpoint.save(out, held, is_best)
                saved = time.monotonic()
        metrics.settle()
    if average:
        average.settle()


def _for_all_workers(encoder: encoders.Encoder, recipe: Train) -> nn.Module:
    """What gives a step's loss, compiled where the recipe says so, its gradients averaged over the workers."""
    if recipe.compile:
        for net in encoder.hot():
            net.compile(options={"layout_optimization": device.channels_last_is_safe(net)})
    step_of = _Step(encoder)
    if workers.count() == 1:
        return step_of
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:  # its name since torch 2.13
        return DistributedDataParallel(step_of, forward_sync_buffers=False)
    return DistributedDataParallel(step_of, broadcast_buffers=False)


def _only_train(batch: Batch, allowed: NDArray[np.bool_]) -> None:
    """Stop where a batch holds anything but train images of the recipe's modality, whatever the loader thinks."""
    if not allowed[batch.rows_G].all():
        raise TrainingError(
            f"manifest row {batch.rows_G[~allowed[batch.rows_G]][0]} is not of the train split, "
            "but came into a batch of it"
        )
