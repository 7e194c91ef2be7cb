"""Random numbers: a function of seed and image alone, whoever draws them."""

import pytest
import torch
from torch import Tensor

from hilum.learning.engine.draws import LARGEST, Draws, mixed

PARTS = (slice(0, 4), slice(4, 7))


def all_kinds(draws: Draws) -> list[Tensor]:
    return [draws.uniform(-1, 3, 2), draws.normal(2, 3), draws.integers(5), draws.signs(4), draws.uniform(0, 1)]


def test_the_parts_of_two_workers_are_what_one_draws() -> None:
    whole = all_kinds(Draws(3, 7))
    parts = zip(*(all_kinds(Draws(3, 7, part=part)) for part in PARTS), strict=True)
    assert all(torch.equal(one, torch.cat(two)) for one, two in zip(whole, parts, strict=True))
    assert [value.shape for value in whole] == [(7, 2), (7, 2, 3), (7,), (7, 4), (7,)]


def test_the_order_is_of_the_whole_batch_on_every_worker() -> None:
    orders = [Draws(3, 7, part=part).order() for part in PARTS]
    assert torch.equal(*orders)
    assert sorted(orders[0].tolist()) == list(range(7))


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    first = all_kinds(Draws(3, 7))
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, all_kinds(Draws(3, 7)), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, all_kinds(Draws(4, 7)), strict=True))


def test_distributions() -> None:
    draws, n = Draws(0, 50_000), 50_000
    uniform, normal, integers, signs = draws.uniform(-1, 3), draws.normal(), draws.integers(5), draws.signs()
    assert (uniform.min().item(), uniform.max().item()) == pytest.approx((-1, 3), abs=1e-3)
    assert uniform.mean().item() == pytest.approx(1, abs=0.03)
    assert (normal.mean().item(), normal.std().item()) == pytest.approx((0, 1), abs=0.02)
    assert torch.bincount(integers).div(n).tolist() == pytest.approx([0.2] * 5, abs=0.01)
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert signs.mean().item() == pytest.approx(0, abs=0.02)


def test_neighbouring_seeds_have_nothing_in_common() -> None:
    seeds = {mixed(a, b, c) for a in range(10) for b in range(10) for c in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed <= int(LARGEST) for seed in seeds)
    assert mixed(1, 2) == mixed(1, 2) != mixed(2, 1)
