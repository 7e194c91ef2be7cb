"""The processes that train together: `torchrun` starts them, and alone there is one.

A global batch is dealt to the workers in contiguous parts; what a loss needs of the other parts it gathers. Without
`torch.distributed` every function here answers for a single worker, at no cost.

When one worker fails, torchrun ends the others. Until it does they find their connection gone, or have the same error
themselves (a loss that is no number is so on all of them); the first to fail says why, and the others leave silently.

B: images of this worker's part, G: images of the global batch.
"""

import itertools
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from hilum.errors import TrainingError

PATIENCE: Final = timedelta(minutes=10)  # one worker may compile or write a checkpoint meanwhile; longer is a hang
COURTESY_SECONDS: Final = 1.0  # what all workers fail of is for worker 0 to tell: it has a progress bar to close first
FAILED: Final = "failed"  # key of the common store under which failures are counted

_joined = itertools.count()  # how often this process has joined others; each time has its keys in the store to itself


@contextmanager
def together() -> Iterator[None]:
    """Join the other workers where `torchrun` started some (NCCL on GPUs, else Gloo), and leave them at the end.

    Inside, only worker 0 logs warnings.

    Raises:
        TrainingError: Another worker has ended without a word, as when it was killed.
        SystemExit: Another worker has failed before this one, and says why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    common, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    store = PrefixStore(f"hilum-{next(_joined)}", common)
    distributed.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE
    )
    logger = logging.getLogger("hilum")
    level = logger.level
    try:
        if rank > 0:
            logger.setLevel(logging.ERROR)
        yield
    except Exception as error:
        if rank > 0:
            time.sleep(COURTESY_SECONDS)
        if not _first_to_fail(store):
            raise SystemExit(1) from None
        if _cut_off(error):
            raise TrainingError(
                f"worker {rank} of {size} lost the connection to another, which ended without a word; "
                "train again: the run goes on from its last checkpoint"
            ) from error
        raise
    else:
        # After a failure NCCL would wait here for collectives that nobody joins; then the process's end cleans up.
        distributed.destroy_process_group()
    finally:
        logger.setLevel(level)


def _first_to_fail(store: Store) -> bool:
    try:
        return int(store.add(FAILED, 1)) == 1
    except RuntimeError:  # the store has gone with the worker that kept it
        return True


def _cut_off(error: Exception) -> bool:
    """Whether it is torch telling of a lost connection: Gloo has no type of error for it."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )


def count() -> int:
    """How many workers there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def number() -> int:
    """Which of them this is, from 0; worker 0 writes files and shows progress."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def part_of(n: int) -> slice:
    """This worker's part of a global batch of `n`: contiguous, sizes differing by at most one."""
    size, more = divmod(n, count())
    start = number() * size + min(number(), more)
    return slice(start, start + size + (number() < more))


def check_shareable(n: int) -> None:
    """Make sure that a global batch of `n` images has one for every worker: the mean over none is no number.

    Raises:
        TrainingError: It has not.
    """
    if n < count():
        raise TrainingError(
            f"a batch of {n} images cannot be dealt to {count()} workers; raise train.batch_size, or start fewer"
        )


@torch.no_grad()
def gather(x_B: Tensor) -> Tensor:
    """All parts of a batch in the workers' order, (G, ...); parts may differ in length. No gradient flows through."""
    if count() == 1:
        return x_B
    lengths = [torch.zeros(1, dtype=torch.int64, device=x_B.device) for _ in range(count())]
    distributed.all_gather(lengths, torch.tensor([len(x_B)], device=x_B.device))
    longest = int(max(lengths))
    padded = torch.zeros((longest, *x_B.shape[1:]), dtype=x_B.dtype, device=x_B.device)
    padded[: len(x_B)] = x_B
    parts = [torch.empty_like(padded) for _ in range(count())]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])


@torch.no_grad()
def means(figures: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Means over the global batch of figures that are means over this worker's part of it, float32 scalars.

    Args:
        figures: Scalars by name; the same names on every worker.
        share: Of this worker's images in the global batch, in [0, 1].
    """
    stacked = torch.stack([value.detach().float().reshape(()) for value in figures.values()]) * share
    if count() > 1:
        distributed.all_reduce(stacked)
    return dict(zip(figures, stacked.unbind(), strict=True))


def agree(number: int, what: str) -> None:
    """Make sure that `number` is the same on every worker.

    Raises:
        TrainingError: It is not.
    """
    if count() == 1:
        return
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    found = gather(torch.tensor([number], device=device)).tolist()
    if len(set(found)) > 1:
        raise TrainingError(
            f"the workers do not agree on {what}: {', '.join(map(str, found))}; "
            "they must see the same dataset and the same output folder"
        )


def wait() -> None:
    """Go on when every worker has come here."""
    if count() > 1:
        distributed.barrier()
