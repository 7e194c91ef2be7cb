"""Releases of the size that is served, made to be timed: drawn images of 224 px, an encoder that has hardly learned."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import onnx
import yaml

SIZE: Final = 224
WIDTH: Final = {"resnet18": 64, "resnet50": 64, "densenet121": 32}  # as published
COMMAND: Final = "from hilum.cli import main; main()"


def release_of(backbone: str, work: Path) -> Path:
    """A release of embeddings with this backbone, by hilum's own verbs; kept in `work`."""
    home = work / backbone
    release = home / "release"
    if (release / "dossier.json").is_file() and trained(home) == backbone:
        return release
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    recipe = home / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "encoders": [
                    {"name": "moco", "backbone": {"name": backbone, "stem": "7x7", "width": WIDTH[backbone]}},
                    {"name": "pixels"},
                ],
                "train": {"epochs": 1, "batch_size": 16},
                "export": {"encoder": "moco", "engines": ["openvino-bf16", "onnxruntime-int8"]},
            }
        )
    )
    for arguments in (
        ["phantom", "--patients", "60", "--size", "256", "--out", str(home / "source")],
        [
            *("ingest", "--layout", "phantom", "--source", str(home / "source"), "--views", "PA,AP,LATERAL"),
            *("--size", str(SIZE), "--out", str(home / "dataset")),
        ],
        ["train", str(home / "dataset"), "--out", str(home / "run"), "--recipe", str(recipe)],
        [
            *("export", str(home / "dataset"), "--run", str(home / "run"), "--out", str(release)),
            *("--override", "benchmark", "--reason", "made to be timed", "--recipe", str(recipe)),
        ],
    ):
        subprocess.run([sys.executable, "-c", COMMAND, *arguments], check=True, stdout=subprocess.DEVNULL)
    assert trained(home) == backbone, f"{home} holds a {trained(home)}, not a {backbone}"
    return release


def trained(home: Path) -> str:
    """Name of the backbone that was trained there, as training noted it."""
    return str(json.loads((home / "run" / "recipe.json").read_text())["encoder"]["backbone"]["name"])


def millions(release: Path) -> float:
    """Weights of the graph that is served."""
    graph = onnx.load(release / "encoder.onnx").graph
    return sum(math.prod(one.dims) for one in graph.initializer) / 1e6
