"""The growth benchmark: its cohort, its clock, its limit, what it keeps, and its table."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from hilum.data.store import Dataset
from hilum.data.vectors import Vectors
from hilum.data.vocabulary import CHEXPERT_FINDINGS
from hilum.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import growth  # noqa: E402
import growth_cohort  # noqa: E402

GB = 1e9


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label table of CheXpert's form: 400 patients with one to four films."""
    random = np.random.default_rng(0)
    rows = []
    for patient in range(400):
        sex, age = random.choice(["Female", "Male"]), int(random.integers(18, 91))
        for film in range(int(random.integers(1, 5))):
            lateral = film == 3
            labels = random.choice([1.0, 0.0, -1.0, math.nan], len(CHEXPERT_FINDINGS), p=[0.35, 0.35, 0.05, 0.25])
            rows.append(
                {
                    "Path": f"CheXpert-v1.0-small/train/patient{patient:05d}/study1/view{film + 1}_frontal.jpg",
                    "Sex": sex,
                    "Age": age,
                    "Frontal/Lateral": "Lateral" if lateral else "Frontal",
                    "AP/PA": math.nan if lateral else random.choice(["AP", "PA"]),
                    **dict(zip(CHEXPERT_FINDINGS, labels, strict=True)),
                }
            )
    path = tmp_path_factory.mktemp("table") / "train.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def home(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("growth") / "600"
    growth_cohort.make(table, 600, 24, 16, out)
    return out


def measured(seconds: float, gb: float = 1.0, ended: str = growth.DONE, remark: str = "") -> growth.Measured:
    return growth.Measured(ended, seconds, seconds, gb * GB, 0.5, "code", remark)


def test_whole_patients_are_sampled_and_no_more_rows_than_asked(table: Path) -> None:
    whole = growth_cohort.sampled(table, len(pd.read_csv(table)))
    part = growth_cohort.sampled(table, 300)
    assert 296 <= len(part) <= 300
    counts, all_counts = part["patient_id"].value_counts(), whole["patient_id"].value_counts()
    assert (counts == all_counts[counts.index]).all()
    assert (part.groupby("patient_id")["split"].nunique() == 1).all()


def test_more_rows_than_the_table_has_are_refused(table: Path) -> None:
    with pytest.raises(UsageError, match=r"5,000 rows were asked for, but train\.csv has"):
        growth_cohort.sampled(table, 5_000)


def test_the_cohort_opens_and_belongs_together(home: Path) -> None:
    dataset = Dataset.open(home / growth_cohort.DATASET_FOLDER)
    rows = Vectors.open(home / growth_cohort.VECTORS_FOLDER).joined(dataset)
    assert len(rows) == len(dataset.images) == dataset.facts.n_images
    assert dataset.images[:, 0, 0].dtype == np.uint8
    means = dataset.images.reshape(len(rows), -1).mean(axis=1)
    np.testing.assert_allclose(means, rows["pixel_mean"])
    assert set(dataset.facts.labels) == set(CHEXPERT_FINDINGS.values())
    assert "made" in dataset.facts.caution.lower()


def test_the_planted_directions_lie_along_the_labels(table: Path, tmp_path: Path) -> None:
    rows = growth_cohort.sampled(table, len(pd.read_csv(table)))
    growth_cohort.vectors_of(rows, 24, tmp_path)
    z_ND = np.load(tmp_path / "vectors.npy")
    for name, length in (("sex", growth_cohort.SEX), ("support_devices", growth_cohort.PLAINEST)):
        present = (rows["sex"] == "F") if name == "sex" else rows[name] == 1
        present = present.to_numpy()
        apart = z_ND[present].mean(axis=0) - z_ND[~present].mean(axis=0)
        shuffled = np.random.default_rng(1).permutation(present)
        nothing = z_ND[shuffled].mean(axis=0) - z_ND[~shuffled].mean(axis=0)
        assert np.linalg.norm(apart) > 0.9 * length, name
        assert np.linalg.norm(apart) > 1.5 * np.linalg.norm(nothing), name


def test_a_cohort_is_made_once(table: Path, home: Path) -> None:
    before = (home / "vectors" / "vectors.npy").stat().st_mtime_ns
    assert growth_cohort.make(table, 600, 24, 16, home) == (
        len(Dataset.open(home / "dataset").manifest),
        Dataset.open(home / "dataset").facts.n_patients,
    )
    assert (home / "vectors" / "vectors.npy").stat().st_mtime_ns == before
    growth_cohort.make(table, 300, 24, 16, home.parent / "300")
    assert Dataset.open(home.parent / "300" / "dataset").facts.digest != Dataset.open(home / "dataset").facts.digest


