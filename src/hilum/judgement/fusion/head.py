"""The head that fuses covariates with the embedding: a fine-tuning of a frozen encoder, calibrated and judged.

Legend: N rows, D width of the embedding, C covariates, E width of their code. It takes the place of the linear head in
the folder of a probe, so that audit, gate and export ask it as they ask any head:

head.npz    the weights of the fusion (hilum.learning.finetuning.fusion), Platt's numbers, the threshold
head.json   as of any head, and under `fusion` the covariates and what the head is worth without any of them

Only `linear` fine-tunings, whose encoder did not move: their embedding is the one that was probed, audited and searched
for shortcuts. Weights come from train; the fine-tuning stopped by val, and calibration and threshold are of val; the
test split then says what they are worth. The sums are done in numpy, and compared with torch's own answers before they
are believed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hilum.data import parquet
from hilum.data.clinical import Clinical
from hilum.data.store import Dataset, read_json, write_json
from hilum.data.vectors import Vectors
from hilum.errors import CheckFailed, DatasetError, UsageError
from hilum.identity import Run, code_revision, digest_file
from hilum.judgement.fusion.ladder import FACTS as COMPARISON
from hilum.judgement.fusion.ladder import PREDICTIONS, VALIDATION
from hilum.judgement.probing import head as heads
from hilum.judgement.probing.calibration import operating_point, platt, sigmoid
from hilum.judgement.probing.head import Floats, Head
from hilum.recipe import Finetune, Probe, digest

FUSED: Final = ("concatenation", "gated")
CARD: Final = "card.json"  # of a fine-tuning
ARRAYS: Final = "fusion.npz"  # of a fine-tuning: its fusion's weights, for who has no torch
USUAL: Final = (0.01, 0.99)  # quantiles of train between which a value counts as usual
AGREE: Final = 1e-3  # largest difference of a logit from torch's; both add in another order


@dataclass(frozen=True)
class FusedHead:
    """A fusion of an embedding with covariates, with calibrated probability.

    Attributes:
        kind: One of FUSED.
        clinical: How covariates are scaled.
        arrays: Weights by the names that torch gives them, float64.
        platt_a: Slope of Platt's calibration, above 0.
        platt_b: Its intercept.
        threshold: Locked operating point, a probability.
        label: What a positive means.
        facts: What `head.json` says.
    """

    kind: str
    clinical: Clinical
    arrays: Mapping[str, Floats]
    platt_a: float
    platt_b: float
    threshold: float
    label: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.arrays["head.weight"].shape[1])

    def logits(self, z_ND: ArrayLike, raw_NC: ArrayLike) -> Floats:
        """Logits before calibration: (N,).

        Args:
            z_ND: Embeddings.
            raw_NC: Covariates in their own units, in the order of `clinical.names`; NaN where missing.
        """
        w = self.arrays
        values_NC, missing_NC = (part.astype(np.float64) for part in self.clinical.transform(raw_NC))
        phi_ND = (np.asarray(z_ND, dtype=np.float64) - w["mean_D"]) / w["std_D"]
        if self.kind == "concatenation":
            added_N1 = values_NC @ w["covariates.weight"].T
        else:
            e_NE = np.concatenate([values_NC, missing_NC], axis=1)
            for layer in ("code.0", "code.2"):
                e_NE = np.maximum(e_NE @ w[f"{layer}.weight"].T + w[f"{layer}.bias"], 0.0)
            gate_ND = sigmoid(np.concatenate([phi_ND, e_NE], axis=1) @ w["gate.weight"].T + w["gate.bias"])
            phi_ND = phi_ND + gate_ND * (e_NE @ w["residual.weight"].T)
            added_N1 = np.zeros((len(phi_ND), 1))
        logit_N1: Floats = phi_ND @ w["head.weight"].T + w["head.bias"] + added_N1
        return logit_N1[:, 0]

    def predict(self, z_ND: ArrayLike, raw_NC: ArrayLike) -> Floats:
        """Calibrated probabilities, (N,), in (0, 1); arguments as for `logits`."""
        return sigmoid(self.platt_a * self.logits(z_ND, raw_NC) + self.platt_b)

    def save(self, folder: Path) -> None:
        """Write `head.npz` and `head.json`; `head.json` comes last, so that a folder with it is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / heads.FACTS).unlink(missing_ok=True)
        partial = folder / f"{heads.WEIGHTS}.partial"
        numbers = {"platt_a": self.platt_a, "platt_b": self.platt_b, "threshold": self.threshold}
        kept: dict[str, Any] = {**self.arrays, **numbers}
        with partial.open("wb") as stream:
            np.savez(stream, **kept)
        partial.replace(folder / heads.WEIGHTS)
        write_json(folder / heads.FACTS, {"answered": True, "label": self.label, **self.facts})

    @classmethod
    def load(cls, folder: Path) -> "FusedHead":
        """Read a fused head back.

        Raises:
            DatasetError: The folder has none, or a damaged one.
            CheckFailed: It has one that does not answer; the message says why.
        """
        said = heads.facts(folder)
        if not said["answered"]:
            raise CheckFailed(f"the head does not answer for {said['label']}: {said['why']}")
        try:
            fusion = said["fusion"]
            clinical = Clinical.of(fusion["scaling"])
            with np.load(folder / heads.WEIGHTS, allow_pickle=False) as stored:
                numbers = {name: float(stored[name]) for name in ("platt_a", "platt_b", "threshold")}
                arrays = {name: np.asarray(stored[name], np.float64) for name in stored if name not in numbers}
            _whole(fusion["kind"], arrays, len(clinical.names))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{folder / heads.WEIGHTS} is damaged or absent; probe again to write it") from error
        return cls(fusion["kind"], clinical, arrays, label=str(said["label"]), facts=said, **numbers)


