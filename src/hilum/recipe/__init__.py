"""Every knob on one page: a recipe is frozen, refuses unknown keys, and reads YAML.

A recipe names what is done to a dataset, not where things lie. Each section belongs to one verb; each encoder has one
section, found by its `name`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from hilum.errors import UsageError
from hilum.identity import digest_json
from hilum.recipe.encoders import ENCODER_SECTIONS as ENCODER_SECTIONS
from hilum.recipe.encoders import Augment as Augment
from hilum.recipe.encoders import Backbone as Backbone
from hilum.recipe.encoders import Diffae as Diffae
from hilum.recipe.encoders import Discern as Discern
from hilum.recipe.encoders import Encoder as Encoder
from hilum.recipe.encoders import Hessian as Hessian
from hilum.recipe.encoders import Imagenet as Imagenet
from hilum.recipe.encoders import MedAug as MedAug
from hilum.recipe.encoders import Moco as Moco
from hilum.recipe.encoders import Pairing as Pairing
from hilum.recipe.encoders import Pixels as Pixels
from hilum.recipe.encoders import Supervised as Supervised
from hilum.recipe.encoders import Vae as Vae
from hilum.recipe.finetune import Finetune as Finetune
from hilum.recipe.judging import NOT_ASKED as NOT_ASKED
from hilum.recipe.judging import Audit as Audit
from hilum.recipe.judging import Efficiency as Efficiency
from hilum.recipe.judging import Explore as Explore
from hilum.recipe.judging import Gate as Gate
from hilum.recipe.judging import Mitigation as Mitigation
from hilum.recipe.judging import Probe as Probe
from hilum.recipe.judging import Shortcuts as Shortcuts
from hilum.recipe.section import Section as Section


class Preprocessing(Section):
    """From a decoded image to the square uint8 image that every encoder sees; it rides in the card."""

    size: int = Field(224, ge=16, le=1024, description="Side of the square image in pixels.")
    fit: Literal["pad"] = Field("pad", description="Keep the aspect ratio; pad the shorter side on both ends.")
    resample: Literal["bilinear"] = Field("bilinear", description="Antialiased bilinear (triangle) filter.")
    pad_value: int = Field(0, ge=0, le=255, description="Grey value of the padding.")


class Ingest(Section):
    """From a native layout to a dataset folder."""

    layout: str = "phantom"
    options: dict[str, str] = Field({}, description="Options of the layout, such as where its covariates lie.")
    preprocessing: Preprocessing = Preprocessing()
    views: tuple[str, ...] = Field((), description="Keep these views only; all where empty.")
    limit: int | None = Field(None, ge=1, description="Keep the images of the first patients, up to this many images.")
    split_shares: dict[str, float] = Field({"train": 0.7, "val": 0.1, "test": 0.2})
    seed: int = 0
    uncertain: dict[str, Literal["keep", "ignore", "zeros", "ones"]] = Field(
        {}, description="What becomes of uncertain labels (-1), per label; those not named are kept as -1."
    )
    max_rejected_share: float = Field(0.05, ge=0, le=1, description="Refuse the dataset where more was unreadable.")


class Validation(Section):
    """When a dataset is refused, and when a remark is enough; what is impossible is refused without a knob."""

    min_pixel_std: float = Field(1.0, ge=0, description="In grey levels of 255; an image below it shows nothing.")
    max_saturated_share: float = Field(0.5, ge=0, le=1, description="Of an image's pixels at 255.")
    max_faulty_share: float = Field(
        0.05, ge=0, le=1, description="Refuse the dataset where more of its images are constant or saturated."
    )
    max_implausible_share: float = Field(
        0.05, ge=0, le=1, description="Refuse a covariate with more known values outside its range: a wrong unit."
    )
    max_missing_gap: float = Field(
        0.1, ge=0, le=1, description="Remark on a column whose missing share differs more between two groups."
    )
    min_group: int = Field(50, ge=2, description="Patients below which a group's missing share is not compared.")
    hashed_images: int = Field(256, ge=0, description="Images whose pixels are hashed again and compared.")
    seed: int = 0


class Optimizer(Section):
    """How weights are moved: linear warm-up, then the schedule."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of all steps.")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="After the warm-up: down to zero, or level.")
    clip_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")


