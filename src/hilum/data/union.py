"""Several datasets become one: rows in a row, ids that cannot collide, and no picture on both sides of a split.

images.npy, manifest.parquet, dataset.json, rejected.csv    a dataset folder like any other (hilum.data.store)
union.json    the parts, whose images are the same ones, and which patients were moved for that

Ids are led by their source (`nih:00000013_005`). A label or covariate that a source does not know is NaN in its rows;
that two sources give a label the same name does not say that they mean the same by it, and the caution says so.

Two patients who share a picture may be one person. They stay two, but in one split: all whom shared pictures connect
go to the split among theirs that is furthest from training (test before val before train), so that nothing that is
asked later was learnt from. Refusing would stop the union of real sources, which do copy from each other. A picture of
one grey value connects nobody.
"""

import csv
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hilum import __version__
from hilum.data import parquet
from hilum.data.images import pixel_digest
from hilum.data.ingest import content_digest
from hilum.data.manifest import PIXELS, SPLITS, conform
from hilum.data.store import FACTS, IMAGES, MANIFEST, REJECTED, Dataset, DatasetFacts, read_json, write_json
from hilum.errors import DatasetError, UsageError
from hilum.identity import code_revision, digest_file, digest_json
from hilum.progress import bar

LAYOUT: Final = "union"
RECORD: Final = "union.json"
BLOCK_BYTES: Final = 64 << 20  # of pixels held at once
CAUTION: Final = (
    "Several sources in one: hospital, age, labelling and image quality go with the source, so that a model may know "
    "a finding by its source."
)
TOLD: Final = ("layout", "source_revision", "source_digest", "digest", "licence", "citation", "caution")


@dataclass(frozen=True)
class _Part:
    """One of the datasets.

    Attributes:
        dataset: The folder, opened.
        names: Of its sources; one, unless it is a union itself.
        rows: Its manifest with ids led by the source, and the names in `source`.
        told: For each source what `union.json` says of it.
    """

    dataset: Dataset
    names: tuple[str, ...]
    rows: pd.DataFrame
    told: tuple[dict[str, Any], ...]

    def led(self, image_id: str) -> str:
        """An image's id in the union."""
        return image_id if self.dataset.facts.layout == LAYOUT else f"{self.names[0]}:{image_id}"


def unite(folders: Sequence[str | Path], out: Path, as_train: Sequence[str] = ()) -> Dataset:
    """Make one dataset of several, or open the one that the same call made before.

    Images are copied in blocks, and checked against the digests in their manifest on the way. The same parts in the
    same order give the same digest, also where some of them were united before.

    Args:
        folders: Dataset folders, at least two, of one preprocessing. A source's name is what its rows say, else its
            layout; `NAME=FOLDER` names it.
        out: The dataset folder to make; it may exist if the same call made it.
        as_train: Sources all of whose images go to the train split, whatever their own splits were.

    Raises:
        UsageError: The parts do not fit together, two of them have one source, `as_train` names none of them, or
            `out` is something else.
        DatasetError: A part is not a whole dataset, or the disk is too small.
    """
    parts = [_part(folder) for folder in folders]
    _check(parts, as_train)
    digests = [part.dataset.facts.digest for part in parts]
    named = [name for part in parts for name in part.names]
    fingerprint = digest_json([digests, named, sorted(as_train), digest_file(Path(__file__))])
    if (made := _made_before(out, fingerprint)) is not None:
        return made
    labels, covariates, attributes = (_all_of(parts, role) for role in ("labels", "covariates", "attributes"))
    table = conform(_one_after_another(parts, attributes), labels, covariates, attributes)
    table.loc[table["source"].isin(list(as_train)), "split"] = "train"
    settled, shared = kept_apart(table)
    table["split"] = settled
    told = [one for part in parts for one in part.told]
    size = parts[0].dataset.facts.preprocessing.size
    with _workplace(out, len(table) * size**2) as partial:
        _copy_images(parts, size, len(table), partial / IMAGES)
        n_rejected = _join_rejected(parts, partial / REJECTED)
        parquet.write(table, partial / MANIFEST)
        facts = DatasetFacts(
            layout=LAYOUT,
            source_revision=LAYOUT,
            source_digest=digest_json([one["digest"] for one in told]),
            digest=content_digest(table, size),
            code_revision=code_revision(),
            hilum_version=__version__,
            preprocessing=parts[0].dataset.facts.preprocessing,
            labels=labels,
            covariates=covariates,
            attributes=attributes,
            n_images=len(table),
            n_patients=int(table["patient_id"].nunique()),
            n_rejected=n_rejected,
            n_excluded=sum(part.dataset.facts.n_excluded for part in parts),
            licence=_joined(told, "licence"),
            citation=_joined(told, "citation"),
            caution=f"{CAUTION} {_joined(told, 'caution')}",
        )
        write_json(partial / FACTS, facts.model_dump(mode="json"))
        write_json(
            partial / RECORD,
            {"fingerprint": fingerprint, "parts": told, "as_train": sorted(as_train), "shared_pictures": shared},
        )
        os.replace(partial, out)  # also over an empty folder
    return Dataset(out, facts, table)


