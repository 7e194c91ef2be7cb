"""The lines of the README that ask a server, run as they are written."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from releasing import drawn_image, encoded

README = Path(__file__).resolve().parents[2] / "README.md"
LINES = re.search(r"```sh\n(TOKEN=.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1].splitlines()


@pytest.fixture(scope="module")
def front(xr_release, mr_release, starlette_front):
    with starlette_front([xr_release, mr_release], "--workers", "1") as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the lines are run: with the example images that they name, drawn by the test."""
    found = tmp_path_factory.mktemp("checkout")
    named = set(re.findall(r"data/examples/(\S+?\.png)", "\n".join(LINES)))
    assert named == {"xray-pneumonia.png", "brain-axial.png"}
    (found / "data" / "examples").mkdir(parents=True)
    (found / "data" / "examples" / "xray-pneumonia.png").write_bytes(encoded(drawn_image("PA")))
    (found / "data" / "examples" / "brain-axial.png").write_bytes(encoded(drawn_image("AXIAL")))
    return found


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("curl")])
def test_it_gets_an_answer(front, folder, line):
    token = next(one for one in LINES if one.startswith("TOKEN=")).replace("KEY_FILE", str(front.running.keys))
    asked = line.replace("localhost:8080", front.running.url.removeprefix("http://"))
    assert asked != line
    failing = 'curl() { command curl --fail-with-body -sS "$@"; }'
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -e", failing, token, asked])],
        cwd=folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    if "-o z.npy" in line:
        assert np.load(folder / "z.npy").ndim == 1


def test_there_are_such_lines():
    assert sum(line.startswith("curl") for line in LINES) >= 4
