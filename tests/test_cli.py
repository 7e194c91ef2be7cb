"""The command line: help with an example for each verb, one-sentence errors, exit statuses."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hilum.cli import cli

VERBS = [
    "phantom",
    "ingest",
    "validate",
    "train",
    "embed",
    "probe",
    "audit",
    "compare",
    "gate",
    "export",
    "predict",
    "dicom",
    "serve",
    "run",
]


def call(*words, **keywords):
    return subprocess.run(
        [sys.executable, "-m", "hilum", *map(str, words)], capture_output=True, text=True, check=False, **keywords
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    shown = CliRunner().invoke(cli, [verb, "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.output
    assert f"hilum {verb} " in shown.output


def test_the_verbs_are_those_that_people_script_against():
    assert set(VERBS) <= set(cli.commands)


def test_an_unknown_option_is_a_usage_error():
    done = call("ingest", "--nope")
    assert done.returncode == 2
    assert "--nope" in done.stderr


def test_an_unknown_layout_is_one_sentence_and_status_2(tmp_path):
    done = call("ingest", "--layout", "nihh", "--source", tmp_path, "--out", tmp_path / "d")
    assert done.returncode == 2
    assert done.stderr.startswith("hilum: there is no layout 'nihh'")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "d").exists()


def test_debug_shows_the_stack_trace(tmp_path):
    done = call("--debug", "ingest", "--layout", "nihh", "--source", tmp_path, "--out", tmp_path / "d")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_a_folder_that_is_no_dataset_is_said_so(tmp_path):
    done = call("validate", tmp_path, "--out", tmp_path / "v")
    assert done.returncode == 1
    assert "is not a dataset" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_recipe_names_the_key(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epoch: 3}\n")
    done = call("run", "--source", tmp_path, "--recipe", recipe, "--out", tmp_path / "o")
    assert done.returncode == 2
    assert "train.epoch" in done.stderr


def test_help_is_quick_because_nothing_heavy_is_imported():
    heavy = ("torch", "sklearn", "pandas", "kfp", "onnxruntime", "great_expectations", "evidently", "dvc")
    code = f"import hilum.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_telemetry_is_off_as_soon_as_hilum_is_imported():
    code = (
        "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '0'; import hilum; "
        "print([os.environ[n] for n in "
        "('ORT_DISABLE_TELEMETRY', 'GX_ANALYTICS_ENABLED', 'DO_NOT_TRACK', 'DVC_NO_ANALYTICS',"
        "'HF_HUB_DISABLE_TELEMETRY')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['1', 'false', '1', '1', '1']"


def test_a_run_with_an_unknown_layout_is_refused_before_anything_starts(tmp_path):
    done = call("run", "--source", tmp_path, "--layout", "nope", "--out", tmp_path / "o")
    assert done.returncode == 2
    assert "there is no layout 'nope'; there are nih," in done.stderr
    assert not (tmp_path / "o").exists()


def test_half_an_override_is_refused_before_anything_starts(tmp_path):
    done = call("run", "--source", tmp_path, "--out", tmp_path / "o", "--override", "Dr Example")
    assert done.returncode == 2
    assert "an override needs the name of who answers for it and a reason; a reason is missing" in done.stderr
    assert not (tmp_path / "o").exists()


def test_ingest_of_a_folder_leaves_nothing_beside_the_dataset(tmp_path):
    (tmp_path / "films").mkdir()
    rows = ["image,patient_id,modality,view"]
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "films" / f"{number}.png")
        rows.append(f"{number}.png,p{number},XR,PA")
    (tmp_path / "films" / "films.csv").write_text("\n".join(rows))
    done = call("ingest", "--layout", "folder", "--source", tmp_path / "films", "--out", tmp_path / "d", "--size", "16")
    assert done.returncode == 0, done.stderr
    assert "6 images of 6 patients" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "films"]
    assert len(list((tmp_path / "films").iterdir())) == 7
