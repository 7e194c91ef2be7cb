"""Both cards of a release, from the files that lie in it and from nothing else."""

from pathlib import Path

import pandas as pd

from hilum.data.store import read_json
from hilum.delivery.card import EVIDENCE, ReleaseCard
from hilum.delivery.cards import dataset, model


def write(release: Path) -> None:
    """Write MODEL_CARD.md and DATASET_CARD.md into a release that has its card.json and evidence."""
    folder = release / EVIDENCE
    evidence = {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}
    scores = pd.read_csv(folder / "scores.csv") if (folder / "scores.csv").is_file() else None
    model.write(release, ReleaseCard.load(release), evidence, scores)
    dataset.write(release, evidence["cohort.json"], evidence.get("validation.json"))
