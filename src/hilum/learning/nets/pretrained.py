"""ImageNet weights for a backbone: read a state dict of torchvision or timm, and fold its RGB stem to one channel.

An ImageNet network sees three channels c of an image, each normalised as (x - m_c) / s_c. A grey image x has the same
in all three, and what its own normalisation gives is u = (x - m) / s. So the first convolution, with weights W_oc,
gives for output channel o

    sum_c W_oc * (m + s u - m_c) / s_c  =  [ s sum_c W_oc / s_c ] * u  +  sum_c (m - m_c) / s_c sum_taps W_oc .

The first term is a one-channel convolution. The second is a number, and the batch normalisation behind the convolution
subtracts it with its running mean. This is exact wherever the kernel lies within the image. At the border it is not:
outside, the ImageNet network is padded with its own mean colour and this one with the grey m, so the outermost 3 pixels
of a 7x7 stem differ by a little of (m - m_c) / s_c. In training mode the batch's own mean is subtracted, whatever the
number is.
"""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from hilum.errors import TrainingError, UsageError
from hilum.learning.engine import checkpoint
from hilum.learning.nets.densenet import LAYERS, DenseNet
from hilum.learning.nets.resnet import BLOCKS, ResNet
from hilum.recipe import Backbone

MEAN: Final = (0.485, 0.456, 0.406)  # of ImageNet's red, green and blue, on the scale 0 to 1; so torchvision and timm
STD: Final = (0.229, 0.224, 0.225)
WRAPPERS: Final = ("state_dict", "model", "model_state_dict")  # what training scripts keep a state dict under
HEADS: Final = ("fc.", "classifier.", "head.")
COUNTER: Final = "num_batches_tracked"  # older files lack it; nothing here reads it
NAMED: Final = 3  # keys that a message lists


def load(net: ResNet | DenseNet, section: Backbone, path: Path, mean: float, std: float) -> None:
    """Put a file's ImageNet weights into a backbone.

    Args:
        net: What `section` describes; it may lie on any device.
        section: The backbone.
        path: A state dict of torchvision or timm: .pth or .pt (read without running any code in it), or .safetensors.
        mean: m, by which grey values are normalised before `net`, on the scale 0 to 1.
        std: s, likewise.

    Raises:
        UsageError: The backbone has a group normalisation or a 3x3 stem, for which there are no such weights.
        TrainingError: The file cannot be read, or is for another backbone.
    """
    suits(section)
    state = _named_as_here(read(path))
    own = net.state_dict()
    convolution, normalisation = (f"{part}." for part in net.stem)
    stem = f"{convolution}weight"
    expected = {key: tuple(value.shape) for key, value in own.items() if not key.endswith(COUNTER)}
    expected[stem] = (expected[stem][0], 3, *expected[stem][2:])
    _compare(state, expected, section, path)
    weight_ocHW = state[stem].double()
    std_c, mean_c = torch.tensor(STD, dtype=torch.float64), torch.tensor(MEAN, dtype=torch.float64)
    constant_o = weight_ocHW.sum(dim=(2, 3)) @ ((mean - mean_c) / std_c)
    folded = {
        stem: torch.einsum("ochw,c->ohw", weight_ocHW, std / std_c)[:, None],
        f"{normalisation}running_mean": state[f"{normalisation}running_mean"].double() - constant_o,
    }
    counters = {key: torch.zeros_like(value) for key, value in own.items() if key.endswith(COUNTER)}
    net.load_state_dict({**state, **counters, **folded})


def suits(section: Backbone) -> None:
    """Refuse a backbone that no ImageNet weights are for.

    Raises:
        UsageError: It has a group normalisation or a 3x3 stem.
    """
    if section.norm != "batch":
        raise UsageError(
            f"ImageNet weights go with batch normalisation, not backbone.norm: {section.norm}; write `norm: batch`, or "
            "leave backbone.weights empty"
        )
    if section.stem != "7x7":
        raise UsageError(
            f"ImageNet weights go with the stem 7x7, not backbone.stem: {section.stem}; write `stem: 7x7`, or leave "
            "backbone.weights empty"
        )


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU, out of whatever it wraps them in.

    Raises:
        TrainingError: It is damaged, or holds something else.
    """
    if zipfile.is_zipfile(path) and not checkpoint.whole(path):
        raise TrainingError(f"{path} is damaged: a checksum in it does not hold; get the file again")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        KeyError,
        ValueError,
        UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        raise TrainingError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors; a state dict as .pth, .pt "
            "or .safetensors would do"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise TrainingError(f"{path} holds no tensors by name; it should be a state dict of torchvision or timm")
    return tensors


def _named_as_here(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix of data parallelism and the classifier; DenseNet's older keys as the newer ones."""
    renamed = {}
    for key, value in state.items():
        bare = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key.removeprefix("module."))
        if not bare.startswith(HEADS) and not bare.endswith(COUNTER):
            renamed[bare] = value
    return renamed


def _compare(state: dict[str, Tensor], expected: dict[str, tuple[int, ...]], section: Backbone, path: Path) -> None:
    """Refuse a state dict with other keys or shapes; the message names the first few and what the file is for."""
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    mis_shaped = [
        f"{key} is {shapes[key]} and not {shape}" for key, shape in expected.items() if shapes.get(key, shape) != shape
    ]
    faults = [
        _listed("it lacks", [key for key in expected if key not in shapes]),
        _listed("it also has", [key for key in shapes if key not in expected]),
        _listed("in it", mis_shaped),
    ]
    if any(faults):
        raise TrainingError(
            f"{path} does not fit the backbone {section.name} of width {section.width}: "
            f"{'; '.join(fault for fault in faults if fault)}; {_meant_for(shapes)}"
        )


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return f"{what} {', '.join(keys[:NAMED])}{more}"


def _meant_for(shapes: dict[str, tuple[int, ...]]) -> str:
    """Which network a state dict seems to be of."""
    if any(key.startswith("features.denseblock") for key in shapes):
        layers = _counts(shapes, r"features\.denseblock(\d+)\.denselayer(\d+)\.")
        width = shapes.get("features.conv0.weight", (0,))[0] // 2
        known: dict[tuple[int, ...], str] = {LAYERS["densenet121"]: "densenet121"}
        return f"the file seems to be of {known.get(layers, f'a DenseNet with {layers} layers')} of width {width}"
    if any(re.match(r"layer\d+\.\d+\.", key) for key in shapes):
        deep = "layer1.0.conv3.weight" in shapes
        layers = _counts(shapes, r"layer(\d+)\.(\d+)\.")
        known = {BLOCKS[name]: name for name in BLOCKS if (name == "resnet50") == deep}
        width = shapes.get("conv1.weight", (0,))[0]
        kind = "bottlenecks" if deep else "basic blocks"
        return f"the file seems to be of {known.get(layers, f'a ResNet with {layers} {kind}')} of width {width}"
    return "the file seems to be of neither a ResNet nor a DenseNet"


def _counts(shapes: dict[str, tuple[int, ...]], pattern: str) -> tuple[int, ...]:
    """How many blocks (second group) each stage (first group) has."""
    found = {match.groups() for key in shapes if (match := re.match(pattern, key))}
    stages = sorted({int(stage) for stage, _ in found})
    return tuple(sum(int(stage) == number for stage, _ in found) for number in stages)
