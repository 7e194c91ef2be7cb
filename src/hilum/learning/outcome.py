"""What a finished run leaves: weights, recipe, and the card that says what they are worth."""

import logging
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from hilum import __version__
from hilum.data.store import Dataset, write_json
from hilum.identity import Run
from hilum.learning import embedding, encoders
from hilum.learning.collapse import judge
from hilum.learning.engine import checkpoint, workers
from hilum.learning.engine.batches import TrainImages
from hilum.learning.engine.metrics import METRICS
from hilum.learning.nets.embedder import Embedder
from hilum.recipe import Train

JUDGED: Final = 1024  # train images on which collapse is judged

log = logging.getLogger(__name__)


def kept(encoder: encoders.Encoder) -> nn.ModuleDict:
    """What of an encoder outlives its training, and is averaged where weights are."""
    kept = nn.ModuleDict({"embedder": encoder.embedder})
    if encoder.decoder is not None:
        kept["decoder"] = encoder.decoder
    return kept


def write(
    encoder: encoders.Encoder,
    images: TrainImages,
    dataset: Dataset,
    recipe: Train,
    identity: Run,
    where: torch.device,
    out: Path,
) -> None:
    """Write weights, recipe and card; the card comes last.

    Args:
        encoder: Trained, its averaged weights in place where there are some.
        images: What it was trained on.
        dataset: Where they are from.
        recipe: How it was trained.
        identity: Of the run.
        where: The device.
        out: The encoder run's folder.

    Raises:
        TrainingError: The weights cannot be written.
        OSError: The recipe or the card cannot.
    """
    embedder = encoder.embedder.eval()
    judged = judge(embedder, images, JUDGED, recipe.seed, where)
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
        "labels": list(encoder.labels),
        "begun_with": next((part.begun_with for part in embedder.modules() if isinstance(part, Embedder)), ""),
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
