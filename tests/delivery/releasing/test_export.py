"""Export: one graph that computes what PyTorch does, whole or not at all, with its evidence."""

import json
import shutil
import zipfile

import numpy as np
import onnx
import pytest
import yaml
from releasing import SERVING, gated, phantom_dataset, trained

from hilum.data.layouts import phantom
from hilum.data.store import Dataset
from hilum.delivery.card import ReleaseCard
from hilum.delivery.engines.runtime import Session
from hilum.delivery.predictor import infer
from hilum.delivery.releasing import archive, export, graph
from hilum.delivery.releasing.sources import Judged
from hilum.errors import CheckFailed, DatasetError, UsageError
from hilum.judgement.gate.override import Override
from hilum.judgement.probing.head import Head
from hilum.learning import embedding
from hilum.recipe import Export

RECIPE = Export(encoder="pixels")
SOMEBODY = Override.of("Dr Example", "a test")
ANSWERED_FOR = Judged(override=SOMEBODY)


def test_card_says_what_was_measured(xr_release, base):
    card = ReleaseCard.load(xr_release)
    dataset = Dataset.open(phantom_dataset(base))
    rows = dataset.rows("XR", ("train",))
    assert (card.name, card.modality, card.dim, card.answers) == ("xr-pixels", "XR", 12, ("embeddings", "pneumonia"))
    assert card.training.n_images == len(rows)
    assert card.training.n_patients == dataset.manifest.iloc[rows]["patient_id"].nunique()
    assert card.views == ("AP", "LATERAL", "PA")
    assert 0 < card.parity.embedding <= 1e-4
    assert card.parity.batch_sizes == (1, 2, 7, 32)
    assert card.parity.n == 64
    facts = json.loads((base / "judged" / "XR" / "head.json").read_text())
    assert card.head.operating_point.sensitivity.value == facts["test"]["sensitivity"]["value"]
    assert card.head.operating_point.threshold == Head.load(base / "judged" / "XR").threshold
    assert card.head.auroc.n == facts["test"]["n"]
    assert card.limits.false_refusals.n == len(dataset.rows("XR", ("test",)))


def test_a_modality_without_the_label_answers_embeddings_only(mr_release):
    card = ReleaseCard.load(mr_release)
    assert card.answers == ("embeddings",)
    assert card.head is None
    assert "pneumonia" in card.why_no_head
    assert not (mr_release / "pneumonia.mar").exists()


def test_graph_has_one_file_a_free_batch_and_no_paths(xr_release):
    model = onnx.load(xr_release / "encoder.onnx", load_external_data=False)
    assert [value.name for value in model.graph.output] == ["embedding", "probability"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["name"], said["label"]) == ("xr-pixels", "pneumonia")
    assert said["data_digest"] == "ab" * 32
    content = (xr_release / "encoder.onnx").read_bytes()
    assert b".py" not in content
    assert b"/home" not in content
    assert str(SERVING.parent).encode() not in content


def test_no_patient_rides_in_a_release(xr_release, base):
    ids = Dataset.open(phantom_dataset(base)).manifest[["patient_id", "image_id", "study_id"]].to_numpy().ravel()
    for path in xr_release.rglob("*"):
        if path.suffix in {".json", ".csv"}:
            assert not [one for one in ids if f'"{one}"' in path.read_text()]
    drawn = phantom.golden("XR", 4)
    assert [path.read_bytes() for path in sorted((xr_release / "golden").glob("*.png"))] == drawn


def test_archives_hold_the_handler_and_the_release_but_no_archive(xr_release):
    with zipfile.ZipFile(xr_release / "pneumonia.mar") as packed:
        names = set(packed.namelist())
        manifest = json.loads(packed.read("MAR-INF/MANIFEST.json"))
        config = packed.read("model-config.yaml").decode()
    assert {"pneumonia.py", "releases/xr-pixels/encoder.onnx", "releases/xr-pixels/dossier.json"} <= names
    assert not [name for name in names if name.endswith(".mar")]
    assert manifest["model"]["modelName"] == "pneumonia"
    assert "question: pneumonia" in config


def test_an_archive_says_how_many_workers_and_threads_answer(xr_release, tmp_path):
    made = archive.archive("pneumonia", [xr_release], SERVING, tmp_path, workers=3, threads=2, form="no-archive")
    said = yaml.safe_load((made / "model-config.yaml").read_text())
    assert (said["minWorkers"], said["maxWorkers"], said["handler"]["threads"]) == (3, 3, 2)


