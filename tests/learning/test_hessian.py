"""The Hessian penalty against loops in float64, and on functions whose Hessian is known."""

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from hilum.errors import UsageError
from hilum.learning.engine.draws import Draws
from hilum.learning.hessian import HessianPenalty, curvature_variances, hessian_penalty, still
from hilum.recipe import Hessian

Generate = Callable[[Tensor], Sequence[Tensor]]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signs(*shape: int, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed).sign()


def every_sign(n: int, dim: int) -> Tensor:
    """All 2^dim sign vectors, the same for each of n images: (2^dim, n, dim)."""
    v_kD = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dim)), dtype=torch.float64)
    return v_kD[:, None, :].expand(-1, n, -1)


def two_layers(seed: int = 0) -> Generate:
    a, b = normal(4, 6, seed=seed), normal(6, 5, seed=seed + 1)

    def generate(z: Tensor) -> Sequence[Tensor]:
        h = torch.tanh(z @ a)
        return [h, torch.sigmoid(h @ b).reshape(-1, 1, 5)]

    return generate


def naive(
    generate: Callable[[Tensor], Sequence[Tensor]], z: Tensor, v: Tensor, epsilon: float, reduction: str
) -> float:
    """Peebles et al. 2020, algorithm 1, one element of one activation of one image at a time."""
    total = 0.0
    for layer in range(len(generate(z))):
        per_image: list[list[float]] = []
        for i in range(len(z)):
            per_image.append([])
            for element in range(generate(z)[layer][i].numel()):
                second = []
                for direction in v:
                    at = [
                        generate((z[i] + step * epsilon * direction[i])[None])[layer].flatten()[element].item()
                        for step in (1, 0, -1)
                    ]
                    second.append((at[0] - 2 * at[1] + at[2]) / epsilon**2)
                mean = sum(second) / len(second)
                per_image[-1].append(sum((d - mean) ** 2 for d in second) / (len(second) - 1))
        everything = list(itertools.chain(*per_image))
        if reduction == "max":
            total += max(everything)
        elif reduction == "mean":
            total += sum(everything) / len(everything)
        else:
            total += sum(everything) / len(z)
    return total


@pytest.mark.parametrize("reduction", ["max", "mean", "sum"])
@pytest.mark.parametrize("k", [2, 5])
def test_it_is_the_papers_algorithm(reduction: str, k: int) -> None:
    z, v = normal(3, 4), signs(k, 3, 4, seed=1)
    expected = naive(two_layers(), z, v, 0.1, reduction)
    assert expected > 0
    assert hessian_penalty(two_layers(), z, v, 0.1, reduction).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_on_a_quadratic_it_is_twice_the_squared_off_diagonal(dim: int) -> None:
    """Theorem 1, over all sign vectors; n / (n - 1) is what the unbiased variance of all n of them is too large by."""
    m = normal(dim, dim)
    hessian = m + m.T
    v = every_sign(3, dim)
    (variance,) = curvature_variances(lambda z: [0.5 * ((z @ hessian) * z).sum(1)], normal(3, dim, seed=1), v, 0.1)
    off = sum(hessian[i, j] ** 2 for i in range(dim) for j in range(dim) if i != j)
    torch.testing.assert_close(variance * (len(v) - 1) / len(v), (2 * off).expand(3), atol=0, rtol=1e-9)


def test_it_is_unbiased_for_two_directions() -> None:
    """The mean over all pairs of sign vectors, drawn with replacement, is the variance itself."""
    m = normal(3, 3)
    hessian, z = m + m.T, normal(1, 3, seed=1)
    every = every_sign(1, 3)
    total = sum(
        hessian_penalty(lambda z: [0.5 * ((z @ hessian) * z).sum(1)], z, torch.stack([a, b]), 0.1, "mean").item()
        for a in every
        for b in every
    )
    off = (hessian - torch.diag(hessian.diag())).square().sum().item()
    assert total / 64 == pytest.approx(2 * off, rel=1e-9)


