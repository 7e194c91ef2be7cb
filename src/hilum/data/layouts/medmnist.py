"""MedMNIST v2: chest films shrunk to 28, 64, 128 or 224 pixels, in one `.npz` per dataset and size.

Read here: `chestmnist` (112,120 films of NIH ChestX-ray14: 78,468 / 11,219 / 22,433; 14 findings mined from text, see
the layout nih) and `pneumoniamnist` (5,856 films of children of Kermany et al.: 4,708 / 524 / 624; normal or
pneumonia). An `.npz` of another name but the same form is read as X-rays with labels `label_0`, `label_1`, ... The
other datasets of MedMNIST are neither X-ray nor MR and are refused.
Missing: no label is missing, everything else is: there is no age, sex or view, and above all no patient id. Each image
is taken for a patient of its own, so it cannot be shown that the published splits are patient-disjoint, and pairs of
images of one patient cannot be formed.
Quirks: ChestMNIST's labels are (N, 14), all zero where the report has none of the findings (`no_finding` here);
those of a dataset with classes are (N, 1), the number of the class. Splits: as published.

Citation: Yang et al. 2023, MedMNIST v2, Scientific Data 10, and that of the underlying dataset. Licence: CC BY 4.0.
To get it: Zenodo 10519652, or the Python package medmnist.
"""

import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data.manifest import SPLITS, Cohort
from hilum.data.vocabulary import NIH_FINDINGS
from hilum.errors import ImageError, SourceError, UsageError

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels

OTHER_MODALITY: Final = {
    "pathmnist": "histology", "dermamnist": "dermatoscopy", "octmnist": "optical coherence tomography",
    "retinamnist": "fundus photography", "breastmnist": "ultrasound", "bloodmnist": "microscopy",
    "tissuemnist": "microscopy", "organamnist": "CT", "organcmnist": "CT", "organsmnist": "CT",
    "organmnist3d": "CT", "nodulemnist3d": "CT", "adrenalmnist3d": "CT", "fracturemnist3d": "CT",
    "vesselmnist3d": "MR angiography meshes", "synapsemnist3d": "electron microscopy",
}  # fmt: skip
UNREADABLE: Final = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
ARRAYS: Final = tuple(f"{split}_{what}" for split in SPLITS for what in ("images", "labels"))


def read(source: Path, flag: str = "") -> Cohort:
    """Read one `.npz` of MedMNIST.

    Args:
        source: The folder that holds it.
        flag: Its name without `.npz`, such as `pneumoniamnist` or `chestmnist_64`; by default the only one there is.

    Raises:
        UsageError: The flag is of a dataset that is neither X-ray nor MR.
        SourceError: The file is missing, or not as published.
    """
    path = _file(source, flag)
    dataset = path.stem.partition("_")[0].lower()
    if dataset in OTHER_MODALITY:
        raise UsageError(f"{dataset} is {OTHER_MODALITY[dataset]}; hilum reads X-ray and MR, such as pneumoniamnist")
    parts = []
    for split in SPLITS:
        labels, n_images = _labels(path, split)
        part = named_labels(labels, dataset)
        if len(part) != n_images:
            raise SourceError(f"{path} has {n_images} {split} images but {len(part)} labels; it is damaged")
        part["split"] = split
        part["locator"] = [f"{path.name}#{split}/{number}" for number in range(n_images)]
        part["image_id"] = [f"{path.stem}-{split}-{number:06d}" for number in range(n_images)]
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    names = tuple(name for name in rows.columns if name not in ("split", "locator", "image_id"))
    rows["patient_id"] = rows["image_id"]
    rows["modality"] = "XR"
    rows["source"] = "medmnist"
    return Cohort(
        rows=rows,
        load=partial(_load, source),
        labels=names,
        licence="CC BY 4.0",
        citation="Yang J. et al. 2023, MedMNIST v2, Scientific Data 10, and that of the underlying dataset",
        caution="There are no patient ids: each image counts as a patient, so intervals may be too narrow, and it "
        "cannot be shown that no patient is in two splits.",
    )


