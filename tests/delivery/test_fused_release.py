"""A head that fuses covariates, from a fine-tuning to a release that answers as torch does."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import releasing
import torch

from hilum.data.store import Dataset
from hilum.delivery import dossier
from hilum.delivery.card import ReleaseCard
from hilum.delivery.desk import Answer, Desk, Request
from hilum.delivery.predictor import Predictor, Release
from hilum.errors import CheckFailed, DatasetError, ReleaseError, UsageError
from hilum.judgement.fusion import head as fused
from hilum.judgement.probing import head as heads
from hilum.learning import finetune

KINDS = ("gated", "concatenation")


@pytest.fixture(scope="session")
def fused_release(base: Path) -> Path:
    return releasing.fused(base, "gated")


@pytest.fixture(scope="session")
def desk(fused_release: Path) -> Desk:
    """Of a release that answers images alone; these few drawn films do not show that it may."""
    return Desk([alone_better_than(fused_release, 0.6)], "pneumonia")


def alone_better_than(path: Path, low: float) -> Release:
    """The release, as if its AUROC without covariates had this lower bound."""
    release = Release.open(path)
    head = release.card.head
    fusion = head.fusion.model_copy(update={"auroc": head.fusion.auroc.model_copy(update={"low": low})})
    card = release.card.model_copy(update={"head": head.model_copy(update={"fusion": fusion})})
    return Release(release.path, card, release.dossier_id)


def by_torch(base: Path, release: Path, kind: str, images_BSS: np.ndarray, raw_BC: np.ndarray) -> np.ndarray:
    """What the fine-tuned network itself answers, calibrated as the head says."""
    model, clinical, _ = finetune.load(releasing.tuned(base, kind))
    values_BC, missing_BC = (torch.from_numpy(part) for part in clinical.transform(raw_BC))
    with torch.inference_mode():
        logit_B = model(torch.from_numpy(images_BSS)[:, None].float() / 255, values_BC, missing_BC).double().numpy()
    numbers = heads.facts(base / "judged" / f"XR-{kind}")["platt"]
    return 1 / (1 + np.exp(-(numbers["a"] * logit_B + numbers["b"])))


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_answers_held_out_images_as_torch_does(base: Path, kind: str) -> None:
    release = releasing.fused(base, kind)
    card, data = ReleaseCard.load(release), Dataset.open(releasing.phantom_dataset(base))
    rows = data.rows("XR", ("test",))
    images_BSS = np.ascontiguousarray(data.images[rows])
    raw_BC = data.manifest.iloc[rows][list(card.head.fusion.names)].to_numpy(float)
    assert 0.05 < np.isnan(raw_BC).mean() < 0.95, "some are missing, as they come"
    full_BC = np.where(np.isnan(raw_BC), np.nanmedian(raw_BC, axis=0), raw_BC)
    partly_BC = full_BC.copy()
    partly_BC[:, ::2] = np.nan
    predictor = Predictor.load(release)
    answers = {}
    for name, some_BC in (("as is", raw_BC), ("full", full_BC), ("partly", partly_BC), ("none", full_BC * np.nan)):
        expected_B = by_torch(base, release, kind, images_BSS, some_BC)
        answers[name] = predictor.run(images_BSS, some_BC.astype(np.float32)).probability_B
        assert np.abs(answers[name] - expected_B).max() < 1e-5
    assert np.array_equal(predictor.run(images_BSS).probability_B, answers["none"])
    assert np.abs(answers["full"] - answers["none"]).max() > 0.05, "covariates move the answer"


def test_embeddings_are_those_of_the_encoder_whatever_the_covariates(base: Path, fused_release: Path) -> None:
    plain = Predictor.load(releasing.release(base, "XR"))
    images_BSS = np.ascontiguousarray(Dataset.open(releasing.phantom_dataset(base)).images[:3])
    predictor = Predictor.load(fused_release)
    ones = np.ones((3, 6), np.float32)
    assert np.array_equal(predictor.run(images_BSS, ones).z_BD, plain.run(images_BSS).z_BD)


def test_the_release_says_what_it_takes_and_what_it_is_worth_without(fused_release: Path) -> None:
    card = ReleaseCard.load(fused_release)
    fusion = card.head.fusion
    by_name = {one.name: one for one in fusion.covariates}
    assert by_name["heart_rate_per_min"].unit == "1/min"
    assert (by_name["heart_rate_per_min"].low, by_name["heart_rate_per_min"].high) == (10, 300)
    assert all(one.low <= one.usual_low < one.median < one.usual_high <= one.high for one in fusion.covariates)
    assert all(0 < one.missing < 1 for one in fusion.covariates)
    assert fusion.auroc.value < card.head.auroc.value, "the phantom's vital signs tell of pneumonia"
    assert fusion.auroc.n == card.head.auroc.n
    inputs = {one.name: one for one in onnx.load(fused_release / "encoder.onnx").graph.input}
    assert list(inputs) == ["image", "covariates"]
    dossier.verify(fused_release)


def test_the_gate_has_judged_the_fused_answers(base: Path, fused_release: Path) -> None:
    said = heads.facts(base / "judged" / "XR-gated")
    linear = heads.facts(base / "judged" / "XR")
    audited = json.loads((base / "findings" / "XR-gated" / "audit.json").read_text())
    overall = next(row for row in audited["groups"] if row["attribute"] == "all" and row["metric"] == "auroc")
    assert overall["value"] == pytest.approx(said["test"]["auroc"]["value"], abs=1e-9)
    assert said["test"]["auroc"]["value"] != linear["test"]["auroc"]["value"]
    assert ReleaseCard.load(fused_release).gate.verdict == "pass"


def a_golden_change(release: Path, out: Path) -> Path:
    shutil.copytree(release, out)
    with np.load(out / "golden" / "expected.npz") as kept:
        arrays = dict(kept)
    arrays["fused_B"] = arrays["fused_B"] + 0.01
    np.savez(out / "golden" / "expected.npz", **arrays)
    return out


def test_golden_answers_with_covariates_are_proven_too(fused_release: Path, tmp_path: Path) -> None:
    changed = a_golden_change(fused_release, tmp_path / "changed")
    opened = Release(changed, ReleaseCard.load(changed), "0" * 64)  # past its dossier, which would have told
    with pytest.raises(ReleaseError, match="probability with covariates"):
        Predictor(opened)


def film() -> bytes:
    return releasing.encoded(releasing.drawn_image("PA"))


def test_an_answer_names_what_it_used_and_what_was_missing(desk: Desk) -> None:
    sent = {"heart_rate_per_min": 118.0, "o2_saturation_pct": 88.0, "temperature_celsius": None}
    answer, alone, nothing = desk.answer(
        [Request(film(), "XR", covariates=sent), Request(film(), "XR"), Request(film(), "XR", covariates={})]
    )
    assert isinstance(answer, Answer)
    told = answer.body["covariates"]
    assert told["used"] == {"heart_rate_per_min": 118.0, "o2_saturation_pct": 88.0}
    assert "temperature_celsius" in told["missing"]
    assert "2 of 6 covariates" in answer.body["meaning"]
    assert "the image's alone" in alone.body["meaning"]
    assert alone.body["covariates"]["used"] == {} == nothing.body["covariates"]["used"]
    assert alone.body["probability"] == nothing.body["probability"] < answer.body["probability"]
    head = desk.releases["XR"].card.head
    assert alone.body["operating_point"]["sensitivity"] == head.fusion.sensitivity.model_dump()
    assert answer.body["operating_point"]["sensitivity"] == head.operating_point.sensitivity.model_dump()
    assert np.array_equal(answer.z_D, alone.z_D)


def test_a_rare_value_is_used_and_named(desk: Desk) -> None:
    [answer] = desk.answer([Request(film(), "XR", covariates={"temperature_celsius": 44.0})])
    assert answer.body["covariates"]["unusual"] == ["temperature_celsius"]
    assert "Few training images had such values: temperature_celsius" in answer.body["meaning"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"heart_rate_per_min": 900.0}, "heart_rate_per_min is 900"),
        ({"temperature_celsius": 98.6}, "from 25 to 45"),
        ({"heart_rate": 80.0}, "send any of o2_saturation_pct"),
        ({"heart_rate": None}, "'heart_rate' is not known"),
    ],
)
def test_a_slip_of_the_pen_is_refused(desk: Desk, sent: dict, words: str) -> None:
    good = Request(film(), "XR", covariates={"heart_rate_per_min": 80.0})
    refused, answered = desk.answer([Request(film(), "XR", covariates=sent), good])
    assert words in str(refused)
    assert isinstance(answered, Answer), "others are answered"


def test_embeddings_take_no_covariates(fused_release: Path) -> None:
    desk = Desk.load([fused_release], "embeddings")
    [refused] = desk.answer([Request(film(), "XR", covariates={"heart_rate_per_min": 80.0})])
    assert "leave them out" in str(refused)


def test_a_head_that_is_chance_without_covariates_refuses_an_image_alone(fused_release: Path) -> None:
    desk = Desk([alone_better_than(fused_release, 0.48)], "pneumonia")
    refused, answered = desk.answer(
        [Request(film(), "XR"), Request(film(), "XR", covariates={"heart_rate_per_min": 80.0})]
    )
    assert "no covariates were sent" in str(refused)
    assert isinstance(answered, Answer)


def test_saliency_keeps_the_covariates(desk: Desk) -> None:
    [answer] = desk.answer([Request(film(), "XR", covariates={"heart_rate_per_min": 130.0}, saliency=True)])
    assert answer.body["saliency"]["png"]


def test_only_a_frozen_encoder_with_covariates_makes_a_head(base: Path, tmp_path: Path) -> None:
    dataset, vectors = releasing.phantom_dataset(base), base / "vectors" / "XR"
    scores = base / "judged" / "XR"
    releasing.fused(base, "gated")
    with pytest.raises(UsageError, match="image_only and fuses nothing"):
        fused.adopt(dataset, vectors, releasing.tuned(base, "image_only"), scores)
    with pytest.raises(DatasetError, match="no probe"):
        fused.adopt(dataset, vectors, releasing.tuned(base, "gated"), tmp_path)
    moved = tmp_path / "moved"
    moved.mkdir()
    card = json.loads((releasing.tuned(base, "gated") / "card.json").read_text())
    (moved / "card.json").write_text(json.dumps({**card, "mode": "end_to_end"}))
    with pytest.raises(UsageError, match="--mode linear"):
        fused.adopt(dataset, vectors, moved, scores)
    with pytest.raises(CheckFailed, match="fuses covariates"):
        heads.Head.load(base / "judged" / "XR-gated")


def test_weights_that_do_not_fit_are_refused(base: Path, fused_release: Path, tmp_path: Path) -> None:
    source = base / "judged" / "XR-gated"
    (tmp_path / "head.json").write_bytes((source / "head.json").read_bytes())
    with np.load(source / "head.npz") as kept:
        arrays = dict(kept)
    np.savez(tmp_path / "head.npz", **{**arrays, "gate.bias": arrays["gate.bias"][1:]})
    with pytest.raises(DatasetError, match="damaged"):
        fused.load(tmp_path)
