"""What moves the weights, and how fast at each step."""

import math

import torch
from torch import nn

from hilum.recipe import Optimizer


def moved_by(encoder: nn.Module, section: Optimizer) -> torch.optim.Optimizer:
    """The optimizer over what requires a gradient; biases and norms are not decayed.

    AdamW (Loshchilov and Hutter 2019), Adam (Kingma and Ba 2015) or SGD with momentum, fused into one kernel.
    """
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if section.name == "sgd":
        return torch.optim.SGD(groups, lr=section.learning_rate, momentum=section.momentum, fused=True)
    kind = torch.optim.AdamW if section.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=section.learning_rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(step: int, n_steps: int, section: Optimizer) -> float:
    """The rate of step 0 to `n_steps` - 1: linear warm-up, then level, or half a cosine to zero (Loshchilov 2017)."""
    warm = math.ceil(section.warmup_share * n_steps)
    if step < warm:
        return section.learning_rate * (step + 1) / warm
    if section.schedule == "constant":
        return section.learning_rate
    return section.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, n_steps - warm)))
