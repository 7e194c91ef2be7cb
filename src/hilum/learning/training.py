"""One loop for every encoder: fit what is fitted, step what is stepped, checkpoint, and write what is kept.

An encoder run is a folder:

weights.pt        the embedder's weights
card.json         what the encoder is, what it saw, and whether it collapsed; written last: a run with it is finished
recipe.json       the resolved recipe section
metrics.jsonl     one line per step: step, epoch, loss, lr, images_per_s
checkpoint.pt     what is needed to go on, bit for bit on the CPU

Everything random follows from the recipe's seed: initial weights, the order of the images (a function of seed and
epoch), and the augmentations (a generator whose state is part of a checkpoint).
"""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hilum import __version__, progress
from hilum.data.store import Dataset, write_json
from hilum.errors import TrainingError
from hilum.identity import Run, code_revision
from hilum.learning import checkpoint, device, embedding, encoders
from hilum.learning.batches import Batch, TrainImages
from hilum.learning.collapse import collapse
from hilum.recipe import Optimizer, Train, digest

METRICS: Final = "metrics.jsonl"
CHECKPOINT_SECONDS: Final = 300.0  # a long epoch is not lost either
JUDGED: Final = 1024  # train images on which collapse is judged

log = logging.getLogger(__name__)


def run(dataset: Path, recipe: Train, out: Path) -> Path:
    """Train one encoder on the train split of one modality.

    A finished run of the same code, data and recipe in `out` is kept as it is; an unfinished one goes on from its
    last checkpoint.

    Args:
        dataset: A dataset folder.
        recipe: What is trained, and how.
        out: The encoder run's folder; made where it does not exist.

    Returns:
        `out`.

    Raises:
        DatasetError: `dataset` is not a whole dataset.
        TrainingError: There is nothing to train on, `out` holds another run, or the loss is no longer a number.
    """
    opened = Dataset.open(dataset)
    identity = Run(code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=digest(recipe))
    out.mkdir(parents=True, exist_ok=True)
    if (out / embedding.CARD).exists():
        _same(json.loads((out / embedding.CARD).read_text(encoding="utf-8")).get("run", {}), identity, out)
        log.info("the run in the output folder is finished; kept")
        return out
    where = device.pick()
    images = TrainImages(opened, recipe.modality, where)
    encoder = encoders.build(recipe.encoder, images.size, recipe.seed).to(where)
    device.lay_out(encoder)
    encoder.fit(images, recipe.seed)
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        _take_steps(encoder, images, opened, recipe, identity, where, out)
    _keep(encoder, images, opened, recipe, identity, where, out)
    checkpoint.discard(out)
    return out


def _same(held: dict[str, str], identity: Run, out: Path) -> None:
    """Refuse a folder that another run has begun."""
    names = {"recipe_digest": "recipe", "data_digest": "dataset", "code_revision": "code revision"}
    other = [name for key, name in names.items() if held.get(key) != identity[key]]  # type: ignore[literal-required]
    if other:
        raise TrainingError(
            f"{out} holds a run with another {' and another '.join(other)}; name another folder, or remove this one"
        )


