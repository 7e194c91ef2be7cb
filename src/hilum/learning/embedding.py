"""From images to vectors with an encoder that has been trained.

B: images in a batch, N: images, C: 1 channel, H x W: pixels, D: width of an embedding.
"""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hilum import progress
from hilum.data import vectors
from hilum.data.store import Dataset
from hilum.data.vectors import VectorFacts, Vectors
from hilum.errors import DatasetError, TrainingError
from hilum.identity import Run, code_revision, digest_file
from hilum.learning import encoders
from hilum.learning.engine import checkpoint, device
from hilum.learning.engine.batches import BLOCK, blocks, unit_range
from hilum.recipe import Train, read

WEIGHTS: Final = "weights.pt"
DECODER: Final = "decoder.pt"
CARD: Final = "card.json"
RECIPE: Final = "recipe.json"


def run(dataset: Path, encoder_run: Path, out: Path) -> Vectors:
    """Embed every image of the encoder's modality, of all splits, and write the embeddings folder.

    Always in float32, whatever precision the encoder was trained in, so that the released graph can be held against
    these vectors.

    Args:
        dataset: A dataset folder, the one the encoder was trained on or another.
        encoder_run: What `hilum.learning.training.run` wrote.
        out: The embeddings folder.

    Returns:
        The vectors, as written.

    Raises:
        DatasetError: The dataset has no image of the encoder's modality, or its images have another size.
        TrainingError: `encoder_run` is no finished encoder run.
    """
    opened = Dataset.open(dataset)
    card = read_card(encoder_run)
    modality = card["modality"]
    rows = opened.rows(modality)
    if len(rows) == 0:
        raise DatasetError(f"the dataset has no {modality} images for the encoder to embed; it has {opened.modalities}")
    if opened.images.shape[-1] != card["size"]:
        raise DatasetError(
            f"the dataset's images are {opened.images.shape[-1]} pixels wide, but the encoder was trained on "
            f"{card['size']}; ingest with --size {card['size']}"
        )
    where = device.pick()
    module = onnx_module(encoder_run).to(where)
    parts = [
        embed(module, np.ascontiguousarray(opened.images[rows[part]]), where)
        for part in progress.track(list(blocks(len(rows))), f"embed {card['encoder']} {modality}", unit="batch")
    ]
    identity = Run(
        code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=card["run"]["recipe_digest"]
    )
    facts = VectorFacts(
        encoder=card["encoder"],
        modality=modality,
        dim=card["dim"],
        n=len(rows),
        run=identity,
        encoder_weights=digest_file(encoder_run / WEIGHTS),
    )
    table = opened.manifest.iloc[rows][["image_id", "patient_id", "split"]].reset_index(drop=True)
    table.insert(0, "row", rows)
    made = Vectors(np.concatenate(parts), table, facts)
    (out / vectors.FACTS).unlink(missing_ok=True)
    made.write(out)
    return made


@torch.inference_mode()
def embed(module: nn.Module, x_NHW: NDArray[np.uint8], where: torch.device) -> NDArray[np.float32]:
    """Embeddings (N, D), float32, of uint8 images (N, H, W) by a module in eval mode that lies on `where`."""
    parts = [
        module(unit_range(torch.from_numpy(x_NHW[part]).to(where))).float().cpu().numpy()
        for part in blocks(len(x_NHW), BLOCK)
    ]
    return np.concatenate(parts)


def onnx_module(encoder_run: Path) -> nn.Module:
    """The trained embedder, in eval mode on the CPU: what is embedded with and what is exported.

    Its `forward` takes float32 images (B, 1, size, size) in [0, 1] and gives float32 embeddings (B, D); normalisation
    is inside, and B may be anything. Its operations are plain ones that torch.onnx.export(dynamo=True) knows.

    Raises:
        TrainingError: `encoder_run` is no finished encoder run, or its weights are damaged.
    """
    card = read_card(encoder_run)
    recipe: Train = read(encoder_run / RECIPE, Train)
    module = encoders.build(recipe.encoder, card["size"]).embedder
    weights = encoder_run / WEIGHTS
    if not checkpoint.whole(weights):
        raise TrainingError(f"{weights} is missing or damaged; train the encoder again")
    try:
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except RuntimeError as error:
        raise TrainingError(f"{weights} does not fit {RECIPE} beside it; train the encoder again: {error}") from error
    return module.eval().requires_grad_(False)


def read_card(encoder_run: Path) -> dict[str, Any]:
    """The card of a finished encoder run.

    Raises:
        TrainingError: There is none.
    """
    path = encoder_run / CARD
    if not path.is_file():
        raise TrainingError(f"{encoder_run} is no finished encoder run: it has no {CARD}; `hilum train` writes one")
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card