def load(folder: Path) -> Head | FusedHead:
    """The head of a probe folder, of whichever kind.

    Raises:
        DatasetError: The folder has none, or a damaged one.
        CheckFailed: It has one that does not answer.
    """
    return FusedHead.load(folder) if heads.facts(folder).get("fusion") else Head.load(folder)


def predict(head: Head | FusedHead, z_ND: ArrayLike, table: pd.DataFrame) -> Floats:
    """Calibrated probabilities (N,) of embeddings by a head of either kind.

    Args:
        head: The head.
        z_ND: Embeddings.
        table: Their rows of the manifest, which have the covariates.
    """
    return head.predict(z_ND, raw(table, head.clinical.names)) if isinstance(head, FusedHead) else head.predict(z_ND)


def raw(table: pd.DataFrame, names: Sequence[str]) -> Floats:
    """Covariates of some rows of a manifest, NaN where unknown: (N, C)."""
    found: Floats = table[list(names)].to_numpy(dtype=np.float64)
    return found


def adopt(dataset: Path, vectors: Path, tuned: Path, out: Path, recipe: Probe | None = None) -> dict[str, Any]:
    """Make a fine-tuning the head of a probe folder: calibrate it on val, judge it on test, write `head.*`.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it by the encoder that was fine-tuned.
        tuned: What `hilum finetune --mode linear` wrote, with the fusion `gated` or `concatenation`.
        out: The folder of the probe; the head there is replaced.
        recipe: Rule of the threshold, replicates and seed.

    Returns:
        What `head.json` says; where no head can be answered for, why not.

    Raises:
        UsageError: The fine-tuning moved the encoder or fuses nothing, or the head there is fitted with a mitigation.
        DatasetError: Folders do not belong together, or one is not whole.
        CheckFailed: numpy and torch give other logits.
    """
    recipe = recipe or Probe()
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table, card = embedded.joined(cohort), read_json(tuned / CARD)
    _belongs(card, cohort, embedded, out)
    clinical, arrays = Clinical.of(card["covariates"]), _arrays(tuned)
    bare = FusedHead(card["fusion"], clinical, arrays, 1.0, 0.0, 0.5)
    raw_NC, z_ND = raw(table, clinical.names), embedded.z_ND
    rows_N, split_N = embedded.rows["row"].to_numpy(), table["split"].to_numpy()
    y_N = cohort.labels()[card["label"]].to_numpy(dtype=float)[rows_N]
    patients_N = pd.factorize(table["patient_id"], sort=True)[0]
    logit_N = bare.logits(z_ND, raw_NC)
    _as_torch(tuned, pd.Series(logit_N, index=rows_N))
    known_N = np.isfinite(y_N)
    train, val, test = (known_N & (split_N == name) for name in ("train", "val", "test"))
    common = {
        "encoder": embedded.facts.encoder,
        "modality": embedded.facts.modality,
        "dim": embedded.facts.dim,
        "run": Run(
            code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
        ),
        "caution": cohort.facts.caution,
    }
    few = min(len(np.unique(patients_N[val & (y_N == value)])) for value in (0, 1))
    a, b = platt(logit_N[val], y_N[val]) if few >= heads.MIN_PATIENTS else (math.nan, math.nan)
    if not a > 0:
        why = (
            f"insufficient data: val has {few} patients of the rarer class, and {heads.MIN_PATIENTS} are needed"
            if few < heads.MIN_PATIENTS
            else "the fused head does not carry the label: on val its scores do not rank positives above negatives"
        )
        said = {"answered": False, "label": card["label"], "why": why, "n_known": int(known_N.sum()), **common}
        (out / heads.WEIGHTS).unlink(missing_ok=True)
        write_json(out / heads.FACTS, said)
        return said
    threshold = operating_point(y_N[val], sigmoid(a * logit_N[val] + b), recipe.threshold, recipe.min_sensitivity)

    def judged(logits: Floats) -> dict[str, Any]:
        scored = Head(np.ones(1), 0.0, a, b, threshold)  # of a logit as the only feature
        return heads.judge(scored, logits[test, None], y_N[test], patients_N[test], recipe.bootstrap, recipe.seed)

    alone_N = bare.logits(z_ND, np.full_like(raw_NC, np.nan))
    facts = {
        "method": f"{card['fusion']} fusion of the frozen embedding with {len(clinical.names)} covariates, fitted on "
        "train and stopped by val",
        "platt": {"a": a, "b": b},
        "calibrated_on": "scores of val",
        "threshold": threshold,
        "threshold_rule": "Youden index"
        if recipe.threshold == "youden"
        else f"rule of a sensitivity of at least {recipe.min_sensitivity:g}",
        "threshold_chosen_on": "on val",
        "train": heads.counts(y_N[train], patients_N[train]),
        "caveats": _caveats(card["fusion"], few),
        "fusion": {
            "kind": card["fusion"],
            "scaling": clinical.facts(),
            "covariates": _described(clinical, raw_NC[train]),
            "fine_tuning": {"weights": digest_file(tuned / ARRAYS), "run": card["run"]},
            "without": judged(alone_N),
        },
        "test": judged(logit_N),
        **common,
    }
    FusedHead(card["fusion"], clinical, arrays, a, b, threshold, card["label"], facts).save(out)
    return heads.facts(out)