def _take_steps(
    encoder: encoders.Encoder,
    images: TrainImages,
    dataset: Dataset,
    recipe: Train,
    identity: Run,
    where: torch.device,
    out: Path,
) -> None:
    """The loop: batches in order, loss, gradient, step; resumed from the folder's checkpoint where there is one."""
    optimizer = adamw(encoder, recipe.optimizer)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    generator = device.generator(where, recipe.seed)
    per_epoch = images.batches_per_epoch(recipe.batch_size)
    n_steps = per_epoch * recipe.epochs
    allowed = np.zeros(len(dataset.manifest), dtype=bool)
    allowed[dataset.rows(recipe.modality, ["train"])] = True

    step, offset = _resume(encoder, optimizer, generator, identity, out)
    encoder.train()
    with (
        _metrics(out / METRICS, offset) as metrics,
        progress.bar(f"train {recipe.encoder.name} {recipe.modality}", n_steps, "step", step) as shown,
    ):
        saved, order_of = time.monotonic(), -1
        order: tuple[Tensor, ...] = ()
        while step < n_steps:
            began = time.monotonic()
            epoch = step // per_epoch
            if epoch != order_of:
                order_of, order = epoch, images.epoch(epoch, recipe.seed, recipe.batch_size)
            batch = images.batch(order[step % per_epoch])
            _only_train(batch, allowed)
            rate = learning_rate(step, n_steps, recipe.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with device.autocast(where, recipe.precision):
                loss = encoder.loss(batch, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(trainable, recipe.optimizer.clip_norm)
            _is_a_number(loss, norm, batch, step)
            optimizer.step()
            encoder.after_step()
            step += 1

            pace = len(batch.rows_B) / (time.monotonic() - began)
            told = {"step": step, "epoch": epoch, "loss": loss.item(), "lr": rate, "images_per_s": round(pace, 1)}
            metrics.write(json.dumps(told) + "\n")
            shown.update()
            shown.set_postfix(loss=f"{told['loss']:.3f}", img_s=f"{pace:.0f}", refresh=False)
            full = step % (per_epoch * recipe.checkpoint_every_epochs) == 0 or step == n_steps
            if full or time.monotonic() - saved > CHECKPOINT_SECONDS:
                metrics.flush()
                state = {
                    "run": dict(identity),
                    "step": step,
                    "metrics_bytes": metrics.tell(),
                    "encoder": encoder.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                }
                checkpoint.save(out, state)
                saved = time.monotonic()


def _resume(
    encoder: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, identity: Run, out: Path
) -> tuple[int, int]:
    """Bring all state to the last checkpoint; the number of steps done and of bytes of metrics written."""
    state = checkpoint.load(out)
    if state is None:
        return 0, 0
    _same(state["run"], identity, out)
    encoder.load_state_dict(state["encoder"])
    optimizer.load_state_dict(state["optimizer"])
    generator.set_state(state["generator"])
    return int(state["step"]), int(state["metrics_bytes"])


def _metrics(path: Path, offset: int) -> TextIO:
    """The metrics stream, cut off after `offset` bytes: steps after the checkpoint are taken again."""
    path.touch()
    stream = path.open("r+", encoding="utf-8")
    stream.truncate(min(offset, path.stat().st_size))
    stream.seek(0, 2)
    return stream


def adamw(encoder: nn.Module, section: Optimizer) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what requires a gradient; biases and norms are not decayed."""
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": section.weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=section.learning_rate,
    )


def learning_rate(step: int, n_steps: int, section: Optimizer) -> float:
    """The rate of step 0 to `n_steps` - 1: linear warm-up, then half a cosine down to zero (Loshchilov 2017)."""
    warm = math.ceil(section.warmup_share * n_steps)
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    return section.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


def _only_train(batch: Batch, allowed: NDArray[np.bool_]) -> None:
    """Stop where a batch holds anything but train images of the recipe's modality, whatever the loader thinks."""
    rows = batch.rows_B.numpy()
    if not allowed[rows].all():
        raise TrainingError(
            f"manifest row {rows[~allowed[rows]][0]} is not of the train split, but came into a batch of it"
        )


def _is_a_number(loss: Tensor, norm: Tensor, batch: Batch, step: int) -> None:
    """Stop before a loss or gradient that is no number reaches the weights."""
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise TrainingError(
            f"the loss is {loss.item()} and its gradient's norm {norm.item()} at step {step}, on manifest rows "
            f"{sorted(batch.rows_B.tolist())}; look at these images, or lower train.optimizer.learning_rate"
        )


def _keep(
    encoder: encoders.Encoder,
    images: TrainImages,
    dataset: Dataset,
    recipe: Train,
    identity: Run,
    where: torch.device,
    out: Path,
) -> None:
    """Write weights, recipe and card; the card comes last."""
    embedder = encoder.embedder.eval()
    sample = images.sample(JUDGED, recipe.seed)
    judged = collapse(embedding.embed(embedder, images.pixels(sample), where))
    if judged["warning"]:
        log.warning("%s %s: %s", recipe.encoder.name, recipe.modality, judged["warning"])
    weights = {name: value.cpu().contiguous() for name, value in embedder.state_dict().items()}
    checkpoint.write(out / embedding.WEIGHTS, weights).replace(out / embedding.WEIGHTS)
    write_json(out / embedding.RECIPE, recipe.model_dump(mode="json"))
    card: dict[str, Any] = {
        "encoder": recipe.encoder.name,
        "modality": recipe.modality,
        "dim": encoder.dim,
        "size": images.size,
        "run": dict(identity),
        "hilum_version": __version__,
        "parameters": sum(value.numel() for value in weights.values() if value.is_floating_point()),
        "epochs": recipe.epochs if (out / METRICS).exists() else 0,
        "n_images": len(images),
        "n_patients": images.n_patients,
        "device": where.type,
        "precision": recipe.precision,
        "collapse": judged,
        "caution": dataset.facts.caution,
    }
    write_json(out / embedding.CARD, card)
