"""The means over (t - 48 h, t] against a loop over every study and every event."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hilum.data import covariates
from hilum.errors import SourceError

HOUR = pd.Timedelta(hours=1)
START = pd.Timestamp("2150-03-01 08:00:00")
CHART = {
    220045: "heart_rate_per_min", 220050: "systolic_mmhg", 220179: "systolic_mmhg", 223761: "temperature_celsius",
    223762: "temperature_celsius", 999999: None,
}  # fmt: skip
LABS = {50912: "creatinine_mg_per_dl", 50931: "glucose_mg_per_dl"}


def put(path: Path, table: pd.DataFrame, compress: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = table.to_csv(index=False).encode()
    path.write_bytes(gzip.compress(content) if compress else content)


def events(random: np.random.Generator, items: dict[int, str | None], n: int, subjects: list[int]) -> pd.DataFrame:
    """Events on a grid of half hours, so that some fall on a study's time and some 48 hours before it."""
    return pd.DataFrame(
        {
            "subject_id": random.choice(subjects, n),
            "hadm_id": np.nan,
            "itemid": random.choice(list(items), n),
            "charttime": START + random.integers(-200, 200, n) * HOUR / 2,
            "valuenum": random.choice([np.nan, -5.0, 0.9, 36.5, 38.0, 80.0, 98.6, 101.0, 120.0, 9999.0], n),
            "valueuom": "",
        }
    )


def naive(studies: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Section 9 of the method, word by word. `table`: subject_id, name, time, value."""
    means = pd.DataFrame(np.nan, index=studies["study_id"], columns=list(covariates.NAMES))
    for _, study in studies.iterrows():
        values: dict[str, list[float]] = {}
        for event in table.itertuples():
            hours = (study["time"] - event.time) / HOUR
            if event.subject_id != study["subject_id"] or not 0 <= hours < 48:
                continue
            value = event.value
            if event.name == "temperature_celsius" and value > 60:
                value = (value - 32) * 5 / 9
            low, high = covariates.RANGES[event.name]
            if low <= value <= high:
                values.setdefault(event.name, []).append(value)
        for name, measured in values.items():
            means.loc[study["study_id"], name] = np.mean(measured)
    return means


@pytest.mark.parametrize("rows_at_once", [7, 1_000_000])
def test_means_over_the_window_equal_a_loop(tmp_path, monkeypatch, rows_at_once):
    monkeypatch.setattr(covariates, "ROWS_AT_ONCE", rows_at_once)
    random = np.random.default_rng(1)
    subjects = [10_000_001, 19_999_999, 19_999_998]  # would be one number in float32
    studies = pd.DataFrame(
        {
            "subject_id": [*subjects, *subjects[:2]],
            "study_id": [5, 3, 9, 1, 7],
            "time": START + np.array([0.0, 0.5, 10.0, 30.0, 50.0]) * HOUR,
        }
    )
    others = [*subjects, 5, 99_999_999]
    chart, labs = events(random, CHART, 300, others), events(random, LABS, 200, others)
    put(tmp_path / "iv" / "icu" / "chartevents.csv.gz", chart)
    put(tmp_path / "iv" / "hosp" / "labevents.csv", labs, compress=False)
    stays = pd.DataFrame({"subject_id": subjects, "stay_id": [1, 2, 3], "intime": START - np.arange(3) * 40 * HOUR})
    put(tmp_path / "ed" / "ed" / "edstays.csv.gz", stays)
    signs = {"temperature": 99.5, "heartrate": 70.0, "resprate": 18.0, "o2sat": 97.0, "sbp": 120.0, "dbp": 70.0}
    put(tmp_path / "ed" / "ed" / "triage.csv.gz", stays[["subject_id", "stay_id"]].assign(**signs, pain="unable"))
    vital = stays[["subject_id", "stay_id"]].assign(charttime=START - HOUR, **signs, rhythm="", pain="")
    put(tmp_path / "ed" / "ed" / "vitalsign.csv.gz", vital.assign(temperature=37.0, o2sat=np.nan))

    given, absent = covariates.before_studies(studies, tmp_path / "iv", tmp_path / "ed")

    item_names = {**CHART, **LABS}
    table = pd.concat([chart, labs]).assign(name=lambda rows: rows["itemid"].map(item_names))
    table = table.dropna(subset="name").rename(columns={"charttime": "time", "valuenum": "value"})
    for wide, time in (
        (stays.assign(**signs), stays["intime"]),
        (vital.assign(temperature=37.0, o2sat=np.nan), vital["charttime"]),
    ):
        for published, name in covariates.ED_COLUMNS.items():
            long = pd.DataFrame(
                {"subject_id": wide["subject_id"], "name": name, "time": time, "value": wide[published]}
            )
            table = pd.concat([table, long])
    expected = naive(studies, table)
    assert absent == ""
    assert expected.notna().sum().sum() > 20
    pd.testing.assert_frame_equal(given.sort_index(), expected.sort_index(), check_dtype=False)


def test_the_window_is_open_before_and_closed_at_the_study(tmp_path):
    studies = pd.DataFrame({"subject_id": [1], "study_id": [2], "time": [START]})
    for hours, counts in ((0, True), (1 / 3600, True), (48, False), (48 - 1 / 3600, True), (-1 / 3600, False)):
        event = pd.DataFrame(
            {"subject_id": [1], "itemid": [50912], "charttime": [START - hours * HOUR], "valuenum": [1.0]}
        )
        event["charttime"] = event["charttime"].dt.round("s")
        put(tmp_path / "hosp" / "labevents.csv.gz", event)
        means, absent = covariates.before_studies(studies, tmp_path, None)
        assert means["creatinine_mg_per_dl"].notna().tolist() == [counts], hours
        assert "icu/chartevents" in absent


def test_refuses_other_tables(tmp_path):
    studies = pd.DataFrame({"subject_id": [1], "study_id": [2], "time": [START]})
    put(tmp_path / "hosp" / "labevents.csv.gz", pd.DataFrame({"subject_id": [1], "charttime": [START]}))
    with pytest.raises(SourceError, match="lacks the columns itemid, valuenum"):
        covariates.before_studies(studies, tmp_path, None)
    put(tmp_path / "ed" / "triage.csv.gz", pd.DataFrame({"subject_id": [1], "stay_id": [2]}))
    with pytest.raises(SourceError, match=r"has triage\.csv\.gz but no ed/edstays"):
        covariates.before_studies(studies, None, tmp_path)


def test_a_truncated_table_is_refused(tmp_path):
    studies = pd.DataFrame({"subject_id": [1], "study_id": [2], "time": [START]})
    path = tmp_path / "hosp" / "labevents.csv.gz"
    put(path, events(np.random.default_rng(0), LABS, 5000, [1]))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="cannot be read as a table"):
        covariates.before_studies(studies, tmp_path, None)
