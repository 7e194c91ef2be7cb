"""One release, loaded and proven: from preprocessed images to embeddings and probabilities.

An engine and numpy only. A predictor verifies the dossier of its release and answers the golden images as the
exporting machine did, or it does not load.

Shapes: B images, S x S pixels, D embedding dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.data.images import Decoded, decode, preprocess
from hilum.delivery import dossier
from hilum.delivery.answering.neighbours import Neighbours
from hilum.delivery.card import CASES, GOLDEN, LIMITS, ReleaseCard
from hilum.delivery.engines import DEFAULT, Engine, open_engine
from hilum.delivery.limits import Limits
from hilum.errors import ReleaseError
from hilum.recipe import Preprocessing

EXPECTED: Final = "expected.npz"
BATCH: Final = 32  # images per run of the graph; bounds memory, not speed: convolutions cost the same per image


@dataclass(frozen=True)
class Release:
    """A release folder whose dossier holds.

    Attributes:
        path: The folder.
        card: Its card.
        dossier_id: SHA-256 at the end of its dossier's chain, hex.
    """

    path: Path
    card: ReleaseCard
    dossier_id: str

    @classmethod
    def open(cls, path: Path) -> "Release":
        """Open a release folder and recompute its dossier.

        Raises:
            ReleaseError: It is none, or something in it is not what the dossier names.
        """
        dossier_id = dossier.verify(path)
        return cls(path, ReleaseCard.load(path), dossier_id)

    @cached_property
    def limits(self) -> Limits | None:
        """The input limits; None where the training set was too small to set any."""
        return Limits.load(self.path / LIMITS) if self.card.limits is not None else None

    @cached_property
    def cases(self) -> Neighbours | None:
        """The training cases that it keeps; None where the training set was too small to keep any."""
        return Neighbours.load(self.path / CASES, self.card.dim) if self.card.cases is not None else None

    @cached_property
    def gate(self) -> dict[str, Any]:
        """What the gate said, for JSON; made once, since every answer says it."""
        return self.card.gate.model_dump(mode="json")

    @property
    def short_id(self) -> str:
        """The first digits of the dossier's id, as answers and logs give them."""
        return self.dossier_id[: dossier.SHORT]

    def answers(self, question: str) -> bool:
        """Whether the release answers a question."""
        return question in self.card.answers

    def prepare(self, image: Decoded) -> NDArray[np.uint8]:
        """The (S, S) image that the encoder sees, from a decoded one."""
        return preprocess(image.pixels, self.card.preprocessing)

    def wrong_view(self, image: Decoded) -> str | None:
        """What is wrong with the view that the file states, in words; None where it states none or a known one."""
        if image.view is None or not self.card.views or image.view in self.card.views:
            return None
        return f"it is a {image.view} view, but {self.card.name} was trained on {', '.join(self.card.views)} only"


@dataclass(frozen=True)
class Result:
    """What the graph answers.

    Attributes:
        z_BD: Embeddings, float32.
        probability_B: Calibrated probabilities of the label, float32; None where the release has no head.
    """

    z_BD: NDArray[np.float32]
    probability_B: NDArray[np.float32] | None


