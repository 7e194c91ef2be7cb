"""The benchmarks of training run: small, on this machine; what they print then is no measurement."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    # As on a machine without hilum: the script finds src by itself, from wherever it is called.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT.parent)


def rows_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_the_gpu_script_steps_an_encoder_of_the_sources(tmp_path: Path) -> None:
    done = run("gpu.py", "--smoke", "--only", "mimic-discern", "--out", str(tmp_path / "results" / "cpu.md"))
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "results" / "cpu.md").read_text(encoding="utf-8")
    assert written.startswith("# Training on one CPU\n\nA smoke run")
    ((recipe, size, batch, *_, utilisation, _peak, loading, hours),) = rows_of(written)
    assert (recipe, size, batch, utilisation) == ("mimic-discern", "32", "8", "n/a")
    assert float(loading) > 0
    assert float(hours) > 0
    assert "Left out" not in written


def test_the_gpu_script_measures_nothing_without_a_gpu() -> None:
    done = run("gpu.py")
    assert done.returncode == 2
    assert done.stderr == "gpu: there is no GPU here; --smoke runs tiny networks on the CPU\n"


def test_the_loading_script_prints_a_ratio() -> None:
    done = run("loading.py", "--smoke")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("ratio ")[1].split()[0]) > 0


@pytest.mark.slow
def test_the_gpu_script_steps_every_encoder_of_the_sources() -> None:
    done = run("gpu.py", "--smoke")
    assert done.returncode == 0, done.stderr
    assert {row[0].split("-")[1] for row in rows_of(done.stdout)} == {
        "vae", "diffae", "moco", "medaug", "discern", "supervised"
    }  # fmt: skip
    assert "Left out" not in done.stdout
