"""How encoders and their answers are judged: probes, the audit, and the gate's tolerances."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from hilum.recipe.section import Section

NOT_ASKED: Final = "not asked"
Tolerance = Annotated[float, Field(ge=0, le=1)] | Literal["not asked"]


class Efficiency(Section):
    """Label-efficiency curves: probes on growing shares of the training patients."""

    labels: tuple[str, ...] = Field((), description="Of the dataset; all that leave enough cases where empty.")
    kernel: Literal["linear", "rbf", "logistic", "knn", "mlp"] = Field("logistic", description="The one machine.")
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.001, 0.01, 0.1, 1.0), min_length=1, description="Shares of the training patients."
    )
    draws: int = Field(5, ge=2, le=100, description="Of patients, at each share below 1.")
    min_cases: int = Field(5, ge=2, description="Patients that each class needs in every draw of a share.")


class Probe(Section):
    """Probes on frozen embeddings, and the head that answers for one label."""

    kernels: tuple[Literal["linear", "rbf", "logistic", "knn", "mlp"], ...] = Field(
        ("linear", "rbf"),
        min_length=1,
        description="Machines: support vector machines with a linear or an RBF kernel, or others.",
    )
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
    max_rows: int | None = Field(
        None, ge=100, description="Training rows beyond which a probe is fitted on a sample; none where not given."
    )
    exact_rows: int = Field(
        3_000, ge=100, description="Training rows beyond which kernels are approximated, settings chosen on a sample."
    )
    uncertain: dict[str, Literal["ignore", "zeros", "ones"]] = Field(
        {"atelectasis": "ones", "edema": "ones"},
        description="What uncertain labels (-1) of training images count as; others are ignored. Test ones always are.",
    )
    efficiency: Efficiency = Efficiency()
    threshold: Literal["youden", "sensitivity"] = Field("youden", description="How thresholds are chosen.")
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
    groups: tuple[str, ...] = Field(
        (), description="Attributes, and intersections such as `sex+age_band`; all that the dataset has where empty."
    )
    regressions: tuple[str, ...] = Field(
        ("age",), description="Probed quantities whose errors are compared between groups, where the probe has them."
    )
    min_group: int = Field(
        20, ge=1, description="Fewer patients with, or without, the finding in a group are 'insufficient data'."
    )
    drift_distance: float = Field(
        0.1, gt=0, description="A column drifts above this distance and above what shuffled patients show."
    )
    drift_share: float = Field(0.3, gt=0, le=1, description="The dataset drifts where this share of columns does.")
    max_gap: float = Field(
        0.1, gt=0, le=1, description="Gap of rates between groups that the audit's tests tolerate, by its interval."
    )
    bootstrap: int = Field(2000, ge=100, description="Patient-bootstrap replicates, shared by all groups and gaps.")
    seed: int = Field(0, ge=0)


class Mitigation(Section):
    """What is tried against a gap between groups, each against the head as it is; nothing is applied unless named."""

    methods: tuple[Literal["balanced_sampling", "reweighting", "group_thresholds", "leace"], ...] = Field(
        (), description="Tried and reported, before and after."
    )
    attribute: str = Field("sex", description="Whose groups are to be treated alike, or erased from the embedding.")
    constraint: Literal["equal_opportunity", "equalized_odds", "demographic_parity"] = Field(
        "equal_opportunity", description="What the thresholds by group are to make equal."
    )
    applied: Literal["none", "balanced_sampling", "reweighting", "leace"] = Field(
        "none", description="What the released head is fitted with; it is said wherever the head answers."
    )


class Explore(Section):
    """The page on which an embedding can be walked through."""

    metric: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="Of neighbours: on standardised dimensions, as the map; or of the vectors as they are."
    )
    neighbours: int = Field(8, ge=1, le=50, description="Of each image.")
    outliers: int = Field(50, ge=0, le=1000, description="Images farthest from their last neighbour that are listed.")
    max_points: int = Field(100_000, ge=4, description="Beyond, a sample of whole patients.")
    megabytes: float = Field(64.0, gt=0, le=1000, description="Of all thumbnails; more images, smaller thumbnails.")
    seed: int = Field(0, ge=0)


class Shortcuts(Section):
    """What the embedding gives away besides the finding, and whether the label's score could come from that."""

    attributes: tuple[str, ...] = Field(
        ("source", "site", "scanner", "view", "sex", "age", "shape", "marker"),
        min_length=1,
        description="What may be told from the embedding; what a dataset does not know is not asked.",
    )
    folds: int = Field(5, ge=2, le=20, description="Parts by patient; what is told of one is learnt from the others.")
    permutations: int = Field(999, ge=99, description="Of the attribute among patients with the same label.")
    alpha: float = Field(0.01, gt=0, lt=1, description="Chance of a false alarm, over all attributes together.")
    min_association: float = Field(
        0.55, ge=0.5, le=1, description="AUROC of the label by the attribute alone, below which it matters little."
    )
    confounded: float = Field(
        0.9, ge=0.5, le=1, description="The same AUROC, above whose lower bound the label nearly is the attribute."
    )
    min_drop: float = Field(
        0.01, ge=0, le=1, description="Loss of AUROC inside strata, below which it is not worth a word."
    )
    min_group: int = Field(20, ge=2, description="Patients below which a level says nothing.")
    cluster_dims: int = Field(20, ge=2, le=50, description="Principal components in which clusters are looked for.")
    explained: float = Field(
        0.7, ge=0.5, le=1, description="AUROC of membership by an attribute alone that explains a cluster."
    )
    bootstrap: int = Field(1000, ge=100)
    max_rows: int = Field(20_000, ge=100, description="Images beyond which a sample of whole patients is looked at.")
    seed: int = Field(0, ge=0)


