"""One loop for every encoder: fit what is fitted, step what is stepped, checkpoint, and write what is kept.

An encoder run is a folder:

weights.pt        the embedder's weights
decoder.pt        where the encoder has one: what turns embeddings into images again
card.json         what the encoder is, what it saw, and whether it collapsed; written last: a run with it is finished
recipe.json       the resolved recipe section
metrics.jsonl     one line per step (hilum.learning.engine.metrics); events/ says the same to TensorBoard
checkpoint.pt     what is needed to go on, bit for bit on the CPU

Everything random is a function of the recipe's seed and the step: initial weights, the order of the images,
augmentations, dropout. So a run that goes on draws what the uninterrupted one would, and several workers (`torchrun`)
draw what one would.
"""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hilum import __version__, progress
from hilum.data.store import Dataset, write_json
from hilum.errors import TrainingError
from hilum.identity import Run, code_revision
from hilum.learning import embedding, encoders
from hilum.learning.collapse import collapse
from hilum.learning.engine import checkpoint, device, workers
from hilum.learning.engine.average import Average
from hilum.learning.engine.batches import STEP, Batch, TrainImages
from hilum.learning.engine.draws import Draws, mixed
from hilum.learning.engine.metrics import METRICS, Metrics
from hilum.learning.nets.norm import synchronise
from hilum.recipe import Optimizer, Train, digest

