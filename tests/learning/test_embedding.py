"""From an encoder run to vectors, and to a module that exports."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from making import make_dataset
from small_encoders import SMALL

from hilum.data.store import Dataset
from hilum.data.vectors import Vectors
from hilum.errors import DatasetError, TrainingError
from hilum.identity import digest_file
from hilum.learning import embedding, training
from hilum.learning.encoders import ENCODERS
from hilum.recipe import Train


@pytest.fixture(scope="module")
def runs(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: training.run(tiny_dataset, Train.model_validate({"encoder": SMALL[name], "epochs": 2}), folder / name)
        for name in ENCODERS
    }


@pytest.mark.parametrize("name", ENCODERS)
def test_every_row_of_the_modality_is_embedded(
    name: str, runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    made = embedding.run(tiny_dataset, runs[name], tmp_path / "vectors")
    opened = Vectors.open(tmp_path / "vectors")
    dataset = Dataset.open(tiny_dataset)
    assert opened.facts == made.facts
    assert (opened.facts.encoder, opened.facts.modality, opened.facts.n) == (name, "XR", 120)
    assert opened.facts.run["data_digest"] == dataset.facts.digest
    assert opened.facts.encoder_weights == digest_file(runs[name] / embedding.WEIGHTS)
    assert list(opened.rows.columns) == ["row", "image_id", "patient_id", "split"]
    assert set(opened.rows["split"]) == {"train", "val", "test"}
    assert opened.joined(dataset)["image_id"].equals(dataset.manifest["image_id"])
    module = embedding.onnx_module(runs[name])
    for row in (0, 57, 119):
        x = torch.from_numpy(dataset.images[row].astype(np.float32) / 255.0)[None, None]
        np.testing.assert_allclose(opened.z_ND[row], module(x)[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ENCODERS)
def test_embedding_twice_gives_the_same_bytes(
    name: str, runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    for out in ("a", "b"):
        embedding.run(tiny_dataset, runs[name], tmp_path / out)
    assert (tmp_path / "a/vectors.npy").read_bytes() == (tmp_path / "b/vectors.npy").read_bytes()


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")  # torch 2.13's own
@pytest.mark.parametrize("name", ENCODERS)
def test_the_exported_graph_gives_the_same_vectors_at_any_batch_size(
    name: str, runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    module = embedding.onnx_module(runs[name])
    assert not module.training
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 1, 32, 32),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=256)},),
        opset_version=18,
        external_data=False,
        input_names=["image"],
        output_names=["embedding"],
        verbose=False,
    )
    assert program is not None
    program.save(str(tmp_path / "encoder.onnx"), external_data=False)
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    x = Dataset.open(tiny_dataset).images[:9, None].astype(np.float32) / 255.0
    for n in (1, 2, 9):
        with torch.inference_mode():
            expected = module(torch.from_numpy(x[:n])).numpy()
        (z,) = session.run(["embedding"], {"image": x[:n]})
        np.testing.assert_allclose(z, expected, atol=1e-4)


def test_a_dataset_of_another_size_or_modality_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    small = make_dataset(tmp_path / "small", n_patients=10, size=16)
    with pytest.raises(DatasetError, match="16 pixels wide, but the encoder was trained on 32; ingest with --size 32"):
        embedding.run(small, runs["moco"], tmp_path / "out")
    mri = make_dataset(tmp_path / "mri", n_patients=10, modality="MR")
    with pytest.raises(DatasetError, match="no XR images"):
        embedding.run(mri, runs["moco"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_or_damaged_run_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no finished encoder run: it has no card\.json"):
        embedding.onnx_module(tmp_path)
    for name in ("card.json", "recipe.json"):
        (tmp_path / name).write_text((runs["moco"] / name).read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"weights\.pt is missing or damaged"):
        embedding.onnx_module(tmp_path)
    weights = (runs["moco"] / "weights.pt").read_bytes()
    (tmp_path / "weights.pt").write_bytes(weights[:-100])
    with pytest.raises(TrainingError, match=r"weights\.pt is missing or damaged"):
        embedding.onnx_module(tmp_path)
    (tmp_path / "weights.pt").write_bytes((runs["pixels"] / "weights.pt").read_bytes())
    with pytest.raises(TrainingError, match=r"weights\.pt does not fit recipe\.json"):
        embedding.onnx_module(tmp_path)


def test_the_card_names_the_dim_of_the_vectors(runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        card = json.loads((run / "card.json").read_text(encoding="utf-8"))
        assert embedding.onnx_module(run)(torch.zeros(1, 1, 32, 32)).shape == (1, card["dim"]), name