class Training(Section):
    """How encoders are trained; `Train` says which one, on what."""

    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=2, description="Of all workers together.")
    optimizer: Optimizer = Optimizer()
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    ema: float | None = Field(
        None, ge=0, lt=1, description="Decay of the weights' moving average, which is kept in their place; 0 is none."
    )
    compile: bool = Field(False, description="Compile the networks with torch.compile; benchmarks/gpu.py measures it.")
    store: Literal["auto", "gpu", "pinned", "mapped"] = Field("auto", description="Where the images lie in training.")
    checkpoint_every_epochs: int = Field(1, ge=1)


class Train(Training):
    """One encoder, trained on the train split of one modality."""

    encoder: Encoder = Moco()
    modality: Literal["XR", "MR"] = "XR"


EngineName = Literal["onnxruntime-fp32", "openvino-bf16", "onnxruntime-int8", "onnxruntime-cuda"]


class EngineTolerance(Section):
    """How far another engine may be from the reproducible one; decided on interval bounds, not on point estimates."""

    min_cosine: float = Field(0.999, gt=0, le=1, description="Least, over the images, between the two embeddings.")
    max_auroc_change: float = Field(
        0.005,
        gt=0,
        description="Of the head's AUROC, either way; a tenth of the gap that a gate allows.",
    )
    max_flipped: float = Field(0.02, gt=0, le=1, description="Share of decisions that fall on the other side.")


class Export(Section):
    """The release: which encoder, which label its head answers, and how it was checked."""

    encoder: str = Field("moco", description="Name of the encoder that is released.")
    label: str = "pneumonia"
    parity_tolerance: float = Field(1e-4, gt=0, description="Largest |ONNX - PyTorch| on real images.")
    version: str = "1.0"
    engines: tuple[EngineName, ...] = Field(
        (), description="Tried on the trained model beside onnxruntime-fp32, and allowed where they stay in tolerance."
    )
    engine_tolerance: EngineTolerance = EngineTolerance()


class Recipe(Section):
    """A whole run."""

    ingest: Ingest = Ingest()
    validation: Validation = Validation()
    encoders: tuple[Encoder, ...] = (Moco(), Pixels())
    train: Training = Training()
    train_each: dict[str, dict[str, Any]] = Field(
        {}, description="Values of `train` that hold for one encoder only, by its name."
    )
    finetune: Finetune = Finetune()
    probe: Probe = Probe()
    audit: Audit = Audit()
    mitigation: Mitigation = Mitigation()
    shortcuts: Shortcuts = Shortcuts()
    explore: Explore = Explore()
    gate: Gate = Gate()
    export: Export = Export()

    @field_validator("train", mode="before")
    @classmethod
    def _of_every_encoder(cls, values: Any) -> Any:
        """What would be read by nobody is refused: a run of another encoder than was meant takes days to notice."""
        if isinstance(values, dict) and "encoder" in values:
            raise ValueError("it holds for every encoder and names none; the sections of encoders stand in `encoders`")
        if isinstance(values, dict) and "modality" in values:
            raise ValueError("every modality of the dataset is trained on; name one with `hilum train --modality`")
        return values

    @model_validator(mode="after")
    def _holds_together(self) -> "Recipe":
        names = [encoder.name for encoder in self.encoders]
        if len(set(names)) != len(names):
            raise ValueError(f"each encoder is named once, not {names}")
        if self.export.encoder not in names:
            raise ValueError(f"the released encoder {self.export.encoder!r} is not among the encoders {names}")
        if self.audit.label != self.export.label:
            raise ValueError(f"audit.label {self.audit.label!r} and export.label {self.export.label!r} must agree")
        self._head_is_made()
        if strange := sorted(set(self.gate.groups) - set(self.audit.groups)) if self.audit.groups else []:
            raise ValueError(
                f"gate.groups names {', '.join(strange)}, by which audit.groups does not audit; name it there"
            )
        if "pixels" not in names:
            raise ValueError("`pixels` is the floor of the leaderboard and stays among the encoders")
        if strange := sorted(set(self.train_each) - set(ENCODER_SECTIONS)):
            raise ValueError(f"train_each names {', '.join(strange)}; encoders are {', '.join(ENCODER_SECTIONS)}")
        for name in names:
            self.train_of(name, "XR")
        return self

    def _head_is_made(self) -> None:
        """A head that fuses covariates is one of the fine-tunings, for the label that is released."""
        section = self.finetune
        if section.head is None:
            return
        if "linear" not in section.modes or section.head not in section.fusions:
            raise ValueError(
                f"finetune.head is {section.head!r}; name it in finetune.fusions, and linear in finetune.modes"
            )
        if section.label != self.export.label:
            raise ValueError(f"finetune.label {section.label!r} and export.label {self.export.label!r} must agree")
        if self.mitigation.applied != "none":
            raise ValueError("a head that fuses covariates cannot be mitigated; set mitigation.applied to none")

    def train_of(self, name: str, modality: str) -> Train:
        """The training section for one encoder and modality."""
        for encoder in self.encoders:
            if encoder.name == name:
                values = _over(self.train.model_dump(), self.train_each.get(name, {}))
                try:
                    training = Training.model_validate(values)
                except ValidationError as error:
                    raise ValueError(f"train_each.{name}: {_faults(error)}") from error
                return Train.model_validate({**training.model_dump(), "encoder": encoder, "modality": modality})
        raise UsageError(f"the recipe has no encoder {name!r}; it has {', '.join(e.name for e in self.encoders)}")


