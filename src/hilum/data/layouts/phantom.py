"""The phantom cohort: a test body that the project draws itself, with causes that are known.

About 870 chest radiographs (PA, AP, lateral) and 540 brain-MR slices (axial, coronal, sagittal) of 260 made-up people
with one to four studies each. What was planted, and how strongly, stands in `hilum.data.anatomy.causes` and in the
folder's `causes.json`. Labels come from the causes themselves, with a few percent turned over or blanked, as a
report-mined label would be; blank is unknown. Licence: as hilum itself. How to get it: `dvc pull`, or `hilum phantom`.

    cohort.csv      one row per image: manifest columns, labels, covariates, shard and file, and `cause_...` columns
    causes.json     the planted truths
    shards/*.zip    the images: JPEG members, stored without further compression, so that each can be read in place
    examples/       a few loose images of patients that the default recipe puts into the test split
    README.md       says that this is a test body
"""

import io
import shutil
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from hilum.data import shards
from hilum.data.anatomy import causes
from hilum.data.anatomy.cohort import COVARIATES, LABELS, Shot, shots
from hilum.data.manifest import VIEWS, Cohort, assign_splits
from hilum.data.store import write_json
from hilum.errors import SourceError, UsageError
from hilum.progress import track
from hilum.recipe import Ingest

COHORT: Final = "cohort.csv"
CAUSES: Final = "causes.json"
SHARDS: Final = "shards"
EXAMPLES: Final = "examples"
IMAGES_PER_SHARD: Final = 500  # a few files, because DVC is slow with many
JPEG_QUALITY: Final = 80  # keeps the default cohort below 4 MB, which is what a git repository can carry
EXAMPLE_SIZE: Final = 192  # pixels: the loose examples are for people to look at, too
GOLDEN_SEED: Final = 2_000_003  # of people who are in no cohort that is made with an ordinary seed
TEXT: Final = ("image_id", "patient_id", "study_id", "modality", "view", "site", "source", "sex", "shard", "file")
NUMBERS: Final = ("study_order", "days", "age_years", *LABELS, *COVARIATES)
CITATION: Final = "hilum phantom cohort, drawn by hilum; not real data"


def read(source: Path) -> Cohort:
    """Read a phantom cohort.

    Args:
        source: The folder that `generate` wrote.

    Returns:
        The cohort without its causes; splits are left to ingest.

    Raises:
        SourceError: The folder is not a whole phantom cohort.
    """
    path = source / COHORT
    if not path.is_file():
        raise SourceError(f"{source} has no {COHORT}; `dvc pull` fetches the embedded one, `hilum phantom` draws one")
    try:
        table = pd.read_csv(path, dtype={**dict.fromkeys(TEXT, "str"), **dict.fromkeys(NUMBERS, "float64")})
    except (ValueError, OSError) as error:
        raise SourceError(f"{path} is not the table of a phantom cohort: {error}") from error
    absent = [name for name in (*TEXT, *NUMBERS) if name not in table]
    if absent:
        raise SourceError(f"{path} lacks the columns {', '.join(absent)}; draw the cohort again with `hilum phantom`")
    if table[["shard", "file"]].isna().any(axis=None):
        raise SourceError(f"{path} has rows without a shard or file; draw the cohort again with `hilum phantom`")
    places = {shard: shards.places(source, f"{SHARDS}/{shard}") for shard in table["shard"].unique()}
    locators = []
    for shard, file in zip(table["shard"], table["file"], strict=True):
        if file not in places[shard]:
            raise SourceError(f"{SHARDS}/{shard} holds no {file}, which {COHORT} names; draw the cohort again")
        locators.append(places[shard][file])
    rows = table[[*TEXT[:-2], *NUMBERS]].assign(locator=locators)
    return Cohort(
        rows=rows,
        load=partial(shards.load, source),
        labels=LABELS,
        covariates=COVARIATES,
        licence="Apache-2.0, as hilum itself",
        citation=CITATION,
        caution=causes.CAUTION,
    )


