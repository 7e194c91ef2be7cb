"""The moving average against its formula, one number at a time."""

import pytest
import torch
from torch import nn

from hilum.learning.engine.average import Average


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_is_the_formulas(decay: float) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = Average(net, decay)
    random = torch.Generator().manual_seed(0)
    expected = {name: value.double().clone() for name, value in net.state_dict().items()}
    for step in range(40):
        with torch.no_grad():
            for value in net.state_dict().values():
                value.copy_(torch.randint(9, value.shape, generator=random))
        share = min(decay, (1 + step) / (10 + step))
        average.follow(step)
        for name, value in net.state_dict().items():
            counted = name.endswith("num_batches_tracked")
            expected[name] = value.double() if counted else share * expected[name] + (1 - share) * value.double()
    assert net.state_dict()["0.weight"].sum() != expected["0.weight"].sum()
    average.settle()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_average_does_not_touch_the_weights_before_it_is_settled() -> None:
    net = nn.Linear(2, 2)
    average = Average(net, 0.5)
    with torch.no_grad():
        net.weight.fill_(7.0)
    average.follow(100)
    assert (net.weight == 7.0).all()
    average.settle()
    assert not (net.weight == 7.0).any()


def test_a_restored_average_goes_on_as_the_first() -> None:
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    first = Average(nets[0], 0.9)
    with torch.no_grad():
        nets[0].weight.add_(1.0)
    first.follow(0)
    second = Average(nets[1], 0.9)
    second.restore({name: value.clone() for name, value in first.state().items()})
    nets[1].load_state_dict(nets[0].state_dict())
    for average in (first, second):
        average.follow(1)
        average.settle()
    assert torch.equal(nets[0].weight, nets[1].weight)
