"""The card of a release: what the model is, what it answers, how well, and for which images.

It holds counts and hashes, never a patient, a file name or a path.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hilum.delivery.engines import DEFAULT, FP32_MODEL, PRECISION
from hilum.errors import ReleaseError
from hilum.identity import Run
from hilum.judgement.gate.override import Override
from hilum.recipe import EngineName, Preprocessing

CARD: Final = "card.json"
MODEL: Final = FP32_MODEL
LIMITS: Final = "limits.npz"
CASES: Final = "cases.npz"
GOLDEN: Final = "golden"
EVIDENCE: Final = "evidence"
INTENDED_USE: Final = (
    "Research on image representations and on their fairness. Not for clinical use: not a medical device, and no "
    "decision about a patient may rest on it."
)
EMBEDDINGS: Final = "embeddings"  # the question that every release answers; the other is its head's label
NAMES: Final = {"XR": "X-ray", "MR": "MRI"}  # of modalities, in sentences


class Part(BaseModel):
    """A part of a card: frozen, closed to keys it does not know, and without NaN, which JSON does not have."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Measured(Part):
    """A measured number with its 95% interval and what it was measured on; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    n: int = Field(description="Images; for sensitivity and specificity, those of that class.")
    note: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"insufficient data (n = {self.n})"
        bounds = f" [{self.low:.3f}, {self.high:.3f}]" if self.low is not None and self.high is not None else ""
        return f"{self.value:.3f}{bounds}, n = {self.n}"


class OperatingPoint(Part):
    """The threshold at which a probability becomes a decision, and how it did on images that did not choose it."""

    threshold: float = Field(ge=0, le=1)
    rule: str = Field(description="How it was chosen, in words.")
    sensitivity: Measured
    specificity: Measured


class Calibration(Part):
    """How scores became probabilities, and how far they can be taken as such."""

    method: str
    brier: Measured
    expected_calibration_error: Measured


class ReliabilityBin(Part):
    """Held-out images to which the head gave about the same probability, and how many of them had the finding."""

    low: float = Field(ge=0, le=1, description="Probabilities from here ...")
    high: float = Field(ge=0, le=1, description="... to here.")
    n_positive: int
    observed: Measured


class Mitigated(Part):
    """What the head was fitted with against a gap between groups; answers are not those of the head as it was."""

    method: str = Field(description="As `mitigation.applied` of the recipe names it.")
    attribute: str = Field(description="Whose groups it treats alike, or which it erases from the embedding.")

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> "Mitigated | None":
        """From what `head.json` says; None where the head was fitted with nothing, or does not answer."""
        said = head.get("mitigation") if head.get("answered", True) else None
        return cls(method=said["method"], attribute=said["attribute"]) if said else None

    def __str__(self) -> str:
        return " by ".join(part.replace("_", " ") for part in (self.method, self.attribute))


class CovariateCard(Part):
    """A vital sign or laboratory value that a head takes beside the image."""

    name: str = Field(description="Ends in its unit.")
    unit: str = Field("", description="For people; empty where the name tells none.")
    low: float = Field(description="Plausible from here ...")
    high: float = Field(description="... to here; other values are refused.")
    usual_low: float = Field(description="Of the training images that had it, 98% lay from here ...")
    usual_high: float = Field(description="... to here; an answer from others says so.")
    median: float
    missing: float = Field(ge=0, le=1, description="Share of the training images that lacked it.")


class FusionCard(Part):
    """How a head joins covariates to the embedding, and what it is worth without any of them."""

    kind: Literal["concatenation", "gated"]
    covariates: tuple[CovariateCard, ...] = Field(min_length=1, description="In the order of the graph's input.")
    auroc: Measured = Field(description="Of the same held-out images, all covariates taken away; so is what follows.")
    sensitivity: Measured
    specificity: Measured
    brier: Measured
    expected_calibration_error: Measured
    reliability: tuple[ReliabilityBin, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the covariates."""
        return tuple(one.name for one in self.covariates)

    @property
    def answers_alone(self) -> bool:
        """Whether the head ranks images without any covariate better than chance, so that it may answer for one."""
        return self.auroc.low is not None and self.auroc.low > 0.5


class HeadCard(Part):
    """The classifier on the embedding."""

    label: str
    auroc: Measured
    operating_point: OperatingPoint
    calibration: Calibration
    reliability: tuple[ReliabilityBin, ...] = Field(
        (), description="Of equal mass; none where there were too few images."
    )
    prevalence: Measured | None = Field(None, description="Share of held-out images that had the finding.")
    n_positive: int = Field(description="Positive images that it was fitted on.")
    n_negative: int
    mitigation: Mitigated | None = Field(None, description="None where it was fitted with none.")
    fusion: FusionCard | None = Field(None, description="None where it takes the embedding alone.")
    caveat: str = ""

    def alone(self) -> "HeadCard":
        """The card of the same head for an image without any covariate: its figures are those without them."""
        if self.fusion is None:
            return self
        fusion = self.fusion
        point = {"sensitivity": fusion.sensitivity, "specificity": fusion.specificity}
        sure = {"brier": fusion.brier, "expected_calibration_error": fusion.expected_calibration_error}
        return self.model_copy(
            update={
                "auroc": fusion.auroc,
                "operating_point": self.operating_point.model_copy(update=point),
                "calibration": self.calibration.model_copy(update=sure),
                "reliability": fusion.reliability,
            }
        )


