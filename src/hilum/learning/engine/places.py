"""Where the images lie while an encoder learns: next to the arithmetic where they fit, else as near as can be.

gpu      all of them on the GPU, uint8: a batch is one gather there
pinned   all of them in the host's memory; a thread gathers the next batches into page-locked buffers, from which they
         are copied to the GPU on a stream of their own while the step runs
mapped   on the disk, memory-mapped; read ahead in the same way, each batch in the order of its rows

In every place a batch holds the same images in the same order. B: images of a batch, N: images of the train split,
H x W: pixels.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum import progress
from hilum.errors import TrainingError
from hilum.learning.engine import workers
from hilum.learning.engine.room import Room, room, size_told

Name = Literal["gpu", "pinned", "mapped"]
T = TypeVar("T")

BLOCK_BYTES: Final = 64 * 2**20  # copied at once when a store is loaded: no second copy of it arises
SHOWN_BYTES: Final = 2**30  # loading more than this takes seconds, and shows a bar
AHEAD: Final = 2  # batches read before they are asked for
MARGIN: Final = 1.25  # on what a step is estimated to need: cuDNN's workspaces and the allocator's gaps
CONTEXT_BYTES: Final = 2**30  # of CUDA itself and its libraries
HOST_SHARE: Final = 0.5  # of free host memory that a store may take: the rest is for the steps and the page cache


def choose(asked: Name | Literal["auto"], n_bytes: int, free: Room, beside: int | None = None) -> Name:
    """The nearest place that can hold a store, or the one asked for.

    Args:
        asked: `train.store` of the recipe.
        n_bytes: Of the store.
        free: What is free before the store is placed.
        beside: Bytes of the GPU's memory that a step needs besides the store; half of what is free where not known.

    Raises:
        TrainingError: The place that was asked for cannot hold it.
    """
    kept = 0 if free.gpu is None else free.gpu // 2 if beside is None else int(MARGIN * beside) + CONTEXT_BYTES
    on_gpu = max(0, free.gpu - kept) if free.gpu is not None else 0
    each = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # workers on this machine, each with a copy of its own
    in_host = int(HOST_SHARE * free.host) // each
    if asked == "gpu" and free.gpu is None:
        raise TrainingError("train.store is gpu, but there is no GPU; auto takes what there is")
    if asked == "gpu" and n_bytes > on_gpu:
        raise TrainingError(
            f"train.store is gpu, but the images take {size_told(n_bytes)} and {size_told(free.gpu or 0)} of the GPU's "
            f"memory are free, of which training needs {size_told(kept)}; pinned or mapped would hold them"
        )
    if asked == "pinned" and n_bytes > in_host:
        raise TrainingError(
            f"train.store is pinned, but the images take {size_told(n_bytes)} for each of {each} workers and "
            f"{size_told(free.host)} of host memory are free, of which they may take half; mapped needs none"
        )
    if asked != "auto":
        return asked
    if free.gpu is None or (n_bytes > on_gpu and n_bytes > in_host):
        return "mapped"
    return "gpu" if n_bytes <= on_gpu else "pinned"


class Place(Protocol):
    """What training asks of a place."""

    told: str

    def take(self, numbers_B: Tensor) -> Tensor:
        """Images by their numbers within the train split, uint8 (B, H, W), on the device of the arithmetic."""

    def ahead(self, asked: Iterable[tuple[T, Tensor]]) -> Iterator[tuple[T, Tensor]]:
        """The images of one request after the other, each with what came with it; read before they are asked for."""


class OnDevice:
    """The whole store in the memory of the device that computes."""

    told = "on the GPU"

    def __init__(self, images: NDArray[np.uint8], rows_N: NDArray[np.int64], device: torch.device) -> None:
        """Load it in blocks.

        Args:
            images: All images of the dataset, memory-mapped: uint8 (M, H, W).
            rows_N: Which of them are of the train split, ascending.
            device: Where to.
        """
        self._images_NHW = torch.empty((len(rows_N), *images.shape[1:]), dtype=torch.uint8, device=device)
        for part, block in _loaded(images, rows_N):
            self._images_NHW[part] = torch.from_numpy(block).to(device)

    def take(self, numbers_B: Tensor) -> Tensor:
        """See Place."""
        return self._images_NHW[numbers_B.to(self._images_NHW.device)]

    def ahead(self, asked: Iterable[tuple[T, Tensor]]) -> Iterator[tuple[T, Tensor]]:
        """See Place; there is nothing to wait for."""
        for what, numbers_B in asked:
            yield what, self.take(numbers_B)


class InHost:
    """The store in the host's memory or on its disk, read ahead by a thread.

    Only the batches under way lie in page-locked memory. A batch must be gathered into one before it is copied in one
    piece, so to page-lock the whole store too would take the memory from everyone and bring nothing.
    """

    def __init__(
        self, images: NDArray[np.uint8], rows_N: NDArray[np.int64], device: torch.device, told: str, depth: int
    ) -> None:
        """Take hold of the store.

        Args:
            images: uint8 (M, H, W), memory-mapped or not.
            rows_N: Row of `images` by number within the train split.
            device: Where batches go to.
            told: Where the store lies, in words.
            depth: Batches read ahead; 0 reads each when it is asked for, without a thread.
        """
        self._images = np.asarray(images)
        self._rows_N = rows_N
        self._device = device
        self._depth = depth
        self.told = told

    def take(self, numbers_B: Tensor) -> Tensor:
        """See Place."""
        rows_B, back_B = self._sorted(numbers_B)
        return torch.from_numpy(self._images.take(rows_B, axis=0)).to(self._device)[back_B.to(self._device)]

    def ahead(self, asked: Iterable[tuple[T, Tensor]]) -> Iterator[tuple[T, Tensor]]:
        """See Place."""
        if self._depth == 0:
            for what, numbers_B in asked:
                yield what, self.take(numbers_B)
            return
        landing = _Landing(self._device, self._depth + 2)
        reader = ThreadPoolExecutor(1, "hilum-images")
        under_way: deque[tuple[T, Future[tuple[Tensor, torch.cuda.Event | None]]]] = deque()
        try:
            for what, numbers_B in asked:
                under_way.append((what, reader.submit(self._read, numbers_B, landing)))
                if len(under_way) > self._depth:
                    first, read = under_way.popleft()
                    yield first, landing.arrived(*read.result())
            for first, read in under_way:
                yield first, landing.arrived(*read.result())
        finally:
            reader.shutdown(cancel_futures=True)

    def _sorted(self, numbers_B: Tensor) -> tuple[NDArray[np.int64], Tensor]:
        """Rows in the order in which a disk gives them best, and how to bring the images back into the batch's."""
        rows_B = self._rows_N[numbers_B.cpu().numpy()]
        order_B = np.argsort(rows_B, kind="stable")
        back_B = np.empty_like(order_B)
        back_B[order_B] = np.arange(len(order_B))
        return rows_B[order_B], torch.from_numpy(back_B)

    def _read(self, numbers_B: Tensor, landing: "_Landing") -> tuple[Tensor, torch.cuda.Event | None]:
        rows_B, back_B = self._sorted(numbers_B)
        buffer_BHW = landing.buffer(len(rows_B), self._images.shape[1:])
        # numpy and torch let other threads run while they copy; `clip` lets numpy copy straight into the buffer.
        np.take(self._images, rows_B, axis=0, out=buffer_BHW.numpy(), mode="clip")
        return landing.send(buffer_BHW, back_B)


