"""Training cases that ride in a release under opaque numbers, and what they are, for those who have the data.

The numbers are positions in a shuffled order of the training images, which follows from the dataset alone. So whoever
has the dataset can look a case up (`hilum cases`), nobody else can, and no list of images lies about.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf

from hilum.data.store import Dataset
from hilum.delivery.answering import exposure, neighbours
from hilum.delivery.answering.bodies import case_id
from hilum.delivery.card import CASES, MODEL, CasesCard, Measured, ReleaseCard
from hilum.delivery.engines.runtime import Session
from hilum.delivery.predictor import infer
from hilum.delivery.releasing.sources import Sources
from hilum.errors import DatasetError, UsageError
from hilum.judgement import stats

MAX_HELD_OUT: Final = 1024  # of val, and of test: a quantile and a rate need no more


def chosen(data: Dataset, modality: str) -> NDArray[np.int64]:
    """The rows of a dataset that are training cases, case number by case number; none where they are too few.

    Whole patients in a shuffled order, up to MAX_CASES images; shuffled once more, so that a number tells nothing of
    its neighbours.
    """
    train = data.rows(modality, ("train",))
    if len(train) < neighbours.MIN_CASES:
        return train[:0]
    random = np.random.default_rng(int(data.facts.digest[:16], 16))
    patients = pd.factorize(data.manifest["patient_id"].to_numpy()[train])[0]
    rank = random.permutation(patients.max() + 1)[patients]
    found: NDArray[np.int64] = random.permutation(train[np.argsort(rank, kind="stable")][: neighbours.MAX_CASES])
    return found


def look_up(release: Path, dataset: Path, cases: tuple[str, ...] = ()) -> pd.DataFrame:
    """Which image of the dataset each case is: columns `case`, `image_id`, `patient_id`.

    Args:
        release: A release folder.
        dataset: The dataset that its encoder was trained on.
        cases: Ids as answers give them; all where there are none.

    Raises:
        DatasetError: It is another dataset.
        UsageError: The release keeps no cases, or none of such a name.
    """
    card, data = ReleaseCard.load(release), Dataset.open(dataset)
    if card.training.data_digest != data.facts.digest:
        raise DatasetError(f"{card.name} was trained on another dataset than the one named; name that one")
    if card.cases is None:
        raise UsageError(f"{card.name} keeps no training cases: there were too few training images")
    rows = chosen(data, card.modality)
    found = data.manifest[["image_id", "patient_id"]].iloc[rows].reset_index(drop=True)
    found.insert(0, "case", [case_id(card.modality, number) for number in range(len(rows))])
    if strange := sorted(set(cases) - set(found["case"])):
        raise UsageError(f"{card.name} has no case {strange[0]!r}; cases are named as {found['case'][0]}")
    return found[found["case"].isin(cases)] if cases else found


def write(sources: Sources, release: Path, threads: int) -> CasesCard | None:
    """Embed training cases with the release's own graph, set the limits, and write them.

    Args:
        sources: What the release is made of.
        release: The folder in the making; its graph lies there.
        threads: Of the graph.

    Returns:
        What the card says of them; None where the training split is too small to keep any.
    """
    data, modality = sources.dataset, sources.facts["modality"]
    rows, patient_N = chosen(data, modality), data.manifest["patient_id"].to_numpy()
    if not len(rows):
        return None
    graph = Session(release / MODEL, threads)

    def embedded(of: NDArray[Any]) -> NDArray[np.float32]:
        return infer(graph, np.ascontiguousarray(data.images[of])).z_BD

    held_out, test = (_spread(data.rows(modality, (split,))) for split in ("val", "test"))
    labels = data.labels()
    known = labels[sources.recipe.label].to_numpy(dtype=float) if sources.recipe.label in labels else None
    z_MD = embedded(rows)
    found = neighbours.fit(
        z_MD,
        np.arange(len(rows)),
        np.full(len(rows), np.nan) if known is None else known[rows],
        whitening(z_MD),
        embedded(held_out) if len(held_out) else np.zeros((0, sources.facts["dim"]), np.float32),
        exposure.fit(data.images[rows]),
    )
    found.save(release / CASES)
    scores = np.array([found.score(z_D) for z_D in embedded(test)]) if len(test) else np.zeros(0)
    limit, patients = found.limit, pd.factorize(patient_N[test])[0]
    unreadable = np.array([found.exposure.fault(image) is not None for image in data.images[test]], dtype=bool)
    return CasesCard(
        n=len(rows),
        n_held_out=len(held_out),
        out_of_distribution_limit=limit,
        false_abstentions=_rate(scores > (np.inf if limit is None else limit), patients),
        false_unreadable=_rate(unreadable, patients),
    )


def whitening(z_MD: NDArray[np.float32]) -> NDArray[np.float64]:
    """W (D, D), so that centred embeddings times W have the unit matrix as covariance.

    The covariance is shrunk towards a multiple of the unit matrix, by as much as its estimate from M embeddings is
    uncertain (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices").
    """
    precision_DD = LedoitWolf().fit(z_MD.astype(np.float64)).precision_
    found: NDArray[np.float64] = np.linalg.cholesky(precision_DD)
    return found


def _spread(rows: NDArray[Any]) -> NDArray[Any]:
    """At most MAX_HELD_OUT of them, evenly spread."""
    return (
        rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_HELD_OUT)).astype(int))] if len(rows) else rows
    )


def _rate(hit_N: NDArray[np.bool_], patients: NDArray[Any]) -> Measured:
    said = stats.proportion(hit_N, patients).facts()
    return Measured(**{key: said[key] for key in ("value", "low", "high", "n")}, note=said.get("note", ""))
