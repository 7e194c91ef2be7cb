"""Covariates as numbers that a model can take: values without a unit, and masks that say which were measured.

Legend: N rows, C covariates. Plain numpy, because a server does the same to what it is sent. METHOD section 9:
plausible values -> robust scale, learnt on train -> 0 where missing, and a mask. Unknown is NaN until the mask says it.

The age of a value is a covariate as any other: a column `<name>_age_hours` beside `<name>`, where a dataset has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.data.units import covariate_range
from hilum.errors import DatasetError, UsageError

# Beside those of hilum.data.covariates: the phantom's laboratory values, and how old a value may be (ten years).
RANGES: Final = {"leukocytes_per_nl": (0.05, 1000.0), "crp_mg_per_l": (0.0, 1000.0)}
AGE_SUFFIX: Final = "_age_hours"
AGE_RANGE: Final = (0.0, 87_600.0)
NORMAL_IQR: Final = 1.3489795003921634  # interquartile range of a standard normal distribution
REACH: Final = 8.0  # scaled values end at +-8: a plausible extreme counts as extreme, and bends nothing further


@dataclass(frozen=True)
class Clinical:
    """The scaling of some covariates.

    Attributes:
        names: Of the covariates, in the order of C.
        low_C: Plausible range; what lies outside is a slip of the pen or another unit, so it counts as unknown.
        high_C: Its other end.
        centre_C: Median of the train rows.
        scale_C: Their interquartile range over 1.349, the standard deviation of a normal distribution.
        left_out: Covariates that are not used, and why.
    """

    names: tuple[str, ...]
    low_C: NDArray[np.float64]
    high_C: NDArray[np.float64]
    centre_C: NDArray[np.float64]
    scale_C: NDArray[np.float64]
    left_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def fit(cls, raw_NC: ArrayLike, names: Sequence[str]) -> "Clinical":
        """Learn the scaling from the rows of the train split.

        Args:
            raw_NC: Values as the manifest has them, NaN where unknown.
            names: One per column.

        Raises:
            DatasetError: No covariate has a single plausible value.
        """
        raw_NC = np.asarray(raw_NC, dtype=np.float64)
        low_C, high_C = np.array([plausible(name) for name in names], dtype=np.float64).reshape(-1, 2).T
        kept, centres, scales, left_out = [], [], [], {}
        for column, name in enumerate(names):
            known = raw_NC[:, column]
            known = known[(known >= low_C[column]) & (known <= high_C[column])]
            if len(known) == 0:
                left_out[name] = "no plausible value in the train split"
                continue
            low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
            # A value that nearly all rows share has no quartiles apart; one that all share has no spread at all.
            scale = (high - low) / NORMAL_IQR or float(known.std()) or 1.0
            kept.append(column)
            centres.append(float(middle))
            scales.append(float(scale))
        if not kept:
            said = f"none of {', '.join(names)} has a plausible value in the train split" if names else "it has none"
            raise DatasetError(f"the dataset has no covariates to fuse with: {said}")
        return cls(
            tuple(names[column] for column in kept),
            low_C[kept],
            high_C[kept],
            np.array(centres),
            np.array(scales),
            left_out,
        )

    def cut(self, raw_NC: ArrayLike) -> NDArray[np.float64]:
        """The values themselves, NaN where unknown or not plausible: (N, C)."""
        raw_NC = np.asarray(raw_NC, dtype=np.float64).reshape(-1, len(self.names))
        return np.where((raw_NC >= self.low_C) & (raw_NC <= self.high_C), raw_NC, np.nan)

    def transform(self, raw_NC: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What a model takes.

        Args:
            raw_NC: Values in the order of `names`, NaN where unknown.

        Returns:
            Scaled values, 0 (the train median) where missing, and masks, 1 where missing: float32, (N, C) each.
        """
        cut_NC = self.cut(raw_NC)
        missing_NC = np.isnan(cut_NC)
        scaled_NC = np.clip((cut_NC - self.centre_C) / self.scale_C, -REACH, REACH)
        return np.where(missing_NC, 0.0, scaled_NC).astype(np.float32), missing_NC.astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """For a card, as JSON."""
        numbers = {
            "low": self.low_C,
            "high": self.high_C,
            "centre": self.centre_C,
            "scale": self.scale_C,
        }
        return {
            "names": list(self.names),
            **{name: values.tolist() for name, values in numbers.items()},
            "left_out": dict(self.left_out),
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Clinical":
        """The scaling that a card's facts describe.

        Raises:
            DatasetError: They are not such facts.
        """
        try:
            names = tuple(str(name) for name in facts["names"])
            low, high, centre, scale = (
                np.array([float(value) for value in facts[key]]) for key in ("low", "high", "centre", "scale")
            )
            left_out = dict(facts["left_out"])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"the card's covariates are damaged: {error}") from error
        if {len(low), len(high), len(centre), len(scale)} != {len(names)}:
            raise DatasetError("the card's covariates are damaged: its lists differ in length")
        return cls(names, low, high, centre, scale, left_out)


def chosen(asked: Sequence[str], present: Sequence[str]) -> tuple[str, ...]:
    """The covariates that are fused: those asked for, or all that a dataset has where none are named.

    Raises:
        UsageError: The dataset lacks one that is asked for.
    """
    strange = [name for name in asked if name not in present]
    if strange:
        raise UsageError(
            f"the dataset has no covariate {', '.join(strange)}; it has {', '.join(present) or 'none at all'}"
        )
    return tuple(asked or present)


def plausible(name: str) -> tuple[float, float]:
    """The plausible range of a covariate, bounds included: its own, else that of the unit in its name."""
    from hilum.data import covariates  # brings pandas, which a server that reads a card does without

    if name.endswith(AGE_SUFFIX):
        return AGE_RANGE
    known = {**covariates.RANGES, **RANGES}
    return known.get(name) or covariate_range(name)
