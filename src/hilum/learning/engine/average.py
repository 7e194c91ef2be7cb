"""The moving average of weights that is kept in their place: it is smoother than the last step's weights.

Ho et al. 2020 (Denoising Diffusion Probabilistic Models), appendix B, keep it with a decay of 0.9999; a run of fewer
steps than that would keep its random beginning, so the decay grows with the steps, as (1 + t) / (10 + t).
"""

import torch
from torch import Tensor, nn


class Average:
    """A shadow of the weights and buffers of some modules."""

    def __init__(self, modules: nn.Module, decay: float) -> None:
        self._modules = modules
        self._decay = decay
        self._shadow = {name: value.detach().clone() for name, value in modules.state_dict().items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the shadow towards the weights after step `step` (from 0); integer buffers are taken as they are."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, value in self._modules.state_dict().items():
            if value.is_floating_point():
                self._shadow[name].lerp_(value, 1.0 - decay)
            else:
                self._shadow[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return self._shadow

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what a checkpoint kept."""
        for name, value in self._shadow.items():
            value.copy_(state[name])

    def settle(self) -> None:
        """Put the averages in the weights' place: the run is over."""
        self._modules.load_state_dict(self._shadow)
