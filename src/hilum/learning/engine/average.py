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
        # The state's tensors are the modules' own: they are changed in place for as long as a run lasts.
        self._state = modules.state_dict()
        self._shadow = {name: value.detach().clone() for name, value in self._state.items()}
        self._averaged = [name for name, value in self._state.items() if value.is_floating_point()]
        self._taken = [name for name, value in self._state.items() if not value.is_floating_point()]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the shadow towards the weights after step `step` (from 0); integer buffers are taken as they are."""
        decay = min(self._decay, (1 + step) / (10 + step))
        shadows, values = (
            [self._shadow[name] for name in self._averaged],
            [self._state[name] for name in self._averaged],
        )
        torch._foreach_lerp_(shadows, values, 1.0 - decay)  # all tensors in few kernels
        for name in self._taken:
            self._shadow[name].copy_(self._state[name])

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