def named(ladder: Path, section: Finetune) -> Path | None:
    """The fine-tuning that a recipe makes the head, of those in the folder of the pipeline's step.

    None where the recipe names none, and where the data allow none, as those of a modality without the label.

    Raises:
        DatasetError: It is not there.
    """
    if section.head is None:
        return None
    tuned = ladder / "linear" / section.head
    if (tuned / CARD).is_file():
        return tuned
    if (ladder / COMPARISON).is_file() and not read_json(ladder / COMPARISON).get("answered", True):
        return None
    raise DatasetError(f"the fine-tuning {tuned} is not there; fine-tune with the modes and fusions of this recipe")


def _caveats(kind: str, few: int) -> list[str]:
    found = ["the fine-tuning was stopped by the same val images that calibrate it, so the calibration may flatter"]
    if kind == "gated":
        found.append(
            "the fusion sees which covariates are missing, so where others are measured than in training, its answers "
            "shift"
        )
    if few < heads.FEW_PATIENTS:
        found.append(f"only {few} patients of the rarer class in val: threshold and calibration are rough")
    return found


def _belongs(card: Mapping[str, Any], cohort: Dataset, embedded: Vectors, out: Path) -> None:
    if card.get("fusion") not in FUSED:
        raise UsageError(
            f"this fine-tuning is {card.get('fusion', 'an encoder run')!s} and fuses nothing; one with the fusion "
            f"{' or '.join(FUSED)} does"
        )
    if card["mode"] != "linear":
        raise UsageError(
            "this fine-tuning moved the encoder's weights, so its embedding is not the one that was probed; fine-tune "
            "with --mode linear"
        )
    if card["run"]["data_digest"] != cohort.facts.digest:
        raise DatasetError("the fine-tuning was made from another dataset; fine-tune on this one first")
    if (card["encoder_weights"], card["modality"]) != (embedded.facts.encoder_weights, embedded.facts.modality):
        raise DatasetError("the embeddings are not of the encoder that was fine-tuned; embed with that one")
    if not (out / heads.FACTS).is_file():
        raise DatasetError(f"{out} is no probe, whose head could be replaced; `hilum probe` writes one")
    said = heads.facts(out)
    if said.get("mitigation"):
        raise UsageError(
            "the head is fitted with a mitigation, which a fused head cannot be; set mitigation.applied to none"
        )
    if said["label"] != card["label"]:
        raise UsageError(f"the probe's head answers for {said['label']!r}, the fine-tuning for {card['label']!r}")