class Gate(Section):
    """Tolerances of a release, judged on bounds of intervals. What is `null` is not asked; what is asked must pass."""

    min_auroc: Tolerance = Field(0.6, description="Of the label on the test split.")
    min_gain: Tolerance = Field(NOT_ASKED, description="Of that AUROC over the one of `pixels`, on the same patients.")
    min_sensitivity: Tolerance = Field(0.8, description="In every group of every attribute, at the locked threshold.")
    max_underdiagnosis: Tolerance = Field(
        0.2, description="Of the label `no_finding`, in every group: the share of ill images that are called healthy."
    )
    max_auroc_gap: Tolerance = Field(0.05, description="Largest difference of the AUROC between groups.")
    max_ece: Tolerance = Field(0.05, description="Expected calibration error, of everybody together.")
    max_shortcut: Tolerance = Field(
        0.7, description="Largest AUROC at which an attribute may be told from the embedding and rank the label."
    )
    min_group: Annotated[int, Field(ge=1)] | Literal["not asked"] = Field(
        50, description="Patients of the test split in every group; fewer are 'insufficient data'."
    )
    groups: tuple[str, ...] = Field(
        (), description="Attributes and intersections that are asked about; where empty, every attribute of the audit."
    )
    shortcuts: tuple[str, ...] = Field((), description="Attributes that are asked about; where empty, all looked at.")
    outside: tuple[str, ...] = Field(
        (), description="Groups that the release is not for, such as `age_band=0-20`: not asked; its card says so."
    )
    shortcut_audit: Literal["required", "not asked"] = Field(
        "required", description="A release without a shortcut audit has insufficient data, unless it is not asked."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_asked(cls, values: Any) -> Any:
        # A word, since null does not travel through KFP: a tolerance that was left out would come back as its default.
        if not isinstance(values, dict):
            return values
        return {name: NOT_ASKED if value is None else value for name, value in values.items()}

    @model_validator(mode="after")
    def _outside_names_groups(self) -> "Gate":
        for named in self.outside:
            attribute, _, group = named.partition("=")
            if not (attribute and group):
                raise ValueError(f"outside names groups as ATTRIBUTE=GROUP, such as age_band=0-20, not {named!r}")
        return self
