"""The serving benchmark on a small release: it starts the fronts, loads them, and prints its table."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import releasing

SERVING = Path(__file__).resolve().parents[2] / "benchmarks" / "serving"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(SERVING))
    yield runpy.run_path(str(SERVING / "__main__.py"))
    sys.path.remove(str(SERVING))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="the load generator wrk is not installed: apt-get install wrk")
def test_the_table_has_a_line_per_server(bench, tmp_path_factory, capsys, monkeypatch):
    release = releasing.release(tmp_path_factory.getbasetemp() / "releasing", "XR")
    asked = ["--models", "resnet18", "--engines", "onnxruntime-fp32", "--servers", "torchserve,starlette"]
    assert bench["main"]([*asked, "--rounds", "1", "--seconds", "1"], lambda model, work: release) == 0
    said = capsys.readouterr().out
    lines = {line.split("|")[1].strip(): line for line in said.splitlines() if line.startswith("| ")}
    for name in ("torchserve", "starlette"):
        assert re.search(r"\d+\.\d / \d+ / \d+ \|", lines[name])
        assert lines[name].rstrip().endswith("| 0 |")
    assert re.search(r"ceiling \d+\.\d images/s", said)


def test_without_the_load_generator_it_says_what_is_missing(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench["main"]([]) == 2
    assert "apt-get install wrk" in capsys.readouterr().err


def test_the_film_is_a_jpeg_of_the_stated_side(bench):
    from io import BytesIO

    from PIL import Image

    content = bench["film"](256)
    with Image.open(BytesIO(content)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (256, 256), "L")
