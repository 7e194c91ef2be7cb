"""Which values are plausible for a measurement, told by the unit in its name."""

from collections.abc import Iterable
from typing import Final

# Plausible ranges by the unit that a covariate's name ends in. Wide: outside of them a value is a slip of the pen or
# another unit (Fahrenheit, kilopascal), not a sick patient.
RANGES: Final[dict[str, tuple[float, float]]] = {
    "_pct": (0, 100),
    "_per_min": (0, 350),
    "_celsius": (25, 45),
    "_fahrenheit": (77, 113),
    "_mmhg": (0, 400),
    "_kg": (0.2, 650),
    "_cm": (20, 275),
    "_years": (0, 120),
    "_1e9_per_l": (0, 1000),  # blood cells; leukaemia reaches hundreds
    "_share": (0, 1),
}
ANY_NUMBER: Final = (-1e9, 1e9)  # for units not listed: at least finite, and no sentinel such as 1e30


def covariate_range(name: str) -> tuple[float, float]:
    """The plausible range of a covariate by the unit that its name ends in (`o2_saturation_pct`: 0-100)."""
    for suffix, bounds in RANGES.items():
        if name.endswith(suffix):
            return bounds
    return ANY_NUMBER


def described(covariates: Iterable[str]) -> str:
    """The ranges that apply to some covariates, in words."""
    known = {suffix for name in covariates for suffix in RANGES if name.endswith(suffix)}
    return "; ".join(f"{s.strip('_')}: {RANGES[s][0]:g} to {RANGES[s][1]:g}" for s in sorted(known)) or "finite numbers"
