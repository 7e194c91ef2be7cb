"""Where the images lie: chosen by what is free, and without a trace in what training sees."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hilum.data.store import Dataset
from hilum.errors import TrainingError
from hilum.learning.engine import places
from hilum.learning.engine.batches import Batch, TrainImages
from hilum.learning.engine.places import InHost, OnDevice, Place, choose, settle
from hilum.learning.engine.room import Room, free_host_bytes, size_told
from hilum.recipe import Pairing

CPU = torch.device("cpu")
GB = 10**9
THREAD = "hilum-images"


@pytest.mark.parametrize(
    ("store", "host", "gpu", "beside", "expected"),
    [
        (19, 128, 80, None, "gpu"),  # at most half of the GPU where nothing is known of the step
        (19, 128, 30, None, "pinned"),
        (19, 30, 30, None, "mapped"),  # nor does it take more than half of the host
        (19, 128, 30, 5, "gpu"),  # a known step leaves more
        (19, 128, 80, 60, "pinned"),
        (19, 128, None, None, "mapped"),  # on the CPU the page cache does as well
    ],
)
def test_auto_takes_the_nearest_place_that_fits(
    store: int, host: int, gpu: int | None, beside: int | None, expected: str
) -> None:
    free = Room(host * GB, None if gpu is None else gpu * GB)
    assert choose("auto", store * GB, free, None if beside is None else beside * GB) == expected


def test_a_place_that_cannot_hold_the_images_is_refused_with_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"images take 19 GB and 30 GB of the GPU's memory are free"):
        choose("gpu", 19 * GB, Room(128 * GB, 30 * GB))
    with pytest.raises(TrainingError, match=r"store is gpu, but there is no GPU"):
        choose("gpu", 1, Room(128 * GB))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(TrainingError, match=r"images take 19 GB for each of 4 workers and 128 GB of host memory"):
        choose("pinned", 19 * GB, Room(128 * GB, 30 * GB))
    assert choose("mapped", 19 * GB, Room(0, 0)) == "mapped"


def test_a_store_that_asks_for_a_gpu_is_refused_without_one(tiny_dataset: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(TrainingError, match="there is no GPU"):
        TrainImages(Dataset.open(tiny_dataset), "XR", CPU, "gpu")


def all_places(images: np.ndarray, rows: np.ndarray) -> dict[str, Place]:
    return {
        "read when asked for": InHost(images, rows, CPU, "", 0),
        "read ahead": InHost(images, rows, CPU, "", 2),
        "whole on the device": OnDevice(images, rows, CPU),
        "in host memory": settle(images, rows, CPU, "pinned"),
    }


def requests(n: int, n_rows: int) -> Iterator[tuple[int, Tensor]]:
    """Numbers in any order, some of them twice, in batches of changing size."""
    generator = torch.Generator().manual_seed(0)
    for number in range(n):
        yield number, torch.randint(n_rows, (3 + number % 4,), generator=generator)


def test_every_place_gives_the_same_images_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "BLOCK_BYTES", 7 * 20)  # several blocks
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 4, 5), dtype=np.uint8)
    rows = np.sort(random.choice(50, 30, replace=False))
    for name, place in all_places(images, rows).items():
        given = list(place.ahead(requests(20, 30)))  # kept: buffers that are used again must not shine through
        assert [number for number, _ in given] == list(range(20)), name
        for (_, x), (_, numbers) in zip(given, requests(20, 30), strict=True):
            assert x.dtype == torch.uint8
            np.testing.assert_array_equal(x.numpy(), images[rows[numbers.numpy()]], err_msg=name)
            np.testing.assert_array_equal(place.take(numbers).numpy(), x.numpy(), err_msg=name)


def test_batches_are_read_before_they_are_asked_for_and_no_more_than_said() -> None:
    images, pulled = np.zeros((9, 2, 2), dtype=np.uint8), []

    def asked() -> Iterator[tuple[int, Tensor]]:
        for number in range(9):
            pulled.append(number)
            yield number, torch.tensor([number])

    stream = InHost(images, np.arange(9), CPU, "", 2).ahead(asked())
    next(stream)
    assert pulled == [0, 1, 2]
    next(stream)
    assert pulled == [0, 1, 2, 3]
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def test_a_read_that_fails_fails_in_the_loop_and_leaves_no_thread() -> None:
    place = InHost(np.zeros((9, 2, 2), dtype=np.uint8), np.arange(9), CPU, "", 2)
    stream = place.ahead([(0, torch.tensor([1])), (1, torch.tensor([9]))])
    next(stream)
    with pytest.raises(IndexError):
        next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def batches(folder: Path, depth: int | None, start: int = 0) -> list[Batch]:
    images = TrainImages(Dataset.open(folder), "XR", CPU)
    if depth is not None:
        images._place = InHost(Dataset.open(folder).images, images.rows_N, CPU, "", depth)
    images.attend(("pneumonia",), Pairing())
    return list(images.stream(start, 12, seed=3, batch_size=20))


def test_training_sees_the_same_wherever_the_images_lie_and_wherever_it_goes_on(tiny_dataset: Path) -> None:
    first, ahead, later = batches(tiny_dataset, None), batches(tiny_dataset, 2), batches(tiny_dataset, 2, start=7)
    for others, those in ((ahead, first), (later, first[7:])):
        assert len(others) == len(those)
        for other, one in zip(others, those, strict=True):
            assert (other.step, other.n, other.done) == (one.step, one.n, one.done)
            assert (other.rows_G == one.rows_G).all()
            assert torch.equal(other.x_BCHW, one.x_BCHW)
            assert other.partners_BCHW is not None
            assert one.partners_BCHW is not None
            assert torch.equal(other.partners_BCHW, one.partners_BCHW)
            torch.testing.assert_close(other.labels_BL, one.labels_BL, equal_nan=True)
    x = Dataset.open(tiny_dataset).images
    for one in first:
        np.testing.assert_allclose(one.x_BCHW[:, 0].numpy(), x[one.rows_G[: one.n]] / 255.0, rtol=1e-6)
        assert one.partners_BCHW is not None
        np.testing.assert_allclose(one.partners_BCHW[:, 0].numpy(), x[one.rows_G[one.n :]] / 255.0, rtol=1e-6)


def machine(path: Path, groups: dict[str, str], own: str) -> Path:
    """A machine with 8 GB free whose process is in the control group `own`."""
    files = {"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n", "proc/self/cgroup": own, **groups}
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content, encoding="utf-8")
    return path


def test_the_control_group_bounds_what_is_free(tmp_path: Path) -> None:
    plain = machine(tmp_path / "plain", {}, "0::/\n")
    assert free_host_bytes(plain) == 8_000_000 * 1024
    second = {
        "sys/fs/cgroup/pod/memory.max": "4000000000\n",
        "sys/fs/cgroup/pod/memory.current": "3000000000\n",
        "sys/fs/cgroup/pod/memory.stat": "anon 1\ninactive_file 500000000\n",
        "sys/fs/cgroup/pod/task/memory.max": "max\n",
        "sys/fs/cgroup/pod/task/memory.current": "3000000000\n",
        "sys/fs/cgroup/pod/task/memory.stat": "inactive_file 0\n",
    }
    assert free_host_bytes(machine(tmp_path / "second", second, "0::/pod/task\n")) == 1_500_000_000
    first = {
        "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "2000000000\n",
        "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": "2100000000\n",
        "sys/fs/cgroup/memory/pod/memory.stat": "total_inactive_file 0\n",
    }
    assert free_host_bytes(machine(tmp_path / "first", first, "5:cpu,memory:/pod\n1:cpu:/\n")) == 0
    assert 0 < free_host_bytes() < 2**50  # this machine


def test_sizes_are_told_in_units_of_a_thousand() -> None:
    assert [size_told(n) for n in (999, 5_060_000, 18_900_000_000, 2e12)] == ["999 B", "5.06 MB", "18.9 GB", "2 TB"]
