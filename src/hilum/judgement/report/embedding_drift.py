"""Have embeddings drifted: a classifier that tells two sets apart, and the distance between them, against chance.

Two questions, since either sees what the other does not: the classifier any shift along a line, however small beside
the spread of the rest; the discrepancy any difference of shape (a wider spread, two humps), as far as it shows in the
distances between images. Chance is what patients dealt out anew between the sets show (`sides`); of two p-values the
smaller would be chance's pick, so both are corrected (Holm).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from hilum.judgement import stats
from hilum.judgement.report import domain, mmd
from hilum.judgement.report.sides import Bools, Rows, Sides
from hilum.judgement.shortcuts.permuting import p_value
from hilum.judgement.stats import Floats, Interval
from hilum.progress import bar

MIN_PATIENTS: Final = 20  # of each set: with fewer, only what is plain to the eye would be found
MIN_MOVED: Final = 5  # patients whose rows are not the same in both sets
DEALS: Final = 499  # the least p-value is then 0.002, well below half of ALPHA
ALPHA: Final = 0.05  # as for the columns: what 95 of 100 deals stay below
CLASSIFIER_ROWS: Final = 20_000  # beyond, a sample of whole patients: some 15 s and 0.5 GB at 512 dimensions
MMD_ROWS: Final = 4_000  # likewise: its kernel has a number for each pair of rows, 128 MB

Verdict = Literal["drifted", "not told apart", "insufficient data"]


@dataclass(frozen=True)
class Tested:
    """One statistic against its deals.

    Attributes:
        value: On the sets as they are; NaN where not asked.
        null_95: 95% quantile over the deals.
        p: Share of deals that reach the value.
        n: Rows of the reference and of the current set that were looked at.
    """

    value: float
    null_95: float
    p: float
    n: tuple[int, int]


@dataclass(frozen=True)
class EmbeddingDrift:
    """What was found.

    Attributes:
        verdict: Drifted: told apart by either test at ALPHA, after Holm's correction.
        auroc: Of the domain classifier on held-out patients, with its interval; 0.5 is chance.
        classifier: The same against chance.
        mmd2: Squared maximum mean discrepancy against chance; around 0 where the sets are alike.
        n: Rows of the reference and of the current set.
        n_patients: Their patients.
        n_moved: Patients whose rows are not the same in both.
        words: It all in a few sentences.
    """

    verdict: Verdict
    auroc: Interval
    classifier: Tested
    mmd2: Tested
    n: tuple[int, int]
    n_patients: tuple[int, int]
    n_moved: int
    words: str

    @property
    def facts(self) -> dict[str, Any]:
        """For a JSON file: None where nothing could be said."""
        return {
            "verdict": self.verdict,
            "words": self.words,
            "auroc": {**self.auroc.facts(), **_tested(self.classifier)},
            "mmd2": {"value": _finite(self.mmd2.value), **_tested(self.mmd2)},
            "n": list(self.n),
            "n_patients": list(self.n_patients),
            "n_moved": self.n_moved,
        }


def compare(
    vectors: Callable[[Rows], NDArray[np.floating[Any]]], sides: Sides, bootstrap: int, seed: int
) -> EmbeddingDrift:
    """Whether the embeddings of two sets of images differ more than chance would make them.

    Memory and time stay bounded however many rows there are: beyond CLASSIFIER_ROWS and MMD_ROWS whole patients are
    sampled, of each set alike.

    Args:
        vectors: The embeddings by their numbers in `sides`, (n, D), all by one encoder; asked for samples only, so that
            they may lie in files.
        sides: Which set each row belongs to.
        bootstrap: Patient-bootstrap replicates of the AUROC's interval.
        seed: Of samples, folds, deals and resamples.
    """
    if why := _short(sides):
        return _untested(sides, "insufficient data", f"Whether the embeddings drifted cannot be said: {why}.")
    if not sides.n_moved:
        return _untested(sides, "not told apart", "Both sets have the same embeddings of the same patients.")
    with bar("embedding drift", total=2, unit="test") as shown:
        chosen, taken, dealt = _dealt(sides, CLASSIFIER_ROWS, seed)
        drawn_ND = vectors(chosen)
        if not np.ptp(drawn_ND, axis=0).any():
            why = "Whether the embeddings drifted cannot be said: all are equal."
            return _untested(sides, "insufficient data", why)
        auroc, null_R = domain.told_apart(drawn_ND, taken, dealt, bootstrap, seed)
        classifier = _against(auroc.value, null_R, taken)
        shown.update()
        chosen, taken, dealt = _dealt(sides, MMD_ROWS, seed)
        kernel_NN, bandwidth = mmd.kernel(vectors(chosen), taken.patient_N)
        seen = mmd.mmd2(kernel_NN, taken.before_N[None], taken.now_N[None], taken.patient_N)[0]
        null_R = mmd.mmd2(kernel_NN, dealt[0], dealt[1], taken.patient_N)
        discrepancy = _against(math.nan if math.isnan(bandwidth) else float(seen), null_R, taken)
        shown.update()
    least = float(np.nanmin(stats.holm([classifier.p, discrepancy.p])))
    verdict: Verdict = "drifted" if least <= ALPHA else "not told apart"
    words = _words(verdict, auroc, classifier, discrepancy, sides)
    return EmbeddingDrift(verdict, auroc, classifier, discrepancy, sides.n_rows, sides.n_patients, sides.n_moved, words)


def _dealt(sides: Sides, max_rows: int, seed: int) -> tuple[Rows, Sides, tuple[Bools, Bools]]:
    """Rows of a sample, where they lie, and where they lie in each deal."""
    chosen = sides.sample(max_rows, seed)
    taken = sides.take(chosen)
    return chosen, taken, taken.deals(DEALS, seed)


def _short(sides: Sides) -> str:
    """Why there is too little to tell; empty where there is enough."""
    if min(sides.n_patients) < MIN_PATIENTS:
        before, now = sides.n_patients
        return f"{before} patients in the reference and {now} in the current set; {MIN_PATIENTS} of each are needed"
    if 0 < sides.n_moved < MIN_MOVED:
        return f"only {sides.n_moved} patients are not the same in both sets; {MIN_MOVED} are needed"
    return ""


def _against(value: float, null_R: Floats, sides: Sides) -> Tested:
    known = null_R[np.isfinite(null_R)]
    if math.isnan(value) or not len(known):
        return Tested(math.nan, math.nan, math.nan, sides.n_rows)
    return Tested(value, float(np.quantile(known, 1 - ALPHA)), p_value(value, known), sides.n_rows)


def _untested(sides: Sides, verdict: Verdict, words: str) -> EmbeddingDrift:
    none = Tested(math.nan, math.nan, math.nan, (0, 0))
    return EmbeddingDrift(
        verdict, stats.undefined(words), none, none, sides.n_rows, sides.n_patients, sides.n_moved, words
    )


def _words(verdict: Verdict, auroc: Interval, classifier: Tested, discrepancy: Tested, sides: Sides) -> str:
    said = {
        "drifted": "The embeddings drifted: the two sets can be told apart by them",
        "not told apart": "The embeddings of the two sets are not told apart",
    }[verdict]
    distance = (
        f"the squared maximum mean discrepancy is {discrepancy.value:.2g}, chance stays below "
        f"{discrepancy.null_95:.2g} in 95 of 100 deals (p = {discrepancy.p:.3f}{_of(discrepancy, sides)})"
        if math.isfinite(discrepancy.value)
        else "the maximum mean discrepancy is undefined, since most embeddings are equal"
    )
    before, now = (
        f"{n:,} images of {patients:,} patients" for n, patients in zip(sides.n_rows, sides.n_patients, strict=True)
    )
    return (
        f"{said} (reference: {before}; current: {now}). A linear classifier tells held-out patients apart with AUROC "
        f"{auroc}; chance stays below {classifier.null_95:.3f} in 95 of 100 deals of patients "
        f"(p = {classifier.p:.3f}{_of(classifier, sides)}), and {distance}. Drifted means that the smaller p is at "
        f"most {ALPHA:g} after Holm's correction; how far the AUROC lies above 0.5 says how much it is."
    )


def _of(tested: Tested, sides: Sides) -> str:
    if tested.n == sides.n_rows:
        return ""
    return f", on a sample of whole patients: {tested.n[0]:,} and {tested.n[1]:,} images"


def _tested(tested: Tested) -> dict[str, Any]:
    return {"null_95": _finite(tested.null_95), "p": _finite(tested.p), "n_looked_at": list(tested.n)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
