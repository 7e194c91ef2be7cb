"""How encoders and their answers are judged: probes, the audit, and the gate's tolerances."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hilum.recipe.section import Section


class Probe(Section):
    """SVM probes on frozen embeddings, and the head that answers for one label."""

    kernels: tuple[Literal["linear", "rbf"], ...] = Field(("linear", "rbf"), min_length=1)
    c_grid: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1, 1.0, 10.0), min_length=1, description="Candidates for C; chosen by cross-validation inside train."
    )
    scalings: tuple[Literal["feature", "whole"], ...] = Field(
        ("feature", "whole"),
        min_length=1,
        description="Standardise each feature, or all by one scale; chosen likewise.",
    )
    folds: int = Field(
        0, ge=0, le=20, description="0: fit on train, score on test. k: patient-disjoint k-fold over all rows."
    )
    min_cases: int = Field(10, ge=2, description="Labels with fewer patients per class in train or test are left out.")
    bootstrap: int = Field(1000, ge=100, description="Patient-bootstrap replicates of each interval.")
    max_rows: int = Field(20_000, ge=100, description="Training rows beyond which a probe is fitted on a sample.")
    exact_rows: int = Field(3_000, ge=100, description="Training rows beyond which the kernel is approximated.")
    threshold: Literal["youden", "sensitivity"] = Field("youden", description="How the head's threshold is chosen.")
    min_sensitivity: float = Field(0.9, gt=0, le=1, description="For the rule `sensitivity`: what it must reach.")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _one_fold_is_none(self) -> "Probe":
        if self.folds == 1:
            raise ValueError("folds is 0 (train and test split) or at least 2, not 1")
        return self


class Audit(Section):
    """Drift, quality and fairness by group."""

    label: str = "pneumonia"
    groups: tuple[str, ...] = ("sex", "age_band")
    min_group: int = Field(
        20, ge=1, description="Fewer patients with, or without, the finding in a group are 'insufficient data'."
    )
    drift_distance: float = Field(
        0.1, gt=0, description="A column drifts above this distance and above what shuffled patients show."
    )
    drift_share: float = Field(0.3, gt=0, le=1, description="The dataset drifts where this share of columns does.")
    bootstrap: int = Field(1000, ge=100)
    seed: int = 0


class Gate(Section):
    """Tolerances that decide whether a release may be exported; judged on interval bounds, not on points."""

    min_auroc: float = Field(0.6, ge=0, le=1, description="Fails where the upper bound of the label's AUROC is below.")
    max_auroc_gap: float = Field(0.2, ge=0, le=1, description="Fails where the lower bound of a group gap is above.")
