"""From a trained encoder and its head to one ONNX graph, and the proof that it computes the same.

The graph takes `image`, float32 (B, 1, S, S) in [0, 1], and gives `embedding`, float32 (B, D), and with a head also
`probability`, float32 (B,). B is free. A head that fuses covariates adds an input (hilum.delivery.releasing.fusing).
Torch is reached through the encoder's module, which hilum.learning makes.
"""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hilum.delivery.card import Parity
from hilum.delivery.engines.runtime import Session
from hilum.delivery.predictor import Result, infer
from hilum.delivery.releasing import fusing
from hilum.errors import CheckFailed
from hilum.judgement.fusion.head import FusedHead
from hilum.judgement.probing.head import Head

if TYPE_CHECKING:
    from torch import nn

OPSET: Final = 18
MAX_BATCH: Final = 256  # bound of the batch dimension while exporting; ONNX Runtime takes any
BATCH_SIZES: Final = (1, 2, 7, 32)  # at which parity is checked: a graph that has frozen a batch size fails here


def write(
    module: "nn.Module", size: int, head: Head | FusedHead | None, metadata: Mapping[str, str], path: Path
) -> None:
    """Export an encoder, fold its head into the graph, and write one file.

    Args:
        module: The encoder in eval mode: (B, 1, S, S) in [0, 1] to (B, D).
        size: S, pixels.
        head: The classifier on the embedding; None for a graph that answers embeddings only.
        metadata: What the file says of itself (`metadata_props`).
        path: The .onnx file.
    """
    import torch

    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    # A dummy batch of 2: with 1 the exporter would take the batch for a constant.
    dummy_BCHW = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations; parity below is what counts
            program = torch.onnx.export(
                module,
                (dummy_BCHW,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                external_data=False,
                input_names=["image"],
                output_names=["embedding"],
                verbose=False,
            )
    finally:
        quiet.setLevel(level)
    assert program is not None, "torch.onnx.export(dynamo=True) returns the program"
    model = program.model_proto
    if isinstance(head, FusedHead):
        fusing.fold(model.graph, head)
    elif head is not None:
        _fold(model.graph, head)
    del model.metadata_props[:]  # the exporter's notes name files of this machine
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    helper.set_model_props(model, dict(metadata))
    model.producer_name, model.doc_string = "hilum", ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _fold(graph: Any, head: Head) -> None:
    """Append `probability = sigmoid(a (z w + b) + c)` to the graph.

    In float64, because the standardisation is folded into the weights: large terms cancel. And as a sum of products,
    not as a matrix product, which an engine of lower precision would compute in that precision.
    """
    weight = head.platt_a * head.weight
    bias = head.platt_a * head.bias + head.platt_b
    graph.initializer.extend(
        [
            numpy_helper.from_array(weight.reshape(1, -1), "head_weight"),
            numpy_helper.from_array(np.array([bias]), "head_bias"),
            numpy_helper.from_array(np.array([1], dtype=np.int64), "head_axis"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Cast", ["embedding"], ["head_embedding"], "head_to_double", to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["head_embedding", "head_weight"], ["head_terms"], "head_mul"),
            helper.make_node("ReduceSum", ["head_terms", "head_axis"], ["head_product"], "head_sum", keepdims=0),
            helper.make_node("Add", ["head_product", "head_bias"], ["head_logit"], "head_add"),
            helper.make_node("Sigmoid", ["head_logit"], ["head_probability"], "head_sigmoid"),
            helper.make_node("Cast", ["head_probability"], ["probability"], "head_to_float", to=TensorProto.FLOAT),
        ]
    )
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    graph.output.append(
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, [batch.dim_param or batch.dim_value])
    )


def check_parity(
    model: Path,
    module: "nn.Module",
    head: Head | FusedHead | None,
    images_NSS: NDArray[np.uint8],
    tolerance: float,
    covariates_NC: NDArray[np.float64] | None = None,
) -> Parity:
    """Compare ONNX Runtime with PyTorch on real images, at several batch sizes.

    Args:
        model: The .onnx file.
        module: The encoder that it was made of.
        head: The head that it was made of.
        images_NSS: Preprocessed images, uint8, (N, S, S).
        tolerance: Largest absolute difference that is allowed.
        covariates_NC: Of the images, for a head that fuses them; it is also asked without any, and with some.

    Raises:
        CheckFailed: They differ by more.
    """
    expected = _by_torch(module, head, images_NSS)
    loaded = Session(model)
    worst_z, worst_p = 0.0, 0.0
    sizes = tuple(size for size in BATCH_SIZES if size <= len(images_NSS))
    for size in sizes:
        answered = [infer(loaded, images_NSS[start : start + size]) for start in range(0, len(images_NSS), size)]
        if isinstance(head, FusedHead) and covariates_NC is not None:
            worst_p = max(worst_p, fusing.apart(loaded, head, images_NSS, covariates_NC, expected.z_BD, size))
        z_ND = np.concatenate([one.z_BD for one in answered])
        worst_z = max(worst_z, _apart(z_ND, expected.z_BD))
        if expected.probability_B is not None:
            probabilities = [one.probability_B for one in answered if one.probability_B is not None]
            worst_p = max(worst_p, _apart(np.concatenate(probabilities), expected.probability_B))
    worst = max(worst_z, worst_p)
    if not worst <= tolerance:
        raise CheckFailed(
            f"the ONNX graph differs from PyTorch by {worst:.3g} on {len(images_NSS)} images of the dataset, "
            f"and at most {tolerance:.3g} is allowed (export.parity_tolerance)"
        )
    return Parity(
        embedding=worst_z,
        probability=None if head is None else worst_p,
        tolerance=tolerance,
        n=len(images_NSS),
        batch_sizes=sizes,
    )


def _apart(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute difference; infinite where a shape or a NaN differs from what is expected."""
    if found.shape != expected.shape:
        return float("inf")
    largest = float(np.abs(found.astype(np.float64) - expected).max())
    return largest if np.isfinite(largest) else float("inf")


def _by_torch(module: "nn.Module", head: Head | FusedHead | None, images_NSS: NDArray[np.uint8]) -> Result:
    import torch

    with torch.inference_mode():
        x_NCHW = torch.from_numpy(np.array(images_NSS))[:, None].float() / 255
        z_ND = module(x_NCHW).numpy()
    if isinstance(head, FusedHead):
        probability_N = head.predict(z_ND, np.full((len(z_ND), len(head.clinical.names)), np.nan))
        return Result(z_ND, probability_N.astype(np.float32))
    return Result(z_ND, None if head is None else head.predict(z_ND).astype(np.float32))