def shared_pictures(folder: Path) -> dict[str, int]:
    """What `kept_apart` counted when this union was made.

    Raises:
        DatasetError: It is no union.
    """
    counts: dict[str, int] = read_json(folder / RECORD)["shared_pictures"]
    return counts


def kept_apart(table: pd.DataFrame) -> tuple[pd.Series, dict[str, int]]:
    """The split of each row such that no picture of two patients is in two splits, and what was found and done.

    Args:
        table: A manifest.

    Returns:
        The splits, and counts: `pictures` that two patients or more share, `between_sources` those of them in more
        than one source, `patients` who share one, `moved` patients whose split changed.
    """
    telling = table["pixel_digest"].notna() & (table["pixel_min"] != table["pixel_max"])
    pictures = table[telling].groupby("pixel_digest")
    several = pictures["patient_id"].transform("nunique") > 1
    shared = table.loc[several.index[several]]
    group = pd.Series(pd.factorize(table["patient_id"])[0], index=table.index)
    while True:  # the least number spreads from patient to picture to patient, until it stands still
        before = group
        least = group[shared.index].groupby(shared["pixel_digest"]).transform("min")
        group = group.copy()
        group[least.index] = least
        group = group.groupby(table["patient_id"]).transform("min")
        if group.equals(before):
            break
    connected = table["patient_id"].isin(shared["patient_id"])
    rank = table["split"].map({split: i for i, split in enumerate(SPLITS)})
    furthest = rank.groupby(group).transform("max")
    settled = table["split"].where(~connected | furthest.isna(), furthest.map(dict(enumerate(SPLITS)))).astype("str")
    moved = connected & (settled != table["split"]) & furthest.notna()
    counts = {
        "pictures": int(shared["pixel_digest"].nunique()),
        "between_sources": int((shared.groupby("pixel_digest")["source"].nunique() > 1).sum()),
        "patients": int(shared["patient_id"].nunique()),
        "moved": int(table.loc[moved, "patient_id"].nunique()),
    }
    return settled, counts


def _part(folder: str | Path) -> _Part:
    """Open a part, its ids led by its source."""
    name, equals, path = str(folder).partition("=")
    named = bool(equals) and not Path(folder).exists()
    dataset = Dataset.open(path if named else folder)
    facts, rows = dataset.facts, dataset.manifest.copy()
    if facts.layout == LAYOUT:
        if named:
            raise UsageError(f"{path} is a union, whose sources have their names; {name}= names a single source")
        told = tuple(read_json(dataset.path / RECORD)["parts"])
        return _Part(dataset, tuple(one["name"] for one in told), rows, told)
    sources = [str(source) for source in rows["source"].dropna().unique()]
    own = name if named else sources[0] if len(sources) == 1 else facts.layout
    for column in ("image_id", "patient_id", "study_id"):
        rows[column] = f"{own}:" + rows[column]
    rows["source"] = own
    told_of = {"name": own, **{key: getattr(facts, key) for key in TOLD}}
    return _Part(dataset, (own,), rows, ({**told_of, "n_images": facts.n_images, "n_patients": facts.n_patients},))


