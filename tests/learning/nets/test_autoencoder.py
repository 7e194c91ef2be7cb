"""The networks of the autoencoder: sizes, ranges, and what their layout in memory rests on."""

import pytest
import torch
from torch import nn

from hilum.errors import UsageError
from hilum.learning.engine import device
from hilum.learning.nets.autoencoder import FINEST, Downward, Upward

SOURCE = (32, 64, 128, 256, 512, 512)


@pytest.mark.parametrize("kind", ["batch", "group"])
@pytest.mark.parametrize(
    ("size", "channels"), [(64, (8, 16, 16, 24)), (96, (8, 16)), (224, (8, 8, 8, 8, 8)), (512, (8,) * 7)]
)
def test_an_embedding_becomes_an_image_of_the_same_size(size: int, channels: tuple[int, ...], kind: str) -> None:
    down, up = Downward(channels, size, kind).eval(), Upward(5, channels, size, kind).eval()
    with torch.inference_mode():
        features = down(torch.randn(2, 1, size, size))
        images = up(10 * torch.randn(2, 5))
    assert features.shape == (2, down.dim)
    assert down.dim == channels[-1] * (size // 2 ** len(channels)) ** 2
    assert images.shape == (2, 1, size, size)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


def test_the_sources_network_is_of_the_sources_size() -> None:
    """METHOD.md section 4: 256 pixels, six stages, 128 coordinates, 23.6 million parameters there."""
    down, up = Downward(SOURCE, 256, "batch"), Upward(128, SOURCE, 256, "batch")
    heads = 2 * (down.dim + 1) * 128
    parameters = sum(p.numel() for net in (down, up) for p in net.parameters()) + heads
    assert 15e6 < parameters < 30e6
    with torch.inference_mode():
        assert up.eval()(torch.zeros(1, 128)).shape == (1, 1, 256, 256)


def test_the_last_stages_map_is_kept_place_by_place() -> None:
    """An average over places would not know where a finding lies, and a decoder could not draw it there."""
    down = Downward((8, 16), 16, "group").eval()
    x = torch.zeros(1, 1, 16, 16)
    x[..., :4, :4] = 1.0
    with torch.inference_mode():
        there = down(torch.flip(x, dims=(2, 3)))
        assert not torch.allclose(down(x).sort().values, torch.zeros(1, down.dim))
        assert not torch.allclose(down(x), there, atol=1e-2)


@pytest.mark.parametrize("make", [lambda c, s: Downward(c, s, "batch"), lambda c, s: Upward(4, c, s, "batch")])
def test_a_size_that_cannot_be_halved_so_often_is_refused(make: "type") -> None:
    message = r"of 6 stages halves images 6 times, and 224 pixels cannot be .* multiple of 64, such as --size 256"
    with pytest.raises(UsageError, match=message):
        make(SOURCE, 224)
    with pytest.raises(UsageError, match=r"--size 64$"):
        make(SOURCE, 33)


def test_every_convolution_is_wide_enough_to_lie_channels_last() -> None:
    nets = nn.ModuleList([Downward((32, 64), 32, "batch"), Upward(8, (32, 64), 32, "batch")])
    widths = [layer.out_channels for layer in nets.modules() if isinstance(layer, nn.Conv2d)]
    assert min(widths) >= FINEST == device.SAFE_CHANNELS
    device.lay_out(nets)
    weights = [layer.weight for layer in nets.modules() if isinstance(layer, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
