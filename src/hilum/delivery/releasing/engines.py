"""Engines tried on the trained model: how far each is from the reproducible one, and whether the release allows it.

Over images of val and test the embeddings, the head's AUROC and the decisions of an engine are compared with those of
onnxruntime-fp32. What counts is what could be true, not what was seen: an interval's bound, not its middle. An engine
whose difference cannot be bounded on so few images is not allowed, for want of data, and says so.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.delivery.card import EngineCard, Measured
from hilum.delivery.engines import DEFAULT, FP32_MODEL, INT8_MODEL, PRECISION, open_engine
from hilum.delivery.engines.runtime import Session
from hilum.delivery.predictor import Result, infer
from hilum.delivery.releasing import quantise
from hilum.delivery.releasing.sources import Sources
from hilum.errors import HilumError
from hilum.judgement import stats
from hilum.judgement.fusion.head import FusedHead
from hilum.judgement.probing.head import MIN_PATIENTS, Head
from hilum.progress import track
from hilum.recipe import EngineTolerance

REPORT: Final = "engines.json"  # in the evidence
MAX_IMAGES: Final = 2000
REPLICATES: Final = 2000
MARGIN: Final = 3.0  # golden answers may differ by this many times what was measured here: processors differ


def tried(
    sources: Sources, head: Head | FusedHead | None, release: Path, golden_GSS: NDArray[np.uint8], threads: int
) -> tuple[EngineCard, ...]:
    """Try the engines that the recipe names.

    Args:
        sources: What the release is made of.
        head: Its head.
        release: The folder in the making; its graph lies there, and what an engine needs is written there.
        golden_GSS: The golden images, prepared, uint8.
        threads: Of an engine.
    """
    names = [name for name in dict.fromkeys(sources.recipe.engines) if name != DEFAULT]
    if not names:
        return ()
    if isinstance(head, FusedHead):
        # Their tolerances are set by decisions on images; how decisions fare with covariates was never measured.
        why = f"the head fuses covariates with the image, and only {DEFAULT} answers with such a head"
        none = {"golden_tolerance": 0.0, "golden_probability_tolerance": 0.0}
        return tuple(EngineCard(name=name, precision=PRECISION[name], allowed=False, why=why, **none) for name in names)
    rows = _rows(sources)
    images_NSS = np.ascontiguousarray(sources.dataset.images[rows])
    reference = Session(release / FP32_MODEL, threads)
    expected, expected_golden = infer(reference, images_NSS), infer(reference, golden_GSS)
    labels = sources.dataset.labels()
    y_N = np.full(len(rows), np.nan)
    if head is not None and head.label in labels:
        y_N = labels[head.label].to_numpy(dtype=float)[rows]
    patient_N = pd.factorize(sources.dataset.manifest["patient_id"].to_numpy()[rows])[0]
    cards = []
    for name in track(names, "engines", unit="engine"):
        try:
            if name == "onnxruntime-int8":
                images = np.ascontiguousarray(sources.dataset.images[calibration_rows(sources)])
                quantise.quantise(release / FP32_MODEL, images, release / INT8_MODEL)
            engine = open_engine(name, release, threads)
        except HilumError as error:
            why = f"it could not be tried where the release was made: {error}"
            none = {"golden_tolerance": 0.0, "golden_probability_tolerance": 0.0}
            cards.append(EngineCard(name=name, precision=PRECISION[name], allowed=False, why=why, **none))
            continue
        found, found_golden = infer(engine, images_NSS), infer(engine, golden_GSS)
        told = compare(expected, found, y_N, patient_N, head, sources.recipe.engine_tolerance)
        told |= _golden(expected_golden, found_golden, sources.recipe.parity_tolerance)
        cards.append(EngineCard(name=name, precision=PRECISION[name], library=engine.library, **told))
    return tuple(cards)


def report(sources: Sources, cards: tuple[EngineCard, ...]) -> dict[str, Any]:
    """The trial as `evidence/engines.json` has it: what was asked, of how many, and what came of it.

    Args:
        sources: What the release is made of.
        cards: What `tried` found.
    """
    manifest, rows, calibrated = sources.dataset.manifest, _rows(sources), calibration_rows(sources)
    return {
        "reference": DEFAULT,
        "tolerance": sources.recipe.engine_tolerance.model_dump(),
        "replicates": REPLICATES,
        "n_images": len(rows),
        "n_patients": int(manifest["patient_id"].iloc[rows].nunique()),
        "splits": sorted(manifest["split"].iloc[rows].unique()),
        "calibration": {"n_images": len(calibrated), "splits": sorted(manifest["split"].iloc[calibrated].unique())},
        "engines": [card.model_dump(mode="json") for card in cards],
    }


def compare(
    expected: Result,
    found: Result,
    y_N: NDArray[Any],
    patient_N: NDArray[Any],
    head: Head | None,
    tolerance: EngineTolerance,
) -> dict[str, Any]:
    """What differs, and whether it stays within the tolerance: fields of an EngineCard.

    Args:
        expected: By the reproducible engine.
        found: By the other.
        y_N: Of the head's label: 1, 0, or NaN where unknown.
        patient_N: One id per image.
        head: None for a release that answers embeddings only.
        tolerance: From the recipe.
    """
    cosine_N = _cosines(expected.z_BD, found.z_BD)
    cosine = float(cosine_N.min())
    said: dict[str, Any] = {"n": len(patient_N), "cosine_least": cosine, "cosine_median": float(np.median(cosine_N))}
    faults: list[str] = []  # what was seen to be too far
    short: list[str] = []  # what could be, for all that is known
    if not cosine >= tolerance.min_cosine:
        faults.append(f"the least cosine between embeddings is {cosine:.6f}, below {tolerance.min_cosine:g}")
    if head is not None:
        assert expected.probability_B is not None, "a release with a head gives probabilities"
        assert found.probability_B is not None, "with any engine"
        before, after = expected.probability_B.astype(float), found.probability_B.astype(float)
        known = np.isfinite(y_N)
        change = _auroc_change(y_N[known], before[known], after[known], patient_N[known])
        over = (before >= head.threshold) != (after >= head.threshold)
        flipped = _measured(stats.proportion(over, patient_N).facts())
        largest = float(np.abs(after - before).max())
        said |= {"auroc_change": change, "flipped": flipped, "probability_change": largest}
        if change.value is None or change.low is None or change.high is None:
            short.append(f"the change of the AUROC is not known ({change.note or 'insufficient data'})")
        elif max(-change.low, change.high) > tolerance.max_auroc_change:
            (faults if abs(change.value) > tolerance.max_auroc_change else short).append(
                f"the AUROC changes by {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}], and at most "
                f"{tolerance.max_auroc_change:g} is allowed either way"
            )
        if flipped.value is None or flipped.high is None or flipped.high > tolerance.max_flipped:
            (faults if (flipped.value or 0.0) > tolerance.max_flipped else short).append(
                f"the share of decisions that fall on the other side is {flipped}, and at most "
                f"{tolerance.max_flipped:g} is allowed"
            )
    if short:
        faults.append(f"insufficient data: {'; '.join(short)}")
    if faults:
        return {**said, "allowed": False, "why": "; ".join(faults)}
    return {**said, "allowed": True, "why": f"within the tolerances on {len(patient_N)} images of val and test"}


def _auroc_change(
    y_N: NDArray[Any], before_N: NDArray[Any], after_N: NDArray[Any], patient_N: NDArray[Any]
) -> Measured:
    """Change of the AUROC with its patient-bootstrap interval, the same resamples for both engines."""
    if min(len(np.unique(patient_N[y_N == value])) for value in (0, 1)) < MIN_PATIENTS:
        return Measured(value=None, low=None, high=None, n=len(y_N), note="too few patients of a class")

    def change(w_RN: NDArray[Any], y: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
        return stats.weighted_auroc(w_RN, y, after) - stats.weighted_auroc(w_RN, y, before)

    return _measured(stats.patient_bootstrap(change, patient_N, REPLICATES, 0, y_N, before_N, after_N).facts())


def _measured(said: dict[str, Any]) -> Measured:
    return Measured(**{key: said[key] for key in ("value", "low", "high", "n")}, note=said.get("note", ""))


def _cosines(a_ND: NDArray[Any], b_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Of each pair of embeddings; -1 where it is not defined."""
    a, b = a_ND.astype(np.float64), b_ND.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: NDArray[np.float64] = (a * b).sum(axis=1) / np.maximum(lengths, 1e-300)
    return np.where(np.isfinite(found), found, -1.0)