def compose(
    base: dict[str, Any],
    *,
    layout: str,
    encoders: Sequence[str],
    epochs: int,
    image_size: int,
    seed: int,
    label: str,
    release_encoder: str,
    gate_min_auroc: float,
    gate_max_auroc_gap: float,
) -> Recipe:
    """A whole recipe from the few knobs of a run form and, in `base`, any others; the form's values win.

    Args:
        base: Nested values of a Recipe; `base["encoders"]` gives the sections of encoders that the form names.
        layout: See Ingest; and so for the others.
        encoders: Names of the encoders, in the order of the leaderboard.
        epochs: See Training.
        image_size: See Preprocessing.
        seed: Of every section that has one.
        label: Of the audit, the head and the release.
        release_encoder: See Export.
        gate_min_auroc: See Gate; not asked where it is negative.
        gate_max_auroc_gap: Likewise.

    Raises:
        UsageError: A value does not belong, or the released encoder is not among the encoders.
    """
    sections = {section["name"]: section for section in base.get("encoders", ())}
    form: dict[str, Any] = {
        "ingest": {"layout": layout, "preprocessing": {"size": image_size}, "seed": seed},
        "encoders": [sections.get(name, {"name": name}) for name in encoders],
        "train": {"epochs": epochs, "seed": seed},
        "probe": {"seed": seed},
        "audit": {"label": label, "seed": seed},
        "shortcuts": {"seed": seed},
        "finetune": {"label": label, "seed": seed},
        "export": {"label": label, "encoder": release_encoder},
        "gate": {
            name: NOT_ASKED if asked < 0 else asked  # a form has no null
            for name, asked in (("min_auroc", gate_min_auroc), ("max_auroc_gap", gate_max_auroc_gap))
        },
    }
    whole: Recipe = parse(_over(base, form))
    return whole


def _over(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `top` laid over it, mapping by mapping."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def digest(section: Section) -> str:
    """SHA-256 of a section's resolved values, in hex."""
    return digest_json(section.model_dump(mode="json"))


def plain(section: Section) -> dict[str, Any]:
    """A section as plain JSON values, without those that are None: KFP's parameters know no null."""
    return section.model_dump(mode="json", exclude_none=True)


def parse(values: dict[str, Any], kind: type[Section] = Recipe) -> Any:
    """Make a section of type `kind` from plain values.

    Raises:
        UsageError: A key or value does not belong; the message names each.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"the recipe does not hold together: {_faults(error, kind.__name__)}") from error


def _faults(error: ValidationError, whole: str = "") -> str:
    """Every fault after its place; `whole` stands for those of no single place."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or whole}: {fault['msg']}" for fault in error.errors()
    )


def read(path: str | Path, kind: type[Section] = Recipe) -> Any:
    """Read a section of type `kind` from a YAML file.

    Raises:
        UsageError: There is no such file, it is no YAML mapping, or a key or value does not belong.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read as a recipe: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a recipe: it should hold a mapping such as `ingest: {{layout: nih}}`")
    return parse(values, kind)
