"""The desk: which release answers, and what is refused with which words."""

import json

import numpy as np
import pytest
from releasing import dicom, drawn_image, encoded, photograph

from hilum.delivery.desk import Answer, Desk, Refusal, Request
from hilum.delivery.predictor import Predictor, Release
from hilum.errors import ImageError, ReleaseError


@pytest.fixture(scope="module")
def embeddings(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "embeddings")


@pytest.fixture(scope="module")
def pneumonia(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "pneumonia")


@pytest.fixture(scope="module")
def alone(xr_release):
    return Desk.load([xr_release], "pneumonia")


def ask(desk, content, modality=None):
    [answer] = desk.answer([Request(content, modality)])
    if isinstance(answer, ImageError):
        raise answer
    return answer.body


@pytest.mark.parametrize(
    ("view", "modality"), [("PA", "XR"), ("LATERAL", "XR"), ("AXIAL", "MR"), ("CORONAL", "MR"), ("SAGITTAL", "MR")]
)
def test_an_image_finds_the_release_of_its_modality(embeddings, view, modality, xr_release, mr_release):
    content = encoded(drawn_image(view))
    body = ask(embeddings, content)
    assert (body["modality"], body["modality_known_by"]) == (modality, "recognised by the input limits")
    release = Release.open({"XR": xr_release, "MR": mr_release}[modality])
    assert body["dossier"] == release.dossier_id[:16]
    assert body["model"]["name"] == release.card.name
    from hilum.data.images import decode

    image = release.prepare(decode(content))
    z = Predictor(release).run(image[None]).z_BD[0]
    assert np.array_equal(np.float32(body["embedding"]), z)
    assert body["shape"] == [release.card.dim]
    assert body["caution"] == "made by a test"
    assert "Not for clinical use" in body["intended_use"]
    assert set(body["run"]) == {"code_revision", "data_digest", "recipe_digest"}


def test_dicom_says_its_modality_and_nothing_of_the_patient(pneumonia):
    body = ask(pneumonia, dicom(drawn_image("PA")))
    assert body["modality_known_by"] == "DICOM header"
    assert "secret" not in json.dumps(body)


def test_a_declared_modality_is_taken_and_checked(pneumonia):
    content = encoded(drawn_image("PA"), "JPEG")
    assert ask(pneumonia, content, " xr ")["modality_known_by"] == "declared"
    with pytest.raises(Refusal, match="'CT' is no modality"):
        ask(pneumonia, content, "CT")
    with pytest.raises(Refusal, match="header says XR"):
        ask(pneumonia, dicom(drawn_image("PA")), "MR")
    with pytest.raises(Refusal, match="does not look like the X-ray images"):
        ask(pneumonia, encoded(drawn_image("AXIAL")), "XR")


def test_a_probability_comes_with_its_meaning(pneumonia, xr_release):
    card = json.loads((xr_release / "card.json").read_text())
    body = ask(pneumonia, encoded(drawn_image("PA")))
    assert 0 < body["probability"] < 1
    assert body["threshold"] == card["head"]["operating_point"]["threshold"]
    reached = body["probability"] >= body["threshold"]
    assert body["decision"] == ("at or above the threshold" if reached else "below the threshold")
    measured = card["head"]["operating_point"]["sensitivity"]
    assert (
        f"{measured['value']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}], n = {measured['n']}"
        in body["meaning"]
    )
    assert "embedding" not in body


@pytest.mark.parametrize("declared", [None, "MR"])
def test_pneumonia_of_an_mri_is_refused(pneumonia, alone, declared):
    content = encoded(drawn_image("SAGITTAL"))
    with pytest.raises(Refusal, match="pneumonia is not asked of an MRI") as raised:
        ask(pneumonia, content, declared)
    assert "X-ray" in raised.value.right
    with pytest.raises(Refusal):  # also where no MRI release helps to recognise it
        ask(alone, content, declared)


def test_pneumonia_of_an_mri_dicom_is_refused(alone):
    with pytest.raises(Refusal, match=r"not asked of an MRI, and the image is one \(DICOM header\)"):
        ask(alone, dicom(drawn_image("AXIAL"), "MR", ""))


def test_a_photograph_is_refused_by_everyone(pneumonia, embeddings, alone):
    for desk in (pneumonia, embeddings, alone):
        with pytest.raises(Refusal, match="does not look like anything"):
            ask(desk, encoded(photograph()))
        with pytest.raises(Refusal, match="does not look like the X-ray"):
            ask(desk, encoded(photograph()), "XR")


def test_one_refusal_leaves_the_others_their_answers(embeddings):
    film, brain = encoded(drawn_image("PA")), encoded(drawn_image("AXIAL"))
    answers = embeddings.answer([Request(x) for x in (film, b"", brain, b"rubbish", film[:400], film)])
    kinds = [type(answer) for answer in answers]
    assert kinds == [Answer, ImageError, Answer, ImageError, ImageError, Answer]
    faults = [answer.fault for answer in answers if isinstance(answer, ImageError)]
    assert faults == ["empty", "unsupported", "corrupt"]
    assert answers[0].body == answers[5].body
    assert answers[2].body["modality"] == "MR"


def test_a_release_without_limits_does_not_guess(xr_release, mr_release):
    card = Release.open(xr_release).card.model_copy(update={"limits": None})
    desk = Desk([Release(xr_release, card, "0" * 64)], "embeddings")
    with pytest.raises(Refusal, match="X-Modality: XR"):
        ask(desk, encoded(drawn_image("PA")))
    assert ask(desk, encoded(drawn_image("PA")), "XR")["modality"] == "XR"


def test_releases_that_cannot_be_served_together(xr_release, mr_release):
    with pytest.raises(ReleaseError, match="one release is served per modality"):
        Desk.load([xr_release, xr_release], "embeddings")
    with pytest.raises(ReleaseError, match="no release here answers pneumonia"):
        Desk.load([mr_release], "pneumonia")


def test_embeddings_of_a_modality_that_is_not_served(mr_release):
    desk = Desk.load([mr_release], "embeddings")
    with pytest.raises(Refusal, match="which no release here is for; send an MRI"):
        ask(desk, dicom(drawn_image("PA")))
