"""The rungs that are trained by gradients: equations by hand, where they begin, and what masks and dropout do."""

import math

import pytest
import torch
from torch import nn

from hilum.learning.engine.draws import Draws
from hilum.learning.finetuning import fusion

D, C, E, B = 6, 3, 4, 50


def build(kind: str, dropout: float = 0.0, seed: int = 0) -> fusion.Fusion:
    torch.manual_seed(seed)
    net = fusion.build(kind, D, C, E, dropout)
    net.standardise(torch.randn(40, D, generator=torch.Generator().manual_seed(1)) * 3 + 2)
    return net


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    missing = (torch.rand(B, C, generator=generator) < 0.4).float()
    values = torch.randn(B, C, generator=generator) * (1 - missing)
    return torch.randn(B, D, generator=generator) * 3 + 2, values, missing


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("covariates", ["as they are", "all missing"])
def test_gated_begins_as_the_image_alone(covariates: str) -> None:
    phi, values, missing = inputs()
    if covariates == "all missing":
        values, missing = torch.zeros_like(values), torch.ones_like(missing)
    assert torch.equal(build("gated")(phi, values, missing), build("image_only")(phi, values, missing))


def test_gated_agrees_with_its_equation_by_loops() -> None:
    net = build("gated").double()
    assert isinstance(net, fusion.Gated)
    nn.init.normal_(net.residual.weight, generator=torch.Generator().manual_seed(3))
    phi, values, missing = (tensor.double() for tensor in inputs())
    logits = net(phi.float(), values, missing)
    layers = [net.code[0], net.code[2]]
    for row in range(B):
        image = [(phi.float()[row, d].item() - net.mean_D[d].item()) / net.std_D[d].item() for d in range(D)]
        code = [*values[row].tolist(), *missing[row].tolist()]
        for layer in layers:
            assert isinstance(layer, nn.Linear)
            rows = layer.weight.tolist()
            code = [max(0.0, dot(weights, code) + layer.bias[k].item()) for k, weights in enumerate(rows)]
        logit = net.head.bias.item()
        for d in range(D):
            gate = dot(net.gate.weight[d].tolist(), [*image, *code]) + net.gate.bias[d].item()
            added = dot(net.residual.weight[d].tolist(), code)
            logit += net.head.weight[0, d].item() * (image[d] + added / (1 + math.exp(-gate)))
        assert logits[row].item() == pytest.approx(logit, abs=1e-5)


def test_concatenation_is_one_linear_layer_that_sees_no_masks() -> None:
    net = build("concatenation")
    assert isinstance(net, fusion.Concatenation)
    phi, values, missing = inputs()
    weight = torch.cat([net.head.weight, net.covariates.weight], dim=1)
    features = torch.cat([(phi - net.mean_D) / net.std_D, values], dim=1)
    torch.testing.assert_close(net(phi, values, missing), (features @ weight.T)[:, 0] + net.head.bias)
    assert torch.equal(net(phi, values, missing), net(phi, values, 1 - missing))


def test_modality_dropout_shows_rows_as_if_nothing_had_been_measured() -> None:
    net = build("gated", dropout=0.3)
    assert isinstance(net, fusion.Gated)
    nn.init.normal_(net.residual.weight, generator=torch.Generator().manual_seed(3))
    phi, values, missing = (torch.cat([tensor] * 40) for tensor in inputs())
    bare = net(phi, torch.zeros_like(values), torch.ones_like(missing))
    whole = net(phi, values, missing)
    seen = net(phi, values, missing, Draws(5, len(phi)))
    told_apart = bare != whole
    dropped, kept = seen[told_apart] == bare[told_apart], seen[told_apart] == whole[told_apart]
    assert bool((dropped ^ kept).all())
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(net(phi, values, missing, None), whole)


def test_gradients_reach_every_weight() -> None:
    for kind in fusion.BY_GRADIENTS:
        net = build(kind)
        if isinstance(net, fusion.Gated):
            nn.init.normal_(net.residual.weight)
        net(*inputs()).square().sum().backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, (kind, name)
            assert parameter.grad.abs().sum() > 0, (kind, name)


def test_features_are_standardised_and_one_without_spread_stays_finite() -> None:
    net = fusion.Fusion(3)
    phi = torch.stack([torch.arange(8.0), torch.full((8,), 2.0), torch.arange(8.0) * 1e3], dim=1)
    net.standardise(phi)
    scaled = (phi - net.mean_D) / net.std_D
    torch.testing.assert_close(scaled[:, [0, 2]].std(dim=0, correction=0), torch.ones(2))
    assert torch.equal(scaled[:, 1], torch.zeros(8))
