"""`hilum gate` from the shell: what it prints, writes and exits with."""

import json
import subprocess
import sys

import pytest
from made_evidence import TESTED, interval, write


def hilum(*words):
    command = [sys.executable, "-m", "hilum", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weak")
    return write(folder, tested={**TESTED, "auroc": interval(0.4, 0.5, 0.58)})


def test_a_refusal_is_status_1_and_says_why(weak, tmp_path):
    done = hilum("gate", "--probe", weak[0], "--audit", weak[1], "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "fail               XR: Does it rank patients with pneumonia above patients without? 0.500" in done.stdout
    assert f"fail: {tmp_path / 'out' / 'gate.html'}" in done.stdout
    assert done.stderr.startswith("hilum: the gate refuses the release (fail): XR: Does it rank")
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["verdict"] == "fail"
    assert (tmp_path / "out" / "gate.html").is_file()


def test_somebody_may_answer_for_it(weak, tmp_path):
    by = ("--override", "Dr Example", "--reason", "it is a test")
    done = hilum("gate", "--probe", weak[0], "--audit", weak[1], "--out", tmp_path / "out", *by)
    assert done.returncode == 0, done.stderr
    assert "released under an override by Dr Example on " in done.stdout
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["override"]["reason"] == "it is a test"


def test_a_reason_without_a_name_is_refused(weak, tmp_path):
    done = hilum("gate", "--probe", weak[0], "--audit", weak[1], "--out", tmp_path / "out", "--reason", "because")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "hilum: an override needs the name of who answers for it and a reason; a name is missing"
    )
    assert not (tmp_path / "out").exists()


def test_encoder_label_and_tolerances_are_the_recipes_unless_said_otherwise(weak, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("gate: {min_auroc: 0.3}\nexport: {encoder: pixels}\n")
    called = ("gate", "--probe", weak[0], "--audit", weak[1], "--out", tmp_path / "out", "--recipe", recipe)
    done = hilum(*called)
    assert done.returncode == 2
    assert "no probe is of the encoder 'pixels'; there are probes of moco" in done.stderr
    done = hilum(*called, "--encoder", "moco")
    assert done.returncode == 0, done.stderr
    assert f"pass: {tmp_path / 'out' / 'gate.html'}" in done.stdout
