"""Answers for many image files, without a server: on all cores, into one Parquet file, resumable.

The work is cut into parts of PART files. Each part that is done lies in OUT.parts/, written whole or not at all; a run
that was stopped goes on with the parts that are missing, and the last thing that a run does is to join them. Parts of
another release, engine or list of files are never joined: they are refused by name.

A file whose decoding ends its process (which no file should) costs its own row: its part is done anew, file by file.
"""

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Final

from hilum.data.images import is_dicom
from hilum.delivery import measurements
from hilum.delivery.answering.bodies import ABSTAINED
from hilum.delivery.desk import Answer, Desk, Request, numbers
from hilum.delivery.engines import DEFAULT
from hilum.delivery.machine import bound_arithmetic, usable_cores
from hilum.delivery.predictor import BATCH, Release
from hilum.errors import ImageError, UsageError
from hilum.identity import digest_json
from hilum.progress import bar

PART: Final = 512  # files of a part: seconds to minutes of work that a stopped run loses at most, per core
IN_PROCESS: Final = 64  # files up to which starting other processes costs more than they save
JOB: Final = "job.json"
COLUMNS: Final[dict[str, str]] = {
    "number": "int64",
    "file": "string",
    "error": "string",
    "modality": "string",
    "embedding": "list<float>",
    "planes": "string",
    "probability": "double",
    "interval_low": "double",
    "interval_high": "double",
    "threshold": "double",
    "decision": "string",
    "at_or_above_threshold": "bool",
    "abstention": "string",
    "abstention_words": "string",
    "out_of_distribution_score": "double",
    "out_of_distribution_limit": "double",
    "model": "string",
    "version": "string",
    "dossier": "string",
    "engine": "string",
    "gate": "string",
    "override": "string",
    "mitigation": "string",
    "covariates": "string",
}
_ENDED: Final = "the process that read this file ended; the file is damaged in a way that its decoder does not survive"


def predict(
    release: Path,
    files: Sequence[Path],
    out: Path | None,
    *,
    engine: str = DEFAULT,
    workers: int | None = None,
    covariates: Path | None = None,
) -> int:
    """Answer for image files by one release, and write a Parquet file, or JSON lines to standard output.

    Each file gets one row, in order: `number` (from 0, in the order given), `file`, `error` (empty where it was
    answered), the `embedding` (of a NIfTI volume those of its `planes`, one after the other), and with a head the
    probability, its interval, the decision, or why there is none; then who answered, and the names of the covariates
    that were used (COLUMNS has all). The file names are the caller's own and stay with the caller; nothing else of
    hilum writes any.

    Args:
        release: The release folder.
        files: PNG, JPEG, DICOM or NIfTI files.
        out: A Parquet file; standard output where None.
        engine: That runs the graph.
        workers: Processes; the usable cores where None.
        covariates: A table (CSV or Parquet) with a column `file`, the files' names or paths as they are given here, and
            a column per covariate of the head, blank where unknown; what a file has no row for is unknown.

    Returns:
        How many files were refused.

    Raises:
        ReleaseError: The release does not load.
        UsageError: `out` has parts of another job beside it, or the table of covariates does not fit.
    """
    job = _Job(release, engine, measurements.read(covariates, files) if covariates is not None else None)
    desk = job.desk()
    if out is None:
        refused = 0
        with bar(f"predict {job.title(desk)}", total=len(files), unit="image") as shown:
            for start in range(0, len(files), BATCH):
                rows = job.rows(desk, start, files[start : start + BATCH])
                for row in rows:
                    print(json.dumps(row, ensure_ascii=False))
                refused += sum(bool(row["error"]) for row in rows)
                shown.update(len(rows))
        return refused
    return _into(job, desk, [Path(file) for file in files], out, workers or usable_cores())


