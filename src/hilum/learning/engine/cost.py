"""What one step of training takes: parameters, memory, arithmetic; without doing its arithmetic.

The step is run once on fake tensors, which have shapes and no content: nothing is computed and nothing allocated, so
the real batch size is asked of the real networks in seconds. Counted are convolutions and matrix products (forward and
backward, a multiplication and an addition being two operations) and the tensors that are alive at the worst moment.
Elementwise work, the optimizer and workspaces of convolutions are not counted. B: images of this worker's part.
"""

import logging
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from hilum.learning import encoders
from hilum.learning.encoders import Encoder
from hilum.learning.engine import device as devices
from hilum.learning.engine.batches import Batch
from hilum.learning.engine.draws import Draws
from hilum.recipe import Section, Train

STATES: Final = {"adamw": 2, "adam": 2, "sgd": 1}  # moments that an optimizer keeps of each trained number
PROBED: Final = 2  # images of the real batch where a step cannot be run on fake tensors
WHOLE_NUMBERS: Final = (torch.ops.aten.arange, torch.ops.aten.randperm)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one step of one worker takes.

    Attributes:
        images: B.
        trained: Parameters that a gradient moves.
        kept: Parameters of what outlives training: the embedder and, where there is one, the decoder.
        parameters: All of them.
        bytes: Of memory, by what they are for.
        flops: Operations, the mean over steps.
    """

    images: int
    trained: int
    kept: int
    parameters: int
    bytes: dict[str, int]
    flops: float

    @property
    def all_bytes(self) -> int:
        """Memory of the step: at most, since gradients appear as what was kept for them goes."""
        return sum(self.bytes.values())


def of_step(recipe: Train, size: int, n: int) -> Step:
    """What a step of `n` images takes.

    Args:
        recipe: What is trained, and how.
        size: Side of the images in pixels.
        n: Images of one worker's part of a batch.
    """
    encoder = encoders.build(recipe.encoder, size, recipe.seed)
    devices.lay_out(encoder)
    encoder.train()
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    real = _swapped(encoder, fakes)
    try:
        with fakes, _IndicesAreReal():  # type: ignore[no-untyped-call]
            return _measured(encoder, recipe, size, n)
    except (RuntimeError, AssertionError) as error:  # what torch raises where an operation has no fake
        log.info("%s: no fake step (%s), a real one of two images", recipe.encoder.name, error)
    for held, name, value in real:
        held[name] = value
    few = _measured(encoder, recipe, size, min(PROBED, n))
    scale = n / few.images
    grown = {name: int(few.bytes[name] * scale) for name in ("activations", "passing")}
    taken = {**few.bytes, **grown}
    return replace(few, images=n, bytes=taken, flops=few.flops * scale)


def _swapped(encoder: Encoder, fakes: FakeTensorMode) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Put fakes in the place of the weights; returns where each real one was."""
    real: list[tuple[dict[str, Any], str, Tensor]] = []
    for module in encoder.modules():
        tables: list[dict[str, Any]] = [module._parameters, module._buffers]
        for held in tables:
            for name, value in held.items():
                if value is not None:
                    real.append((held, name, value))
                    held[name] = fakes.from_tensor(value)  # one fake for one tensor, also where two modules share it
    return real


def _measured(encoder: Encoder, recipe: Train, size: int, n: int) -> Step:
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    kept = [part for part in (encoder.embedder, encoder.decoder) if part is not None]
    decay = encoder.ema if recipe.ema is None else recipe.ema
    gradients = _bytes(trained)
    taken = {
        "weights": _bytes(encoder.parameters()),
        "buffers": _bytes(encoder.buffers()),
        "gradients": gradients,
        "optimizer": STATES[recipe.optimizer.name] * gradients,
        "moving average": sum(_bytes(part.state_dict().values()) for part in kept) if decay and trained else 0,
        "activations": 0,  # kept for the backward pass
        "passing": 0,  # what else is alive at the worst moment
    }
    flops = 0.0
    if trained:
        kept_bytes, peak, flops = _one_step(encoder, recipe, size, n, step=0)
        taken["activations"] = kept_bytes
        taken["passing"] = max(0, peak - kept_bytes - gradients)
        if (period := _period(recipe.encoder)) > 1:
            flops = (flops + (period - 1) * _one_step(encoder, recipe, size, n, step=1)[2]) / period
    return Step(
        images=n,
        trained=_numbers(trained),
        kept=sum(_numbers(part.parameters()) for part in kept),
        parameters=_numbers(encoder.parameters()),
        bytes=taken,
        flops=flops,
    )


def _period(section: Section) -> int:
    """Every how many steps an encoder does something dear besides."""
    hessian = getattr(section, "hessian", None)
    return hessian.every_n_steps if hessian is not None and hessian.weight > 0 else 1


def _one_step(encoder: Encoder, recipe: Train, size: int, n: int, step: int) -> tuple[int, int, int]:
    """Bytes kept for the backward pass, bytes alive at the worst moment of both passes, and operations of both."""
    cpu = torch.device("cpu")
    own = {_storage(value) for value in [*encoder.parameters(), *encoder.buffers()]}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        if (key := _storage(value)) not in own:
            kept[key] = value.untyped_storage().nbytes()
        return value

    with ExitStack() as during:
        during.enter_context(torch.random.fork_rng(devices=[]))
        alive = during.enter_context(_Alive())
        counted = during.enter_context(FlopCounterMode(display=False))
        batch = _batch(encoder, size, n, step)
        with devices.autocast(cpu, recipe.precision), saved_tensors_hooks(keep, lambda value: value):
            loss = encoder.loss(batch, Draws(recipe.seed, n, cpu, slice(0, n)))
        loss.backward()  # type: ignore[no-untyped-call]
        encoder.zero_grad(set_to_none=True)
    return sum(kept.values()), alive.peak, counted.get_total_flops()


def _batch(encoder: Encoder, size: int, n: int, step: int) -> Batch:
    """A batch of the right shapes; its images are noise."""
    paired = encoder.pairing is not None
    return Batch(
        x_BCHW=torch.rand(n, 1, size, size),
        rows_G=np.arange(n * (1 + paired), dtype=np.int64),
        patients_B=torch.arange(n),
        numbers_B=torch.arange(n),
        labels_BL=torch.zeros(n, len(encoder.labels)),
        partners_BCHW=torch.rand(n, 1, size, size) if paired else None,
        n=n,
        step=step,
        done=0.5,
    )


class _IndicesAreReal(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Over fake tensors: indices stay real, since how many images are chosen is a question of content.

    Ranges and permutations, and what is computed from nothing else, are a few numbers for each image.
    """

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        fake = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not fake and (tensors or func.overloadpacket in WHOLE_NUMBERS):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes of tensors that were made under it are alive.

    Attributes:
        peak: The most there were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(given):
            if isinstance(tensor, Tensor) and (key := _storage(tensor)) not in self._known:
                storage = tensor.untyped_storage()
                self._known.add(key)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return given

    def _gone(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self._now -= n_bytes


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)


def _bytes(values: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def _numbers(values: Iterable[Tensor]) -> int:
    return sum(value.numel() for value in values)
