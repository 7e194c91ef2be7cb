"""The pipeline on one machine: from a source folder to releases, reuse, and the stop before training."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from hilum.data.layouts import phantom

RECIPE = """
ingest: {layout: phantom, preprocessing: {size: 32}}
encoders:
  - {name: moco, queue_size: 64, backbone: {width: 8}}
  - {name: pixels, components: 16}
train: {epochs: 1, batch_size: 32}
probe: {bootstrap: 100, kernels: [rbf], min_cases: 4}
audit: {bootstrap: 100, min_group: 5}
gate: {min_auroc: 0.0, max_auroc_gap: null, min_sensitivity: null, max_ece: null, max_shortcut: null, min_group: 1,
  groups: [sex]}
"""


def hilum_run(source, recipe, out, *more):
    return subprocess.run(
        [sys.executable, "-m", "hilum", "run", "--source", source, "--recipe", recipe, "--out", out, *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return phantom.generate(tmp_path_factory.mktemp("source") / "phantom", patients=60, seed=1, size=32)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(cohort, recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return hilum_run(cohort, recipe, out), out


def test_a_run_ends_with_reports_and_a_release_per_modality(finished):
    done, out = finished
    assert done.returncode == 0, done.stdout + done.stderr
    board = pd.read_csv(out / "leaderboard.csv")
    assert set(zip(board["modality"], board["encoder"], strict=True)) == {
        (modality, encoder) for modality in ("XR", "MR") for encoder in ("moco", "pixels")
    }
    for name in (
        "index.html",
        "leaderboard.html",
        "validation.html",
        "verdict.json",
        "gate/verdict.json",
        "gate/gate.html",
        "run.log",
    ):
        assert (out / name).is_file(), name
    for folder in ("xr-moco", "mr-moco", "xr-pixels", "mr-pixels"):
        assert (out / folder / "map.png").is_file()
        assert (out / folder / "audit.html").is_file()
    assert sorted(path.name for path in (out / "releases").iterdir()) == ["mr-moco", "xr-moco"]
    assert "| XR" in done.stdout or "XR" in done.stdout
    assert str(out / "index.html") in done.stdout


def test_every_report_names_the_run_and_no_patient(finished, cohort):
    _, out = finished
    ids = set(pd.read_csv(cohort / "cohort.csv")["patient_id"].astype(str))
    pages = [path for path in out.rglob("*.html") if ".pipeline" not in path.parts]
    assert len(pages) >= 7
    run = json.loads((out / "gate" / "verdict.json").read_text())["run"]
    for path in pages:
        content = path.read_text()
        assert run["data_digest"][:12] in content, path
        assert not [one for one in ids if f">{one}<" in content or f'"{one}"' in content], path


def test_a_second_run_trains_nothing_again(finished, cohort, recipe):
    _, out = finished
    done = hilum_run(cohort, recipe, out)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    fate = {words[0]: " ".join(words[1:]) for words in lines if len(words) > 1}
    for step in ("ingest", "validate", "train", "embed", "probe", "audit", "compare", "gate", "export"):
        assert fate[step] == "reused", (step, fate)
    assert fate["resolve"] != "reused"


def test_a_bad_dataset_stops_before_training_with_its_rows_named(cohort, recipe, tmp_path):
    source = tmp_path / "copied"
    source.mkdir()
    table = pd.read_csv(cohort / "cohort.csv")
    first = table[table["modality"] == "XR"].iloc[0]
    # The same film under many patients: duplicates across splits, which no training may see.
    table.loc[table["modality"] == "XR", ["shard", "file"]] = first[["shard", "file"]].to_list()
    table.to_csv(source / "cohort.csv", index=False)
    for entry in cohort.iterdir():
        if entry.name != "cohort.csv":
            (source / entry.name).symlink_to(entry)
    done = hilum_run(source, recipe, tmp_path / "out")
    assert done.returncode == 1
    assert "duplicate" in done.stderr
    assert "row" in done.stderr
    assert "Traceback" not in done.stderr
    assert "train" not in done.stdout
    assert (tmp_path / "out" / "validation.html").is_file()
    assert not (tmp_path / "out" / "releases").exists()


def test_the_validation_and_the_gate_each_keep_their_verdict(finished):
    _, out = finished
    assert "checks" in json.loads((out / "verdict.json").read_text())
    assert json.loads((out / "gate" / "verdict.json").read_text())["verdict"] == "pass"
    release = out / "releases" / "xr-moco"
    assert json.loads((release / "evidence" / "validation.json").read_text())["ok"]
    assert "checks held, and no critical one failed" in (release / "DATASET_CARD.md").read_text()
    assert json.loads((release / "card.json").read_text())["gate"] == {"verdict": "pass", "override": None}


def test_a_gate_that_cannot_be_met_refuses_the_release_until_somebody_answers_for_it(finished, cohort, recipe):
    _, out = finished
    strict = recipe.with_name("strict.yaml")
    strict.write_text(RECIPE.replace("min_auroc: 0.0", "min_auroc: 1.0"))
    refused = out.with_name("refused")
    done = hilum_run(cohort, strict, refused)
    found = json.loads((refused / "gate" / "verdict.json").read_text())
    assert found["verdict"] == "fail"
    assert done.returncode == 1
    assert "the gate refuses the release (fail)" in done.stderr
    assert not (refused / "releases").exists()

    reason = "a phantom's \"release\": it's {for} a test, 100%"
    done = hilum_run(cohort, strict, refused, "--override", "Dr O'Example", "--reason", reason)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((refused / "gate" / "verdict.json").read_text())["override"]
    assert (said["by"], said["reason"]) == ("Dr O'Example", reason)
    for name in ("xr-moco", "mr-moco"):
        assert json.loads((refused / "releases" / name / "card.json").read_text())["gate"]["override"] == said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_head_that_fuses_covariates_is_released_where_the_recipe_names_it(tmp_path):
    cohort = phantom.generate(tmp_path / "phantom", patients=240, seed=1, size=32)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        RECIPE.replace("  - {name: moco, queue_size: 64, backbone: {width: 8}}\n", "")
        + "finetune: {modes: [linear], fusions: [gated], head: gated, linear_epochs: 10, linear_rates: [0.01]}\n"
        + "export: {encoder: pixels}\n"
    )
    done = hilum_run(cohort, recipe, tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    releases = tmp_path / "out" / "releases"
    card = json.loads((releases / "xr-pixels" / "card.json").read_text())
    assert card["head"]["fusion"]["kind"] == "gated"
    assert {one["name"] for one in card["head"]["fusion"]["covariates"]} >= {"o2_saturation_pct"}
    assert json.loads((releases / "mr-pixels" / "card.json").read_text())["head"] is None