def test_parity_finds_a_head_and_an_encoder_that_differ(xr_release, base):
    run, judged = trained(base, "XR")
    module, head = embedding.onnx_module(run), Head.load(judged)
    images = np.array(Dataset.open(phantom_dataset(base)).images[:9])
    model = xr_release / "encoder.onnx"
    found = graph.check_parity(model, module, head, images, 1e-4)
    assert found.batch_sizes == (1, 2, 7)
    result = infer(Session(model), images)
    assert found.embedding == pytest.approx(
        np.abs(result.z_BD - embedding.embed(module, images, next(module.buffers()).device)).max(), abs=1e-7
    )
    other = Head(head.weight, head.bias, head.platt_a, head.platt_b + 0.01, head.threshold)
    with pytest.raises(CheckFailed, match="differs from PyTorch"):
        graph.check_parity(model, module, other, images, 1e-4)


def test_the_same_release_is_kept_and_another_is_not_overwritten(xr_release, base):
    run, _ = trained(base, "XR")
    before = {path: path.stat().st_mtime_ns for path in xr_release.rglob("*")}
    again = export.export(phantom_dataset(base), run, RECIPE, xr_release, serving=SERVING, judged=gated(base, "XR"))
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*")} == before
    with pytest.raises(UsageError, match="another release"):
        export.export(phantom_dataset(base), run, RECIPE, xr_release, serving=SERVING, judged=ANSWERED_FOR)


def test_a_folder_with_something_else_is_left_alone(base, tmp_path):
    run, _ = trained(base, "XR")
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UsageError, match="not a whole release"):
        export.export(phantom_dataset(base), run, RECIPE, tmp_path, serving=SERVING, judged=ANSWERED_FOR)
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_what_does_not_belong_together_is_refused(base, tmp_path):
    run, judged = trained(base, "XR")
    mr_run, mr_judged = trained(base, "MR")
    dataset = phantom_dataset(base)
    with pytest.raises(UsageError, match=r"set export\.encoder to pixels"):
        export.export(dataset, run, Export(), tmp_path / "r", serving=SERVING, judged=ANSWERED_FOR)
    films, slices = Judged(judged, override=SOMEBODY), Judged(mr_judged, override=SOMEBODY)
    with pytest.raises(DatasetError, match="head belongs to MR pixels"):
        export.export(dataset, run, RECIPE, tmp_path / "r", serving=SERVING, judged=slices)
    demented = Export(encoder="pixels", label="dementia")
    with pytest.raises(UsageError, match="answers for 'pneumonia'"):
        export.export(dataset, mr_run, demented, tmp_path / "r", serving=SERVING, judged=films)
    other = shutil.copytree(dataset, tmp_path / "other")
    facts = json.loads((other / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**facts, "digest": "cd" * 32}))
    with pytest.raises(DatasetError, match="another dataset"):
        export.export(other, run, RECIPE, tmp_path / "r", serving=SERVING, judged=ANSWERED_FOR)


def test_a_tolerance_that_is_not_met_leaves_nothing_behind(base, tmp_path):
    run, _ = trained(base, "MR")
    strict = Export(encoder="pixels", parity_tolerance=1e-12)
    with pytest.raises(CheckFailed, match="parity_tolerance"):
        export.export(phantom_dataset(base), run, strict, tmp_path / "r", serving=SERVING, judged=ANSWERED_FOR)
    assert not (tmp_path / "r").exists()


def test_every_modality_of_a_candidate(base, tmp_path):
    run, _ = trained(base, "MR")
    judged = gated(base, "MR")
    bundle = tmp_path / "candidate" / "MR"
    for name, source in {"encoder": run, "scores": judged.scores, "findings": judged.findings}.items():
        shutil.copytree(source, bundle / name)
    [made] = export.export_all(
        phantom_dataset(base), tmp_path / "candidate", judged.verdict, RECIPE, tmp_path / "out", serving=SERVING
    )
    assert made == tmp_path / "out" / "mr-pixels"
    assert (made / "evidence" / "verdict.json").is_file()
    with pytest.raises(UsageError, match="no candidate"):
        export.export_all(phantom_dataset(base), bundle, judged.verdict, RECIPE, tmp_path / "out2", serving=SERVING)