def generate(
    out: Path,
    *,
    patients: int = 260,
    seed: int = 0,
    size: int = 96,
    site_shift: bool = True,
    site_contrast: bool = True,
) -> Path:
    """Draw a phantom cohort; the same arguments give the same bytes.

    Args:
        out: Folder to write; absent or empty.
        patients: How many people. A larger cohort begins with the people of a smaller one.
        seed: Another seed, other people.
        size: Side of the images in pixels.
        site_shift: Whether site south positions its patients to the right of the middle.
        site_contrast: Whether the sites differ in contrast. With neither, the pixels do not tell the sites apart.

    Returns:
        `out`.

    Raises:
        UsageError: `out` holds something already, or a number is out of range.
    """
    if patients < 1 or seed < 0 or not 16 <= size <= 1024:
        raise UsageError(
            "a phantom needs at least 1 patient, a seed of 0 or more and a size of 16 to 1024 pixels, "
            f"not patients={patients}, seed={seed}, size={size}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and not empty; name a new folder for the phantom cohort")
    whole_out = out.resolve()  # `.` has no name of its own
    partial_out = whole_out.with_name(whole_out.name + ".partial")
    shutil.rmtree(partial_out, ignore_errors=True)  # of a run that was killed
    (partial_out / SHARDS).mkdir(parents=True)
    (partial_out / EXAMPLES).mkdir()

    planned = list(shots(patients, seed, site_shift, site_contrast))
    table = pd.DataFrame([shot.row for shot in planned])
    number = table.groupby("modality").cumcount() // IMAGES_PER_SHARD
    table.insert(0, "shard", [f"{m.lower()}-{n:03d}.zip" for m, n in zip(table["modality"], number, strict=True)])
    table.insert(1, "file", table["image_id"] + ".jpg")
    _write_shards(partial_out / SHARDS, planned, table, size)
    examples = _write_examples(partial_out / EXAMPLES, planned, table)
    integers = [*LABELS, "study_order", "days", *(f"cause_{name}" for name in LABELS if f"cause_{name}" in table)]
    table.astype(dict.fromkeys(integers, "Int64")).to_csv(partial_out / COHORT, index=False, lineterminator="\n")
    truths = causes.in_words(seed, patients, size, site_shift, site_contrast)
    write_json(partial_out / CAUSES, {**truths, "examples": examples})
    (partial_out / "README.md").write_text(_readme(table), encoding="utf-8")
    partial_out.replace(whole_out)
    return out


def golden(modality: str, n: int = 4, size: int = 160) -> list[bytes]:
    """PNG images by which a release can prove itself: made-up people, every view or plane in turn.

    Args:
        modality: `XR` or `MR`.
        n: How many.
        size: Side in pixels.

    Raises:
        UsageError: There is no phantom of that modality.
    """
    if modality not in VIEWS:
        raise UsageError(f"the phantom has the modalities {', '.join(VIEWS)}, not {modality!r}")
    images: list[bytes] = []
    used: set[str] = set()
    for shot in shots(patients=20 * n + 20, seed=GOLDEN_SEED):
        wanted = VIEWS[modality][len(images) % len(VIEWS[modality])]
        if len(images) < n and shot.row["view"] == wanted and shot.row["patient_id"] not in used:
            used.add(shot.row["patient_id"])
            images.append(_encoded(shot.draw(size), "PNG"))
    return images


def _write_shards(folder: Path, planned: Sequence[Shot], table: pd.DataFrame, size: int) -> None:
    """Draw every image into its shard; members carry the same date in every run."""
    archives: dict[str, zipfile.ZipFile] = {}
    try:
        named = zip(planned, table["shard"], table["file"], strict=True)
        for shot, shard, file in track(named, "drawing the phantom", total=len(planned), unit="image"):
            if shard not in archives:
                archives[shard] = zipfile.ZipFile(folder / shard, "w", zipfile.ZIP_STORED)
            archives[shard].writestr(zipfile.ZipInfo(file), _encoded(shot.draw(size), "JPEG"))
    finally:
        for archive in archives.values():
            archive.close()


