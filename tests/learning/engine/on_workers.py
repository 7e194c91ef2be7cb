"""What `torchrun` runs on each worker for test_workers.py: `on_workers.py CASE FOLDER`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hilum.errors import TrainingError
from hilum.learning import training
from hilum.learning.engine import workers
from hilum.learning.nets.norm import synchronise
from hilum.recipe import Train

N = 7  # two workers have four and three


def parts(folder: Path) -> None:
    """Save what gathering, means and synchronised norms give on this worker."""
    state = torch.load(folder / "norm.pt", weights_only=True)
    with workers.together():
        net = made_net()
        net.load_state_dict(state["net"])
        synchronise(net)
        step_of = DistributedDataParallel(net)
        part = workers.part_of(N)
        x = state["x"][part].clone().requires_grad_()
        y = step_of(x)
        share = len(x) / N
        (y.square() * state["weight"][part]).mean().mul(share * workers.count()).backward()
        found = {
            "part": [part.start, part.stop],
            "gathered": workers.gather(torch.arange(N)[part] * 10),
            "means": workers.means({"a": x.detach()[:, 0, 0, 0].mean(), "b": torch.tensor(2.0)}, share),
            "y": y.detach(),
            "x_grad": x.grad,
            "grads": {name: p.grad for name, p in net.named_parameters()},
            "net": net.state_dict(),
            "evaluated": net.eval()(state["x"]).detach(),
            "kinds": [type(layer).__name__ for layer in net],
        }
        workers.agree(5, "five")
        try:
            workers.agree(workers.number(), "who they are")
        except TrainingError as error:
            found["disagreed"] = str(error)
        torch.save(found, folder / f"{workers.number()}.pt")


def made_net() -> nn.Sequential:
    """Two norms that are trained and one that is not."""
    frozen = nn.BatchNorm2d(3).requires_grad_(False)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), frozen, nn.Flatten(), nn.BatchNorm1d(12, momentum=None))


def runs(folder: Path) -> None:
    """Train every recipe of a list."""
    with workers.together():
        for name, recipe in json.loads((folder / "recipes.json").read_text(encoding="utf-8")).items():
            training.run(folder / "dataset", Train.model_validate(recipe), folder / "two" / name)


def one_fails(folder: Path) -> None:
    """Worker 1 meets an error of its own while the other waits for it."""
    with workers.together():
        if workers.number() == 1:
            raise TrainingError("worker 1 cannot go on")
        workers.wait()


def one_is_killed(folder: Path) -> None:
    """Worker 1 ends without a word while the other waits for it."""
    with workers.together():
        workers.wait()
        if workers.number() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        workers.wait()


if __name__ == "__main__":
    case = {"parts": parts, "runs": runs, "one_fails": one_fails, "one_is_killed": one_is_killed}[sys.argv[1]]
    try:
        case(Path(sys.argv[2]))
    except TrainingError as error:
        print(f"hilum: {error}", file=sys.stderr)
        sys.exit(1)
