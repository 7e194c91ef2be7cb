"""From a native layout to a dataset folder: rows, splits, pixels, and what was rejected.

Work is done in `OUT.partial`, which is renamed to `OUT` when it is whole: a killed ingest leaves nothing that looks
like a dataset, and the next one goes on from its journal. The dataset's digest depends on the rows and the pixels
alone, not on the number of workers or on interruptions.
"""

import csv
import fcntl
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum import __version__
from hilum.data import decoding, exclusion, journal, layouts, parquet
from hilum.data.manifest import PIXELS, Cohort, assign_splits, conform, resolve_uncertain
from hilum.data.source import digest_folder
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, Dataset, DatasetFacts, write_json
from hilum.errors import CheckFailed, DatasetError, UsageError
from hilum.identity import PACKAGE, code_revision, digest_json
from hilum.progress import bar
from hilum.recipe import Ingest

RECORD: Final = "ingest.json"  # beside the dataset's facts: the whole recipe, and the fingerprint that names the call
FEW: Final = 3  # reasons and patients named in a message


def ingest(
    source: Path,
    out: Path,
    recipe: Ingest,
    *,
    source_revision: str = "folder",
    source_digest: str | None = None,
    workers: int | None = None,
    exclude: Sequence[Path] = (),
) -> Dataset:
    """Turn a source folder into a dataset folder, or open the one that the same call made before.

    Args:
        source: Folder of the distribution, as its layout publishes it.
        out: The dataset folder to make; it may exist if the same call made it.
        recipe: What to read and how to prepare it.
        source_revision: The revision that `source` was fetched at.
        source_digest: Content digest of the source; that of `hilum.data.source.digest_folder` if None.
        workers: Processes that decode; as many as there are cores if None.
        exclude: Lists of images to leave out (hilum.data.exclusion); they move no other image to another split.

    Raises:
        UsageError: The recipe asks for a view or label that the source does not have, a list of exclusions an
            image that would not be read, or `out` is something else.
        SourceError: The source is not laid out as the recipe says.
        DatasetError: The rows do not fit together, or nothing is left of them.
        CheckFailed: More images than the recipe allows could not be read.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"ingest needs at least 1 worker, not {workers}")
    processes = workers or decoding.cores()
    if processes > 1:
        decoding.warm_up()
    threading.Thread(target=code_revision, daemon=True).start()  # it waits for git; known by the time it is needed
    digest = source_digest or digest_folder(source)
    record: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "source_revision": source_revision,
        "source_digest": digest,
    }
    excluding = exclusion.read(exclude)
    if exclude:
        record["exclusion"] = excluding.digest
    record["fingerprint"] = digest_json({**record, "code": _code_digest()})
    if (made := _made_before(out, str(record["fingerprint"]))) is not None:
        print(f"{out} was made by the same call before and is used as it is", file=sys.stderr)
        return made
    cohort = layouts.read(recipe.layout, source, recipe.options)
    rows, locators = plan(cohort, recipe)
    rows, locators, excluded = _without(rows, locators, excluding)
    with _workplace(out) as partial:
        outcomes = _decode(partial, cohort, rows, locators, recipe, digest, processes)
        kept = np.array([not isinstance(outcome, str) for outcome in outcomes])
        rejected = [(str(rows["image_id"].iloc[i]), str(outcomes[i])) for i in np.flatnonzero(~kept)]
        _write_rejected(partial / REJECTED, [*rejected, *((name, exclusion.REASON) for name in excluded)])
        _check_rejected(rejected, len(rows), recipe.max_rejected_share, partial)
        table = rows[kept].reset_index(drop=True)
        measured = list(zip(*(outcome for outcome in outcomes if not isinstance(outcome, str)), strict=True))
        for (name, dtype), values in zip(PIXELS.items(), measured, strict=True):
            table[name] = pd.Series(values, dtype=dtype)
        _compact(partial / IMAGES, kept)
        parquet.write(table, partial / MANIFEST)
        facts = DatasetFacts(
            layout=recipe.layout,
            source_revision=source_revision,
            source_digest=digest,
            digest=content_digest(table, recipe.preprocessing.size),
            code_revision=code_revision(),
            hilum_version=__version__,
            preprocessing=recipe.preprocessing,
            labels=cohort.labels,
            covariates=cohort.covariates,
            attributes=cohort.attributes,
            n_images=len(table),
            n_patients=int(table["patient_id"].nunique()),
            n_rejected=len(rejected) + len(excluded),
            n_excluded=len(excluded),
            licence=cohort.licence,
            citation=cohort.citation,
            caution=cohort.caution,
        )
        write_json(partial / FACTS, facts.model_dump(mode="json"))
        write_json(partial / RECORD, record)
        os.replace(partial, out)  # also over an empty folder
    journal.remove(out)
    return Dataset(out, facts, table)


def plan(cohort: Cohort, recipe: Ingest) -> tuple[pd.DataFrame, list[str]]:
    """The manifest's rows before any image is read, and the locator of each.

    Views are filtered, then patients limited, then patients without an official split assigned to one, and uncertain
    labels resolved where the recipe has a policy.

    Raises:
        UsageError: The recipe names a view or label that the cohort does not have.
        DatasetError: The rows do not fit together, or there are none.
    """
    rows = cohort.rows.reset_index(drop=True)
    if not len(rows):
        raise DatasetError(f"the source has no image that layout {recipe.layout!r} would read")
    if recipe.views:
        wanted, present = {view.upper() for view in recipe.views}, rows["view"].astype("str").str.upper()
        if absent := sorted(wanted - set(present.dropna())):
            known = ", ".join(sorted(present.dropna().unique())) or "none that is known"
            raise UsageError(f"no image has the view {', '.join(absent)}; the source has {known}")
        rows = rows[present.isin(wanted)]
    if recipe.limit is not None:
        order = rows["patient_id"].map({patient: i for i, patient in enumerate(rows["patient_id"].unique())})
        total = order.value_counts().sort_index().cumsum()
        rows = rows[order < max(1, int((total <= recipe.limit).sum()))]  # one patient at least, however many images
    rows = rows.reset_index(drop=True)
    if strangers := sorted(set(recipe.uncertain) - set(cohort.labels)):
        raise UsageError(
            f"the recipe's policy for uncertain labels names {', '.join(strangers)}; "
            f"layout {recipe.layout!r} has {', '.join(cohort.labels)}"
        )
    names = list(cohort.labels)
    rows[names] = resolve_uncertain(rows[names].astype("float64"), recipe.uncertain, default="keep")
    rows["split"] = _splits(rows, recipe)
    return conform(rows, cohort.labels, cohort.covariates, cohort.attributes), [str(name) for name in rows["locator"]]


def _without(
    rows: pd.DataFrame, locators: Sequence[str], excluding: exclusion.Exclusion
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Rows and locators without the images on the list, and the ids of those.

    After `plan`, so that neither the limit nor an official split falls on other patients than before.

    Raises:
        UsageError: The list names an image that is not among the rows.
        DatasetError: Nothing is left.
    """
    listed = excluding.of(rows["image_id"])
    if listed.all():
        raise DatasetError(f"all {len(rows)} images are to be excluded; at least one must be left")
    kept = [locator for locator, out in zip(locators, listed, strict=True) if not out]
    return rows[~listed].reset_index(drop=True), kept, [str(name) for name in rows.loc[listed, "image_id"]]