def _write_examples(folder: Path, planned: Sequence[Shot], table: pd.DataFrame) -> dict[str, str]:
    """Write loose images of test patients as far as there are such; returns the image id of each file."""
    ingest = Ingest()
    test = assign_splits(table["patient_id"], ingest.split_shares, ingest.seed) == "test"
    ill = table[test & (table["view"] == "PA") & (table["pneumonia"] == 1)]
    # An opacity behind the heart shows nobody anything: the plainest ones come first.
    clear = (ill["cause_pneumonia_side"] == "right") & (ill["cause_cardiomegaly"] == 0)
    ill = ill.assign(clear=clear).sort_values(["clear", "cause_pneumonia_contrast"], ascending=False, kind="stable")
    well = table[test & (table["view"] == "PA") & (table["cause_no_finding"] == 1) & (table["pneumonia"] == 0)]
    axial = table[test & (table["view"] == "AXIAL")]
    other = ill[~ill["patient_id"].isin(ill["patient_id"].head(1))]
    wanted = {
        "xray-pneumonia.png": ill,
        "xray-normal.png": well,
        "brain-axial.png": axial,
        "xray-pneumonia.dcm": other,
    }
    written = {}
    for name, candidates in wanted.items():
        if len(candidates):
            number = int(candidates.index[0])
            image = planned[number].draw(EXAMPLE_SIZE)
            content = _dicom(image, planned[number].row) if name.endswith(".dcm") else _encoded(image, "PNG")
            (folder / name).write_bytes(content)
            written[name] = str(table["image_id"][number])
    return written


def _encoded(image: NDArray[np.uint8], kind: str) -> bytes:
    stream = io.BytesIO()
    options: dict[str, Any] = {"quality": JPEG_QUALITY} if kind == "JPEG" else {}
    Image.fromarray(image).save(stream, kind, optimize=True, **options)
    return stream.getvalue()


def _dicom(image: NDArray[np.uint8], row: dict[str, Any]) -> bytes:
    """A computed radiograph with 12 bits, as a small DICOM file; its identifiers follow from the image's."""
    import pydicom  # takes a quarter of a second, which readers of the cohort need not spend

    uid = pydicom.uid.generate_uid(entropy_srcs=["hilum phantom", row["image_id"]])
    study = pydicom.uid.generate_uid(entropy_srcs=["hilum phantom", row["study_id"]])
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    header.file_meta.MediaStorageSOPInstanceUID = uid
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = header.file_meta.MediaStorageSOPClassUID, uid
    header.StudyInstanceUID, header.SeriesInstanceUID = study, pydicom.uid.generate_uid(entropy_srcs=[study])
    header.PatientID, header.PatientName, header.PatientSex = row["patient_id"], "PHANTOM^TEST BODY", row["sex"]
    header.PatientAge = f"{int(row['age_years']):03d}Y"
    header.Modality, header.BodyPartExamined, header.ViewPosition = "CR", "CHEST", row["view"]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = image.shape
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.WindowCenter, header.WindowWidth = 2048, 4096
    header.PixelData = (image.astype("<u2") * 16).tobytes()
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _readme(table: pd.DataFrame) -> str:
    kinds = table["modality"].value_counts()
    counts = " and ".join(f"{kinds[name]} {words}" for name, words in
                          (("XR", "chest radiographs"), ("MR", "brain-MR slices")) if name in kinds)  # fmt: skip
    return (
        "# The phantom cohort\n\n"
        f"{causes.CAUTION}\n\n"
        f"{counts} of {table['patient_id'].nunique()} made-up people.\n\n"
        f"- `{COHORT}`: one row per image; columns named `cause_...` hold what was drawn, before label noise.\n"
        f"- `{CAUSES}`: what was planted, in numbers and in words.\n"
        f"- `{SHARDS}/`: the images, JPEG in uncompressed zip archives.\n"
        f"- `{EXAMPLES}/`: loose images of people whom the default recipe puts into the test split.\n\n"
        "Made by `hilum phantom`; the same version and arguments draw the same bytes.\n"
    )
