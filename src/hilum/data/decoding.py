"""Decoding a source's images on all cores: what one worker does with a chunk of them, and the workers.

Workers write pixels straight into the images file and send back only what the manifest needs. The calling process works
too, and each claims its next chunk when it is free: nothing waits for the start of processes, and a small set is done
before they have started.

Processes come from a fork server: a plain fork of a process with threads (BLAS, Arrow, progress bars) can deadlock.
This module and those it imports stay free of pandas and pydantic, which would cost each worker most of a second.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hilum.data.images import content_box, pixel_digest, resize
from hilum.errors import DatasetError, ImageError

if TYPE_CHECKING:
    from hilum.data.manifest import Pixels

CHUNK: Final = 32  # images: enough to make the hand-over cheap, few enough to share evenly and lose little when killed

# Of one image: digest, mean, std, min, max, saturated share (manifest.PIXELS, in that order); or why it was rejected.
Outcome: TypeAlias = list[str | float] | str


@dataclass(frozen=True)
class Chunk:
    """Consecutive images: the number of the first, and how their layout finds the pixels of each."""

    first: int
    locators: tuple[str, ...]


@dataclass(frozen=True)
class Decoder:
    """How a chunk is decoded, and where its pixels go.

    Attributes:
        load: The cohort's, from a locator to pixels of shape (H, W).
        images: File of uint8 images, (N, S, S) after `offset` bytes.
        offset: Where the pixels begin.
        size: S.
        pad_value: See hilum.recipe.Preprocessing.
    """

    load: "Callable[[str], Pixels]"
    images: Path
    offset: int
    size: int
    pad_value: int

    def decode(self, chunk: Chunk) -> list[Outcome]:
        """Decode, prepare (as `images.fit`) and write a chunk; what it leaves of a rejected one means nothing."""
        block = np.full((len(chunk.locators), self.size, self.size), self.pad_value, dtype=np.uint8)
        histograms = np.zeros((len(block), 256), dtype=np.int64)  # of the image without its padding
        reasons: dict[int, str] = {}
        for i, locator in enumerate(chunk.locators):
            try:
                pixels = self.load(locator)
                image = resize(pixels, self.size)
            except ImageError as error:
                reasons[i] = f"{error.fault}: {error}"
            except MemoryError:
                raise
            except Exception as error:  # one strange file is no reason to lose a night's work; it is named and counted
                reasons[i] = f"unexpected: {type(error).__name__}"
            else:
                block[i][content_box(pixels.shape, self.size)] = np.asarray(image)
                histograms[i] = image.histogram()
        if os.pwrite(self._file, block.data, self.offset + chunk.first * self.size**2) != block.nbytes:
            raise DatasetError(f"the disk of {self.images.parent} is full; make room and run ingest again, it goes on")
        moments = _moments(histograms).tolist()
        return [reasons.get(i) or [pixel_digest(image), *moments[i]] for i, image in enumerate(block)]

    @cached_property
    def _file(self) -> int:
        # Opened once: a worker that outlives a killed ingest then writes to that ingest's file, never to its successor.
        return os.open(self.images, os.O_WRONLY)


def _moments(histograms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean, deviation (of the population), minimum, maximum and share at 255, from counts of shape (n, 256)."""
    values = np.arange(256, dtype=np.int64)
    n = np.maximum(histograms.sum(axis=1), 1)
    total, squares = histograms @ values, histograms @ values**2
    deviation = np.sqrt(n * squares - total**2) / n  # the difference is of whole numbers, and exact
    present = histograms > 0
    lowest, highest = present.argmax(axis=1), 255 - present[:, ::-1].argmax(axis=1)
    return np.stack([total / n, deviation, lowest, highest, histograms[:, 255] / n], axis=1)


def cores() -> int:
    """How many processes can run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def warm_up() -> None:
    """Start the server that forks workers, without waiting for it; to be called while there is other work to do."""
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__, "hilum.data.locators"])
    multiprocessing.forkserver.ensure_running()


def decode_all(decoder: Decoder, chunks: Sequence[Chunk], workers: int) -> Iterator[tuple[Chunk, list[Outcome]]]:
    """Decode chunks in `workers` processes, this one among them; each comes back when it is done, in any order.

    Raises:
        DatasetError: A process died, for want of memory or by a fault of a decoder.
    """
    context = multiprocessing.get_context("forkserver")
    claims = context.Value("q", 0)
    with _job_file(decoder, chunks) as job, ExitStack() as open_pipes:
        results, processes = [], []
        senders: list[Connection] = []
        for _ in range(min(workers, len(chunks)) - 1):
            result, sender = context.Pipe(duplex=False)
            open_pipes.enter_context(result)
            results.append(result)
            senders.append(sender)
            processes.append(context.Process(target=_work, args=(job, claims, sender), daemon=True))
        # The fork server answers when it has imported what it preloads; images are decoded here meanwhile.
        starting = threading.Thread(target=_start, args=(processes, senders))
        starting.start()
        try:
            left = len(chunks)
            while left:
                mine = _claim(claims, len(chunks))
                if mine is not None:
                    yield chunks[mine], decoder.decode(chunks[mine])
                    left -= 1
                elif not results:
                    raise DatasetError(
                        "a process that decodes images died, most often for want of memory; run ingest again, it goes "
                        "on where it was, with fewer workers if memory is short"
                    )
                ready = wait(results, timeout=None if mine is None else 0)
                for result in [result for result in results if result in ready]:
                    try:
                        done, outcomes = result.recv()
                    except EOFError:  # nothing more to claim, or dead
                        results.remove(result)
                        continue
                    if isinstance(outcomes, Exception):
                        raise outcomes
                    yield chunks[done], outcomes
                    left -= 1
        finally:
            starting.join()
            for process in processes:
                process.terminate()  # some may not have begun yet
                process.join()


def _start(processes: "Sequence[multiprocessing.context.ForkServerProcess]", senders: Sequence[Connection]) -> None:
    """Start processes that do not import the main module, as those of a fork server otherwise do: they need none of it.

    Each has its own end of its pipe then; the one here is closed, so that a process's end is seen.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        for process, sender in zip(processes, senders, strict=True):
            with sender:
                process.start()
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _job_file(decoder: Decoder, chunks: Sequence[Chunk]) -> Iterator[Path]:
    """The job where workers find it: starting a process with millions of locators would wait until it has read them."""
    path = decoder.images.with_name("job.pickle")
    path.write_bytes(pickle.dumps((decoder, chunks), pickle.HIGHEST_PROTOCOL))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _claim(claims: Any, n: int) -> int | None:
    """The number of a chunk that no process has taken yet; None if there is none."""
    with claims.get_lock():
        if claims.value >= n:
            return None
        claims.value += 1
        return int(claims.value) - 1


def _work(job: Path, claims: Any, results: Connection) -> None:
    """Decode chunks until none is left, or until the process that asked for them is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    try:
        decoder, chunks = pickle.loads(job.read_bytes())
        while (mine := _claim(claims, len(chunks))) is not None:
            try:
                outcomes = decoder.decode(chunks[mine])
            except Exception as error:
                outcomes = error
            results.send((mine, outcomes))
    except (FileNotFoundError, BrokenPipeError):
        pass  # all was done before this process began, or it was killed
