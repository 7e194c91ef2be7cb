"""From an encoder to an answer for one label: a linear layer on frozen features or all weights, covariates or none.

A fine-tuning is a folder:

fusion.npz            the weights of the fusion alone, as arrays under torch's names: for the floors without torch
weights.pt            the embedder and the fusion (hilum.learning.finetuning.fusion.FineTuned) of the best epoch on val
card.json             what it is, each trial with its val score, the chosen one; written last: then it is finished
recipe.json           the recipe's `finetune` section with this mode and fusion
metrics.jsonl         one line per epoch of each trial
predictions.parquet   one row per test image: logit and truth, in the columns of a probe's
validation.parquet    the same for val: for calibration and stacking, never to be reported
checkpoint.pt         while it is under way: what is needed to go on

Train moves weights. Val ends a trial (early stopping) and chooses among trials. Test is answered once, at the end; what
that is worth, hilum.judgement.fusion.ladder says. Every fusion is given the same rates, seeds, epochs and patience, and
draws the same orders and views, so that none is better tuned than another.

N: rows of a split, B: rows of a batch, C: covariates, D: width of the features.
"""

import json
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hilum import __version__, progress
from hilum.data import parquet
from hilum.data.clinical import Clinical
from hilum.data.store import Dataset, write_json
from hilum.errors import DatasetError, TrainingError, UsageError
from hilum.identity import Run, code_revision, digest_file, require_same
from hilum.learning import embedding, encoders
from hilum.learning.engine import checkpoint, device
from hilum.learning.engine.batches import blocks
from hilum.learning.finetuning import fusion as fusions
from hilum.learning.finetuning.cases import Cases, Films, gather
from hilum.learning.finetuning.fusion import BY_GRADIENTS, FineTuned
from hilum.learning.finetuning.trials import Search
from hilum.recipe import Train, digest, parse, read
from hilum.recipe.finetune import Finetune, Fusion, Mode

PREDICTIONS: Final = "predictions.parquet"
VALIDATION: Final = "validation.parquet"
ARRAYS: Final = "fusion.npz"

log = logging.getLogger(__name__)


def ladder(dataset: Path, encoder_run: Path, section: Finetune, out: Path) -> list[Path]:
    """Every mode of the recipe with every fusion that is trained by gradients, each in `out/MODE/FUSION`.

    `image_only` is always among them, because the others are compared with it. Nothing is done where the recipe names
    no mode.

    Returns:
        The folders.

    Raises:
        HilumError: See `run`.
    """
    asked = [fusion for fusion in BY_GRADIENTS if fusion in ("image_only", *section.fusions)]
    features: dict[str, Tensor] = {}
    return [
        run(dataset, encoder_run, section, mode, fusion, out / mode / fusion, features)
        for mode in section.modes
        for fusion in asked
    ]


def possible(section: Finetune, encoder_run: Path) -> Finetune:
    """The section without `end_to_end` where the encoder, as `pixels`, has no weights that steps could move."""
    movable = next(embedding.onnx_module(encoder_run).parameters(), None) is not None
    return (
        section if movable else section.model_copy(update={"modes": tuple(m for m in section.modes if m == "linear")})
    )