def _splits(rows: pd.DataFrame, recipe: Ingest) -> pd.Series:
    """The layout's split where it gives one, else that of the patient's other images, else by the patient's hash."""
    assigned = assign_splits(rows["patient_id"], recipe.split_shares, recipe.seed)
    if "split" not in rows:
        return assigned
    given = rows["split"].astype("str")
    return given.fillna(given.groupby(rows["patient_id"]).transform("first")).fillna(assigned)


def _decode(
    partial: Path,
    cohort: Cohort,
    rows: pd.DataFrame,
    locators: Sequence[str],
    recipe: Ingest,
    source_digest: str,
    workers: int,
) -> list[decoding.Outcome]:
    """Decode what the journal does not have; what became of each image, in the rows' order."""
    size, pad_value = recipe.preprocessing.size, recipe.preprocessing.pad_value
    work = {
        "code": _code_digest(),
        "source": source_digest,
        "layout": recipe.layout,
        "options": recipe.options,
        "preprocessing": recipe.preprocessing.model_dump(mode="json"),
        "images": digest_json([list(rows["image_id"]), list(locators)]),
    }
    shape = (len(rows), size, size)
    with journal.opened(partial, digest_json(work), shape) as done:
        decoder = decoding.Decoder(cohort.load, partial / IMAGES, done.offset, size, pad_value)
        chunks = [
            decoding.Chunk(first, tuple(locators[first : first + decoding.CHUNK]))
            for first in range(0, len(rows), decoding.CHUNK)
            if first not in done.outcomes
        ]
        with bar("ingest", total=len(rows), unit="image", initial=done.n_images) as shown:
            for chunk, outcomes in decoding.decode_all(decoder, chunks, workers):
                done.add(chunk.first, outcomes)
                shown.update(len(outcomes))
        return [outcome for first in sorted(done.outcomes) for outcome in done.outcomes[first]]