def named_labels(labels: NDArray[np.generic], dataset: str) -> pd.DataFrame:
    """Label columns from an array of labels.

    Args:
        labels: Shape (N, L) of 0 and 1, or (N, 1) of class numbers.
        dataset: `chestmnist`, `pneumoniamnist`, or another name.
    """
    y_NL = np.asarray(labels, dtype=np.float64).reshape(len(labels), -1)
    if dataset == "chestmnist" and y_NL.shape[1] == len(NIH_FINDINGS):
        table = pd.DataFrame(y_NL, columns=list(NIH_FINDINGS.values()))
        table["no_finding"] = (table.sum(axis=1) == 0).astype("float64")
        return table
    if dataset == "pneumoniamnist" and y_NL.shape[1] == 1:
        return pd.DataFrame({"pneumonia": y_NL[:, 0], "no_finding": 1.0 - y_NL[:, 0]})
    if y_NL.shape[1] == 1 and y_NL.max(initial=0) > 1:
        y_NL = (y_NL == np.arange(y_NL.max() + 1)).astype(np.float64)
    return pd.DataFrame(y_NL, columns=[f"label_{number}" for number in range(y_NL.shape[1])])


def _file(source: Path, flag: str) -> Path:
    if flag:
        path = source / f"{flag.removesuffix('.npz')}.npz"
        if not path.is_file():
            raise SourceError(f"{source} has no {path.name}; it comes from Zenodo record 10519652")
        return path
    found = sorted(source.glob("*.npz"))
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        raise SourceError(f"{source} must hold one .npz of MedMNIST, but has {there}; name one by the option `flag`")
    return found[0]


def _labels(path: Path, split: str) -> tuple[NDArray[np.generic], int]:
    """Labels of one split and the number of its images, from the header of their array."""
    try:
        with zipfile.ZipFile(path) as archive:
            absent = [name for name in ARRAYS if f"{name}.npy" not in archive.namelist()]
            if absent:
                raise SourceError(f"{path} has no array {absent[0]}; MedMNIST's have {', '.join(ARRAYS)}")
            with archive.open(f"{split}_labels.npy") as stream:
                labels = np.lib.format.read_array(stream, allow_pickle=False)
            with archive.open(f"{split}_images.npy") as stream:
                shape = _shape(stream)
    except UNREADABLE as error:
        raise SourceError(f"{path} cannot be read as an .npz of MedMNIST: {error}") from error
    return labels, shape[0]


def _shape(stream: IO[bytes]) -> tuple[int, int, int]:
    """Read the header of an array of images, so that the first image follows in the stream.

    Raises:
        ValueError: They are not grey images of uint8, one after the other.
    """
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if fortran or dtype != np.uint8 or len(shape) != 3:
        raise ValueError(f"its images are {dtype} of shape {shape}, but X-rays are grey, so uint8 of shape (N, H, W)")
    return shape


@dataclass(frozen=True)
class _Opened:
    """The images of one split, open for reading one at a time.

    chestmnist_224 unpacks to 5.6 GB, too much to hold in each worker process. A stream is unpacked only as far as it is
    read, and workers ask in order, so that each unpacks it once.
    """

    archive: zipfile.ZipFile
    stream: IO[bytes]
    height: int
    width: int
    start: int  # where in the stream the first image begins


_OPENED: Final[dict[tuple[Path, str], _Opened]] = {}  # of one archive at a time


def _opened(path: Path, split: str) -> _Opened:
    if (path, split) not in _OPENED:
        for other in [key for key in _OPENED if key[0] != path]:
            _OPENED[other].stream.close()
            _OPENED.pop(other).archive.close()
        archive = zipfile.ZipFile(path)
        stream = archive.open(f"{split}_images.npy")
        _, height, width = _shape(stream)
        _OPENED[path, split] = _Opened(archive, stream, height, width, stream.tell())
    return _OPENED[path, split]


def _load(source: Path, locator: str) -> "Pixels":
    name, _, place = locator.rpartition("#")
    split, _, number = place.partition("/")
    try:
        opened = _opened(source / name, split)
        size = opened.height * opened.width
        opened.stream.seek(opened.start + int(number) * size)
        content = opened.stream.read(size)
    except UNREADABLE as error:
        raise ImageError(f"the image cannot be unpacked: {error}", "corrupt") from error
    if len(content) != size:
        raise ImageError("the array ends before the image does", "corrupt")
    return np.frombuffer(content, dtype=np.uint8).reshape(opened.height, opened.width)
