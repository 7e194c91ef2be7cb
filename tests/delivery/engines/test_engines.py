"""Every engine on one convolutional graph: shapes, precision, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pandas as pd
import pytest
import releasing
import torch
import yaml
from click.testing import CliRunner
from releasing import SERVING, drawn_image, encoded
from threadpoolctl import threadpool_info, threadpool_limits
from torch import nn

from hilum.cli import cli
from hilum.delivery import dossier
from hilum.delivery.desk import Desk, Request
from hilum.delivery.engines import NAMES, open_engine
from hilum.delivery.engines.runtime import Session
from hilum.delivery.fronts import exchange
from hilum.delivery.predictor import Predictor, Release, Result, infer
from hilum.delivery.releasing import engines, export, graph, quantise
from hilum.delivery.releasing.archive import archive
from hilum.delivery.releasing.engines import compare
from hilum.delivery.releasing.sources import Sources
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
    [product] = [node for node in nodes if node.name == "head_mul"]
    assert made_by[product.input[0]] == "Cast"


def test_what_bfloat16_computes_is_read_back_and_the_head_stays_in_floats(folder):
    engine = open_engine("openvino-bf16", folder)
    computed = engine.computed_in()
    assert computed["Convolution"] == {"bf16"}
    assert "FullyConnected" not in computed  # the head is no matrix product, so that none is in bfloat16
    assert computed["Eltwise"] == {"f32"}


def test_an_engine_that_cannot_be_had_is_refused_and_nothing_takes_its_place(folder):
    with pytest.raises(UsageError, match="needs onnxruntime-gpu and an NVIDIA GPU"):
        open_engine("onnxruntime-cuda", folder)
    with pytest.raises(UsageError, match="there is no engine 'tensorrt'; there are onnxruntime-fp32"):
        open_engine("tensorrt", folder)
    assert set(NAMES) == {"onnxruntime-fp32", "onnxruntime-cuda", *OTHERS}


def test_without_its_library_an_engine_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # as where it is not installed
    with pytest.raises(UsageError, match=r"install hilum\[openvino\]"):
        open_engine("openvino-bf16", folder)


def test_a_processor_without_bfloat16_is_refused(folder, monkeypatch):
    import openvino

    class Older(openvino.Core):
        def get_property(self, device, name):
            found = super().get_property(device, name)
            return [one for one in found if one != "BF16"] if name == "OPTIMIZATION_CAPABILITIES" else found

    monkeypatch.setattr(openvino, "Core", Older)
    with pytest.raises(UsageError, match="needs a processor with bfloat16"):
        open_engine("openvino-bf16", folder)


def test_a_graph_that_would_not_compute_in_bfloat16_is_refused(tmp_path):
    """One without any product: asking for bfloat16 changes nothing in it."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, SIZE, SIZE])
    out = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", 1, 1, 1])
    node = onnx.helper.make_node("GlobalAveragePool", ["image"], ["embedding"])
    made = onnx.helper.make_graph([node], "mean", [image], [out])
    onnx.save(
        onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "encoder.onnx",
    )
    with pytest.raises(UsageError, match=r"computes the products of encoder\.onnx in nothing that it names"):
        open_engine("openvino-bf16", tmp_path)


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


def test_the_trial_rides_in_the_release_and_its_dossier(release):
    told = json.loads((release / "evidence" / "engines.json").read_text())
    card = Release.open(release).card
    assert told["engines"] == [one.model_dump(mode="json") for one in card.engines]
    assert told["splits"] == ["test", "val"]
    assert told["calibration"]["splits"] == ["val"]
    bf16 = card.engines[0]
    assert bf16.cosine_least <= bf16.cosine_median <= 1 + 1e-6
    assert bf16.n == told["n_images"]
    named = {link.get("file") for link in json.loads((release / "dossier.json").read_text())["links"]}
    assert {"evidence/engines.json", "encoder.int8.onnx"} <= named


