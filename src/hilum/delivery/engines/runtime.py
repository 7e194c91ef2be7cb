"""ONNX Runtime: the door to it. One provider is asked for, and it is the one that runs, or nothing does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hilum.errors import ReleaseError, UsageError


class Session:
    """A graph in ONNX Runtime, on the CPU or on a GPU.

    Attributes:
        outputs: Names of what it gives.
        n_covariates: How many covariates it takes beside an image.
        library: Name and version.
    """

    def __init__(self, model: Path, threads: int = 1, *, cuda: bool = False) -> None:
        """Load a graph; threads of the CPU do not spin while they wait.

        Raises:
            UsageError: A GPU is asked for, and this ONNX Runtime cannot use one.
            ReleaseError: The file is no graph that this ONNX Runtime can run.
        """
        wanted = "CUDAExecutionProvider" if cuda else "CPUExecutionProvider"
        if wanted not in onnxruntime.get_available_providers():
            raise UsageError(
                "the engine onnxruntime-cuda needs onnxruntime-gpu and an NVIDIA GPU, and this ONNX Runtime has "
                f"{', '.join(onnxruntime.get_available_providers())}; install it, or choose another engine"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; warnings about unused initialisers say nothing to a user
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if cuda:  # a node that the GPU cannot run would otherwise run on the CPU, in silence
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        # TF32 has ten bits where float32 has twenty-three; the engine's name promises float32.
        provider: Any = (wanted, {"use_tf32": "0"}) if cuda else wanted
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise ReleaseError(
                f"{model.name} cannot be run by ONNX Runtime {onnxruntime.__version__}: {error}"
            ) from error
        if (got := self._session.get_providers()[0]) != wanted:
            raise UsageError(f"ONNX Runtime runs {model.name} with {got}, but {wanted} was asked for")
        self.outputs = [output.name for output in self._session.get_outputs()]
        taken = {one.name: one.shape for one in self._session.get_inputs()}
        self.n_covariates = int(taken["covariates"][1]) if "covariates" in taken else 0
        self.library = f"onnxruntime {onnxruntime.__version__}"

    def run(self, x_BCHW: NDArray[Any], covariates_BC: NDArray[Any] | None = None) -> list[NDArray[Any]]:
        """Outputs of the graph for images, float32 in [0, 1], (B, 1, S, S); see Engine."""
        fed = {"image": x_BCHW}
        if self.n_covariates:
            missing = np.full((len(x_BCHW), self.n_covariates), np.nan, dtype=np.float32)
            fed["covariates"] = missing if covariates_BC is None else covariates_BC
        found: list[NDArray[Any]] = self._session.run(None, fed)
        return found
