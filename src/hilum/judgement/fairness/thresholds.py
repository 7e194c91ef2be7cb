"""A threshold for each group, by fairlearn's ThresholdOptimizer (Hardt et al. 2016, "Equality of opportunity").

Whoever decides by them must know the group of the person at hand. Between two thresholds the method draws lots: a
person there is called positive with a stated probability. Nothing here draws; the probability stands for the call, so
that rates are what they are on average.

Legend: N rows.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
from fairlearn.postprocessing import ThresholdOptimizer
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

Floats = NDArray[np.float64]
Constraint = Literal["equal_opportunity", "equalized_odds", "demographic_parity"]

_NAMED: Final[dict[str, str]] = {
    "equal_opportunity": "true_positive_rate_parity",
    "equalized_odds": "equalized_odds",
    "demographic_parity": "demographic_parity",
}
GRID: Final = 1000  # places at which fairlearn compares the groups' curves


@dataclass(frozen=True)
class Step:
    """One threshold: with probability `share`, positive where the score is above (or below) `threshold`."""

    share: float
    above: bool
    threshold: float


@dataclass(frozen=True)
class Rule:
    """How one group is decided: by one of two thresholds, drawn by lot, or by lot alone.

    Attributes:
        steps: Two; their shares sum to 1.
        by_lot: Probability that the score is not asked at all.
        called: Probability of a positive call then.
    """

    steps: tuple[Step, Step]
    by_lot: float
    called: float

    def facts(self) -> dict[str, Any]:
        """For JSON: a threshold that no score reaches is None."""
        steps = [
            {**asdict(one), "threshold": one.threshold if np.isfinite(one.threshold) else None} for one in self.steps
        ]
        return {"steps": steps, "by_lot": self.by_lot, "called": self.called}

    def __call__(self, score_N: Floats) -> Floats:
        """Probability of a positive call for each score, (N,)."""
        asked = sum(one.share * ((score_N > one.threshold) == one.above) for one in self.steps)
        return np.asarray(self.by_lot * self.called + (1 - self.by_lot) * asked, dtype=np.float64)


class _Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """The classifier that fairlearn asks for, where scores are there already: column 0 is the score."""

    classes_ = np.array([0, 1])

    def fit(self, *_: Any) -> "_Given":
        raise AssertionError("scores are given, there is nothing to fit")

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, score_N1: NDArray[Any]) -> Floats:
        score_N = np.asarray(score_N1, dtype=float)[:, 0]
        return np.stack([1 - score_N, score_N], axis=1)


def fit(y_N: NDArray[Any], score_N: Floats, level_N: NDArray[Any], constraint: Constraint) -> dict[str, Rule]:
    """The rule of each group that makes the groups alike at the best balanced accuracy.

    Args:
        y_N: 1 or 0; both in every group.
        score_N: Of rows that the scoring model had not seen, and that no result is told of.
        level_N: Name of each row's group.
        constraint: What is to be equal between groups: the true-positive rate; it and the false-positive rate; or the
            share called positive.
    """
    optimizer = ThresholdOptimizer(
        estimator=_Given(),
        constraints=_NAMED[constraint],
        objective="balanced_accuracy_score",
        grid_size=GRID,
        prefit=True,
        predict_method="predict_proba",
    )
    names = np.asarray(level_N, dtype=str)
    optimizer.fit(score_N[:, None], np.asarray(y_N, dtype=int), sensitive_features=names)
    found = {}
    for name, given in optimizer.interpolated_thresholder_.interpolation_dict.items():
        steps = [
            Step(float(given[share]), given[operation].operator == ">", float(given[operation].threshold))
            for share, operation in (("p0", "operation0"), ("p1", "operation1"))
        ]
        found[str(name)] = Rule(
            (steps[0], steps[1]), float(given.get("p_ignore", 0.0)), float(given.get("prediction_constant", 0.0))
        )
    return found