@pytest.mark.parametrize(("power", "costs"), [(0.0, (5.0, 5.0)), (1.0, (2.0, 40.0)), (2.0, (0.5, 200.0))])
def test_the_exponent_of_a_power_law_is_its_power(power: float, costs: tuple[float, float]) -> None:
    assert growth.exponent((1_000, 20_000), costs) == pytest.approx(power)


def test_there_is_no_exponent_without_both_costs() -> None:
    assert math.isnan(growth.exponent((1_000, 20_000), (math.nan, 1.0)))
    assert math.isnan(growth.exponent((1_000, 20_000), (0.0, 1.0)))


def test_the_table_says_what_was_ended_and_guesses_nothing() -> None:
    found = {
        1_000: {"head": measured(2.0, 0.5, remark="a"), "tsne": measured(3.0)},
        20_000: {"head": measured(40.0, 1.0, remark="b"), "tsne": measured(1_800.0, 4.2, growth.LIMIT)},
    }
    head, tsne, gate = growth.rendered(found, ["head", "tsne", "gate"]).splitlines()[2:]
    powers = f"n^1.00 | n^{math.log(2) / math.log(20):.2f}"
    assert head == f"| `head` | 2.00 s (2.00 s), 0.50 GB | 40.0 s (40.0 s), 1.00 GB | {powers} | a, b |"
    assert "ended after 30.0 min, the limit, 4.20 GB by then" in tsne
    assert "n^" not in tsne
    assert gate.count("not asked for") == 2


def test_a_part_runs_in_its_own_process_and_is_not_measured_again(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--sizes", "200,400", "--parts", "bootstrap,fairness", "--dim", "24", "--image", "16"]
    asked += ["--table", str(table), "--work", str(tmp_path)]
    assert growth.main(asked) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["bootstrap", "fairness"]
    assert all(line.count("GB") == 2 and line.count("n^") == 2 for line in lines)
    kept = [tmp_path / "400-24-16" / f"{name}.json" for name in ("bootstrap", "fairness")]
    first = [json.loads(path.read_text()) for path in kept]
    assert all(one["ended"] == growth.DONE and one["processor_seconds"] > 0 for one in first)
    assert all(0.03 * GB < one["peak_bytes"] < 2 * GB for one in first)
    times = [path.stat().st_mtime_ns for path in kept]
    assert growth.main(asked) == 0
    assert capsys.readouterr().out == said
    assert [path.stat().st_mtime_ns for path in kept] == times
    monkeypatch.setattr(growth, "code_revision", lambda: "another")
    assert growth.known("bootstrap", kept[0].parent) is None


def test_a_part_over_the_limit_is_ended_and_says_so(home: Path) -> None:
    asleep = [sys.executable, "-c", "import time; kept = bytearray(50_000_000); time.sleep(60)"]
    found = growth.measure("map", home, 1.5 / 60, asleep)
    assert found.ended == growth.LIMIT
    assert found.seconds == pytest.approx(1.5)
    assert found.peak_bytes > 50e6
    assert growth.known("map", home) is None
    kept = growth.known("map", home, 1.5 / 60)  # as long as it may take: not tried again
    assert kept is not None
    assert growth.cell(kept) == growth.cell(found)
    assert growth.known("map", home, 3 / 60) is None


def test_a_part_that_fails_says_how_it_ended_and_its_needs_are_not_run(home: Path) -> None:
    found = growth.measure("head", home, 1.0, [sys.executable, "-c", "raise SystemExit(3)"])
    assert (found.ended, growth.cell(found)) == (growth.FAILED, "failed: exit status 3")
    assert growth.known("head", home) is None


def test_a_benchmark_that_is_stopped_leaves_no_part_running(table: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "growth.py"), "--sizes", "600", "--parts", "probe-mlp"]
    command += ["--dim", "24", "--image", "16", "--table", str(table), "--work", str(tmp_path)]
    running = psutil.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (parts := [one for one in running.children() if "--child" in one.cmdline()]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.terminate()
    assert running.wait(20) == 143
    assert not psutil.wait_procs(parts, timeout=20)[1]


def test_what_a_part_needs_is_run_before_it() -> None:
    assert growth.chosen_parts("gate") == ["probe-linear", "probe-rbf", "head", "audit", "shortcuts", "gate"]
    assert growth.chosen_parts("") == list(growth.PARTS)
    with pytest.raises(UsageError, match="there is no part 'heads'"):
        growth.chosen_parts("heads")


def test_without_the_table_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert growth.main(["--table", str(tmp_path / "absent.csv"), "--work", str(tmp_path)]) == 0
    assert "not measured" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
