"""The processes that train together: `torchrun` starts them, and alone there is one.

A global batch is dealt to the workers in contiguous parts; what a loss needs of the other parts it gathers. Without
`torch.distributed` every function here answers for a single worker, at no cost.

B: images of this worker's part, G: images of the global batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed


@contextmanager
def together() -> Iterator[None]:
    """Join the other workers where `torchrun` started some (NCCL on GPUs, else Gloo), and leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


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


def wait() -> None:
    """Go on when every worker has come here."""
    if count() > 1:
        distributed.barrier()