def run(
    dataset: Path,
    encoder_run: Path,
    section: Finetune,
    mode: Mode,
    fusion: Fusion,
    out: Path,
    features: dict[str, Tensor] | None = None,
) -> Path:
    """Fine-tune one encoder for one label.

    A finished fine-tuning of the same code, data, recipe and encoder in `out` is kept as it is; one that was killed
    goes on and ends with the weights that it would have had.

    Args:
        dataset: A dataset folder.
        encoder_run: What `hilum train` wrote.
        section: Label, trials, early stopping; its `modes` and `fusions` are not looked at.
        mode: `linear` freezes the embedder, in eval mode, and embeds once; `end_to_end` moves all weights.
        fusion: One of BY_GRADIENTS.
        out: The folder; made where it does not exist.
        features: Features of the pretrained embedder by split, where another run has computed them; filled otherwise.

    Returns:
        `out`.

    Raises:
        UsageError: There is no such fusion, label or covariate.
        DatasetError: The images have another size than the encoder's, or nothing is there to fuse.
        CheckFailed: "Insufficient data": too few patients of a class in train or val.
        TrainingError: `encoder_run` is not finished, `out` holds another run, or no trial ends with a number.
    """
    if fusion not in BY_GRADIENTS:
        raise UsageError(
            f"{fusion!r} is not trained by gradients, as {', '.join(BY_GRADIENTS)} are; `hilum fusion` has it"
        )
    opened = Dataset.open(dataset)
    encoder_card = embedding.read_card(encoder_run)
    embedder = embedding.onnx_module(encoder_run)
    asked = section.model_copy(update={"modes": (mode,), "fusions": (fusion,)})
    named = Run(code_revision=code_revision(), data_digest=opened.facts.digest, recipe_digest=digest(asked))
    identity: dict[str, str] = {**named, "encoder_weights": digest_file(encoder_run / embedding.WEIGHTS)}  # type: ignore[dict-item]
    out.mkdir(parents=True, exist_ok=True)
    if (out / embedding.CARD).exists():
        held = json.loads((out / embedding.CARD).read_text(encoding="utf-8"))
        require_same(
            {**held.get("run", {}), "encoder_weights": held.get("encoder_weights", "")}, identity, out, "fine-tuning"
        )
        log.info("the fine-tuning in the output folder is finished; kept")
        return out
    if opened.images.shape[-1] != encoder_card["size"]:
        raise DatasetError(
            f"the dataset's images are {opened.images.shape[-1]} pixels wide, but the encoder was trained on "
            f"{encoder_card['size']}; ingest with --size {encoder_card['size']}"
        )
    where = device.pick()
    cases, clinical = gather(opened, encoder_card["modality"], asked, fusion != "image_only", where)
    device.lay_out(embedder.to(where))
    films = Films(opened, where)
    phi = {} if features is None else features
    for split in [split for split in cases if split not in phi]:
        phi[split] = _features(embedder, films, cases[split], where, f"embed {split}")
    search = Search(
        asked, mode, fusion, embedder.requires_grad_(mode == "end_to_end"), cases, clinical, films, phi, where
    )
    best, trials = search.run(identity, out)
    model = search.fresh(0)
    model.load_state_dict(best)
    encoder_recipe: Train = read(encoder_run / embedding.RECIPE, Train)
    counts = {split: part.counts() for split, part in cases.items()}
    for name, split in ((VALIDATION, "val"), (PREDICTIONS, "test")):
        _write(search.answers(model, split), out / name)
    checkpoint.write(
        out / embedding.WEIGHTS, {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    ).replace(out / embedding.WEIGHTS)
    _write_arrays(model.fusion, out / ARRAYS)
    write_json(out / embedding.RECIPE, asked.model_dump(mode="json"))
    chosen = max((trial for trial in trials if trial["score"]), key=lambda trial: tuple(trial["score"]))
    card = {
        "label": asked.label,
        "mode": mode,
        "fusion": fusion,
        "encoder": encoder_card["encoder"],
        "modality": encoder_card["modality"],
        "size": encoder_card["size"],
        "dim": model.fusion.head.in_features,
        "run": dict(named),
        "encoder_run": encoder_card["run"],
        "encoder_weights": identity["encoder_weights"],
        "encoder_recipe": encoder_recipe.model_dump(mode="json"),
        "hilum_version": __version__,
        "learning_rate": chosen["learning_rate"],
        "seed": chosen["seed"],
        "epochs": chosen["best_epoch"],
        "stop_on": asked.stop_on,
        "trials": [{key: value for key, value in trial.items() if key != "score"} for trial in trials],
        "splits": counts,
        "covariates": clinical.facts() if clinical else None,
        "imbalance": asked.imbalance,
        "device": where.type,
        "precision": asked.precision,
        "caution": opened.facts.caution,
    }
    write_json(out / embedding.CARD, card)
    checkpoint.discard(out)
    (out / checkpoint.NEWEST).unlink(missing_ok=True)
    return out


def default_fusion(dataset: Path) -> Fusion:
    """`gated` where the dataset has covariates, else `image_only`."""
    return "gated" if Dataset.open(dataset).facts.covariates else "image_only"


def load(folder: Path) -> tuple[FineTuned, Clinical | None, dict[str, Any]]:
    """A finished fine-tuning: its network in eval mode on the CPU, how covariates are scaled for it, and its card.

    Raises:
        TrainingError: `folder` is none, or its weights are damaged.
    """
    card = embedding.read_card(folder)
    if "encoder_recipe" not in card:
        raise TrainingError(f"{folder} is an encoder run, no fine-tuning; `hilum finetune` writes one")
    recipe: Train = parse(card["encoder_recipe"], Train)
    section: Finetune = read(folder / embedding.RECIPE, Finetune)
    clinical = Clinical.of(card["covariates"]) if card["covariates"] else None
    embedder = encoders.build(recipe.encoder, card["size"]).embedder
    n_covariates = len(clinical.names) if clinical else 0
    head = fusions.build(card["fusion"], card["dim"], n_covariates, section.covariate_width, section.modality_dropout)
    model = FineTuned(embedder, head)
    weights = folder / embedding.WEIGHTS
    if not checkpoint.whole(weights):
        raise TrainingError(f"{weights} is missing or damaged; fine-tune again")
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False), clinical, card


def _features(embedder: nn.Module, films: Films, cases: Cases, where: torch.device, title: str) -> Tensor:
    """Features (N, D) of one split by the frozen embedder."""
    parts = [
        torch.from_numpy(embedding.embed(embedder, films.pixels(cases.rows_N[part]), where))
        for part in progress.track(list(blocks(len(cases))), title, unit="batch")
    ]
    dim = int(getattr(embedder, "dim"))  # noqa: B009  an attribute of nn.Module is a Tensor or Module to mypy
    return torch.cat(parts).to(where) if parts else torch.zeros(0, dim, device=where)


def _write(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    parquet.write(table, partial)
    partial.replace(path)


def _write_arrays(fusion: nn.Module, path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        np.savez(stream, **{name: value.cpu().numpy() for name, value in fusion.state_dict().items()})
    partial.replace(path)
