"""Pages of a step as artifacts of its run, for the Kubeflow UI: each is there, if only to say why it shows nothing."""

import shutil
from pathlib import Path

from hilum.data.store import read_json
from hilum.page import page, write_page


def show(report: Path, artifact: Path, why_none: str, *facts: Path) -> None:
    """Copy a page to where the pipeline keeps it as an artifact, or write one line in its place.

    An artifact that was never written could not be opened from the Kubeflow UI, and KFP would never reuse its step.

    Args:
        report: The page, which a step writes only where it has something to say.
        artifact: File to write.
        why_none: A sentence that stands there where there is no such page; the file's name is its title.
        facts: JSON files that hold the `run` and the `caution` between them, for the page of one line.
    """
    artifact.parent.mkdir(parents=True, exist_ok=True)
    if report.is_file():
        shutil.copyfile(report, artifact)
        return
    said = {name: value for path in facts for name, value in read_json(path).items() if name in ("run", "caution")}
    title = report.stem.replace("_", " ").capitalize()
    write_page(artifact, page(title, why_none.replace("`", ""), [], said.get("run", {}), said.get("caution", "")))
