"""The gate: may this encoder be released? Judged on interval bounds, so that a lucky point passes nothing.

A criterion passes where its whole interval is on the good side of the tolerance, and fails where the whole interval is
on the bad side. Where the interval holds the tolerance, or there is none, it is "insufficient data": that does not
fail, and `gate.json` says it. What a release does not answer is "not asked" of it.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from hilum.data.store import read_json, write_json
from hilum.errors import DatasetError, UsageError
from hilum.identity import Run, code_revision
from hilum.judgement.probing import head
from hilum.judgement.probing.probes import FACTS
from hilum.recipe import Gate, digest

GATE: Final = "gate.json"
AUDIT: Final = "audit.json"
GAP_METRIC: Final = "auroc"

Verdict = Literal["pass", "fail", "insufficient data", "not asked"]


def run(
    probe_dirs: Sequence[Path], audit_dirs: Sequence[Path], recipe: Gate, encoder: str, label: str, out: Path
) -> bool:
    """Judge one encoder in each of its modalities and write `gate.json`.

    Args:
        probe_dirs: Probe folders, with the head of the label in each; those of other encoders are passed over.
        audit_dirs: The audit of each, in the same order.
        recipe: Tolerances.
        encoder: Which encoder is to be released.
        label: What its head answers.
        out: Folder to write into.

    Returns:
        Whether no criterion fails.

    Raises:
        UsageError: No probe is of this encoder, probes and audits do not pair, or they are of another label.
        DatasetError: A folder lacks its facts.
    """
    if len(probe_dirs) != len(audit_dirs):
        raise UsageError(
            f"each probe has its audit, but there are {len(probe_dirs)} probes and {len(audit_dirs)} audits"
        )
    pairs = [(read_json(probe / FACTS), probe, audit) for probe, audit in zip(probe_dirs, audit_dirs, strict=True)]
    chosen = [(facts, probe, audit) for facts, probe, audit in pairs if facts["encoder"] == encoder]
    if not chosen:
        known = ", ".join(sorted({str(facts["encoder"]) for facts, _, _ in pairs})) or "none"
        raise UsageError(f"no probe is of the encoder {encoder!r}; there are probes of {known}")
    criteria = [
        criterion
        for facts, probe, audit in chosen
        for criterion in _criteria(str(facts["modality"]), head.facts(probe), read_json(audit / AUDIT), recipe, label)
    ]
    ok = all(criterion["verdict"] != "fail" for criterion in criteria)
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / GATE,
        {
            "ok": ok,
            "encoder": encoder,
            "label": label,
            "criteria": criteria,
            "tolerances": recipe.model_dump(mode="json"),
            "run": Run(
                code_revision=code_revision(),
                data_digest=chosen[0][0]["run"]["data_digest"],
                recipe_digest=digest(recipe),
            ),
        },
    )
    return ok


def _criteria(
    modality: str, head_facts: Mapping[str, Any], audit: Mapping[str, Any], recipe: Gate, label: str
) -> list[dict[str, Any]]:
    for what, said in (("head", head_facts["label"]), ("audit", audit.get("label"))):
        if said != label:
            raise UsageError(f"the gate asks for {label!r}, but the {what} of {modality} is of {said!r}; make it anew")
    if not head_facts["answered"]:
        # A label that the modality never has is not asked; one that it has too little of is not enough data.
        verdict: Verdict = "insufficient data" if head_facts.get("n_known") else "not asked"
        reason = f"{modality}: the release answers embeddings only, since {head_facts['why']}"
        return [
            _criterion(modality, name, verdict, reason, {}, tolerance)
            for name, tolerance in (("auroc", recipe.min_auroc), ("auroc_gap", recipe.max_auroc_gap))
        ]
    score = head_facts["test"]["auroc"]
    verdict = decide(score["low"], score["high"], recipe.min_auroc, at_least=True)
    reason = f"{modality}: AUROC of {label} on test is {_words(score)}, at least {recipe.min_auroc:g} is asked for"
    criteria = [_criterion(modality, "auroc", verdict, reason, score, recipe.min_auroc)]
    gaps = [gap for gap in _entries(audit) if gap.get("metric") == GAP_METRIC]
    if not gaps:
        reason = f"{modality}: the audit has no gap of the AUROC between groups"
        criteria.append(_criterion(modality, "auroc_gap", "insufficient data", reason, {}, recipe.max_auroc_gap))
    for gap in gaps:
        verdict = decide(gap["low"], gap["high"], recipe.max_auroc_gap, at_least=False)
        reason = (
            f"{modality}: the AUROC of {label} differs between groups by {gap['attribute']} by {_words(gap)}, "
            f"at most {recipe.max_auroc_gap:g} is allowed"
        )
        name = f"auroc_gap_{gap['attribute']}"
        criteria.append(_criterion(modality, name, verdict, reason, gap, recipe.max_auroc_gap))
    return criteria


def decide(low: float | None, high: float | None, tolerance: float, *, at_least: bool) -> Verdict:
    """Judge an interval against a tolerance.

    Args:
        low: Lower bound; None or NaN where there is none.
        high: Upper bound.
        tolerance: Itself on the good side.
        at_least: Whether the score must reach the tolerance, rather than stay within it.
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "insufficient data"
    good, bad = (low >= tolerance, high < tolerance) if at_least else (high <= tolerance, low > tolerance)
    return "pass" if good else "fail" if bad else "insufficient data"


def _entries(audit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    gaps = audit.get("gaps")
    if not isinstance(gaps, list):
        raise DatasetError(f"{AUDIT} has no list of gaps; audit again")
    return gaps


def _criterion(
    modality: str, name: str, verdict: Verdict, reason: str, score: Mapping[str, Any], tolerance: float
) -> dict[str, Any]:
    return {
        "modality": modality,
        "criterion": name,
        "verdict": verdict,
        "reason": reason,
        **{bound: score.get(bound) for bound in ("value", "low", "high", "n", "n_patients")},
        "tolerance": tolerance,
    }


def _words(score: Mapping[str, Any]) -> str:
    if score["value"] is None or score["low"] is None:
        return f"not known ({score.get('note') or 'no interval'})"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
