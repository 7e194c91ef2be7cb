"""Answers that leaderboard tests make for themselves, with known quality."""

import math

import numpy as np
import pandas as pd

from hilum.data import parquet
from hilum.data.store import Dataset, write_json
from hilum.data.vectors import Vectors
from hilum.judgement import stats
from hilum.judgement.fusion import ladder
from hilum.judgement.leaderboard.answers import PROBE, Answer
from hilum.recipe import Finetune, digest


def answer(encoder, score, truth, way=PROBE, task="pneumonia", covariates=False, patients=None):
    """An AUROC of scores that are given; two rows per patient where no patients are named."""
    rows = np.arange(len(truth))
    patients = rows // 2 if patients is None else patients
    frame = pd.DataFrame({"row": rows, "patient": patients, "fold": 0, "task": task, "truth": truth, "score": score})
    found = stats.patient_bootstrap(stats.weighted_auroc, patients, 200, 0, truth, score)
    return Answer(encoder, way, task, "binary", "auroc", covariates, found, float(truth.sum()), 0.5, frame)


def insufficient(encoder, task="hernia", n=12):
    """A question that could not be asked."""
    nothing = stats.undefined("insufficient data: patients of the rarer class in test: 1, needed: 10", n, n)
    return Answer(encoder, PROBE, task, "binary", "auroc", False, nothing, 1.0, math.nan, pd.DataFrame())


def make_ladder(dataset, vectors, out, modes=("linear", "end_to_end"), weights="0" * 64, recipe="test", seed=0):
    """What `hilum fusion` leaves, from vectors whose fourth feature carries pneumonia; end to end is told more."""
    cohort, found = Dataset.open(dataset), Vectors.open(vectors)
    fusions = ("image_only", "tabular_only", "concatenation", "stacking", "gated")
    section = Finetune(modes=modes, fusions=fusions, bootstrap=200, min_patients=3)
    table, y_N = cohort.manifest, cohort.labels()["pneumonia"].to_numpy()
    random = np.random.default_rng(seed)
    patients_N = pd.factorize(table["patient_id"], sort=True)[0]
    value_N = np.nan_to_num((95 - table["o2_saturation_pct"]).to_numpy())
    for mode in modes:
        image_N = found.z_ND[:, 3] + (2 * np.nan_to_num(y_N) if mode == "end_to_end" else 0)
        for fusion in ("image_only", "concatenation", "gated"):
            folder = out / mode / fusion
            folder.mkdir(parents=True)
            score_N = image_N + {"image_only": 0.0, "concatenation": 0.1, "gated": 1.0}[fusion] * value_N
            score_N = score_N + 0.01 * random.normal(size=len(score_N))
            for name, split in ((ladder.VALIDATION, "val"), (ladder.PREDICTIONS, "test")):
                rows = np.flatnonzero((table["split"] == split).to_numpy() & np.isfinite(y_N))
                answers = pd.DataFrame(
                    {"row": rows, "patient": patients_N[rows], "task": "pneumonia", "kernel": f"{mode}_{fusion}",
                     "split": split, "fold": np.zeros(len(rows), dtype=np.int64), "score": score_N[rows].astype(float),
                     "truth": y_N[rows]}
                )  # fmt: skip
                parquet.write(answers, folder / name)
            asked = section.model_copy(update={"modes": (mode,), "fusions": (fusion,)})
            write_json(folder / "recipe.json", asked.model_dump(mode="json"))
            write_json(
                folder / "card.json",
                {"label": "pneumonia", "mode": mode, "fusion": fusion, "encoder": found.facts.encoder,
                 "modality": "XR", "encoder_weights": weights, "caution": cohort.facts.caution,
                 "run": {"code_revision": "t", "data_digest": cohort.facts.digest, "recipe_digest": digest(asked)},
                 "encoder_run": {"code_revision": "t", "data_digest": cohort.facts.digest, "recipe_digest": recipe},
                 "trials": [{}, {}], "learning_rate": 0.001, "epochs": 3},
            )  # fmt: skip
    ladder.run(dataset, out, section, out)
    return out


def naive_tied(values, raw, level=0.05):
    """By the book: Holm over all pairs, then who cannot be told from the highest value; `raw` is by pair of names."""
    order = sorted(raw, key=raw.get)
    corrected, largest = {}, 0.0
    for place, pair in enumerate(order):
        largest = max(largest, min(1.0, raw[pair] * (len(order) - place)))
        corrected[pair] = largest
    top = max(values, key=values.get)
    return top, {name for name in values if name == top or corrected[frozenset((name, top))] >= level}, corrected
