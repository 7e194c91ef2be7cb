"""What loading and augmentation cost: training steps over the same steps on constant tensors; the aim is at most 1.05.

    python benchmarks/loading.py              # some configurations of `moco`, on the GPU where there is one
    python benchmarks/loading.py --standard   # only the one that is judged
    python benchmarks/loading.py --smoke      # tiny, to see that it runs; judges nothing

`full` takes its batches from a synthetic uint8 store as training does and makes two views of each image. `bare` is the
same forward pass, backward pass, clipping, update, key encoder and queue on one constant batch, whose views are the
batch itself. Both step the same weights, and take turns: full, bare, bare, full, ... The ratio is of the medians, and
its spread that of the ratios turn by turn. Exit status 1 where the standard configuration's ratio is above the aim.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # also where hilum is not installed

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from hilum.data.store import IMAGES, Dataset, DatasetFacts
from hilum.learning import augment as augmenting
from hilum.learning import encoders
from hilum.learning.encoders import Encoder
from hilum.learning.engine import device as devices
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.draws import Draws
from hilum.learning.engine.optimizers import moved_by
from hilum.recipe import Backbone, Moco, Preprocessing, Train

AIM = 1.05


@dataclass(frozen=True)
class Case:
    """One configuration."""

    title: str
    size: int
    train: Train


def case(title: str, size: int, batch: int, precision: str, backbone: Backbone) -> Case:
    """`moco` with a backbone."""
    train = {"encoder": Moco(backbone=backbone), "batch_size": batch, "precision": precision}
    return Case(f"{title}, {size} px, batch {batch}, {precision}", size, Train.model_validate(train))


RESNET18, DENSENET = Backbone(name="resnet18", width=64, stem="7x7"), Backbone(name="densenet121", width=32, stem="7x7")
CPU_CASES = (  # the first is the standard: hilum's defaults
    case("resnet_small", 64, 64, "float32", Backbone()),
    case("resnet_small", 64, 64, "bfloat16", Backbone()),
    case("resnet18", 64, 32, "float32", Backbone(name="resnet18", width=64)),
    case("resnet18", 224, 8, "float32", RESNET18),
    case("densenet121", 224, 8, "float32", DENSENET),
)
GPU_CASES = (  # the first is the standard: source B's
    case("densenet121", 224, 512, "bfloat16", DENSENET),
    case("resnet18", 224, 256, "bfloat16", RESNET18),
    case("resnet18", 64, 256, "bfloat16", Backbone(name="resnet18", width=64)),
    case("resnet_small", 64, 64, "bfloat16", Backbone()),
)
SMOKE_CASES = (case("resnet_small", 32, 8, "float32", Backbone(width=8)),)


def synthetic(folder: Path, n: int, size: int, labels: Sequence[str] = (), modality: str = "XR") -> Dataset:
    """A dataset of noise, three images to a patient; of its folder only the pixels are written."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(folder / IMAGES, mode="w+", dtype=np.uint8, shape=(n, size, size))
    for start in range(0, n, 256):
        images[start : start + 256] = random.integers(0, 256, images[start : start + 256].shape, dtype=np.uint8)
    images.flush()
    number = np.arange(n)
    table = {
        "image_id": [f"i{i}" for i in number],
        "patient_id": [f"p{i // 3}" for i in number],
        "study_id": [f"s{i // 2}" for i in number],
        "modality": modality,
        "view": np.array(["PA", "LATERAL"])[number % 2],
        "split": "train",
        **{label: random.integers(0, 2, n).astype(np.float64) for label in labels},
    }
    facts = DatasetFacts(
        layout="folder",
        source_revision="folder",
        source_digest="0" * 64,
        digest="0" * 64,
        code_revision="benchmark",
        hilum_version="benchmark",
        preprocessing=Preprocessing(size=size),
        labels=tuple(labels),
        covariates=(),
        n_images=n,
        n_patients=-(-n // 3),
        n_rejected=0,
        licence="none",
        citation="none",
    )
    return Dataset(folder, facts, pd.DataFrame(table))


class Steps:
    """The steps of one run, as training takes them, without its checkpoints and metrics."""

    def __init__(self, train: Train, images: TrainImages, encoder: Encoder, device: torch.device) -> None:
        self.train, self.device, self.encoder = train, device, encoder
        self.trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
        self.optimizer = moved_by(encoder, train.optimizer)
        self.stream = images.stream(0, 10**9, train.seed, train.batch_size)
        self.constant = images.batch(torch.arange(train.batch_size) % len(images))

    def full(self) -> None:
        """With the next batch."""
        self.step(next(self.stream))

    def bare(self) -> None:
        """With the constant batch; under `views_as_they_are`."""
        self.step(self.constant)

    def step(self, batch: Batch) -> None:
        """Forward, backward, clip, update, and what follows."""
        draws = Draws(batch.step, batch.n, self.device)
        with devices.autocast(self.device, self.train.precision):
            loss = self.encoder.loss(batch, draws)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.train.optimizer.clip_norm)
        self.optimizer.step()
        self.encoder.after_step()


