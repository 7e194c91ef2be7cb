"""The denoiser, and the walk between image and noise, against the papers' equations in float64."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from hilum.errors import UsageError
from hilum.learning import diffusion
from hilum.learning.diffusion import Denoiser, decode, encode_stochastic, schedulers, signed, unsigned

T = 1000


def alpha_bars() -> list[float]:
    """Ho et al. 2020, section 4 and equation 4: linear betas, the product of 1 - beta, by a loop in float64."""
    left, product = [], 1.0
    for t in range(T):
        product *= 1.0 - (1e-4 + (0.02 - 1e-4) * t / (T - 1))
        left.append(product)
    return left


def tiny(**changes: object) -> Denoiser:
    torch.manual_seed(0)
    settings = {"size": 16, "width": 8, "channels": (8, 16), "blocks": 1, "dropout": 0.0}
    return Denoiser(**{**settings, **changes})  # type: ignore[arg-type]


def stir(net: Denoiser) -> Denoiser:
    """Weights that are not those of the beginning, so that nothing is zero by accident."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net


class Gaussian(Denoiser):
    """The best denoiser for images whose pixels are N(0, spread^2), which is known: so is the whole walk."""

    def __init__(self, spread: float) -> None:
        super().__init__(16, 8, (8, 16), 1)
        self.spread = spread

    def forward(self, x_BCHW: Tensor, t_B: Tensor, z_BD: Tensor) -> Tensor:
        left = self.alpha_bar_T[t_B][:, None, None, None]
        return (1 - left).sqrt() * x_BCHW / (left * self.spread**2 + 1 - left)


def test_alpha_bars_are_those_of_the_papers_linear_betas() -> None:
    expected = torch.tensor(alpha_bars(), dtype=torch.float64)
    torch.testing.assert_close(tiny().alpha_bar_T.double(), expected, rtol=1e-6, atol=0)
    for scheduler in schedulers(T, 50):
        torch.testing.assert_close(scheduler.alphas_cumprod.double(), expected, rtol=1e-4, atol=0)


def test_images_are_noised_by_equation_4() -> None:
    net = tiny()
    x, noise, t = torch.rand(3, 1, 16, 16) * 2 - 1, torch.randn(3, 1, 16, 16), torch.tensor([0, 499, 999])
    made, left = net.noised(x, noise, t), alpha_bars()
    for image in range(3):
        for place in ((0, 0), (7, 3), (15, 15)):
            a = left[int(t[image])]
            expected = math.sqrt(a) * x[image, 0][place].item() + math.sqrt(1 - a) * noise[image, 0][place].item()
            assert made[image, 0][place].item() == pytest.approx(expected, abs=1e-5)


def test_scales_are_each_others_inverse() -> None:
    x = torch.rand(2, 1, 4, 4)
    assert signed(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1.0, 0.0, 1.0]
    torch.testing.assert_close(unsigned(signed(x)), x)


