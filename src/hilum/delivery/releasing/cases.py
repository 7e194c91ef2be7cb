"""Training cases that ride in a release under opaque numbers, and the list of what they are, for the data's owners.

The numbers are positions in a shuffled order of the training images. `RELEASE.cases.parquet` lies beside the release
folder, not in it: whoever has it and the dataset can look a case up, and nobody who was only given the release.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data import parquet
from hilum.delivery.answering import exposure, neighbours
from hilum.delivery.card import CASES, MODEL, CasesCard, Measured
from hilum.delivery.engines.runtime import Session
from hilum.delivery.predictor import infer
from hilum.delivery.releasing.sources import Sources
from hilum.judgement import stats

MAX_HELD_OUT: Final = 1024  # of val, and of test: a quantile and a rate need no more
LISTED: Final = ".cases.parquet"


def name(modality: str, number: int) -> str:
    """The opaque id of a case, as answers give it: `xr-004217`."""
    return f"{modality.lower()}-{number:06d}"


def write(sources: Sources, release: Path, out: Path, threads: int) -> CasesCard | None:
    """Embed training cases with the release's own graph, set the limits, and write them and the list.

    Args:
        sources: What the release is made of.
        release: The folder in the making; its graph lies there.
        out: The release folder as it will be called; the list is written beside it.
        threads: Of the graph.

    Returns:
        What the card says of them; None where the training split is too small to keep any.
    """
    data, modality = sources.dataset, sources.facts["modality"]
    train = data.rows(modality, ("train",))
    patient_N = data.manifest["patient_id"].to_numpy()
    # Evenly over a shuffled order of patients, and shuffled once more: a number tells nothing of its neighbours.
    random = np.random.default_rng(int(data.facts.digest[:16], 16))
    order = random.permutation(pd.factorize(patient_N[train])[0].max() + 1) if len(train) else np.zeros(0, int)
    rank = order[pd.factorize(patient_N[train])[0]] if len(train) else np.zeros(0, int)
    chosen = train[np.argsort(rank, kind="stable")][: neighbours.MAX_CASES]
    if len(chosen) < neighbours.MIN_CASES:
        return None
    chosen = random.permutation(chosen)
    graph = Session(release / MODEL, threads)

    def embedded(rows: NDArray[Any]) -> NDArray[np.float32]:
        return infer(graph, np.ascontiguousarray(data.images[rows])).z_BD

    held_out, test = (_spread(data.rows(modality, (split,))) for split in ("val", "test"))
    labels = data.labels()
    known = labels[sources.recipe.label].to_numpy(dtype=float) if sources.recipe.label in labels else None
    found = neighbours.fit(
        embedded(chosen),
        np.arange(len(chosen)),
        np.full(len(chosen), np.nan) if known is None else known[chosen],
        embedded(held_out) if len(held_out) else np.zeros((0, sources.facts["dim"]), np.float32),
        exposure.fit(data.images[chosen]),
    )
    found.save(release / CASES)
    listed = pd.DataFrame(
        {
            "case": [name(modality, number) for number in range(len(chosen))],
            "image_id": data.manifest["image_id"].to_numpy()[chosen],
        }
    )
    parquet.write(listed, out.with_name(out.name + LISTED))
    scores = np.array([found.score(z_D) for z_D in embedded(test)]) if len(test) else np.zeros(0)
    limit, patients = found.limit, pd.factorize(patient_N[test])[0]
    unreadable = np.array([found.exposure.fault(image) is not None for image in data.images[test]], dtype=bool)
    return CasesCard(
        n=len(chosen),
        n_held_out=len(held_out),
        out_of_distribution_limit=limit,
        false_abstentions=_rate(scores > (np.inf if limit is None else limit), patients),
        false_unreadable=_rate(unreadable, patients),
    )


def _spread(rows: NDArray[Any]) -> NDArray[Any]:
    """At most MAX_HELD_OUT of them, evenly spread."""
    return (
        rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_HELD_OUT)).astype(int))] if len(rows) else rows
    )


def _rate(hit_N: NDArray[np.bool_], patients: NDArray[Any]) -> Measured:
    said = stats.proportion(hit_N, patients).facts()
    return Measured(**{key: said[key] for key in ("value", "low", "high", "n")}, note=said.get("note", ""))
