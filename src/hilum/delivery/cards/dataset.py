"""DATASET_CARD.md: counts, splits, groups, what is missing, how labels were resolved, what validation found."""

from pathlib import Path
from typing import Any, Final

from hilum.delivery.cards import markdown

CARD: Final = "DATASET_CARD.md"
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_POLICIES: Final = {
    "keep": "kept apart as uncertain",
    "ignore": "taken as unknown",
    "zeros": "taken as absent",
    "ones": "taken as present",
}


def write(release: Path, cohort: dict[str, Any], validation: dict[str, Any] | None) -> None:
    """Write the card of a release's dataset.

    Args:
        release: The folder.
        cohort: Its evidence/cohort.json.
        validation: Its evidence/validation.json; None where there is none.
    """
    facts, recipe = cohort["facts"], cohort["recipe"]
    policy = None if recipe is None else {name: _POLICIES[how] for name, how in recipe.get("uncertain", {}).items()}
    failed = [] if validation is None else [check for check in validation["checks"] if not check["ok"]]
    told = {
        "facts": facts,
        "cohort": cohort,
        "recipe": recipe,
        "policy": policy,
        "validation": validation,
        "failed": [check for check in failed if check["severity"] == "critical"],
        "remarks": [check for check in failed if check["severity"] != "critical"],
    }
    markdown.write(release / CARD, "dataset_card.md.j2", _front(facts, cohort), told)


def _front(facts: dict[str, Any], cohort: dict[str, Any]) -> dict[str, Any]:
    modalities = {row["modality"] for row in cohort["splits"]}
    return {
        "pretty_name": f"{facts['layout']} as ingested by hilum",
        "license": "other",
        "license_name": facts["licence"],
        "task_categories": ["image-classification", "image-feature-extraction"],
        "size_categories": [next((name for most, name in _SIZES if facts["n_images"] < most), "n>1M")],
        "tags": ["medical", *(tag for name, tag in (("XR", "x-ray"), ("MR", "mri")) if name in modalities)],
    }
