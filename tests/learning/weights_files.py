"""Weights files as torchvision and timm write them, small and made by the tests."""

import torch
from torch import Tensor, nn

from hilum.learning.nets.embedder import embedder
from hilum.recipe import Backbone


def imagenet_state(section: Backbone, seed: int = 0, classes: int = 10) -> dict[str, Tensor]:
    """A state dict with the ImageNet network's keys: three channels in the stem, a classifier; random throughout."""
    net = embedder(section).net
    random = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(value.shape, generator=random)
        elif value.ndim == 1:
            centre = 0.5 if key.endswith("weight") else 0.0
            state[key] = centre + 0.1 * torch.randn(value.shape, generator=random)
        else:
            channels = 3 if value.shape[1] == 1 else value.shape[1]
            shape = (value.shape[0], channels, *value.shape[2:])
            deviation = (2 / nn.init._calculate_fan_in_and_fan_out(torch.empty(shape, device="meta"))[0]) ** 0.5
            state[key] = deviation * torch.randn(shape, generator=random)
    head = "classifier" if section.name == "densenet121" else "fc"
    state[f"{head}.weight"] = torch.randn(classes, embedder(section).dim, generator=random)
    state[f"{head}.bias"] = torch.zeros(classes)
    return state