class _Landing:
    """A ring of host buffers, page-locked for a GPU, and the stream on which they are copied there."""

    def __init__(self, device: torch.device, n: int) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._buffers = [torch.empty(0, dtype=torch.uint8)] * n
        self._copied: list[torch.cuda.Event | None] = [None] * n
        self._next = 0

    def buffer(self, n: int, shape: tuple[int, ...]) -> Tensor:
        """The buffer that was copied longest ago, for `n` images, uint8 (n, H, W); waits until it is copied."""
        slot, wanted = self._next, n * int(np.prod(shape))
        copied = self._copied[slot]
        if copied is not None:
            copied.synchronize()
        if self._buffers[slot].numel() < wanted:
            self._buffers[slot] = torch.empty(wanted, dtype=torch.uint8, pin_memory=self._cuda)
        return self._buffers[slot][:wanted].view(n, *shape)

    def send(self, buffer_BHW: Tensor, back_B: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Copy the buffer that was given last to the device, and its images into the batch's order there."""
        slot, self._next = self._next, (self._next + 1) % len(self._buffers)
        if self._stream is None:
            return buffer_BHW[back_B], None
        with torch.cuda.stream(self._stream):
            x_BHW = buffer_BHW.to(self._device, non_blocking=True)[back_B.to(self._device)]
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._copied[slot] = copied
        return x_BHW, copied

    def arrived(self, x_BHW: Tensor, copied: torch.cuda.Event | None) -> Tensor:
        """The images, for use on the current stream, which waits for their copy without stopping the host."""
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            x_BHW.record_stream(current)
        return x_BHW


def settle(
    images: NDArray[np.uint8],
    rows_N: NDArray[np.int64],
    device: torch.device,
    asked: Name | Literal["auto"] = "auto",
    beside: int | None = None,
) -> Place:
    """Bring the images of the train split to their place.

    Args:
        images: All images of the dataset, memory-mapped: uint8 (M, H, W).
        rows_N: Which of them are of the train split, ascending.
        device: Where the arithmetic runs.
        asked: `train.store` of the recipe.
        beside: Bytes of the GPU's memory that a step needs; None where not known.

    Raises:
        TrainingError: The place that was asked for cannot hold them.
    """
    n_bytes, free = store_bytes(images, len(rows_N)), room(device)
    name = choose(asked, n_bytes, free, beside)
    if name == "gpu":
        return OnDevice(images, rows_N, device)
    # On a CPU the thread that reads would take the cores from the step; it pays where the disk has to be waited for.
    slow = name == "mapped" and n_bytes > free.host
    depth = AHEAD if device.type == "cuda" or slow else 0
    if name == "mapped":
        return InHost(images, rows_N, device, "memory-mapped from the disk", depth)
    held_NHW = np.empty((len(rows_N), *images.shape[1:]), dtype=np.uint8)
    for part, block in _loaded(images, rows_N):
        held_NHW[part] = block
    return InHost(held_NHW, np.arange(len(rows_N)), device, "in host memory", depth)


def store_bytes(images: NDArray[np.uint8], n: int) -> int:
    """Bytes of `n` of the images."""
    return n * int(np.prod(images.shape[1:]))


def _loaded(images: NDArray[np.uint8], rows_N: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """Block after block of the train images, under a bar where it takes a while."""
    size = max(1, BLOCK_BYTES // max(1, store_bytes(images, 1)))
    silent = workers.number() > 0 or store_bytes(images, len(rows_N)) < SHOWN_BYTES
    with progress.bar("load images", len(rows_N), "image", silent=silent) as shown:
        for start in range(0, len(rows_N), size):
            part = slice(start, min(start + size, len(rows_N)))
            yield part, np.asarray(images).take(rows_N[part], axis=0)
            shown.update(part.stop - part.start)
