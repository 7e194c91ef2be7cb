"""A graph in 8-bit integers: static quantisation of its convolutions and matrix products by ONNX Runtime (MIT).

Ranges of activations are those of calibration images; weights have a scale per channel. The head is neither and stays
in float64, because its terms cancel.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CALIBRATION_IMAGES: Final = 128  # of val; more hardly move a range's ends, and each is one pass of the graph
BATCH: Final = 16


def quantise(model: Path, images_NSS: NDArray[np.uint8], out: Path) -> None:
    """Write the graph with 8-bit weights and activations.

    Args:
        model: The graph in float32.
        images_NSS: Calibration images, uint8, (N, S, S).
        out: The file to write.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = _batches(images_NSS)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._batches, None)

    prepared = out.with_name(out.name + ".prepared")
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it logs advice at the root
    try:
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(out),
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
    finally:
        root.setLevel(level)
        prepared.unlink(missing_ok=True)


def _batches(images_NSS: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[Any]]]:
    for start in range(0, len(images_NSS), BATCH):
        x_BCHW = images_NSS[start : start + BATCH, None].astype(np.float32) / np.float32(255)
        yield {"image": x_BCHW}