def test_coordinates_that_act_apart_cost_nothing() -> None:
    def apart(z: Tensor) -> Sequence[Tensor]:
        return [z**3 @ normal(4, 6), torch.sin(z).sum(dim=1)]

    for reduction in ("max", "mean", "sum"):
        assert hessian_penalty(apart, normal(5, 4), signs(6, 5, 4), 0.1, reduction).item() < 1e-18
    assert hessian_penalty(lambda z: [z.prod(dim=1)], normal(5, 4), signs(6, 5, 4), 0.1, "max").item() > 0.1


def test_epsilon_divides_the_second_difference_squared() -> None:
    """A quadratic costs the same at any step; the error of a quartic's cross term falls as epsilon^2."""
    z, v = normal(2, 2), every_sign(2, 2)
    quadratic = [hessian_penalty(lambda z: [z[:, 0] * z[:, 1]], z, v, step, "mean").item() for step in (0.01, 0.1, 1.0)]
    assert quadratic == pytest.approx([quadratic[0]] * 3, rel=1e-6)

    def quartic(z: Tensor) -> Sequence[Tensor]:
        return [z[:, 0] ** 3 * z[:, 1]]

    # v^T H v = 6 z0 z1 +- 6 z0^2, and the fourth derivative adds +- 2 epsilon^2 to the second difference.
    exact = (6 * z[:, 0] ** 2).square().mean() * 4 / 3
    off = [hessian_penalty(quartic, z, v, step, "mean").item() - exact.item() for step in (0.01, 0.02)]
    assert off[1] / off[0] == pytest.approx(4, rel=1e-2)


