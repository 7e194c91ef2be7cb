"""Engines: what runs a release's graph, each with its precision said aloud.

An engine is named by its library and its precision, and computes in that precision or does not load: nothing here takes
what a library finds best on this machine. Which engines a release allows was measured on the trained model when it was
exported (hilum.delivery.releasing.engines) and stands in its card.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, get_args

from numpy.typing import NDArray

from hilum.errors import UsageError
from hilum.recipe import EngineName

DEFAULT: Final[EngineName] = "onnxruntime-fp32"  # the reproducible one: the same bits on most machines
NAMES: Final[tuple[EngineName, ...]] = get_args(EngineName)
PRECISION: Final[dict[EngineName, str]] = {
    "onnxruntime-fp32": "float32",
    "openvino-bf16": "bfloat16",
    "onnxruntime-int8": "int8",
    "onnxruntime-cuda": "float32",
}
FP32_MODEL: Final = "encoder.onnx"
INT8_MODEL: Final = "encoder.int8.onnx"


class Engine(Protocol):
    """A loaded graph."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of what it gives, in order."""

    @property
    def library(self) -> str:
        """Name and version of what computes."""

    @property
    def n_covariates(self) -> int:
        """How many covariates its graph takes beside an image; 0 where none."""

    def run(self, x_BCHW: NDArray[Any], covariates_BC: NDArray[Any] | None = None) -> Sequence[NDArray[Any]]:
        """Outputs of the graph for images, float32 in [0, 1], (B, 1, S, S).

        Covariates are float32 in their own units, (B, C), NaN where missing; None stands for all missing.
        """


def open_engine(name: str, release: Path, threads: int = 1) -> Engine:
    """Load the graph of a release folder.

    Args:
        name: One of NAMES.
        release: The folder.
        threads: That work on one image; 1 is best where a worker stands on every core.

    Raises:
        UsageError: There is no such engine, its library is not installed, or this machine lacks what it needs.
        ReleaseError: The graph cannot be run by it.
    """
    if name not in _OPEN:
        raise UsageError(f"there is no engine {name!r}; there are {', '.join(NAMES)}")
    return _OPEN[name](release, threads)


def _fp32(release: Path, threads: int) -> Engine:
    from hilum.delivery.engines import runtime

    return runtime.Session(release / FP32_MODEL, threads)


def _int8(release: Path, threads: int) -> Engine:
    from hilum.delivery.engines import runtime

    return runtime.Session(release / INT8_MODEL, threads)


def _cuda(release: Path, threads: int) -> Engine:
    from hilum.delivery.engines import runtime

    return runtime.Session(release / FP32_MODEL, threads, cuda=True)


def _bf16(release: Path, threads: int) -> Engine:
    from hilum.delivery.engines import openvino

    return openvino.Compiled(release / FP32_MODEL, threads)


_OPEN: Final[dict[str, Callable[[Path, int], Engine]]] = {
    "onnxruntime-fp32": _fp32,
    "openvino-bf16": _bf16,
    "onnxruntime-int8": _int8,
    "onnxruntime-cuda": _cuda,
}