def by_hand(net: Denoiser, x: Tensor, z: Tensor, steps: int, to_noise: bool, limit: float = math.inf) -> Tensor:
    """The walk of Song et al. 2021, equation 12 with sigma 0, or Preechakul et al. 2022, equation 8: pixel by pixel.

    Levels are -1 (the image itself, alpha-bar 1), then each `T / steps`-th t up to T - 1. In either direction the
    noise of the step between two levels is that which the network finds at the noisier one's t. The predicted image is
    held within `limit`.
    """
    left = {-1: 1.0, **dict(enumerate(alpha_bars()))}
    levels = list(range(-1, T, T // steps))
    pairs = list(itertools.pairwise(levels))
    x = x.double()
    for clean, noisy in pairs if to_noise else reversed(pairs):
        here, there = (clean, noisy) if to_noise else (noisy, clean)
        with torch.no_grad():
            noise = net(x.float(), torch.full((len(x),), noisy), z).double()
        moved = torch.empty_like(x)
        for image in range(len(x)):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    at = (image, 0, row, column)
                    seen = (x[at] - math.sqrt(1 - left[here]) * noise[at]) / math.sqrt(left[here])
                    seen = min(max(float(seen), -limit), limit)
                    moved[at] = math.sqrt(left[there]) * seen + math.sqrt(1 - left[there]) * noise[at]
        x = moved
    return x


@pytest.mark.parametrize("to_noise", [False, True])
def test_the_walk_is_the_papers(to_noise: bool) -> None:
    net = stir(tiny(size=8)).eval()
    x, z = torch.randn(2, 1, 8, 8) * 1.5, torch.randn(2, 8)
    walk = encode_stochastic if to_noise else decode
    expected = by_hand(net, x, z, 10, to_noise)
    assert (expected - x).abs().max() > 0.1
    torch.testing.assert_close(walk(net, x, z, 10).double(), expected, rtol=1e-3, atol=1e-3)


def test_drawn_noise_walks_with_the_predicted_image_held_in_range() -> None:
    net = stir(tiny(size=8)).eval()
    x, z = torch.randn(2, 1, 8, 8) * 1.5, torch.randn(2, 8)
    expected = by_hand(net, x, z, 10, to_noise=False, limit=1.0)
    assert (expected - by_hand(net, x, z, 10, to_noise=False)).abs().max() > 0.1
    torch.testing.assert_close(decode(net, x, z, 10, clip=True).double(), expected, rtol=1e-3, atol=1e-3)


def test_both_walks_take_the_same_timesteps_and_end_at_the_last() -> None:
    for steps in (1, 20, 50, 250, 1000):
        to_image, to_noise = schedulers(T, steps)
        assert to_image.timesteps.tolist() == to_noise.timesteps.tolist()[::-1]
        assert to_image.timesteps[0] == T - 1
        assert len(to_image.timesteps) == steps


@pytest.mark.parametrize("steps", [0, -10, 30, 2000])
def test_steps_that_do_not_divide_the_timesteps_are_refused(steps: int) -> None:
    with pytest.raises(
        UsageError, match=rf"1000 timesteps are not walked in {steps} equal steps; take one of \[10, 20"
    ):
        schedulers(T, steps)


def test_noise_of_gaussian_images_is_exact_beyond_the_range_too() -> None:
    """Clipping the predicted image, diffusers' default, would show here: these images reach far beyond [-1, 1].

    The walk scales each pixel by sqrt(a s^2 + 1 - a) / s between the image and level a: the map between two Gaussians.
    """
    spread, net = 3.0, Gaussian(3.0)
    x = spread * torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    last = alpha_bars()[-1]
    expected = x * math.sqrt(last * spread**2 + 1 - last) / spread
    noise = encode_stochastic(net, x, torch.zeros(4, 8), 1000)
    torch.testing.assert_close(noise, expected, rtol=0.02, atol=0.02)
    back = decode(net, noise, torch.zeros(4, 8), 1000)
    assert (back - x).square().mean() < 1e-3


@pytest.mark.parametrize(("which", "bound"), [((), 1e-3), ((0,), 0.05), ((1,), 0.05), ((0, 1), 0.05)])
def test_clipping_in_either_scheduler_spoils_the_round_trip(
    which: tuple[int, ...], bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = schedulers

    def clipped(timesteps: int, steps: int, clip: bool = False) -> tuple[object, object]:
        both = made(timesteps, steps, clip)
        for number in which:
            both[number].register_to_config(clip_sample=True)
        return both

    monkeypatch.setattr(diffusion, "schedulers", clipped)
    x = 1.5 * torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    net, z = Gaussian(1.5), torch.zeros(8, 8)
    error = (decode(net, encode_stochastic(net, x, z, 250), z, 250) - x).square().mean()
    assert error < bound if not which else error > bound


def test_images_in_blocks_walk_as_they_would_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, z = stir(tiny()), torch.randn(5, 1, 16, 16), torch.randn(5, 8)
    whole = decode(net, x, z, 10)
    monkeypatch.setattr(diffusion, "BLOCK", 2)
    torch.testing.assert_close(decode(net, x, z, 10), whole, atol=1e-3, rtol=1e-3)


def test_the_walk_is_deterministic_and_leaves_the_mode_alone() -> None:
    net, x, z = stir(tiny(dropout=0.5)).train(), torch.randn(2, 1, 16, 16), torch.randn(2, 8)
    assert torch.equal(encode_stochastic(net, x, z, 10), encode_stochastic(net, x, z, 10))
    assert net.training
    net.eval()
    assert torch.equal(decode(net, x, z, 10), decode(net, x, z, 10))
    assert not net.training


def test_what_is_found_depends_on_the_embedding_and_on_t_from_the_first_step_on() -> None:
    net = tiny().eval()
    x, z = torch.randn(2, 1, 16, 16), torch.randn(2, 8, requires_grad=True)
    noise = net(x, torch.tensor([10, 900]), z)
    assert noise.dtype == torch.float32
    (gradient,) = torch.autograd.grad(noise.square().sum(), z)
    assert (gradient != 0).all()
    assert not torch.allclose(noise, net(x, torch.tensor([900, 10]), z), atol=1e-4)


def test_noise_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert tiny()(torch.randn(2, 1, 16, 16), torch.tensor([1, 2]), torch.randn(2, 8)).dtype == torch.float32


def test_every_attention_and_every_block_has_its_normalisation() -> None:
    """Without `attn_norm_num_groups` the middle attention would have none under scale and shift."""
    net = tiny(channels=(16, 32), attention_levels=(1,))
    found = [module for module in net.modules() if type(module).__name__ == "Attention"]
    assert len(found) == 1 + 1 + 2  # on the way down, in the middle, and two on the way up
    assert all(isinstance(module.group_norm, torch.nn.GroupNorm) for module in found)
    assert all(module.heads == 1 for module in found)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert all(norm.num_channels // norm.num_groups >= diffusion.LEAST_PER_GROUP for norm in norms)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [((128, 128, 256, 256, 512, 512), 32), ((32, 64, 64), 8), ((16, 48), 4), ((4, 8), 1), ((20, 40), 5), ((36, 12), 3)],
)
def test_groups_fit_the_channels(channels: tuple[int, ...], groups: int) -> None:
    assert diffusion._groups(channels) == groups


def test_at_256_pixels_it_is_the_sources_network() -> None:
    """METHOD section 5: the reference's configuration in diffusers' words has 118.8 million parameters."""
    with torch.device("meta"):
        net = Denoiser(256, 512, (128, 128, 256, 256, 512, 512), 2, (4,), 0.1)
        call = diffusion.UNet2DModel(
            sample_size=256,
            in_channels=1,
            out_channels=1,
            block_out_channels=(128, 128, 256, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
            attention_head_dim=512,
            norm_num_groups=32,
            attn_norm_num_groups=32,
            dropout=0.1,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
            time_embedding_dim=512,
        )
    shapes = {name: tuple(value.shape) for name, value in call.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in net.unet.state_dict().items()} == shapes
    assert str(net.unet) == str(call)  # dropout, heads and groups, too
    assert round(sum(value.numel() for value in net.state_dict().values()) / 1e6, 1) == 118.8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 20, "channels": (8, 8, 8, 8)}, "20 pixels cannot be halved 3 times.*multiple of 8"),
        ({"channels": (8, 18)}, r"`channels` are multiples of 4, not \[8, 18\]"),
        ({"attention_levels": (2,)}, r"`attention_levels` are among 0 to 1, not \[2\]"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(**changes)