def _arrays(tuned: Path) -> dict[str, Floats]:
    path = tuned / ARRAYS
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name], dtype=np.float64) for name in stored}
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is absent or damaged; fine-tune again into a new folder to write it") from error


def _whole(kind: str, arrays: Mapping[str, Floats], n_covariates: int) -> None:
    """Raise a ValueError or KeyError where weights are missing, not finite, or do not fit each other."""
    dim = arrays["head.weight"].shape[1]
    wanted = {"head.weight": (1, dim), "head.bias": (1,), "mean_D": (dim,), "std_D": (dim,)}
    if kind == "concatenation":
        wanted["covariates.weight"] = (1, n_covariates)
    elif kind == "gated":
        width = len(arrays["code.0.bias"])
        wanted |= {
            "code.0.weight": (width, 2 * n_covariates), "code.0.bias": (width,),
            "code.2.weight": (width, width), "code.2.bias": (width,),
            "gate.weight": (dim, dim + width), "gate.bias": (dim,), "residual.weight": (dim, width),
        }  # fmt: skip
    else:
        raise ValueError(f"there is no fusion {kind!r}")
    for name, shape in wanted.items():
        if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} is {arrays[name].shape}, not {shape}, or not finite")


def _as_torch(tuned: Path, logits: pd.Series) -> None:
    """See that the logits here are those that torch gave when it was fine-tuned."""
    told = pd.concat([parquet.read(tuned / name) for name in (VALIDATION, PREDICTIONS)], ignore_index=True)
    if not set(told["row"]) <= set(logits.index):
        raise DatasetError("the fine-tuning answered for images that have no embedding here; embed the dataset again")
    expected = told["score"].to_numpy()
    apart = float(np.max(np.abs(logits.loc[told["row"]].to_numpy() - expected) / (1 + np.abs(expected)), initial=0.0))
    if not apart <= AGREE:
        raise CheckFailed(
            f"the fused head gives other logits than the fine-tuning did, by {apart:.3g}, and at most {AGREE:g} is "
            "allowed; embed the dataset again with the encoder that was fine-tuned"
        )


def _described(clinical: Clinical, raw_NC: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Each covariate: its plausible range, and what the train rows had."""
    cut_NC = clinical.cut(raw_NC)
    return [
        {
            "name": name,
            "low": float(clinical.low_C[column]),
            "high": float(clinical.high_C[column]),
            "median": float(clinical.centre_C[column]),
            **dict(zip(("usual_low", "usual_high"), map(float, np.nanquantile(cut_NC[:, column], USUAL)), strict=True)),
            "missing": float(np.isnan(cut_NC[:, column]).mean()),
        }
        for column, name in enumerate(clinical.names)
    ]
