"""Which score tells strange images from proper ones: nearest training cases, or one Gaussian?

    python benchmarks/encoders.py --dataset nih --folds 3 --work /tmp/encoders
    python benchmarks/encoders.py --dataset oasis --folds 3 --work /tmp/encoders
    python benchmarks/strangers.py --work /tmp/encoders

From the trainings that the first two commands leave: held-out NIH films are proper; strange are brain MRIs, films of
children, and the held-out films turned by a quarter, upside down, inverted, and mixed two by two. Printed for each
encoder is the AUROC of five scores, the share of strange images beyond the 99th percentile of held-out ones by the
score that hilum uses, and how often the five nearest cases have the image's own view and sex. Children's films were
among what the encoders were pretrained on, as they are in practice; they are not among the training cases that an image
is compared with.

white knn     distance to the tenth nearest training embedding, whitened (what hilum's score is)
knn           the same, standardised by dimension (what hilum names nearest cases by)
knn, length 1 the same of embeddings scaled to length 1 (Sun et al. 2022)
mahalanobis   to the mean of the training embeddings, with their covariance, shrunk (Lee et al. 2018; Ledoit and Wolf)
edges         hilum's input limits, which need no encoder
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from hilum.data.store import Dataset
from hilum.delivery import limits
from hilum.delivery.answering import neighbours
from hilum.delivery.answering.exposure import Exposure
from hilum.delivery.releasing.cases import whitening
from hilum.learning.embedding import embed, onnx_module
from hilum.learning.engine import device

Images = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Scorer = Callable[[Vectors], NDArray[Any]]
WHITE: Final = "white knn"
ATTRIBUTES: Final = ("view", "sex")
COHORT: Final = "cohort-0of3"
MAX_STRANGE: Final = 400


def strange(proper_NHW: Images, folder: Path, other: Path) -> dict[str, Images]:
    """Images that no chest film of an adult looks like, by what they are."""
    random = np.random.default_rng(0)
    mixed = (proper_NHW.astype(np.uint16) + proper_NHW[random.permutation(len(proper_NHW))]) // 2
    found = {
        "brain MRI": first(Dataset.open(other), "MR"),
        "children": first(Dataset.open(folder / "kermany"), "XR"),
        "turned": np.rot90(proper_NHW, axes=(1, 2)),
        "upside down": proper_NHW[:, ::-1],
        "inverted": 255 - proper_NHW,
        "two in one": mixed.astype(np.uint8),
    }
    return {name: np.ascontiguousarray(one[:MAX_STRANGE]) for name, one in found.items()}


def first(dataset: Dataset, modality: str) -> Images:
    """Images of one modality, spread over the dataset."""
    rows = dataset.rows(modality)
    return np.asarray(dataset.images[np.sort(np.random.default_rng(0).permutation(rows)[:MAX_STRANGE])])


def scorers(z_MD: Vectors) -> dict[str, Scorer]:
    """Scores that are fitted on training embeddings."""

    def bank(x_MD: Vectors, whitening_DD: NDArray[Any]) -> neighbours.Neighbours:
        none = np.zeros((0, x_MD.shape[1]), np.float32)
        unknown = np.full(len(x_MD), np.nan)
        exposure = Exposure(0, 0, 255, 1, 1)
        return neighbours.fit(x_MD, np.arange(len(x_MD)), unknown, whitening_DD, none, exposure)

    def scores(found: neighbours.Neighbours, x_ND: Vectors) -> NDArray[Any]:
        return np.array([found.score(one) for one in x_ND])

    def unit(x_ND: Vectors) -> Vectors:
        return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-9)

    deviation_D = z_MD.std(axis=0)
    white, plain = bank(z_MD, whitening(z_MD)), bank(z_MD, np.diag(1 / np.where(deviation_D > 0, deviation_D, 1)))
    round_, gaussian = bank(unit(z_MD), np.eye(z_MD.shape[1])), LedoitWolf().fit(z_MD)
    return {
        WHITE: lambda z_ND: scores(white, z_ND),
        "knn": lambda z_ND: scores(plain, z_ND),
        "knn, length 1": lambda z_ND: scores(round_, unit(z_ND)),
        "mahalanobis": lambda z_ND: gaussian.mahalanobis(z_ND),
    }


def shared(z_MD: Vectors, z_ND: Vectors, of_M: NDArray[Any], of_N: NDArray[Any]) -> list[str]:
    """Share of the five nearest training cases that have the image's own attribute, by both distances."""
    said = []
    centre_D, deviation_D = z_MD.mean(axis=0), z_MD.std(axis=0)
    for change in (np.diag(1 / np.where(deviation_D > 0, deviation_D, 1)), whitening(z_MD)):
        x_MD, x_ND = ((z - centre_D) @ change for z in (z_MD, z_ND))
        nearest_N5 = NearestNeighbors(n_neighbors=5).fit(x_MD).kneighbors(x_ND, return_distance=False)
        said.append(f"{(of_M[nearest_N5] == of_N[:, None]).mean():.3f}")
    return said


