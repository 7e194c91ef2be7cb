"""Answers for image files, without a server: what `hilum predict` does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hilum.data import parquet
from hilum.data.images import is_dicom
from hilum.delivery.desk import Answer, Desk, Request, numbers
from hilum.delivery.predictor import BATCH, Release
from hilum.errors import ImageError, UsageError
from hilum.progress import bar


def predict(release: Path, files: Sequence[Path], out: Path | None) -> int:
    """Answer for image files by one release, and write a Parquet file, or JSON lines to standard output.

    Each file gets one row, in order: `number` (from 0, in the order given), `file`, `error` (empty where it was
    answered), `embedding`, and with a head `probability` and `at_or_above_threshold`; then who answered: `model`,
    `version`, `dossier`, the `gate`'s verdict, the `override` and the `mitigation` of the head, empty where there is
    none. The file names are the caller's own and stay with the caller; nothing else of hilum writes any.

    Args:
        release: The release folder.
        files: PNG, JPEG or DICOM files.
        out: A Parquet file; standard output where None.

    Returns:
        How many files were refused.

    Raises:
        ReleaseError: The release does not load.
    """
    opened = Release.open(release)
    card = opened.card
    desk = Desk([opened], card.answers[-1])  # the label where there is a head: the embedding comes along
    rows: list[dict[str, Any]] = []
    with bar(f"predict {card.name}", total=len(files), unit="image") as shown:
        for start in range(0, len(files), BATCH):
            part = files[start : start + BATCH]
            answers = desk.answer([_request(path, card.modality) for path in part])
            for number, (path, answer) in enumerate(zip(part, answers, strict=True), start):
                rows.append({"number": number, "file": str(path), **_row(answer)})
            shown.update(len(part))
    by = card.gate.override
    treated = card.mitigation
    told = {"gate": card.gate.verdict, "override": str(by) if by is not None else ""}
    told["mitigation"] = str(treated) if treated is not None else ""
    _write(rows, {"model": card.name, "version": card.version, "dossier": opened.short_id, **told}, out)
    return sum(bool(row["error"]) for row in rows)


def _request(path: Path, modality: str) -> Request:
    """Who names a release for a file declares its modality; a DICOM file says its own."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror or type(error).__name__}; name readable files"
        ) from error
    return Request(content, None if is_dicom(content) else modality)


def _row(answer: Answer | ImageError) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        return {"error": str(answer), "embedding": None}
    row: dict[str, Any] = {"error": "", "embedding": numbers(answer.z_D)}
    if "probability" in answer.body:
        probability, threshold = answer.body["probability"], answer.body["threshold"]
        row |= {"probability": probability, "at_or_above_threshold": probability >= threshold}
    return row


def _write(rows: list[dict[str, Any]], model: dict[str, str], out: Path | None) -> None:
    if out is None:
        for row in rows:
            print(json.dumps({**row, **model}, ensure_ascii=False))
        return
    import pandas as pd  # half a second that JSON lines do without

    partial = out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    parquet.write(pd.DataFrame(rows).assign(**model), partial)
    partial.replace(out)