class LimitsCard(Part):
    """The input limits (hilum.delivery.limits): what they were set on and how often they refuse a proper image."""

    n_fitted: int
    n_held_out: int
    false_refusals: Measured = Field(description="Share of the test split's images that the limits refuse.")


class CasesCard(Part):
    """The training cases that a release keeps (hilum.delivery.answering.neighbours), and the limits set with them."""

    n: int = Field(description="Training embeddings kept.")
    n_held_out: int = Field(description="Images of other patients from which the limit was set.")
    out_of_distribution_limit: float | None = Field(description="None where too few were held out.")
    false_abstentions: Measured = Field(description="Share of the test split's images called out of distribution.")
    false_unreadable: Measured = Field(description="Share of the test split's images called unreadable.")


class Training(Part):
    """What the encoder saw."""

    layout: str
    source_revision: str
    data_digest: str
    n_images: int
    n_patients: int
    licence: str


class Parity(Part):
    """How far ONNX Runtime is from PyTorch on real images."""

    embedding: float = Field(description="Largest absolute difference of an embedding value.")
    probability: float | None = None
    tolerance: float
    n: int
    batch_sizes: tuple[int, ...]


class EngineCard(Part):
    """An engine tried on the trained model, beside the reproducible one, and whether the release allows it."""

    name: EngineName
    precision: str
    allowed: bool
    why: str = Field(description="What the decision rests on, in words.")
    library: str = ""
    n: int = Field(0, description="Images that it was tried on.")
    cosine_least: float | None = Field(None, description="Of the embeddings with those of the reproducible engine.")
    cosine_median: float | None = None
    auroc_change: Measured | None = None
    flipped: Measured | None = Field(None, description="Share of decisions that fall on the other side.")
    probability_change: float | None = Field(None, description="Largest.")
    golden_tolerance: float = Field(description="Largest difference from the golden embeddings at which it serves.")
    golden_probability_tolerance: float = Field(description="And from the golden probabilities.")


class GateCard(Part):
    """What the gate said of the release, and who released it if the evidence did not."""

    verdict: Literal["pass", "fail", "insufficient data", "not asked"] = Field(
        description="On this modality; `not asked` where no gate was run, or where it could ask nothing."
    )
    override: Override | None = None

    def facts(self) -> dict[str, str | None]:
        """For the dossier: the verdict, and the override part by part; None is absent."""
        by = self.override
        return {"gate_verdict": self.verdict} | {
            f"gate_override_{name}": getattr(by, name) if by is not None else None for name in Override.model_fields
        }


class ReleaseCard(Part):
    """What `card.json` of a release says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    version: str
    encoder: str
    modality: Literal["XR", "MR"]
    dim: int
    preprocessing: Preprocessing
    views: tuple[str, ...] = Field(description="Views of the training images.")
    answers: tuple[str, ...] = Field(description="What it can be asked: embeddings, and the label of its head.")
    label: str = Field(description="The label that the recipe asked for.", pattern=r"^[a-z0-9][a-z0-9_]*$")
    head: HeadCard | None = None
    why_no_head: str = ""
    limits: LimitsCard | None = Field(None, description="None where there were too few images to set limits.")
    cases: CasesCard | None = Field(None, description="None where there were too few images to keep any.")
    training: Training
    parity: Parity
    engines: tuple[EngineCard, ...] = Field((), description="That were tried beside the reproducible one.")
    gate: GateCard
    golden_tolerance: float = Field(description="Largest difference from the golden answers at which a server serves.")
    run: Run
    caution: str = ""
    intended_use: str = INTENDED_USE
    hilum_version: str

    @property
    def mitigation(self) -> Mitigated | None:
        """Of the head; None where there is no head, or it was fitted with none."""
        return self.head.mitigation if self.head is not None else None

    def engine(self, name: str) -> EngineCard:
        """The card of an engine that the release allows.

        Raises:
            ReleaseError: It does not; the message says which it allows.
        """
        if name == DEFAULT:
            why = "the engine that the release was judged with"
            tolerance = self.golden_tolerance
            return EngineCard(
                name=DEFAULT,
                precision=PRECISION[DEFAULT],
                allowed=True,
                why=why,
                golden_tolerance=tolerance,
                golden_probability_tolerance=tolerance,
            )
        allowed = ", ".join([DEFAULT, *(one.name for one in self.engines if one.allowed)])
        found = next((one for one in self.engines if one.name == name), None)
        if found is None:
            raise ReleaseError(
                f"{self.name} was not tried with the engine {name!r}; it allows {allowed}; to try another, name it in "
                "export.engines and export again"
            )
        if not found.allowed:
            raise ReleaseError(f"{self.name} does not allow the engine {name}: {found.why}; it allows {allowed}")
        return found

    @classmethod
    def load(cls, release: Path) -> "ReleaseCard":
        """Read the card of a release folder.

        Raises:
            ReleaseError: There is none, or it is not a card.
        """
        try:
            return cls.model_validate_json((release / CARD).read_text(encoding="utf-8"))
        except OSError as error:
            raise ReleaseError(f"{release} is not a release: it has no {CARD}; `hilum export` writes one") from error
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise ReleaseError(
                f"{CARD} of the release is not a card: {where or 'it'}: {fault['msg']}; export it again"
            ) from error