def rows(name: str, proper: NDArray[Any], others: Mapping[str, NDArray[Any]]) -> list[str]:
    """AUROC of a score over the kinds of strange images."""
    said = [
        f"{roc_auc_score(np.r_[np.zeros(len(proper)), np.ones(len(one))], np.r_[proper, one]):.3f}"
        for one in others.values()
    ]
    return [name, *said]


def tables(folder: Path, other: Path) -> Iterator[list[list[str]]]:
    """Two tables, the head of each first: of the scores, and of the nearest cases."""
    cohort = Dataset.open(folder / "data" / COHORT)
    split = cohort.manifest["split"].to_numpy()
    fitted_NHW, proper_NHW = (np.asarray(cohort.images[split == name]) for name in ("train", "test"))
    images = strange(proper_NHW, folder / "data", other)
    edges = limits.fit(fitted_NHW, proper_NHW)
    lines = [["encoder", "score", *images]]
    near = {name: edges.distances(one) for name, one in images.items()}
    lines.append(["none", *rows("edges", edges.distances(proper_NHW), near)])
    alike = [["encoder", *(f"{name}, {how}" for name in ATTRIBUTES for how in ("standardised", "whitened"))]]
    where = device.pick()
    for run in sorted((folder / "runs").glob("*-0-0-*")):
        if not (run / "encoder" / "weights.pt").is_file():
            continue
        module, name = onnx_module(run / "encoder").to(where), run.name.split("-")[0]
        proper_ND = embed(module, proper_NHW, where)
        others = {kind: embed(module, one, where) for kind, one in images.items()}
        fitted_MD = embed(module, fitted_NHW, where)
        for score, of in scorers(fitted_MD).items():
            usual, unusual = of(proper_ND), {kind: of(z_ND) for kind, z_ND in others.items()}
            lines.append([name, *rows(score, usual, unusual)])
            if score == WHITE:
                limit = np.quantile(usual, neighbours.QUANTILE)
                shares = [f"{100 * (one > limit).mean():.0f}%" for one in unusual.values()]
                lines.append([name, "beyond its limit", *shares])
        values = [cohort.manifest[one].to_numpy() for one in ATTRIBUTES]
        halves = [shared(fitted_MD, proper_ND, one[split == "train"], one[split == "test"]) for one in values]
        alike.append([name, *(cell for half in halves for cell in half)])
    yield lines
    yield alike


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("/tmp/hilum-encoders"), help="the folder of the trainings")
    work = parser.parse_args(arguments).work
    folder = next(iter(sorted((work / "nih").glob(f"*/data/{COHORT}"))), None)
    other = next(iter(sorted((work / "oasis").glob("*/data/oasis"))), None)
    if folder is None or other is None:
        parser.error(f"{work} lacks the trainings of benchmarks/encoders.py for nih and oasis")
    for found in tables(folder.parents[1], other):
        print("| " + " | ".join(found[0]) + " |\n|" + "-|" * len(found[0]))
        print("\n".join("| " + " | ".join(line) + " |" for line in found[1:]), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