def steps_of(train: Train, size: int, folder: Path, device: torch.device, n_images: int, compiled: bool) -> Steps:
    """An encoder on a synthetic store, ready to step."""
    encoder = encoders.build(train.encoder, size, train.seed).to(device)
    devices.lay_out(encoder)
    dataset = synthetic(folder, n_images, size, encoder.labels, train.modality)
    images = TrainImages(dataset, train.modality, device, train.store)
    encoder.fit(images, train.seed)
    encoder.to(device)
    images.attend(encoder.labels, encoder.pairing)
    if compiled:
        for net in encoder.hot():
            net.compile()
    return Steps(train, images, encoder.train(), device)


@contextmanager
def views_as_they_are() -> Iterator[None]:
    """Let every encoder that augments take the batch as its view."""
    real = augmenting.augment
    users = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("hilum.learning") and module is not augmenting and getattr(module, "augment", None) is real
    ]

    def as_it_is(x_BCHW: Tensor, *_: object) -> Tensor:
        return x_BCHW

    for module in users:
        module.augment = as_it_is  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in users:
            module.augment = real  # type: ignore[attr-defined]


def seconds(step: Callable[[], None], n: int, device: torch.device) -> float:
    """Of one of `n` steps, the GPU's work included."""
    settle(device)
    begin = time.perf_counter()
    for _ in range(n):
        step()
    settle(device)
    return (time.perf_counter() - begin) / n


def settle(device: torch.device) -> None:
    """Wait until the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(steps: Steps, repeats: int, each: int) -> tuple[list[float], list[float]]:
    """Seconds of a step, full and bare, by turn."""

    def bare() -> float:
        with views_as_they_are():
            return seconds(steps.bare, each, steps.device)

    def full() -> float:
        return seconds(steps.full, each, steps.device)

    full(), bare()  # warm up
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            took[side].append((full, bare)[side]())
    return took


def ratio_of(took: tuple[list[float], list[float]]) -> float:
    """Of the medians."""
    return statistics.median(took[0]) / statistics.median(took[1])


def main() -> int:
    """Print a line per configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--standard", action="store_true", help="only the configuration that is judged")
    parser.add_argument("--smoke", action="store_true", help="tiny, and nothing is judged")
    parser.add_argument("--repeats", type=int, default=9)
    chosen = parser.parse_args()
    device = devices.pick()
    cases = SMOKE_CASES if chosen.smoke else CPU_CASES if device.type == "cpu" else GPU_CASES
    ratios = []
    for one in cases[:1] if chosen.standard else cases:
        with tempfile.TemporaryDirectory() as folder:
            steps = steps_of(one.train, one.size, Path(folder), device, 4 * one.train.batch_size, False)
            took = in_turns(steps, 1 if chosen.smoke else chosen.repeats, 10 if device.type == "cuda" else 1)
        single = [full / bare for full, bare in zip(*took, strict=True)]
        full, bare = (1e3 * statistics.median(values) for values in took)
        ratios.append(ratio_of(took))
        print(
            f"{one.title}: full {full:.1f} ms, bare {bare:.1f} ms, ratio {ratios[-1]:.3f} "
            f"({min(single):.3f} to {max(single):.3f})",
            flush=True,
        )
    return int(not chosen.smoke and ratios[0] > AIM)


if __name__ == "__main__":
    sys.exit(main())