def test_no_image_of_a_test_patient_sets_a_range(base):
    run, _ = releasing.trained(base, "XR")
    dataset = releasing.phantom_dataset(base)
    sources = Sources.open(dataset, run, Export(encoder="pixels"), releasing.gated(base, "XR"))
    rows, manifest = engines.calibration_rows(sources), sources.dataset.manifest
    assert 0 < len(rows) <= quantise.CALIBRATION_IMAGES
    tested = set(manifest.loc[manifest["split"] == "test", "patient_id"])
    assert not tested & set(manifest["patient_id"].iloc[rows])
    assert set(manifest["modality"].iloc[rows]) == {"XR"}
    # Where val has none, train lends them: never test.
    alone = replace(sources.dataset, manifest=manifest[manifest["split"] != "val"].reset_index(drop=True))
    rows = engines.calibration_rows(replace(sources, dataset=alone))
    assert set(alone.manifest["split"].iloc[rows]) == {"train"}


def test_another_graph_in_eight_bits_does_not_serve(release, tmp_path):
    """With a dossier drawn up anew to match, only the golden images can tell."""
    other = shutil.copytree(release, tmp_path / "release")
    model = onnx.load(other / "encoder.int8.onnx")
    stored = {one.name: one for one in model.graph.initializer}
    # Of weights, not of activations: a product with it comes out half as large again.
    scale = next(
        stored[node.input[1]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and stored.get(node.input[0]) and len(stored[node.input[0]].dims) > 1
    )
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * np.float32(1.5), scale.name))
    onnx.save(model, other / "encoder.int8.onnx")
    told = dossier.facts(dossier.read(other))
    (other / "dossier.json").write_text(json.dumps(dossier.draw_up(other, told)))
    assert Predictor.load(release, engine="onnxruntime-int8").engine["precision"] == "int8"
    with pytest.raises(ReleaseError, match="does not answer its golden images"):
        Predictor.load(other, engine="onnxruntime-int8")


def test_an_archive_opens_with_its_engine(release, tmp_path):
    folder = archive("embeddings", [release], SERVING, tmp_path, engine="openvino-bf16", form="no-archive")
    context = SimpleNamespace(
        system_properties={"model_dir": str(folder)},
        model_yaml_config=yaml.safe_load((folder / "model-config.yaml").read_text()),
    )
    with threadpool_limits():  # which were there before come back
        desk, meter = exchange.open_desk(context, "embeddings")
        [answer] = desk.answer([Request(encoded(drawn_image("PA")))])
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {1}
    assert answer.body["engine"]["name"] == "openvino-bf16"
    assert meter is None  # a context without metrics


def test_the_command_line_takes_an_engine_and_says_which_it_was(release, xr_release, tmp_path):
    film = tmp_path / "film.png"
    film.write_bytes(encoded(drawn_image("PA")))
    out = tmp_path / "answers.parquet"
    asked = ["--engine", "openvino-bf16", "--workers", "1"]
    done = CliRunner().invoke(cli, ["predict", str(release), str(film), "--out", str(out), *asked])
    assert done.exit_code == 0, done.output
    assert "openvino-bf16" in pd.read_parquet(out).astype(str).to_numpy()
    refused = CliRunner().invoke(cli, ["predict", str(xr_release), str(film), *asked])
    assert isinstance(refused.exception, ReleaseError)
    assert "was not tried with the engine 'openvino-bf16'" in str(refused.exception)


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


def test_a_probability_has_a_tolerance_of_its_own(release):
    opened = Release.open(release)
    bf16 = opened.card.engines[0]
    assert bf16.golden_probability_tolerance != bf16.golden_tolerance
    strict = bf16.model_copy(update={"golden_probability_tolerance": 1e-12})
    with pytest.raises(ReleaseError, match="of its probability"):
        Predictor(replace(opened, card=opened.card.model_copy(update={"engines": (strict,)})), engine="openvino-bf16")