def _golden(expected: Result, found: Result, least: float) -> dict[str, float]:
    """How far golden answers may be off: MARGIN times what they are here, and no less than the reproducible one's."""
    tolerance = {
        "golden_tolerance": float(np.abs(expected.z_BD - found.z_BD).max()),
        "golden_probability_tolerance": 0.0,
    }
    if expected.probability_B is not None and found.probability_B is not None:
        apart = np.abs(expected.probability_B - found.probability_B).max()
        tolerance["golden_probability_tolerance"] = float(apart)
    return {name: max(least, MARGIN * value) for name, value in tolerance.items()}


def _rows(sources: Sources) -> NDArray[np.int64]:
    """Up to MAX_IMAGES of val and test, evenly spread; of all where there are none."""
    modality = sources.facts["modality"]
    rows = sources.dataset.rows(modality, ("val", "test"))
    return _spread(rows if len(rows) else sources.dataset.rows(modality), MAX_IMAGES)


def calibration_rows(sources: Sources) -> NDArray[np.int64]:
    """Rows of val, or of train where val has none; never of test, which judges what comes of them."""
    modality = sources.facts["modality"]
    rows = sources.dataset.rows(modality, ("val",))
    rows = rows if len(rows) else sources.dataset.rows(modality, ("train",))
    return _spread(rows, quantise.CALIBRATION_IMAGES)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))]
    return chosen