def _check(parts: Sequence[_Part], as_train: Sequence[str]) -> None:
    if len(parts) < 2:
        raise UsageError(f"a union is of at least two datasets, not {len(parts)}")
    first = parts[0].dataset.facts
    for part in parts[1:]:
        facts = part.dataset.facts
        if facts.preprocessing != first.preprocessing:
            differing = [
                f"{name} {getattr(first.preprocessing, name)} and {value}"
                for name, value in facts.preprocessing
                if value != getattr(first.preprocessing, name)
            ]
            raise UsageError(
                f"{parts[0].names[0]} and {part.names[0]} were prepared differently ({', '.join(differing)}); "
                "ingest one of them again with the other's numbers"
            )
    names = [name for part in parts for name in part.names]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(
            f"two of the datasets have the source {twice[0]!r}, and whether a patient id of one means the same person "
            "in the other cannot be told; ingest them together, or, where no person is in both, name one: other=FOLDER"
        )
    if strange := sorted(set(as_train) - set(names)):
        raise UsageError(f"there is no source {strange[0]!r} to go to train; there are {', '.join(names)}")
    roles: dict[str, str] = {}
    for part in parts:
        for role in ("labels", "covariates", "attributes"):
            for column in getattr(part.dataset.facts, role):
                if roles.setdefault(column, role) != role:
                    raise UsageError(
                        f"{column} is among the {roles[column]} of one dataset and the {role} of another; a column "
                        "has one meaning, so rename one and ingest again"
                    )


def _all_of(parts: Sequence[_Part], role: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in parts for name in getattr(part.dataset.facts, role)))


def _one_after_another(parts: Sequence[_Part], attributes: Sequence[str]) -> pd.DataFrame:
    """All rows; columns that a part does not have are NaN in its rows."""
    tables = [part.rows for part in parts]
    for name in attributes:  # text in one source and a number in another is text
        held = [table for table in tables if name in table]
        if len({table[name].dtype for table in held}) > 1:
            for table in held:
                table[name] = table[name].astype("str")
    rows = pd.concat(tables, ignore_index=True)
    for name in (name for name in PIXELS if name not in rows):
        rows[name] = np.nan
    return rows


def _copy_images(parts: Sequence[_Part], size: int, n: int, path: Path) -> None:
    """Write all images into one file, block by block; nowhere is more than a block in memory.

    Raises:
        DatasetError: A part's pixels are not those that its manifest names.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, size, size))
    block = max(1, BLOCK_BYTES // size**2)
    with path.open("r+b") as stream, bar("unite", n, "image") as shown:
        stream.seek(path.stat().st_size - n * size**2)
        for part in parts:
            source, count = part.dataset.path / IMAGES, len(part.rows)
            header = source.stat().st_size - count * size**2
            for start in range(0, count, block):
                many = min(block, count - start)
                x_BHW = np.fromfile(source, np.uint8, many * size**2, offset=header + start * size**2)
                x_BHW = x_BHW.reshape(many, size, size)
                for i, image in enumerate(x_BHW if "pixel_digest" in part.rows else ()):
                    said = part.rows["pixel_digest"].iloc[start + i]
                    if pd.notna(said) and pixel_digest(image) != said:
                        raise DatasetError(
                            f"{part.dataset.path} is damaged: image {start + i} has other pixels than its manifest "
                            "says; ingest it again"
                        )
                stream.write(x_BHW.data)
                shown.update(many)


def _join_rejected(parts: Sequence[_Part], path: Path) -> int:
    """Join the lists of what was left out; returns how many images that were."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image_id", "reason"))
        for part in parts:
            source = part.dataset.path / REJECTED
            if source.is_file():
                with source.open(newline="", encoding="utf-8") as lines:
                    writer.writerows((part.led(line["image_id"]), line["reason"]) for line in csv.DictReader(lines))
    return sum(part.dataset.facts.n_rejected for part in parts)


def _joined(told: Sequence[dict[str, Any]], key: str) -> str:
    return " ".join(f"{one['name']}: {str(one[key]).rstrip('.')}." for one in told if one[key])


def _made_before(out: Path, fingerprint: str) -> Dataset | None:
    """The union that lies at `out`, if the same call made it; None if there is nothing.

    Raises:
        UsageError: Something else lies there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / RECORD).is_file() or read_json(out / RECORD).get("fingerprint") != fingerprint:
        raise UsageError(f"{out} exists and is no union of these datasets by this code; name another --out")
    return Dataset.open(out)


@contextmanager
def _workplace(out: Path, n_bytes: int) -> Iterator[Path]:
    """`OUT.uniting`, empty, held by this process alone; gone after a failure."""
    partial = out.with_name(out.name + ".uniting")  # `OUT.partial` may be an ingest that is to go on
    partial.mkdir(parents=True, exist_ok=True)
    held = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is at work on {out}; wait for it, or name another --out") from None
        for left in partial.iterdir():  # by a union that was killed
            left.unlink()
        if (free := shutil.disk_usage(partial).free) < n_bytes:
            raise DatasetError(
                f"the images take {n_bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
                "make room, or name another --out"
            )
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(held)
