"""Vital signs and laboratory values of the 48 hours before a study, from MIMIC-IV and MIMIC-IV-ED.

A covariate is the mean over the window (t - 48 h, t] of a study at time t, never after it: values taken once the film
was read would tell the model what the film said. What was not measured is NaN; values outside the plausible range are
typing errors or artefacts, so they are dropped, not clamped. Item numbers as in the concepts of MIT-LCP/mimic-code.

Tables: hosp/labevents (158 million rows), icu/chartevents (433 million rows, 40 GB unpacked), ed/vitalsign, ed/triage
(without a time of its own: the time of arrival, ed/edstays.intime). They are streamed; memory holds one sum and one
count per study and covariate.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.data import tables
from hilum.errors import SourceError, UsageError
from hilum.progress import bar

WINDOW_SECONDS: Final = 48 * 3600
ROWS_AT_ONCE: Final = 2_000_000  # about 200 MB
HIGHEST_CELSIUS: Final = 60.0  # no living body is above 60 degrees Celsius, or below 60 Fahrenheit

# Plausible ranges, bounds included; wide, because they are to catch units and typing errors, not illness.
RANGES: Final = {
    "heart_rate_per_min": (10.0, 300.0),
    "systolic_mmhg": (20.0, 350.0),
    "diastolic_mmhg": (10.0, 250.0),
    "mean_pressure_mmhg": (10.0, 300.0),
    "resp_rate_per_min": (2.0, 80.0),
    "o2_saturation_pct": (30.0, 100.0),
    "temperature_celsius": (25.0, 45.0),
    "glucose_mg_per_dl": (10.0, 2000.0),
    "hematocrit_pct": (5.0, 75.0),
    "hemoglobin_g_per_dl": (1.0, 25.0),
    "mch_pg": (10.0, 60.0),
    "mchc_g_per_dl": (15.0, 50.0),
    "mcv_fl": (40.0, 160.0),
    "platelets_1e9_per_l": (1.0, 3000.0),
    "rdw_pct": (8.0, 50.0),
    "red_cells_1e12_per_l": (0.5, 10.0),
    "leukocytes_1e9_per_l": (0.05, 1000.0),
    "urea_nitrogen_mg_per_dl": (1.0, 300.0),
    "chloride_meq_per_l": (50.0, 175.0),
    "creatinine_mg_per_dl": (0.05, 50.0),
    "sodium_meq_per_l": (80.0, 200.0),
    "potassium_meq_per_l": (1.0, 15.0),
    "bicarbonate_meq_per_l": (2.0, 60.0),
    "albumin_g_per_dl": (0.5, 8.0),
}
NAMES: Final = tuple(RANGES)
CHART_ITEMS: Final = {
    220045: "heart_rate_per_min",
    220179: "systolic_mmhg", 220050: "systolic_mmhg", 225309: "systolic_mmhg",
    220180: "diastolic_mmhg", 220051: "diastolic_mmhg", 225310: "diastolic_mmhg",
    220052: "mean_pressure_mmhg", 220181: "mean_pressure_mmhg", 225312: "mean_pressure_mmhg",
    220210: "resp_rate_per_min", 224690: "resp_rate_per_min",
    220277: "o2_saturation_pct",
    223761: "temperature_celsius", 223762: "temperature_celsius",  # the first in Fahrenheit
    225664: "glucose_mg_per_dl", 220621: "glucose_mg_per_dl", 226537: "glucose_mg_per_dl",
}  # fmt: skip
LAB_ITEMS: Final = {
    51221: "hematocrit_pct", 51222: "hemoglobin_g_per_dl", 51248: "mch_pg", 51249: "mchc_g_per_dl", 51250: "mcv_fl",
    51265: "platelets_1e9_per_l", 51277: "rdw_pct", 51279: "red_cells_1e12_per_l", 51301: "leukocytes_1e9_per_l",
    51006: "urea_nitrogen_mg_per_dl", 50902: "chloride_meq_per_l", 50912: "creatinine_mg_per_dl",
    50983: "sodium_meq_per_l", 50971: "potassium_meq_per_l", 50882: "bicarbonate_meq_per_l",
    50931: "glucose_mg_per_dl", 50862: "albumin_g_per_dl",
}  # fmt: skip
ED_COLUMNS: Final = {
    "temperature": "temperature_celsius",
    "heartrate": "heart_rate_per_min",
    "resprate": "resp_rate_per_min",
    "o2sat": "o2_saturation_pct",
    "sbp": "systolic_mmhg",
    "dbp": "diastolic_mmhg",
}


def before_studies(studies: pd.DataFrame, mimic_iv: Path | None, mimic_iv_ed: Path | None) -> tuple[pd.DataFrame, str]:
    """Mean of each covariate over the 48 hours up to each study.

    Args:
        studies: Unique rows of `subject_id` (int), `study_id` (int) and `time` (datetime64, without blanks).
        mimic_iv: Folder of MIMIC-IV, with `hosp/` and perhaps `icu/`.
        mimic_iv_ed: Folder of MIMIC-IV-ED, with `ed/` or the tables themselves.

    Returns:
        A table indexed by `study_id` with the columns NAMES, and a sentence that says which tables were not there.

    Raises:
        UsageError: A folder does not exist.
        SourceError: A folder has none of its tables, or one is not as published.
    """
    means = _Means(studies)
    absent: list[str] = []
    for option, folder, sources in (
        ("mimic_iv", mimic_iv, (("hosp", "labevents", LAB_ITEMS), ("icu", "chartevents", CHART_ITEMS))),
        ("mimic_iv_ed", mimic_iv_ed, (("ed", "vitalsign", None), ("ed", "triage", None))),
    ):
        if folder is None:
            continue
        if not folder.is_dir():
            raise UsageError(f"{option} names a folder, but {folder} is none")
        paths = [locate(folder, module, name) for module, name, _ in sources]
        if not any(paths):
            names = " or ".join(f"{module}/{name}.csv.gz" for module, name, _ in sources)
            raise SourceError(f"{folder} has no {names}; they come from PhysioNet")
        for path, (module, name, items) in zip(paths, sources, strict=True):
            if path is None:
                absent.append(f"{module}/{name}")
            elif items is not None:
                _add_items(means, path, items)
            elif name == "vitalsign":
                _add_columns(means, path, lambda piece: piece)
            else:
                _add_columns(means, path, _arrivals(folder, path))
    return means.table(), f"Covariates lack the table {', '.join(absent)}, which was not there." if absent else ""


def locate(folder: Path, module: str, name: str) -> Path | None:
    """A table of a module of MIMIC-IV, compressed or not, in the module's folder or beside it; None where absent."""
    candidates = (folder / place / f"{name}.csv{end}" for place in (module, "") for end in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def celsius(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Temperatures in Celsius, whatever the unit: both are entered under either item now and then."""
    return np.where(degrees > HIGHEST_CELSIUS, (degrees - 32.0) / 1.8, degrees)


class _Means:
    """Sums and counts per study and covariate, over events within each study's window."""

    def __init__(self, studies: pd.DataFrame) -> None:
        self.subjects = np.unique(studies["subject_id"].to_numpy())
        code = np.searchsorted(self.subjects, studies["subject_id"].to_numpy())
        key = _key(code, seconds(studies["time"]))
        order = np.argsort(key, kind="stable")
        self.study_ids = studies["study_id"].to_numpy()[order]
        self.key = key[order]
        self.sums = np.zeros((len(NAMES), len(studies)))
        self.counts = np.zeros((len(NAMES), len(studies)))

    def add(self, name: str, subject: pd.Series, time: pd.Series, value: pd.Series) -> None:
        """Add measurements of one covariate: an event at e belongs to the studies at t with e <= t < e + 48 h."""
        values = pd.to_numeric(value, errors="coerce").to_numpy(dtype=np.float64)
        if name == "temperature_celsius":
            values = celsius(values)
        low, high = RANGES[name]
        code = np.minimum(np.searchsorted(self.subjects, subject.to_numpy()), len(self.subjects) - 1)
        good = (self.subjects[code] == subject.to_numpy()) & time.notna().to_numpy()
        good &= (values >= low) & (values <= high)  # NaN is in no range
        start = _key(code[good], seconds(time[good]))
        first = np.searchsorted(self.key, start, side="left")
        last = np.searchsorted(self.key, start + WINDOW_SECONDS, side="left")
        n_studies = last - first
        # Numbers of the studies of each event: first, first + 1, ..., last - 1, all events one after the other.
        before = np.cumsum(n_studies) - n_studies
        study = np.repeat(first - before, n_studies) + np.arange(n_studies.sum())
        row = NAMES.index(name)
        self.sums[row] += np.bincount(study, np.repeat(values[good], n_studies), minlength=len(self.key))
        self.counts[row] += np.bincount(study, minlength=len(self.key))

    def table(self) -> pd.DataFrame:
        with np.errstate(invalid="ignore"):
            means = np.where(self.counts > 0, self.sums / self.counts, np.nan)
        return pd.DataFrame(means.T, columns=list(NAMES), index=pd.Index(self.study_ids, name="study_id"))


def seconds(time: pd.Series) -> NDArray[np.int64]:
    """Whole seconds since 1970, of times without blanks; MIMIC's shifted dates reach the year 2212."""
    whole: NDArray[np.int64] = time.to_numpy(dtype="datetime64[s]").astype(np.int64)
    return whole


def _key(code: NDArray[np.int64], whole_seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """One sortable number for (subject, time); 2^34 seconds are 544 years, so no window reaches another subject."""
    return (code.astype(np.int64) << 34) + whole_seconds


def _pieces(path: Path, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Read some columns of a large table in pieces, under a bar that counts the bytes read."""
    tables.read_table(path, columns, nrows=0)  # refuses a table that lacks a column, with a clear message
    with path.open("rb") as raw, bar(path.name.partition(".")[0], path.stat().st_size, "B") as shown:
        compression = "gzip" if path.suffix == ".gz" else None
        try:
            with pd.read_csv(raw, usecols=columns, chunksize=ROWS_AT_ONCE, compression=compression) as pieces:
                for piece in pieces:
                    yield piece
                    shown.update(raw.tell() - shown.n)
        except tables.UNREADABLE as error:
            raise SourceError(f"{path} cannot be read as a table: {error}") from error


def _add_items(means: _Means, path: Path, items: dict[int, str]) -> None:
    for piece in _pieces(path, ["subject_id", "itemid", "charttime", "valuenum"]):
        chosen = piece[piece["itemid"].isin(items) & piece["subject_id"].isin(means.subjects)]
        time = pd.to_datetime(chosen["charttime"], errors="coerce", format="ISO8601")
        name = chosen["itemid"].map(items)
        for one in name.unique():
            those = name == one
            means.add(one, chosen.loc[those, "subject_id"], time[those], chosen.loc[those, "valuenum"])


def _add_columns(means: _Means, path: Path, timed: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    key = "stay_id" if path.name.startswith("triage") else "charttime"
    for piece in _pieces(path, ["subject_id", key, *ED_COLUMNS]):
        chosen = timed(piece[piece["subject_id"].isin(means.subjects)])
        time = pd.to_datetime(chosen["charttime"], errors="coerce", format="ISO8601")
        for published, name in ED_COLUMNS.items():
            means.add(name, chosen["subject_id"], time, chosen[published])


def _arrivals(folder: Path, triage: Path) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Give each row of the triage table the time of arrival of its stay."""
    path = locate(folder, "ed", "edstays")
    if path is None:
        raise SourceError(f"{folder} has {triage.name} but no ed/edstays.csv.gz, which has its times, from PhysioNet")
    stays = tables.read_table(path, ("stay_id", "intime")).drop_duplicates("stay_id").set_index("stay_id")["intime"]
    return lambda piece: piece.assign(charttime=piece["stay_id"].map(stays))
