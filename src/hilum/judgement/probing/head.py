"""The head that a release answers with: a calibrated linear classifier on frozen embeddings, and its locked threshold.

Legend: N rows, D width of the embedding. Weights, calibration and threshold come from train and val alone, calibration
and threshold from scores of patients that the scoring model had not seen; the test split then says what they are worth.

head.npz    weight (D,), bias, platt_a, platt_b, threshold; only where the head answers
head.json   whether it answers and why not, how it was made, and its figures with intervals
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression

from hilum import progress
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.errors import CheckFailed, DatasetError
from hilum.identity import Run, code_revision
from hilum.judgement import stats
from hilum.judgement.probing.calibration import Rule, cross_entropy, ece, operating_point, platt, sigmoid
from hilum.judgement.probing.reliability import reliability
from hilum.judgement.probing.svm import Scaling, centre_and_length, scaled
from hilum.recipe import Probe, digest

Floats = NDArray[np.float64]

WEIGHTS: Final = "head.npz"
FACTS: Final = "head.json"
FOLDS: Final = 5
MIN_PATIENTS: Final = 5  # of each class, to fit (with fewer not every fold has one) and to give an AUROC
FEW_PATIENTS: Final = 30  # below this a caveat rides with the head: its threshold is a rough guess
# How embeddings are scaled and the inverse strength of the L2 penalty on them; chosen out of fold by log loss.
SETTINGS: Final[tuple[tuple[Scaling, float], ...]] = tuple(
    (scaling, penalty) for scaling in ("feature", "whole") for penalty in (0.03, 0.3, 3.0, 30.0, 300.0)
)


@dataclass(frozen=True)
class Head:
    """A linear classifier with calibrated probability.

    `probability = sigmoid(platt_a * (z @ weight + bias) + platt_b)`; positive where it is at least `threshold`.

    Attributes:
        weight: (D,), the standardisation folded in, so it applies to raw embeddings.
        bias: Of the same.
        platt_a: Slope of Platt's calibration, above 0.
        platt_b: Its intercept.
        threshold: Locked operating point, a probability.
        label: What a positive means.
        facts: What `head.json` says.
    """

    weight: Floats
    bias: float
    platt_a: float
    platt_b: float
    threshold: float
    label: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def predict(self, z_ND: ArrayLike) -> Floats:
        """Calibrated probability of each embedding of shape (N, D): (N,), in (0, 1)."""
        margin_N = np.asarray(z_ND, dtype=np.float64) @ self.weight + self.bias
        return sigmoid(self.platt_a * margin_N + self.platt_b)

    def save(self, folder: Path) -> None:
        """Write `head.npz` and `head.json`; `head.json` comes last, so that a folder with it is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS).unlink(missing_ok=True)
        partial = folder / f"{WEIGHTS}.partial"
        with partial.open("wb") as stream:
            np.savez(
                stream,
                weight=self.weight,
                bias=self.bias,
                platt_a=self.platt_a,
                platt_b=self.platt_b,
                threshold=self.threshold,
            )
        partial.replace(folder / WEIGHTS)
        write_json(folder / FACTS, {"answered": True, "label": self.label, **self.facts})

    @classmethod
    def load(cls, folder: str | Path) -> "Head":
        """Read a head back.

        Raises:
            DatasetError: The folder has none, or a damaged one.
            CheckFailed: It has one that does not answer; the message says why. `facts(folder)["answered"]` asks first.
        """
        said = facts(folder)
        if not said["answered"]:
            raise CheckFailed(f"the head does not answer for {said['label']}: {said['why']}")
        if said.get("fusion"):
            raise CheckFailed("the head fuses covariates with the embedding, and a linear one is asked for here")
        try:
            with np.load(Path(folder) / WEIGHTS, allow_pickle=False) as stored:
                numbers = {name: float(stored[name]) for name in ("bias", "platt_a", "platt_b", "threshold")}
                weight = np.asarray(stored["weight"], dtype=np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{Path(folder) / WEIGHTS} is damaged or absent; probe again to write it") from error
        return cls(weight, label=str(said["label"]), facts=said, **numbers)


def facts(folder: str | Path) -> dict[str, Any]:
    """What `head.json` says; `answered` and `label` are always among it.

    Raises:
        DatasetError: There is none, or it is damaged.
    """
    path = Path(folder) / FACTS
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        said["answered"], said["label"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is absent or damaged; `hilum probe` writes it") from error
    return said


def fit(
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    patients_N: NDArray[Any],
    seed: int,
    *,
    rule: Rule = "youden",
    min_sensitivity: float = 0.9,
    replicates: int = 1000,
    weight_N: NDArray[Any] | None = None,
) -> Head:
    """Fit weights on all rows; calibrate and choose the threshold on out-of-fold scores.

    Args:
        z_ND: Embeddings of train and val.
        y_N: 1 positive, 0 negative; all known.
        patients_N: One id per row; a patient is never in two folds.
        seed: Of the folds and of the bootstrap.
        rule: `youden` maximises sensitivity + specificity - 1 (Youden 1950); `sensitivity` takes the highest threshold
            that reaches `min_sensitivity`. Both on out-of-fold probabilities.
        min_sensitivity: For the rule `sensitivity`.
        replicates: Of the bootstrap of the out-of-fold AUROC.
        weight_N: How much each row counts where weights are fitted; alike where not given. Calibration and threshold
            are of the rows as they are, whatever they weigh: a probability is of the cohort at hand.

    Raises:
        CheckFailed: No head can be answered for: too few patients of a class, or scores that do not rank.
    """
    n_patients = [len(np.unique(patients_N[y_N == value])) for value in (0, 1)]
    if min(n_patients) < MIN_PATIENTS:
        raise CheckFailed(
            f"insufficient data: train and val have {n_patients[1]} positive and {n_patients[0]} negative patients, "
            f"at least {MIN_PATIENTS} of each are needed"
        )
    setting, score_N = _out_of_fold(z_ND, y_N, patients_N, seed, weight_N)
    interval = stats.patient_bootstrap(stats.weighted_auroc, patients_N, replicates, seed, y_N, score_N)
    a, b = platt(score_N, y_N)
    if a <= 0 or interval.value <= 0.5:
        raise CheckFailed(
            "the embedding does not carry the label: out-of-fold scores do not rank positives above negatives "
            f"(AUROC {interval})"
        )
    probability_N = sigmoid(a * score_N + b)
    threshold = operating_point(y_N, probability_N, rule, min_sensitivity)
    ((weight, bias),) = _fits(z_ND, y_N, (setting,), weight_N)
    said = {
        "method": "L2 logistic regression on scaled embeddings; Platt calibration and threshold on out-of-fold "
        f"scores of {FOLDS} patient-disjoint folds of train and val",
        "scaling": setting[0],
        "penalty_c": setting[1],
        "platt": {"a": a, "b": b},
        "threshold": threshold,
        "threshold_rule": "Youden index"
        if rule == "youden"
        else f"rule of a sensitivity of at least {min_sensitivity:g}",
        "train": counts(y_N, patients_N),
        "out_of_fold": {
            "auroc": interval.facts(),
            "sensitivity": stats.proportion(probability_N[y_N == 1] >= threshold, patients_N[y_N == 1]).facts(),
            "specificity": stats.proportion(probability_N[y_N == 0] < threshold, patients_N[y_N == 0]).facts(),
            "note": "the threshold was chosen on these scores, so sensitivity and specificity here flatter it",
        },
        "caveats": [
            f"only {count} {name} patients in train and val: threshold and calibration are rough"
            for name, count in zip(("negative", "positive"), n_patients, strict=True)
            if count < FEW_PATIENTS
        ],
    }
    return Head(weight, bias, a, b, threshold, facts=said)


def run(dataset: Path, vectors: Path, label: str, out: Path, recipe: Probe | None = None) -> dict[str, Any]:
    """Fit the head of one label on train and val, judge it on test, and write `head.npz` and `head.json`.

    Where no head can be answered for, `head.json` says why and there is no `head.npz`: the release then answers
    embeddings only.

    Args:
        dataset: The dataset folder.
        vectors: Embeddings of it.
        label: A label of the dataset.
        out: Folder to write into.
        recipe: Rule of the threshold, replicates and seed.

    Returns:
        What `head.json` says.
    """
    recipe = recipe or Probe()
    cohort, embedded = Dataset.open(dataset), Vectors.open(vectors)
    table = embedded.joined(cohort)
    common = {
        "encoder": embedded.facts.encoder,
        "modality": embedded.facts.modality,
        "dim": embedded.facts.dim,
        "run": Run(
            code_revision=code_revision(), data_digest=embedded.facts.run["data_digest"], recipe_digest=digest(recipe)
        ),
        "caution": cohort.facts.caution,
    }
    labels = cohort.labels()
    y_N = (
        labels[label].to_numpy(dtype=float)[embedded.rows["row"].to_numpy()]
        if label in labels
        else np.full(len(table), math.nan)
    )
    split = table["split"].to_numpy()
    patients = pd.factorize(table["patient_id"], sort=True)[0]
    z_ND = embedded.z_ND  # memory-mapped float32: only the rows that are asked about are copied
    known = np.isfinite(y_N)
    fitted, tested = known & np.isin(split, ["train", "val"]), known & (split == "test")
    try:
        if not known.any():
            raise CheckFailed(f"the dataset knows {label} for no {embedded.facts.modality} image")
        found = fit(
            z_ND[fitted],
            y_N[fitted],
            patients[fitted],
            recipe.seed,
            rule=recipe.threshold,
            min_sensitivity=recipe.min_sensitivity,
            replicates=recipe.bootstrap,
        )
    except CheckFailed as refusal:
        out.mkdir(parents=True, exist_ok=True)
        (out / WEIGHTS).unlink(missing_ok=True)
        said = {"answered": False, "label": label, "why": str(refusal), "n_known": int(known.sum()), **common}
        write_json(out / FACTS, said)
        return said
    test = judge(found, z_ND[tested], y_N[tested], patients[tested], recipe.bootstrap, recipe.seed)
    whole = Head(
        found.weight,
        found.bias,
        found.platt_a,
        found.platt_b,
        found.threshold,
        label,
        {**found.facts, "test": test, **common},
    )
    whole.save(out)
    return {"answered": True, "label": label, **whole.facts}


def judge(
    head: Head, z_ND: NDArray[Any], y_N: NDArray[Any], patients_N: NDArray[Any], replicates: int, seed: int
) -> dict[str, Any]:
    """What a locked head is worth on rows it has not seen: discrimination, operating point and calibration."""
    p_N = head.predict(z_ND)
    positive = y_N == 1
    error, bins = ece(y_N, p_N)
    rarer = min(len(np.unique(patients_N[positive])), len(np.unique(patients_N[~positive])))
    if rarer < MIN_PATIENTS:
        # With one or two patients of a class, resampling them shows next to no spread, and the interval would lie.
        short = f"insufficient data: patients of the rarer class: {rarer}, needed: {MIN_PATIENTS}"
        auroc = stats.undefined(short, len(y_N), len(np.unique(patients_N)))
    else:
        auroc = stats.patient_bootstrap(stats.weighted_auroc, patients_N, replicates, seed, y_N, p_N)
    return {
        **counts(y_N, patients_N),
        "auroc": auroc.facts(),
        "sensitivity": stats.proportion(p_N[positive] >= head.threshold, patients_N[positive]).facts(),
        "specificity": stats.proportion(p_N[~positive] < head.threshold, patients_N[~positive]).facts(),
        "brier": stats.patient_bootstrap(stats.weighted_mean, patients_N, replicates, seed, (p_N - y_N) ** 2).facts(),
        "brier_of_prevalence": float(y_N.mean() * (1 - y_N.mean())) if len(y_N) else None,
        "ece": error if math.isfinite(error) else None,
        "ece_bins": bins,
        "reliability": reliability(p_N, y_N, patients_N),
        "prevalence": stats.proportion(positive, patients_N).facts(),
    }


def held_out(
    head: Head,
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    patients_N: NDArray[Any],
    seed: int,
    weight_N: NDArray[Any] | None = None,
) -> Floats:
    """The out-of-fold probabilities on which a fitted head's threshold was chosen, (N,); arguments as for `fit`."""
    setting = head.facts["scaling"], head.facts["penalty_c"]
    _, margin_N = _out_of_fold(z_ND, y_N, patients_N, seed, weight_N, (setting,))
    return sigmoid(head.platt_a * margin_N + head.platt_b)


def _out_of_fold(
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    patients_N: NDArray[Any],
    seed: int,
    weight_N: NDArray[Any] | None = None,
    settings: tuple[tuple[Scaling, float], ...] | None = None,
) -> tuple[tuple[Scaling, float], Floats]:
    """The scaling and penalty with the least out-of-fold log loss, and their out-of-fold margins (N,)."""
    settings = settings or SETTINGS
    folds = _folds(y_N, patients_N, seed)
    margins = np.zeros((len(settings), len(y_N)))
    for held in progress.track(range(FOLDS), "head", unit="fold"):
        rest, part = folds != held, folds == held
        found = _fits(z_ND[rest], y_N[rest], settings, None if weight_N is None else weight_N[rest])
        held_ND = np.asarray(z_ND[part], dtype=np.float64)
        for i, (weight, bias) in enumerate(found):
            margins[i, part] = held_ND @ weight + bias
    best = int(np.argmin([cross_entropy(margin, y_N) for margin in margins]))
    return settings[best], margins[best]


def _folds(y_N: NDArray[Any], patients_N: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """The fold of each row: patients with negative rows only, positive rows only, and both, each dealt evenly.

    With `MIN_PATIENTS` of each class this leaves both classes in every fit, whatever fold is held out.
    """
    names, codes = np.unique(patients_N, return_inverse=True)
    group_P = 2 * (np.bincount(codes, y_N == 1) > 0) + (np.bincount(codes, y_N == 0) > 0)
    order = np.random.default_rng(seed).permutation(len(names))
    dealt = order[np.argsort(group_P[order], kind="stable")]
    fold_P = np.empty(len(names), dtype=np.int64)
    fold_P[dealt] = np.arange(len(names)) % FOLDS
    return np.asarray(fold_P[codes])


def _fits(
    z_ND: NDArray[Any],
    y_N: NDArray[Any],
    settings: Sequence[tuple[Scaling, float]],
    weight_N: NDArray[Any] | None = None,
) -> list[tuple[Floats, float]]:
    """For each setting, weights on raw embeddings.

    They are fitted on scaled ones of mean squared length 1, so that C means the same for any D; scaled once for all C.
    """
    found = {}
    for scaling in dict.fromkeys(name for name, _ in settings):
        mean_D, length_D = centre_and_length(z_ND, scaling)
        x_ND = scaled(z_ND, mean_D, length_D)
        for penalty in (c for name, c in settings if name == scaling):
            # Far more steps than it takes: a fit that stopped early would not be the one that its C names.
            model = LogisticRegression(C=penalty, max_iter=10_000).fit(x_ND, y_N, weight_N)
            weight_D = model.coef_[0] / length_D
            found[scaling, penalty] = weight_D, float(model.intercept_[0] - mean_D @ weight_D)
    return [found[setting] for setting in settings]


def counts(y_N: NDArray[Any], patients_N: NDArray[Any]) -> dict[str, int]:
    """Images and patients, and those with the finding."""
    return {
        "n": len(y_N),
        "n_positive": int((y_N == 1).sum()),
        "n_patients": len(np.unique(patients_N)),
        "n_positive_patients": len(np.unique(patients_N[y_N == 1])),
    }
