"""OpenVINO in bfloat16 on the CPU: the door to it.

Left to itself OpenVINO takes bfloat16 where a processor has it and float32 where it has not, so that one release would
answer differently on two machines. Here bfloat16 is asked for, and read back.

Its Python package reports its import to its makers, by `openvino_telemetry`, which is kept from being imported.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hilum.errors import ReleaseError, UsageError

PRODUCTS: Final = ("Convolution", "FullyConnected", "MatMul")  # layers that bfloat16 makes faster


class Compiled:
    """A graph compiled for the CPU in bfloat16.

    Attributes:
        outputs: Names of what it gives.
        library: Name and version.
        n_covariates: None are taken: a head that fuses them answers by its reproducible engine alone.
    """

    n_covariates = 0

    def __init__(self, model: Path, threads: int = 1) -> None:
        """Compile a graph.

        Raises:
            UsageError: OpenVINO is not installed, or this processor has no bfloat16.
            ReleaseError: OpenVINO cannot run the graph.
        """
        if importlib.util.find_spec("openvino") is None:
            raise UsageError("the engine openvino-bf16 needs OpenVINO; install hilum[openvino]")
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails: a stub is used
        import openvino

        core = openvino.Core()
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError(
                "the engine openvino-bf16 needs a processor with bfloat16 (AVX512_BF16 or AMX), and this one has none; "
                "choose onnxruntime-fp32"
            )
        asked = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            # Several processes would otherwise pin their threads to the same core.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = core.compile_model(core.read_model(str(model)), "CPU", asked)
        except RuntimeError as error:
            raise ReleaseError(f"{model.name} cannot be run by OpenVINO {openvino.__version__}: {error}") from error
        got = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if got != "bf16":
            raise UsageError(f"OpenVINO would compute in {got}, but bf16 was asked for; choose another engine")
        self._compiled = compiled
        products = {precision for kind in PRODUCTS for precision in self.computed_in().get(kind, ())}
        if "bf16" not in products:
            raise UsageError(
                f"OpenVINO was asked for bf16 and computes the products of {model.name} in "
                f"{', '.join(sorted(products)) or 'nothing that it names'}; choose another engine"
            )
        # One output may have several names; the graph's own are these.
        self.outputs = [
            next(name for name in ("embedding", "probability") if name in output.get_names())
            for output in compiled.outputs
        ]
        self.library = f"openvino {openvino.__version__.split('-')[0]}"
        self._request = compiled.create_infer_request()

    def computed_in(self) -> dict[str, set[str]]:
        """Precisions in which the compiled graph really computes, by kind of layer, in OpenVINO's words."""
        found: dict[str, set[str]] = {}
        for layer in self._compiled.get_runtime_model().get_ordered_ops():
            said = layer.get_rt_info()
            kind, precision = (said[key].astype(str) for key in ("layerType", "runtimePrecision"))
            found.setdefault(kind, set()).add(precision)
        return found

    def run(
        self,
        x_BCHW: NDArray[Any],
        covariates_BC: NDArray[Any] | None = None,  # noqa: ARG002  n_covariates says that none are taken
    ) -> list[NDArray[Any]]:
        """Outputs of the graph for images, float32 in [0, 1], (B, 1, S, S)."""
        self._request.infer({"image": np.ascontiguousarray(x_BCHW)}, share_inputs=True)
        # Copies: the request writes the next answer into the same memory.
        return [np.array(self._request.get_output_tensor(number).data) for number in range(len(self.outputs))]