class Generator(nn.Module):
    """Layers of every kind that the penalty has to keep still."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True))
        self.dropped = nn.Dropout(0.5)
        self.last = nn.Linear(6, 3)
        self.idle = nn.Linear(2, 2)

    def forward(self, z: Tensor) -> Tensor:
        h = self.dropped(torch.tanh(self.spread(z)))
        out: Tensor = torch.sigmoid(self.last(torch.tanh(h)))
        return out


@pytest.fixture
def generator() -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Generator()
        made(torch.randn(20, 4))  # statistics that are not those of the start
    return made


def test_the_generator_is_deterministic_and_its_statistics_stay(generator: Generator) -> None:
    generator.train()
    generator.last.eval()  # a mixture of modes comes back as it was
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    modes = [module.training for module in generator.modules()]
    penalty = HessianPenalty(Hessian(weight=1.0), generator)
    z = normal(5, 4).float()
    first, second = (penalty(generator, z, Draws(3, 5)) for _ in range(2))
    assert torch.equal(first, second)
    assert first > 0
    assert [module.training for module in generator.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in generator.state_dict().items())
    with still(generator):
        assert not any(module.training for module in generator.modules())
    assert [module.training for module in generator.modules()] == modes


def test_the_gradient_reaches_the_generator_and_not_the_embedding(generator: Generator) -> None:
    z = normal(5, 4).float().requires_grad_()
    HessianPenalty(Hessian(weight=1.0), generator)(generator, z * 2, Draws(3, 5)).backward()
    assert z.grad is None
    assert all(p.grad is not None and p.grad.any() for p in generator.spread.parameters())


def test_a_generator_that_is_moved_against_it_becomes_diagonal(generator: Generator) -> None:
    penalty = HessianPenalty(Hessian(weight=1.0, k=8, images=16, layers=("spread.1", "last")), generator)
    optimizer = torch.optim.Adam(generator.parameters(), lr=0.02)
    raw = []
    for step in range(60):
        loss = penalty(generator, normal(16, 4, seed=step).float(), Draws(step, 16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        raw.append(loss.item())
    assert sum(raw[-10:]) < 0.2 * sum(raw[:10])


def by_hand(generator: Generator, z: Tensor, draws: Draws, layers: tuple[str, ...], n_signs: int) -> float:
    def activations(z: Tensor) -> Sequence[Tensor]:
        normalised = generator.spread[1](generator.spread[0](z))
        last = generator.last(torch.tanh(torch.tanh(torch.relu(normalised))))
        return [{"spread.1": normalised, "last": last, "": torch.sigmoid(last)}[name] for name in layers]

    with still(generator):
        return hessian_penalty(activations, z, draws.signs(n_signs, 4).transpose(0, 1), 0.1, "sum").item()


@pytest.mark.parametrize("compiled", [False, True])
def test_named_layers_are_heard_before_what_follows_in_place(generator: Generator, compiled: bool) -> None:
    z, layers = normal(5, 4).float(), ("spread.1", "last")
    if compiled:
        generator.compile(backend="eager")
    generator(z)
    expected = by_hand(generator, z, Draws(3, 5), layers, 3)
    penalty = HessianPenalty(Hessian(weight=1.0, k=3, reduction="sum", layers=layers), generator)
    for _ in range(2):  # were it compiled in the first call, the second would be told nothing
        assert penalty(generator, z, Draws(3, 5)).item() == pytest.approx(expected, rel=1e-3)
    assert not generator.last._forward_hooks


def test_no_named_layer_means_the_output(generator: Generator) -> None:
    z = normal(5, 4).float()
    expected = by_hand(generator, z, Draws(3, 5), ("",), 2)
    penalty = HessianPenalty(Hessian(weight=1.0, reduction="sum"), generator)
    assert penalty(generator, z, Draws(3, 5)).item() == pytest.approx(expected, rel=1e-3)


def test_layers_that_are_not_there_or_not_called_once_are_refused(generator: Generator) -> None:
    with pytest.raises(
        UsageError, match=r"hessian\.layers names 'lost'; the generator's modules are spread, spread\.0"
    ):
        HessianPenalty(Hessian(layers=("last", "lost")), generator)
    idle = HessianPenalty(Hessian(weight=1.0, layers=("idle",)), generator)
    with pytest.raises(UsageError, match=r"\(idle\) were called 0 times in a pass"):
        idle(generator, normal(5, 4).float(), Draws(3, 5))
    twice = HessianPenalty(Hessian(weight=1.0, layers=("last",)), generator)
    with pytest.raises(UsageError, match=r"\(last\) were called 2 times in a pass"):
        twice(lambda z: generator(z) + generator(-z), normal(5, 4).float(), Draws(3, 5))


def test_it_is_computed_in_float32_where_the_step_is_not(generator: Generator) -> None:
    penalty = HessianPenalty(Hessian(weight=1.0), generator)
    z = normal(5, 4).float()
    expected = penalty(generator, z, Draws(3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(penalty(generator, z, Draws(3, 5)), expected)


def test_steps_between_are_made_up_for_in_the_weight() -> None:
    penalty = HessianPenalty(Hessian(weight=0.5, every_n_steps=4), nn.Identity())
    assert [penalty.due(step) for step in range(6)] == [True, False, False, False, True, False]
    assert penalty.weight == 2.0
    assert not HessianPenalty(Hessian(), nn.Identity()).due(0)


@pytest.mark.parametrize(
    ("n", "images", "expected"), [(10, 4, [0, 2, 5, 7]), (3, 8, [0, 1, 2]), (8, 8, list(range(8)))]
)
def test_images_are_spread_over_the_batch_however_it_is_dealt(n: int, images: int, expected: list[int]) -> None:
    penalty = HessianPenalty(Hessian(images=images), nn.Identity())
    assert penalty.chosen(Draws(0, n)).tolist() == expected
    for cut in range(n + 1):
        parts = [slice(0, cut), slice(cut, n)]
        chosen = [(penalty.chosen(Draws(0, n, part=part)) + part.start).tolist() for part in parts]
        assert chosen[0] + chosen[1] == expected


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("cut", [1, 3, 6])
def test_the_parts_of_a_batch_add_up_to_the_whole(generator: Generator, reduction: str, cut: int) -> None:
    """As training weighs them: by the images of each part. (`max` needs the others: tests/learning/test_vae.py.)"""
    penalty = HessianPenalty(Hessian(weight=1.0, images=4, reduction=reduction), generator)
    z = normal(7, 4).float()

    def raw(part: slice) -> Tensor:
        draws = Draws(3, 7, part=part)
        return penalty(generator, z[part][penalty.chosen(draws)], draws)

    whole = raw(slice(0, 7))
    together = (raw(slice(0, cut)) * cut + raw(slice(cut, 7)) * (7 - cut)) / 7
    assert together.item() == pytest.approx(whole.item(), rel=1e-4)