class _Job:
    """A release and an engine, in any process."""

    def __init__(
        self, release: Path, engine: str, covariates: Mapping[str, Mapping[str, float | None]] | None = None
    ) -> None:
        self.release, self.engine, self.covariates = release, engine, covariates or {}

    def desk(self) -> Desk:
        """The desk of the label where there is a head: the embedding comes along."""
        opened = Release.open(self.release)
        return Desk([opened], opened.card.answers[-1], engine=self.engine)

    def title(self, desk: Desk) -> str:
        return next(iter(desk.releases.values())).card.name

    def rows(self, desk: Desk, start: int, files: Sequence[Path]) -> list[dict[str, Any]]:
        """A row for each file, from number `start` on."""
        [(modality, release)] = desk.releases.items()
        card = release.card
        by, treated = card.gate.override, card.mitigation
        told = {
            "model": card.name,
            "version": card.version,
            "dossier": release.short_id,
            "engine": self.engine,
            "gate": card.gate.verdict,
            "override": str(by) if by is not None else "",
            "mitigation": str(treated) if treated is not None else "",
        }
        found: list[Answer | ImageError | None] = [None] * len(files)
        requests: dict[int, Request] = {}
        for place, path in enumerate(files):
            try:
                content = path.read_bytes()
            except OSError as error:
                found[place] = ImageError(f"the file cannot be read: {error.strerror or type(error).__name__}", "empty")
            else:
                # Who names a release for a file declares its modality; a DICOM file says its own.
                declared = None if is_dicom(content) else modality
                requests[place] = Request(content, declared, covariates=self.covariates.get(str(path)))
        for place, answer in zip(requests, desk.answer(list(requests.values())), strict=True):
            found[place] = answer
        return [
            {"number": start + place, "file": str(path), **_said(answer), **told}
            for place, (path, answer) in enumerate(zip(files, found, strict=True))
            if answer is not None
        ]


def _into(job: _Job, desk: Desk, files: list[Path], out: Path, workers: int) -> int:
    parts = out.with_name(out.name + ".parts")
    out.parent.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(files), PART)
    _claim(parts, next(iter(desk.releases.values())), job, files)
    done = {start for start in starts if (parts / _name(start)).is_file()}
    missing = [start for start in starts if start not in done]
    counted = sum(min(PART, len(files) - start) for start in done)
    title = f"predict {job.title(desk)}"
    with bar(title, total=len(files), unit="image", initial=counted) as shown:
        if len(files) <= IN_PROCESS or workers == 1:
            for start in missing:
                _write(job.rows(desk, start, files[start : start + PART]), parts / _name(start))
                shown.update(min(PART, len(files) - start))
        else:
            for start in _pooled(job, files, missing, parts, workers):
                shown.update(min(PART, len(files) - start))
    return _join(parts, [parts / _name(start) for start in starts], out)


