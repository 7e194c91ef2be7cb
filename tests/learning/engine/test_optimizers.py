"""The schedule by hand, what is decayed, and that each kind of optimizer is the paper's."""

import math

import pytest
import torch
from torch import nn

from hilum.learning.engine.optimizers import learning_rate, moved_by, set_rate
from hilum.recipe import Optimizer


def test_the_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    section = Optimizer(learning_rate=2.0, warmup_share=0.1)
    rates = [learning_rate(step, 100, section) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * k / 90) for k in range(90)])
    assert learning_rate(0, 1, Optimizer(warmup_share=0.9)) == 1e-3


def test_a_constant_schedule_stays_level_after_the_warm_up() -> None:
    section = Optimizer(learning_rate=3.0, warmup_share=0.2, schedule="constant")
    assert [learning_rate(step, 10, section) for step in range(10)] == [1.5] + [3.0] * 9


def test_biases_and_norms_are_not_decayed_and_frozen_weights_not_moved() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3).requires_grad_(False))
    decayed, free = moved_by(net, Optimizer(weight_decay=0.3)).param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 1, 3, 3)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert len(free["params"]) == 3


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_three_steps_are_the_papers(name: str) -> None:
    """Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2; SGD with momentum."""
    section = Optimizer.model_validate({"name": name, "learning_rate": 0.1, "weight_decay": 0.2, "momentum": 0.8})
    net = nn.Linear(3, 2, bias=False)
    theta = net.weight.detach().double().clone()
    optimizer = moved_by(net, section)
    first = second = torch.zeros_like(theta)
    for step in range(1, 4):
        rate = 0.1 / step
        set_rate(optimizer, rate)
        gradient = torch.linspace(-1, 1, 6).reshape(2, 3).double() * step
        net.weight.grad = gradient.float()
        optimizer.step()
        if name == "sgd":
            first = 0.8 * first + gradient + 0.2 * theta
            theta = theta - rate * first
            continue
        whole = gradient + 0.2 * theta if name == "adam" else gradient
        first, second = 0.9 * first + 0.1 * whole, 0.999 * second + 0.001 * whole**2
        moved = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        decayed = 0.2 * theta if name == "adamw" else 0.0
        theta = theta - rate * (moved + decayed)
    torch.testing.assert_close(net.weight.detach().double(), theta, rtol=1e-5, atol=1e-6)
