"""Every engine on one convolutional graph: shapes, precision, and what is refused."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import releasing
import torch
from releasing import SERVING, drawn_image, encoded
from torch import nn

from hilum.delivery.desk import Desk, Request
from hilum.delivery.engines import NAMES, open_engine
from hilum.delivery.engines.runtime import Session
from hilum.delivery.predictor import Predictor, Release, Result, infer
from hilum.delivery.releasing import export, graph, quantise
from hilum.delivery.releasing.engines import compare
from hilum.errors import ReleaseError, UsageError
from hilum.judgement.probing.head import Head
from hilum.recipe import EngineTolerance, Export

SIZE, DIM = 48, 24
OTHERS = ["openvino-bf16", "onnxruntime-int8"]


class Net(nn.Module):
    """Three convolutions and a mean."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *[nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()],
            *[nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()],
            *[nn.Conv2d(32, DIM, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        )

    def forward(self, x_BCHW):
        return self.layers(x_BCHW)


@pytest.fixture(scope="module")
def images(base):
    rows = np.load(releasing.phantom_dataset(base) / "images.npy")
    return rows[:: len(rows) // 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, images):
    """A graph in both forms, with a head."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("graph")
    net = Net().eval()
    random = np.random.default_rng(0)
    head = Head(random.normal(size=DIM) * 20, 0.1, 1.3, 0.2, 0.5)
    graph.write(net, SIZE, head, {"name": "net"}, path / "encoder.onnx")
    quantise.quantise(path / "encoder.onnx", images[:32], path / "encoder.int8.onnx")
    return path


@pytest.mark.parametrize("name", ["onnxruntime-fp32", *OTHERS])
@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_every_engine_answers_every_batch_as_the_reproducible_one_does_nearly(folder, images, name, size):
    engine, reference = open_engine(name, folder), Session(folder / "encoder.onnx")
    assert list(engine.outputs) == ["embedding", "probability"]
    found, expected = infer(engine, images[:size]), infer(reference, images[:size])
    assert (found.z_BD.shape, found.probability_B.shape) == ((size, DIM), (size,))
    assert (found.z_BD.dtype, found.probability_B.dtype) == (np.float32, np.float32)
    cosine = (found.z_BD * expected.z_BD).sum(axis=1) / (
        np.linalg.norm(found.z_BD, axis=1) * np.linalg.norm(expected.z_BD, axis=1)
    )
    assert cosine.min() > 0.99
    if name != "onnxruntime-fp32":
        assert not np.array_equal(found.z_BD, expected.z_BD)  # another precision it is


@pytest.mark.parametrize("name", OTHERS)
def test_an_answer_stays_when_the_next_one_is_asked_for(folder, images, name):
    engine = open_engine(name, folder)
    first = infer(engine, images[:1])
    kept = first.z_BD.copy()
    infer(engine, images[5:6])
    assert np.array_equal(first.z_BD, kept)


def test_eight_bits_are_in_the_graph_and_the_head_stays_in_floats(folder):
    nodes = onnx.load(folder / "encoder.int8.onnx").graph.node
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in nodes}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert convolutions
    made_by = {output: node.op_type for node in nodes for output in node.output}
    assert all(made_by[name] == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    [product] = [node for node in nodes if node.name == "head_matmul"]
    assert made_by[product.input[0]] == "Cast"


def test_an_engine_that_cannot_be_had_is_refused_and_nothing_takes_its_place(folder):
    with pytest.raises(UsageError, match="needs onnxruntime-gpu and an NVIDIA GPU"):
        open_engine("onnxruntime-cuda", folder)
    with pytest.raises(UsageError, match="there is no engine 'tensorrt'; there are onnxruntime-fp32"):
        open_engine("tensorrt", folder)
    assert set(NAMES) == {"onnxruntime-fp32", "onnxruntime-cuda", *OTHERS}


@pytest.mark.parametrize("name", ["onnxruntime-fp32", "openvino-bf16"])
def test_an_engine_tells_nobody_that_it_is_used(folder, tmp_path, name):
    """Both libraries write an identity into the home folder before they send anything."""
    code = (
        "import sys; from pathlib import Path; from hilum.delivery.engines import open_engine; "
        "open_engine(sys.argv[1], Path(sys.argv[2])); import sys; "
        "print([name for name, one in sys.modules.items() if name.startswith('openvino_telemetry') and one])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(folder)],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir())


def result(z, p):
    return Result(np.float32(z), np.float32(p))


def cohort(n=400):
    random = np.random.default_rng(1)
    y = random.integers(0, 2, n).astype(float)
    p = 1 / (1 + np.exp(-(y * 2 - 1 + random.normal(size=n))))
    return y, p, np.arange(n), random.normal(size=(n, 8))


HEAD = Head(np.ones(8), 0.0, 1.0, 0.0, 0.5)


def test_what_stays_in_tolerance_is_allowed():
    y, p, patients, z = cohort()
    said = compare(result(z, p), result(z + 1e-4, p + 1e-5), y, patients, HEAD, EngineTolerance())
    assert said["allowed"], said["why"]
    assert said["flipped"].value == 0
    assert said["auroc_change"].n == 400
    assert said["cosine_least"] > 0.9999


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda y, p, z: (-z, p), "cosine"),
        (lambda y, p, z: (z, 1 - p), "AUROC changes by -0"),
        (lambda y, p, z: (z, np.where(np.arange(len(p)) % 9 == 0, 1 - p, p)), "on the other side"),
    ],
)
def test_what_leaves_it_is_not_allowed_and_says_by_how_much(spoil, words):
    y, p, patients, z = cohort()
    said = compare(result(z, p), result(*spoil(y, p, z)), y, patients, HEAD, EngineTolerance())
    assert not said["allowed"]
    assert words in said["why"]
    assert not said["why"].startswith("insufficient data")


def test_too_few_images_are_no_reason_to_allow():
    y, p, patients, z = cohort(60)
    said = compare(result(z, p), result(z, p), y, patients, HEAD, EngineTolerance())
    assert not said["allowed"]
    assert said["why"].startswith("insufficient data: the share of decisions")
    alone = compare(Result(np.float32(z), None), Result(np.float32(z), None), y, patients, None, EngineTolerance())
    assert alone["allowed"]


@pytest.fixture(scope="module")
def release(base, tmp_path_factory):
    """Of `pixels`, with both other engines tried, one of which its recipe's tolerance lets pass."""
    run, _ = releasing.trained(base, "XR")
    recipe = Export(
        encoder="pixels",
        engines=("openvino-bf16", "onnxruntime-int8", "onnxruntime-cuda"),
        engine_tolerance=EngineTolerance(max_flipped=0.5, max_auroc_change=0.5, min_cosine=0.5),
    )
    out = tmp_path_factory.mktemp("engines") / "xr-pixels"
    dataset = releasing.phantom_dataset(base)
    return export.export(dataset, run, recipe, out, serving=SERVING, judged=releasing.gated(base, "XR"))


def test_a_release_says_what_it_allows_and_answers_with_it(release):
    card = Release.open(release).card
    told = {one.name: one for one in card.engines}
    assert told["openvino-bf16"].allowed, told["openvino-bf16"].why
    assert "onnxruntime-gpu" in told["onnxruntime-cuda"].why
    desk = Desk.load([release], "pneumonia", engine="openvino-bf16")
    [answer] = desk.answer([Request(encoded(drawn_image("PA")))])
    assert answer.body["engine"] == {"name": "openvino-bf16", "precision": "bfloat16"}
    with pytest.raises(ReleaseError, match="does not allow the engine onnxruntime-cuda"):
        Predictor.load(release, engine="onnxruntime-cuda")
    assert "openvino-bf16" in (release / "MODEL_CARD.md").read_text()


def test_an_engine_that_was_not_tried_is_not_used(xr_release):
    with pytest.raises(ReleaseError, match="was not tried with the engine 'openvino-bf16'; it allows onnxruntime-fp32"):
        Predictor.load(xr_release, engine="openvino-bf16")


def test_golden_images_are_answered_by_the_engine_that_serves(release):
    opened = Release.open(release)
    strict = [replace_tolerance(one) for one in opened.card.engines]
    card = opened.card.model_copy(update={"engines": tuple(strict)})
    with pytest.raises(ReleaseError, match="does not answer its golden images"):
        Predictor(replace(opened, card=card), engine="openvino-bf16")


def replace_tolerance(one):
    return one.model_copy(update={"golden_tolerance": 1e-9})
