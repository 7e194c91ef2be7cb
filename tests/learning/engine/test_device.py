"""Layout of weights: channels last where it is safe, and nowhere else."""

import subprocess
import sys

import pytest
import torch

from hilum.learning.engine import device
from hilum.learning.nets.resnet import ResNet
from hilum.recipe import Backbone


@pytest.mark.parametrize(("width", "last"), [(8, False), (15, False), (16, True), (24, True)])
def test_channels_last_from_sixteen_channels(width, last):
    net = ResNet(Backbone(width=width, norm="batch"))
    device.lay_out(net)
    inner = next(layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d) and layer.in_channels > 1)
    assert inner.weight.is_contiguous(memory_format=torch.channels_last) is last


def test_a_narrow_network_trains_on_two_threads():
    """In channels-last layout this died of a corrupted heap; in a process of its own, so that it may."""
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from hilum.learning.engine import device\n"
        "from hilum.learning.nets.resnet import ResNet\n"
        "from hilum.recipe import Backbone\n"
        "for width in (8, 12):\n"
        "    net = ResNet(Backbone(width=width)); device.lay_out(net)\n"
        "    for batch in (7, 16):\n"
        "        for _ in range(10):\n"
        "            net(torch.rand(batch, 1, 64, 64)).square().mean().backward()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
