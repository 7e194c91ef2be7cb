"""A predictor proves itself, and answers as the graph does."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from releasing import SIZE, drawn_image, encoded

from hilum.data.images import decode
from hilum.delivery import dossier
from hilum.delivery.predictor import Predictor, Release
from hilum.errors import ReleaseError
from hilum.judgement.probing.head import Head


def again(release):
    """Draw the dossier up anew, as one who tampers would."""
    facts = dossier.facts(dossier.read(release))
    (release / "dossier.json").unlink()
    (release / "dossier.json").write_text(json.dumps(dossier.draw_up(release, facts)))


def test_telemetry_is_off_before_onnxruntime():
    import os

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_answers_as_onnxruntime_and_the_head_do(xr_release, base):
    predictor = Predictor.load(xr_release)
    images = np.stack([np.asarray(Image.fromarray(drawn_image(view)).resize((SIZE, SIZE))) for view in ("PA", "AP")])
    result = predictor.run(images)
    direct = onnxruntime.InferenceSession(str(xr_release / "encoder.onnx"), providers=["CPUExecutionProvider"])
    z, probability = direct.run(None, {"image": images[:, None].astype(np.float32) / 255})
    assert result.z_BD == pytest.approx(z, abs=1e-6)
    head = Head.load(base / "judged" / "XR")
    assert result.probability_B == pytest.approx(head.predict(z), abs=1e-6)
    assert probability.shape == (2,)


def test_batches_of_any_size_give_the_same(mr_release):
    predictor = Predictor.load(mr_release)
    images = np.random.default_rng(0).integers(0, 256, (70, SIZE, SIZE)).astype(np.uint8)
    whole = predictor.run(images)
    single = np.concatenate([predictor.run(image[None]).z_BD for image in images])
    assert whole.probability_B is None
    assert whole.z_BD == pytest.approx(single, abs=1e-6)


def test_other_golden_answers_are_refused_even_with_a_dossier_to_match(xr_release, tmp_path):
    release = shutil.copytree(xr_release, tmp_path / "release")
    with np.load(release / "golden" / "expected.npz") as expected:
        kept = dict(expected)
    kept["probability_B"] = kept["probability_B"] + 0.001
    np.savez(release / "golden" / "expected.npz", **kept)
    again(release)
    with pytest.raises(ReleaseError, match="golden images"):
        Predictor.load(release)


def test_another_preprocessing_is_caught_by_the_golden_images(xr_release, tmp_path):
    release = shutil.copytree(xr_release, tmp_path / "release")
    Image.open(release / "golden" / "000.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        release / "golden" / "000.png"
    )
    again(release)
    with pytest.raises(ReleaseError, match="golden images"):
        Predictor.load(release)


def test_a_graph_that_is_none_is_refused(xr_release, tmp_path):
    release = shutil.copytree(xr_release, tmp_path / "release")
    (release / "encoder.onnx").write_bytes(b"no graph")
    again(release)
    with pytest.raises(ReleaseError, match=r"encoder\.onnx cannot be run"):
        Predictor.load(release)


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    with pytest.raises(ReleaseError, match=r"dossier\.json"):
        Release.open(tmp_path)


def test_a_view_that_was_not_trained_on_is_named(xr_release):
    release = Release.open(xr_release)
    other = decode(encoded(drawn_image("AXIAL")))
    assert "AXIAL view" in release.wrong_view(type(other)(other.pixels, "MR", "AXIAL"))
    assert release.wrong_view(other) is None
    assert release.wrong_view(type(other)(other.pixels, "XR", "PA")) is None


@pytest.mark.parametrize("name", ["cases.npz", "limits.npz"])
def test_what_answers_need_is_read_before_it_is_ready(xr_release, tmp_path, name):
    shutil.copytree(xr_release, copy := tmp_path / "release")
    with np.load(copy / name) as kept:
        arrays = dict(kept)
    np.savez(copy / name, **dict(list(arrays.items())[1:]))  # as another version of hilum might write it
    again(copy)
    with pytest.raises(ReleaseError, match=f"{name} of the release cannot be read"):
        Predictor.load(copy)
