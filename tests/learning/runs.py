"""What tests read of encoder runs."""

import json
from pathlib import Path

import torch
from small_encoders import SMALL
from torch import Tensor

from hilum.recipe import Train


def train_recipe(name: str = "moco", **changes: object) -> Train:
    return Train.model_validate({"encoder": SMALL[name], "epochs": 2, "batch_size": 16, **changes})


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def repeatable(run: Path) -> list[dict[str, float]]:
    """The metrics without what the clock says."""
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in metrics(run)]


def card(run: Path) -> dict:
    return json.loads((run / "card.json").read_text(encoding="utf-8"))


def weights(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "weights.pt", weights_only=True)


def same(first: object, second: object) -> bool:
    """Equal to the last bit, tensors within dicts and lists included."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same(value, second[key]) for key, value in first.items())
        )
    if isinstance(first, list | tuple):
        return (
            isinstance(second, list | tuple)
            and len(first) == len(second)
            and all(same(a, b) for a, b in zip(first, second, strict=True))
        )
    return bool(first == second)
