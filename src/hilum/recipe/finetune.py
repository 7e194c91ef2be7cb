"""Fine-tuning of an encoder for one label, and its fusion with vital signs and laboratory values."""

from typing import Annotated, Literal

from pydantic import Field

from hilum.recipe.encoders import Augment
from hilum.recipe.section import Section

Mode = Literal["linear", "end_to_end"]
Fusion = Literal["image_only", "tabular_only", "concatenation", "stacking", "gated"]
Rates = tuple[Annotated[float, Field(gt=0)], ...]


class Finetune(Section):
    """Every fusion is given the same rates, epochs, patience and seeds, and is chosen on val."""

    label: str = "pneumonia"
    modes: tuple[Mode, ...] = Field((), description="Frozen encoder, or all weights; no fine-tuning where empty.")
    fusions: tuple[Fusion, ...] = Field((), description="Put side by side; image_only alone where empty.")
    head: Literal["concatenation", "gated"] | None = Field(
        None, description="Fusion, of the mode linear, that becomes the released head; the linear probe where null."
    )
    covariates: tuple[str, ...] = Field((), description="Columns that are fused; all of the dataset where empty.")
    linear_epochs: int = Field(60, ge=1, description="At most, of each trial.")
    end_to_end_epochs: int = Field(30, ge=1, description="Likewise.")
    patience: int = Field(8, ge=1, description="Epochs without a better val score after which a trial ends.")
    stop_on: Literal["auroc", "log_loss"] = Field("auroc", description="Val score by which epochs and trials compare.")
    batch_size: int = Field(64, ge=2)
    linear_rates: Rates = Field((3e-4, 1e-3, 3e-3, 1e-2), min_length=1, description="Learning rates that are tried.")
    end_to_end_rates: Rates = Field((1e-4, 3e-4, 1e-3), min_length=1, description="Likewise.")
    seed: int = Field(0, ge=0, description="Of the first trial of each rate.")
    repeats: int = Field(1, ge=1, description="Seeds per rate: seed, seed + 1, ...")
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")
    backbone_rate: float = Field(1.0, gt=0, le=1, description="Rate of the encoder's last stage, as a share.")
    layer_decay: float = Field(1.0, gt=0, le=1, description="A stage's rate as a share of that of the stage above.")
    imbalance: Literal["none", "weight", "balanced"] = Field(
        "weight", description="Weigh positives by negatives per positive, or draw both classes equally often."
    )
    covariate_width: int = Field(32, ge=1, description="Width of the code that `gated` makes of the covariates.")
    modality_dropout: float = Field(
        0.3, ge=0, lt=1, description="Probability that `gated` sees a training row without its covariates."
    )
    augment: Augment = Augment(crop_area=(0.8, 1.0))
    precision: Literal["float32", "bfloat16"] = "float32"
    calibrate: bool = Field(True, description="Probabilities by Platt's method on val; else of the bare logit.")
    min_patients: int = Field(5, ge=2, description="Of each class, in train and in val, below which nothing is fitted.")
    bootstrap: int = Field(1000, ge=100, description="Patient-bootstrap replicates of each interval.")

    def epochs(self, mode: Mode) -> int:
        """How many epochs a trial of a mode may take."""
        return self.linear_epochs if mode == "linear" else self.end_to_end_epochs

    def rates(self, mode: Mode) -> tuple[float, ...]:
        """The learning rates that a mode tries."""
        return self.linear_rates if mode == "linear" else self.end_to_end_rates