CHECKPOINT_SECONDS: Final = 300.0  # a long epoch is not lost either
JUDGED: Final = 1024  # train images on which collapse is judged

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
        TrainingError: There is nothing to train on, `out` holds another run, or the loss is no longer a number.
    """
    opened = Dataset.open(dataset)
    identity = Run(code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=digest(recipe))
    out.mkdir(parents=True, exist_ok=True)
    if (out / embedding.CARD).exists():
        _same(json.loads((out / embedding.CARD).read_text(encoding="utf-8")).get("run", {}), identity, out)
        log.info("the run in the output folder is finished; kept")
        return out
    with workers.together():
        where = device.pick()
        images = TrainImages(opened, recipe.modality, where)
        encoder = encoders.build(recipe.encoder, images.size, recipe.seed).to(where)
        device.lay_out(encoder)
        encoder.fit(images, recipe.seed)
        images.attend(encoder.labels, encoder.pairing)
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            allowed = np.zeros(len(opened.manifest), dtype=bool)
            allowed[opened.rows(recipe.modality, ["train"])] = True
            _take_steps(encoder, images, allowed, recipe, identity, where, out)
        if workers.number() == 0:
            _keep(encoder, images, opened, recipe, identity, where, out)
            checkpoint.discard(out)
        workers.wait()
    return out


def _same(held: dict[str, str], identity: Run, out: Path) -> None:
    """Refuse a folder that another run has begun."""
    names = {"recipe_digest": "recipe", "data_digest": "dataset", "code_revision": "code revision"}
    other = [name for key, name in names.items() if held.get(key) != identity[key]]  # type: ignore[literal-required]
    if other:
        raise TrainingError(
            f"{out} holds a run with another {' and another '.join(other)}; name another folder, or remove this one"
        )


class _Step(nn.Module):
    """A step's loss as a module's output, which is what torch's data parallelism takes hold of."""

    def __init__(self, encoder: encoders.Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch, draws: Draws) -> Tensor:
        return self.encoder.loss(batch, draws)


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
    synchronise(encoder)
    optimizer = moved_by(encoder, recipe.optimizer)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    decay = encoder.ema if recipe.ema is None else recipe.ema
    average = Average(_kept(encoder), decay) if decay else None
    per_epoch = images.batches_per_epoch(recipe.batch_size)
    n_steps = per_epoch * recipe.epochs
    start, offset, best = _resume(encoder, optimizer, average, identity, out)
    if recipe.compile:
        for net in encoder.hot():
            net.compile()
    step_of: nn.Module = _Step(encoder)
    if workers.count() > 1:
        step_of = DistributedDataParallel(step_of, broadcast_buffers=False)
    encoder.train()
    title = f"train {recipe.encoder.name} {recipe.modality}"
    with (
        torch.random.fork_rng(devices=[where] if where.type == "cuda" else []),
        progress.bar(title, n_steps, "step", start, silent=workers.number() > 0) as shown,
        Metrics(out, start, offset, shown if workers.number() == 0 else None) as metrics,
    ):
        saved = time.monotonic()
        for batch in images.stream(start, n_steps, recipe.seed, recipe.batch_size):
            _only_train(batch, allowed)
            rate = learning_rate(batch.step, n_steps, recipe.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(mixed(recipe.seed, batch.step, STEP, workers.number()))  # of dropout
            draws = Draws(mixed(recipe.seed, batch.step, STEP), batch.n, where)
            with device.autocast(where, recipe.precision):
                loss = step_of(batch, draws)
            optimizer.zero_grad(set_to_none=True)
            # Torch averages gradients over workers; weighed so, it is the mean over images, whatever the parts' sizes.
            weight = len(batch.x_BCHW) * workers.count() / batch.n
            (loss * weight).backward()
            norm = nn.utils.clip_grad_norm_(trainable, recipe.optimizer.clip_norm)
            step, epoch = batch.step + 1, batch.step // per_epoch
            figures = _over_workers({"loss": loss, **encoder.told}, weight)
            metrics.note(
                {"step": step, "epoch": epoch, "lr": rate, "n": batch.n},
                {**figures, "gradient_norm": norm},
                batch.rows_G,
            )
            optimizer.step()
            encoder.after_step()
            if average:
                average.follow(batch.step)
            full = step % (per_epoch * recipe.checkpoint_every_epochs) == 0 or step == n_steps
            if full or time.monotonic() - saved > CHECKPOINT_SECONDS:
                metrics.settle()
                is_best = full and (mean := metrics.epoch_loss()) < best
                best = mean if is_best else best
                if workers.number() == 0:
                    state = {
                        "run": dict(identity),
                        "step": step,
                        "metrics_bytes": metrics.bytes_written,
                        "best": best,
                        "encoder": encoder.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "average": average.state() if average else {},
                    }
                    checkpoint.save(out, state, is_best)
                saved = time.monotonic()
        metrics.settle()
    if average:
        average.settle()


def _kept(encoder: encoders.Encoder) -> nn.ModuleDict:
    """What of the encoder outlives its training."""
    kept = nn.ModuleDict({"embedder": encoder.embedder})
    if encoder.decoder is not None:
        kept["decoder"] = encoder.decoder
    return kept


def _over_workers(figures: dict[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Means over the global batch of figures that are means over this worker's part of it."""
    if workers.count() == 1:
        return figures
    together = torch.stack([value.detach().float().reshape(()) for value in figures.values()]) * weight
    distributed.all_reduce(together)
    return dict(zip(figures, together / workers.count(), strict=True))


def _resume(
    encoder: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None, identity: Run, out: Path
) -> tuple[int, int, float]:
    """Bring all state to the last checkpoint: the steps done, the bytes of metrics written, the best epoch's loss."""
    state = checkpoint.load(out)
    if state is None:
        return 0, 0, math.inf
    _same(state["run"], identity, out)
    encoder.load_state_dict(state["encoder"])
    optimizer.load_state_dict(state["optimizer"])
    if average:
        average.restore(state["average"])
    return int(state["step"]), int(state["metrics_bytes"]), float(state["best"])


def moved_by(encoder: nn.Module, section: Optimizer) -> torch.optim.Optimizer:
    """The optimizer over what requires a gradient; biases and norms are not decayed.

    AdamW (Loshchilov and Hutter 2019), Adam (Kingma and Ba 2015) or SGD with momentum, fused into one kernel.
    """
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=section.learning_rate, momentum=section.momentum, fused=True)
    kind = torch.optim.AdamW if section.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=section.learning_rate, fused=True)


def learning_rate(step: int, n_steps: int, section: Optimizer) -> float:
    """The rate of step 0 to `n_steps` - 1: linear warm-up, then level, or half a cosine to zero (Loshchilov 2017)."""
    warm = math.ceil(section.warmup_share * n_steps)
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    if section.schedule == "constant":
        return section.learning_rate
    return section.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))


def _only_train(batch: Batch, allowed: NDArray[np.bool_]) -> None:
    """Stop where a batch holds anything but train images of the recipe's modality, whatever the loader thinks."""
    if not allowed[batch.rows_G].all():
        raise TrainingError(
            f"manifest row {batch.rows_G[~allowed[batch.rows_G]][0]} is not of the train split, "
            "but came into a batch of it"
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
    weights = _write_weights(embedder, out / embedding.WEIGHTS)
    if encoder.decoder is not None:
        _write_weights(encoder.decoder, out / embedding.DECODER)
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
        "pair_fallback_share": images.pairs.fallback_share if images.pairs else None,
        "workers": workers.count(),
        "device": where.type,
        "precision": recipe.precision,
        "collapse": judged,
        "caution": dataset.facts.caution,
    }
    write_json(out / embedding.CARD, card)


def _write_weights(module: nn.Module, path: Path) -> dict[str, Tensor]:
    weights = {name: value.cpu().contiguous() for name, value in module.state_dict().items()}
    checkpoint.write(path, weights).replace(path)
    return weights
