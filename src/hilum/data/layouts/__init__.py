"""Native layouts, one file each: from a distribution as published to a Cohort."""

import importlib
from pathlib import Path
from typing import Final

from hilum.data.manifest import Cohort
from hilum.errors import SourceError, UsageError

LAYOUTS: Final = (
    "nih",
    "chexpert",
    "mimic_cxr",
    "covid_chestxray",
    "kermany",
    "oasis",
    "bids",
    "medmnist",
    "dicom",
    "folder",
    "phantom",
)


def read(layout: str, source: Path, options: dict[str, str] | None = None) -> Cohort:
    """Read a source folder that is laid out as `layout` says; each layout's module says which options it takes.

    Raises:
        UsageError: There is no such layout, or it takes no such option.
        SourceError: The folder is not laid out so; the message names what is missing and where it comes from.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"there is no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    if not source.is_dir():
        raise SourceError(f"{source} is not a folder; --source names the folder of a {layout} distribution")
    module = importlib.import_module(f"hilum.data.layouts.{layout}")
    try:
        cohort: Cohort = module.read(source, **(options or {}))
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise UsageError(f"layout {layout!r} takes no such option: {error}") from error
    return cohort
