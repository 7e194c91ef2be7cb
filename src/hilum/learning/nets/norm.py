"""Normalisation layers, and their statistics over several workers.

B: images of this worker's part, C: channels.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hilum.learning.engine import workers

CHANNELS_PER_GROUP: Final = 8


def norm(kind: str, channels: int) -> nn.Module:
    """Batch normalisation, or group normalisation (Wu and He 2018), in which no image sees its batch mates."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // math.gcd(channels, CHANNELS_PER_GROUP), channels)


def synchronise(module: nn.Module) -> None:
    """Let every trained batch normalisation use the statistics of the global batch; nothing where one worker is.

    Norms whose weights are not trained, as those of a momentum key encoder, keep the statistics of what they are shown.
    Names and values of the state stay the same, so checkpoints fit any number of workers.
    """
    if workers.count() == 1:
        return
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, _BatchNorm) and any(weight.requires_grad for weight in layer.parameters()):
                setattr(parent, name, shared(layer))


def shared(layer: _BatchNorm) -> _BatchNorm:
    """The same layer, over all workers: torch's on a GPU, which has it nowhere else, and one's own on the CPU."""
    kind = nn.SyncBatchNorm if layer.running_mean is not None and layer.running_mean.is_cuda else SharedBatchNorm
    made = kind(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    if layer.affine:
        made.weight, made.bias = layer.weight, layer.bias
    made.running_mean, made.running_var = layer.running_mean, layer.running_var
    made.num_batches_tracked = layer.num_batches_tracked
    made.training = layer.training
    return made


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy 2015, algorithm 1) whose batch is that of all workers; parts may differ.

    In evaluation it is the plain layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised (B, C, ...), in the type of `x`."""
        if not self.training:
            return super().forward(x)
        over = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        with torch.autocast(x.device.type, enabled=False):
            values = x if x.dtype == torch.float64 else x.float()
            n = values.new_tensor([values.numel() / values.shape[1]])
            total = _summed(torch.cat([values.sum(over), n]))
            n, mean_C = total[-1].detach(), total[:-1] / total[-1].detach()
            apart = values - mean_C.view(shape)
            # Two passes: the mean of squares less the square of the mean loses the digits that both share.
            variance_C = _summed(apart.square().sum(over)) / n
            self._follow(mean_C.detach(), variance_C.detach() * n / (n - 1).clamp(min=1))
            y = apart * torch.rsqrt(variance_C + self.eps).view(shape)
            if self.affine:
                y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Move the running statistics as the plain layer does: by `momentum`, or to the mean of all if None."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, share)
        self.running_var.lerp_(variance_C, share)

    def _check_input_dim(self, input: Tensor) -> None:  # the plain layer's name for it
        if input.ndim < 2:
            raise ValueError(f"batch normalisation takes (B, C, ...), not {input.ndim} dimensions")


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]
    return total


class _Sum(torch.autograd.Function):
    """The sum over workers. What each worker adds counts in the losses of all, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total
