"""Where the arithmetic runs, in which precision, and how it is kept reproducible."""

import os
from contextlib import AbstractContextManager
from typing import Final, Literal

import torch
from torch import nn

Precision = Literal["float32", "bfloat16"]

SAFE_CHANNELS: Final = 16  # a vector register of AVX-512 holds as many floats
THREADS: Final = "OMP_NUM_THREADS"  # torch reads it at import; whoever sets it has the last word on threads


def pick() -> torch.device:
    """The GPU where there is one, else the CPU with one thread per usable core.

    Without OMP_NUM_THREADS torch takes a thread per core of the machine; in a container or under `taskset` the process
    may use fewer, and more threads than cores cost more than they bring.
    """
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        return torch.device("cuda", torch.cuda.current_device())
    if THREADS not in os.environ and torch.get_num_threads() > (cores := len(os.sched_getaffinity(0))):
        torch.set_num_threads(cores)
    return torch.device("cpu")


def lay_out(module: nn.Module) -> None:
    """Put weights channels last, which is faster; on the CPU only where every convolution has channels enough for it.

    With fewer than 16 channels and more than one thread, torch 2.13's channels-last convolutions on the CPU write
    beyond their memory in the backward pass: the process dies, or worse, does not
    (tests/learning/engine/test_device.py).
    """
    if channels_last_is_safe(module):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def channels_last_is_safe(module: nn.Module) -> bool:
    """Whether convolutions may run channels last; torch.compile chooses that layout by itself where it may."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in module.parameters())
    convolutions = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    return not on_cpu or all(layer.out_channels >= SAFE_CHANNELS for layer in convolutions)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Convolutions and matrix products in `precision`; weights, losses and statistics stay float32.

    On a CPU with AVX512_BF16 bfloat16 halves the time of a step; without such instructions it is slower than float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
