"""A head that fuses covariates, as a part of the graph: its second input, and the proof that it computes the same.

`covariates`, float32 (B, C), hold values in their own units, NaN where missing. The graph scales them and makes the
masks; it knows no plausible range, which is looked at before (hilum.delivery.answering.covariates).
"""

from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hilum.data.clinical import REACH
from hilum.delivery.engines import Engine
from hilum.delivery.predictor import infer
from hilum.judgement.fusion.head import FusedHead, raw

INPUT: Final = "covariates"


def fold(graph: Any, head: FusedHead) -> None:
    """Append `probability = sigmoid(a fusion(embedding, covariates) + b)` to the graph, in float64 as any head.

    Formulas: hilum.judgement.fusion.head, which is numpy and has the same names.
    """
    nodes = _Nodes(graph, head)
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    n_images = batch.dim_param or batch.dim_value
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [n_images, len(head.clinical.names)]))
    raw_BC = nodes.add("Cast", [INPUT], to=TensorProto.DOUBLE)
    unknown_BC = nodes.add("IsNaN", [raw_BC])
    missing_BC = nodes.add("Cast", [unknown_BC], to=TensorProto.DOUBLE)
    shifted_BC = nodes.add("Sub", [raw_BC, nodes.constant("centre", head.clinical.centre_C)])
    scaled_BC = nodes.add("Div", [shifted_BC, nodes.constant("scale", head.clinical.scale_C)])
    ends = [nodes.constant("least", np.array(-REACH)), nodes.constant("most", np.array(REACH))]
    cut_BC = nodes.add("Clip", [scaled_BC, *ends])
    values_BC = nodes.add("Where", [unknown_BC, nodes.constant("zero", np.array(0.0)), cut_BC])
    z_BD = nodes.add("Cast", ["embedding"], to=TensorProto.DOUBLE)
    centred_BD = nodes.add("Sub", [z_BD, nodes.weight("mean_D")])
    phi_BD = nodes.add("Div", [centred_BD, nodes.weight("std_D")])
    if head.kind == "gated":
        e_BE = nodes.add("Concat", [values_BC, missing_BC], axis=1)
        for layer in ("code.0", "code.2"):
            e_BE = nodes.add("Max", [nodes.linear(e_BE, layer), nodes.constant("zero", np.array(0.0))])
        gate_BD = nodes.add("Sigmoid", [nodes.linear(nodes.add("Concat", [phi_BD, e_BE], axis=1), "gate")])
        moved_BD = nodes.add("Mul", [gate_BD, nodes.linear(e_BE, "residual")])
        logit_B1 = nodes.linear(nodes.add("Add", [phi_BD, moved_BD]), "head")
    else:
        logit_B1 = nodes.add("Add", [nodes.linear(phi_BD, "head"), nodes.linear(values_BC, "covariates")])
    sloped_B1 = nodes.add("Mul", [logit_B1, nodes.constant("platt_a", np.array(head.platt_a))])
    calibrated_B1 = nodes.add("Add", [sloped_B1, nodes.constant("platt_b", np.array(head.platt_b))])
    probability_B1 = nodes.add("Sigmoid", [calibrated_B1])
    flat_B = nodes.add("Squeeze", [probability_B1, nodes.constant("axis", np.array([1], dtype=np.int64))])
    graph.node.append(helper.make_node("Cast", [flat_B], ["probability"], "fusion_to_float", to=TensorProto.FLOAT))
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, [n_images]))


def apart(
    engine: Engine,
    head: FusedHead,
    images_NSS: NDArray[np.uint8],
    raw_NC: NDArray[np.float64],
    z_ND: NDArray[np.float32],
    size: int,
) -> float:
    """Largest difference of a probability from the formulas, with covariates as they are and with every other one.

    Args:
        engine: With the graph.
        head: The head that it was made of.
        images_NSS: Preprocessed images.
        raw_NC: Their covariates, plausible or NaN.
        z_ND: Their embeddings by torch.
        size: Images per run.
    """
    partly_NC = np.where(np.indices(raw_NC.shape).sum(axis=0) % 2 == 0, raw_NC, np.nan)
    worst = 0.0
    for some_NC in (raw_NC, partly_NC):
        pieces = [
            infer(engine, images_NSS[start : start + size], some_NC[start : start + size].astype(np.float32))
            for start in range(0, len(images_NSS), size)
        ]
        found_N = np.concatenate([one.probability_B for one in pieces if one.probability_B is not None])
        difference = float(np.abs(found_N - head.predict(z_ND, some_NC)).max())
        worst = max(worst, difference if np.isfinite(difference) else np.inf)
    return worst


def covariates(head: FusedHead, table: pd.DataFrame) -> NDArray[np.float64]:
    """Plausible covariates of rows of a manifest, NaN elsewhere: (N, C)."""
    return head.clinical.cut(raw(table, head.clinical.names))


def golden(head: FusedHead, n_images: int) -> NDArray[np.float32]:
    """Covariates of golden images: off the median by turns up and down, one missing in each image but the first."""
    image, column = np.indices((n_images, len(head.clinical.names)))
    away = np.where((image + column) % 2 == 0, 1.0, -1.0) * (1 + image) / n_images
    value_BC = head.clinical.centre_C + head.clinical.scale_C * away
    kept = np.where((image > 0) & (column == (image - 1) % len(head.clinical.names)), np.nan, value_BC)
    return head.clinical.cut(kept).astype(np.float32)


class _Nodes:
    """Adds nodes under names of their own; a constant of one name is kept once."""

    def __init__(self, graph: Any, head: FusedHead) -> None:
        self._graph, self._head, self._kept, self._number = graph, head, set[str](), 0

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        self._number += 1
        name = f"fusion_{self._number:02d}_{kind.lower()}"
        self._graph.node.append(helper.make_node(kind, inputs, [name], f"node_{name}", **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        named = f"fusion_{name}"
        if named not in self._kept:
            self._kept.add(named)
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), named))
        return named

    def weight(self, name: str) -> str:
        return self.constant(name, self._head.arrays[name])

    def linear(self, x: str, layer: str) -> str:
        """The layer: x W^T + b, where the layer has a b."""
        arrays = self._head.arrays
        product = self.add("MatMul", [x, self.constant(f"{layer}.weight", arrays[f"{layer}.weight"].T)])
        return self.add("Add", [product, self.weight(f"{layer}.bias")]) if f"{layer}.bias" in arrays else product
