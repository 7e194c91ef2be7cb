"""What servers answer, as values: frozen, typed, each with the whole JSON beside it."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.client.faults import Unexpected


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, said: Mapping[str, Any], value: str = "value") -> "Interval":
        """From JSON, where the number itself is called `value` or otherwise."""
        return cls(_known(said[value]), _known(said["low"]), _known(said["high"]), int(said["n"]))


@dataclass(frozen=True)
class Abstention:
    """Why no prediction is given."""

    reason: str
    words: str
    score: float | None
    limit: float | None


@dataclass(frozen=True)
class Covariates:
    """Vital signs and the like on which an answer rests.

    Attributes:
        used: Values by name.
        missing: Names of those that were not sent.
        unusual: Names of those whose values few training images had.
        words: The same in sentences.
    """

    used: Mapping[str, float]
    missing: tuple[str, ...]
    unusual: tuple[str, ...]
    words: str

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Covariates":
        """From JSON."""
        used = {name: float(value) for name, value in said["used"].items()}
        return cls(used, tuple(said["missing"]), tuple(said["unusual"]), said["words"])


@dataclass(frozen=True)
class Case:
    """A training case near to the image, by opaque id."""

    case: str
    distance: float
    label: int | None


@dataclass(frozen=True)
class Embedding:
    """An image as numbers.

    Attributes:
        z: Float32, (D,); (P, D) for the P planes of a volume.
        model: Name and version.
        dossier: First digits of the id of the release's dossier.
        raw: The whole answer.
    """

    z: NDArray[np.float32]
    model: str
    dossier: str
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Embedding":
        """From JSON."""
        with _Form():
            z = np.asarray(said["embedding"], dtype=np.float32).reshape(said["shape"])
            if not np.isfinite(z).all():
                raise ValueError("a value is not finite")
            return cls(z, _model(said), said["dossier"], said)


@dataclass(frozen=True)
class Prediction:
    """What a head answers to an image.

    Attributes:
        label: What is predicted.
        probability: Calibrated; None where the model abstains.
        interval: Share of held-out images with such a probability that had the finding.
        threshold: At which the probability becomes a decision.
        decision: `at or above the threshold`, `below the threshold` or `abstained`.
        abstention: Why no prediction is given; None where one is.
        sensitivity: At the threshold, on held-out images.
        specificity: Of the same.
        meaning: What the probability means, in sentences.
        covariates: What the answer rests on beside the image; None where the head takes the image alone, or abstains.
        nearest: Training cases near to it, where they were asked for.
        saliency: What moved the answer, PNG, where it was asked for.
        seen: The image as the model saw it, PNG, where it was asked for.
        model: Name and version.
        engine: That computed it.
        dossier: First digits of the id of the release's dossier.
        gate: What the gate said of the release.
        override: Who released it although the gate did not, and why; None where nobody had to.
        intended_use: What the answer may be used for.
        raw: The whole answer.
    """

    label: str
    probability: float | None
    interval: Interval | None
    threshold: float
    decision: str
    abstention: Abstention | None
    sensitivity: Interval
    specificity: Interval
    meaning: str
    covariates: Covariates | None
    nearest: tuple[Case, ...]
    saliency: bytes | None
    seen: bytes | None
    model: str
    engine: str
    dossier: str
    gate: str
    override: Mapping[str, str] | None
    intended_use: str
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "Prediction":
        """From JSON."""
        with _Form():
            point, why = said["operating_point"], said["abstention"]
            probability = _known(said["probability"])
            if (probability is None) != bool(why) or not 0 <= (probability or 0.0) <= 1:
                raise ValueError("neither a probability nor an abstention, or both")
            return cls(
                label=said["label"],
                probability=probability,
                interval=Interval.of(said["interval"], "observed") if said["interval"] else None,
                threshold=float(said["threshold"]),
                decision=said["decision"],
                abstention=Abstention(why["reason"], why["words"], why["score"], why["limit"]) if why else None,
                sensitivity=Interval.of(point["sensitivity"]),
                specificity=Interval.of(point["specificity"]),
                meaning=said["meaning"],
                covariates=Covariates.of(said["covariates"]) if said.get("covariates") else None,
                nearest=tuple(Case(one["case"], one["distance"], one["label"]) for one in said.get("nearest") or ()),
                saliency=_png((said.get("saliency") or {}).get("png")),
                seen=_png(said.get("seen")),
                model=_model(said),
                engine=said["engine"]["name"],
                dossier=said["dossier"],
                gate=said["gate"]["verdict"],
                override=said["gate"]["override"],
                intended_use=said["intended_use"],
                raw=said,
            )


class _Form:
    """Turns a missing part of an answer into a sentence."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError | OverflowError):
            raise Unexpected(
                f"the answer is not in the form that this client knows ({type(error).__name__}: {error}); "
                "use the client of the server's version"
            ) from error


def _known(value: Any) -> float | None:
    """A finite number, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a number is none")
    return float(value)


def _model(said: Mapping[str, Any]) -> str:
    return f"{said['model']['name']}/{said['model']['version']}"


def _png(given: str | None) -> bytes | None:
    return base64.b64decode(given, validate=True) if given else None