def _write_rejected(path: Path, rejected: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image_id", "reason"))
        writer.writerows(rejected)


def _check_rejected(rejected: Sequence[tuple[str, str]], n_images: int, most: float, partial: Path) -> None:
    reasons = pd.Series([reason for _, reason in rejected], dtype="str").value_counts()
    named = "; ".join(f"{count} x {reason}" for reason, count in reasons.head(FEW).items())
    if len(rejected) == n_images:
        raise DatasetError(f"none of {n_images} images could be read: {named}")
    if len(rejected) > most * n_images:
        raise CheckFailed(
            f"{len(rejected)} of {n_images} images could not be read, more than the share of {most:g} that "
            f"max_rejected_share allows: {named}; {partial / REJECTED} lists each"
        )


def _compact(path: Path, kept: np.ndarray) -> None:
    """Leave the rejected images out of the images file."""
    if kept.all():
        return
    images = np.load(path, mmap_mode="r")
    shorter = path.with_name(path.name + ".kept")
    target = np.lib.format.open_memmap(shorter, mode="w+", dtype=np.uint8, shape=(int(kept.sum()), *images.shape[1:]))
    for new, old in enumerate(np.flatnonzero(kept)):
        target[new] = images[old]
    target.flush()
    del target, images
    shorter.replace(path)


def content_digest(table: pd.DataFrame, size: int) -> str:
    """SHA-256 that names a dataset: of every column of its manifest, and by `pixel_digest` of every pixel.

    Args:
        table: The manifest.
        size: Side of the images in pixels, which is not in the manifest.
    """
    content = hashlib.sha256(f"{size}\0{len(table)}\0".encode())
    for name in table.columns:
        column = table[name]
        content.update(f"{name}\0".encode())
        if column.dtype.kind == "f":
            values = column.to_numpy(dtype="<f8", copy=True)
            values[np.isnan(values)] = np.nan  # one NaN of the many
            content.update(values.tobytes())
        else:
            known = column.notna().to_numpy()
            content.update(known.tobytes())
            content.update("\0".join(column[known].astype("str")).encode() + b"\0")
    return content.hexdigest()


@cache
def _code_digest() -> str:
    """SHA-256 of the code that makes datasets; narrower than the code revision, which other steps change too."""
    content = hashlib.sha256()
    for path in sorted((PACKAGE / "data").rglob("*.py")):
        content.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


def _made_before(out: Path, fingerprint: str) -> Dataset | None:
    """The dataset that lies at `out`, if the same call made it; None if there is nothing.

    Raises:
        UsageError: Something else lies there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        before = json.loads((out / RECORD).read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    if before is None:
        raise UsageError(f"{out} exists and is no dataset that ingest made; name another --out")
    if before != fingerprint:
        raise UsageError(
            f"{out} is a dataset of another source, recipe or version of the code; name another --out, or remove it"
        )
    return Dataset.open(out)


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """`OUT.partial`, held by this process alone."""
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    held = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another ingest is at work on {out}; wait for it, or name another --out") from None
        yield partial
    finally:
        os.close(held)