def _claim(parts: Path, release: Release, job: _Job, files: Sequence[Path]) -> None:
    """Make the folder of parts this job's, or see that it is."""
    listed = [[str(path.absolute()), *_stamp(path)] for path in files]
    said = {"dossier": release.dossier_id, "engine": job.engine, "part": PART, "files": digest_json(listed)}
    if job.covariates:
        said["covariates"] = digest_json({name: dict(values) for name, values in job.covariates.items()})
    path = parts / JOB
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != said:
        raise UsageError(
            f"{parts.name} holds parts of another job: another release, engine or list of files; remove it, or name "
            "another --out"
        )
    if not path.is_file():
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        partial = parts / f"{JOB}.partial"
        partial.write_text(json.dumps(said), encoding="utf-8")
        partial.replace(path)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when a file does; zeros where there is none."""
    try:
        said = path.stat()
    except OSError:
        return 0, 0
    return said.st_size, said.st_mtime_ns


def _pooled(job: _Job, files: Sequence[Path], missing: Sequence[int], parts: Path, workers: int) -> Iterator[int]:
    """Do parts in other processes; yields each start that is done."""
    waiting, alone = list(reversed(missing)), []
    while waiting:
        try:
            with _pool(job, workers) as pool:
                running: dict[Future[None], int] = {}
                try:
                    while waiting or running:
                        while waiting and len(running) < 2 * workers:
                            start = waiting.pop()
                            one = pool.submit(_part, start, files[start : start + PART], parts / _name(start))
                            running[one] = start
                        for one in wait(running, return_when=FIRST_COMPLETED).done:
                            one.result()
                            yield running.pop(one)
                except BrokenProcessPool:
                    alone = [start for start in running.values() if not (parts / _name(start)).is_file()]
                    raise
        except BrokenProcessPool:
            for start in alone:
                _one_by_one(job, files, start, parts)
                yield start


def _one_by_one(job: _Job, files: Sequence[Path], start: int, parts: Path) -> None:
    """A part in which some file ends its process: every file in a pool of one, the ones that end it get an error."""
    rows: list[dict[str, Any]] = []
    number, end = start, min(start + PART, len(files))
    while number < end:
        with _pool(job, 1) as pool:
            try:
                while number < end:
                    rows += pool.submit(_rows, number, files[number : number + 1]).result()
                    number += 1
            except BrokenProcessPool:
                rows.append({"number": number, "file": str(files[number]), "error": _ENDED, "engine": job.engine})
                number += 1
    _write(rows, parts / _name(start))


_here: tuple[_Job, Desk] | None = None  # of a process of the pool


def _pool(job: _Job, workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a forked process would have the locks of threads that it does not have.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _open, (job,))


def _open(job: _Job) -> None:
    global _here
    bound_arithmetic(1)
    _here = job, job.desk()


def _rows(start: int, files: Sequence[Path]) -> list[dict[str, Any]]:
    assert _here is not None, "a process of the pool has opened its desk"
    job, desk = _here
    found: list[dict[str, Any]] = []
    for at in range(0, len(files), BATCH):
        found += job.rows(desk, start + at, files[at : at + BATCH])
    return found


def _part(start: int, files: Sequence[Path], path: Path) -> None:
    _write(_rows(start, files), path)


def _write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    from hilum.data import parquet  # pandas: half a second that JSON lines do without

    partial = path.with_name(path.name + ".partial")
    parquet.write_rows(rows, COLUMNS, partial)
    partial.replace(path)


def _join(parts: Path, paths: Sequence[Path], out: Path) -> int:
    """All parts as one file in place of `out`; how many rows have an error."""
    from hilum.data import parquet

    partial = out.with_name(out.name + ".partial")
    parquet.join(paths, partial)
    refused = parquet.count_filled(partial, "error")
    partial.replace(out)
    shutil.rmtree(parts)
    return refused


def _name(start: int) -> str:
    return f"{start:09d}.parquet"


def _said(answer: Answer | ImageError) -> dict[str, Any]:
    """The columns of one answer."""
    if isinstance(answer, ImageError):
        return {"error": str(answer), "embedding": None}
    body = answer.body
    unlike = body.get("out_of_distribution") or {}
    row: dict[str, Any] = {
        "error": "",
        "modality": body["modality"],
        "embedding": numbers(answer.z_D) if answer.z_D.size else None,
        "planes": ", ".join(f"{one['view']} {one['position']:g}" for one in body.get("planes", ())),
        "out_of_distribution_score": unlike.get("score"),
        "out_of_distribution_limit": unlike.get("limit"),
    }
    if "decision" not in body:
        return row
    interval, why = body["interval"] or {}, body["abstention"] or {}
    decided = body["decision"] != ABSTAINED
    return row | {
        "probability": body["probability"],
        "interval_low": interval.get("low"),
        "interval_high": interval.get("high"),
        "threshold": body["threshold"],
        "decision": body["decision"],
        "at_or_above_threshold": body["probability"] >= body["threshold"] if decided else None,
        "abstention": why.get("reason", ""),
        "abstention_words": why.get("words", ""),
        "covariates": ", ".join((body.get("covariates") or {}).get("used", ())),
    }