class Predictor:
    """The graph of one release, proven on its golden images.

    Attributes:
        release: The release.
    """

    def __init__(self, release: Release, threads: int = 1, engine: str = DEFAULT) -> None:
        """Load the graph; `threads` work on one image, where 1 is best for a server with a worker per core.

        Raises:
            ReleaseError: The release does not allow the engine; or the graph does not load, does not fit the card, or
                answers its golden images otherwise.
            UsageError: This machine lacks what the engine needs.
        """
        self.release = release
        self._allowed = release.card.engine(engine)
        self._engine = open_engine(engine, release.path, threads)
        wanted = ["embedding", "probability"] if release.card.head is not None else ["embedding"]
        if list(self._engine.outputs) != wanted:
            raise ReleaseError(
                f"the graph of {release.card.name} gives {list(self._engine.outputs)}, but its card promises {wanted}"
            )
        fusion = release.card.head.fusion if release.card.head is not None else None
        if self._engine.n_covariates != (n_named := len(fusion.names) if fusion is not None else 0):
            raise ReleaseError(
                f"the graph of {release.card.name} takes {self._engine.n_covariates} covariates, but its card names "
                f"{n_named}"
            )
        self._prove()

    @classmethod
    def load(cls, release: Path, threads: int = 1, engine: str = DEFAULT) -> "Predictor":
        """Open a release folder and load its graph.

        Raises:
            ReleaseError: The dossier does not hold, or the graph does not answer as it should.
        """
        return cls(Release.open(release), threads, engine)

    @property
    def engine(self) -> dict[str, str]:
        """What computes, as answers say it."""
        return {"name": self._allowed.name, "precision": self._allowed.precision}

    def run(self, images_BSS: NDArray[np.uint8], covariates_BC: NDArray[np.float32] | None = None) -> Result:
        """Answer preprocessed images: uint8, (B, S, S).

        Where the head fuses covariates, they go along in their own units, in the order of the card, float32 (B, C) and
        NaN where missing; None stands for all missing. Only plausible ones: the graph looks at no range.
        """
        return infer(self._engine, images_BSS, covariates_BC)

    def _prove(self) -> None:
        """Open what answers need, answer the golden images by the whole way from their bytes, and compare."""
        _ = self.release.limits, self.release.cases  # kept once read; what cannot be read is said now
        card, folder = self.release.card, self.release.path / GOLDEN
        with np.load(folder / EXPECTED, allow_pickle=False) as expected:
            z_BD, probability_B = expected["z_BD"], expected["probability_B"]
            fused = [expected["covariates_BC"], expected["fused_B"]] if self._engine.n_covariates else []
        images_BSS = prepare_golden([path.read_bytes() for path in golden_images(folder)], card.preprocessing)
        result = self.run(images_BSS)
        if result.z_BD.shape != z_BD.shape:
            raise ReleaseError(f"{card.name} answers its golden images with {result.z_BD.shape}, not {z_BD.shape}")
        self._near(result.z_BD, z_BD, self._allowed.golden_tolerance, "embedding")
        if result.probability_B is not None:
            self._near(result.probability_B, probability_B, self._allowed.golden_probability_tolerance, "probability")
        if fused:
            found = self.run(images_BSS, fused[0]).probability_B
            assert found is not None, "a graph that takes covariates gives probabilities"
            self._near(found, fused[1], self._allowed.golden_probability_tolerance, "probability with covariates")

    def _near(self, found: NDArray[np.float32], expected: NDArray[np.float32], allowed: float, what: str) -> None:
        apart = float(np.abs(found - expected).max())
        if not apart <= allowed:
            raise ReleaseError(
                f"{self.release.card.name} does not answer its golden images as when it was exported: a value of its "
                f"{what} is {apart:.3g} off, and {allowed:.3g} is allowed; this machine or its libraries compute "
                "otherwise"
            )


def infer(engine: Engine, images_BSS: NDArray[np.uint8], covariates_BC: NDArray[np.float32] | None = None) -> Result:
    """Run the graph on preprocessed images, BATCH at a time: uint8, (B, S, S); covariates as `Predictor.run` has it."""
    pieces = [
        engine.run(
            images_BSS[start : start + BATCH, None].astype(np.float32) / np.float32(255),
            None if covariates_BC is None else covariates_BC[start : start + BATCH],
        )
        for start in range(0, len(images_BSS), BATCH)
    ]
    z_BD = np.concatenate([piece[0] for piece in pieces])
    return Result(z_BD, np.concatenate([piece[1] for piece in pieces]) if len(pieces[0]) > 1 else None)


def prepare_golden(contents: Sequence[bytes], numbers: Preprocessing) -> NDArray[np.uint8]:
    """Golden images by the way that a request takes: decoded and preprocessed, (B, S, S)."""
    return np.stack([preprocess(decode(content).pixels, numbers) for content in contents])


def golden_images(folder: Path) -> list[Path]:
    """The golden images of a release in the order of the expected answers.

    Raises:
        ReleaseError: There are none.
    """
    found = sorted(folder.glob("*.png"))
    if not found:
        raise ReleaseError("the release has no golden images, so a server cannot prove itself; export it again")
    return found
