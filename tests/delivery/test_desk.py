"""The desk: which release answers, and what is refused with which words."""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from releasing import dicom, drawn_image, encoded, photograph

from hilum.data.images import decode
from hilum.delivery.answering.routing import Refusal
from hilum.delivery.desk import Answer, Desk, Request, desks
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


def mostly(common, rare, shape):
    """An image of one grey value with a strip of another, 7% of it: its contrast is as a film's."""
    image = np.full(shape, common, dtype=np.uint8)
    image[int(0.93 * len(image)) :] = rare
    return image


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
    said = ask(pneumonia, encoded(drawn_image("AXIAL")), "XR")["abstention"]
    assert (said["reason"], said["words"]) == (
        "wrong_modality",
        "the image is declared as XR, but looks like an MRI",
    )


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


def test_pneumonia_of_a_declared_mri_is_refused(pneumonia, alone):
    content = encoded(drawn_image("SAGITTAL"))
    for desk in (pneumonia, alone):
        with pytest.raises(Refusal, match="pneumonia is not asked of an MRI") as raised:
            ask(desk, content, "MR")
        assert "X-ray" in raised.value.right


def test_of_what_looks_like_an_mri_no_prediction_is_given(pneumonia, alone):
    content = encoded(drawn_image("SAGITTAL"))
    for desk, reason in ((pneumonia, "wrong_modality"), (alone, "out_of_distribution")):
        body = ask(desk, content)
        assert (body["probability"], body["decision"], body["interval"]) == (None, "abstained", None)
        assert body["abstention"]["reason"] == reason  # alone, nothing there knows what an MRI looks like
        assert body["meaning"].startswith("No prediction is given: it ")
        assert body["operating_point"]["threshold"] == body["threshold"]
    assert body["abstention"]["score"] > body["abstention"]["limit"]


def test_pneumonia_of_an_mri_dicom_is_refused(alone):
    with pytest.raises(Refusal, match=r"not asked of an MRI, and the image is one \(DICOM header\)"):
        ask(alone, dicom(drawn_image("AXIAL"), "MR", ""))


def test_a_photograph_is_answered_by_nobody(pneumonia, embeddings, alone):
    with pytest.raises(Refusal, match="does not look like anything"):
        ask(embeddings, encoded(photograph()))
    with pytest.raises(Refusal, match="does not look like the X-ray"):
        ask(embeddings, encoded(photograph()), "XR")
    for desk in (pneumonia, alone):
        for declared in (None, "XR"):
            body = ask(desk, encoded(photograph()), declared)
            assert body["abstention"]["reason"] == "out_of_distribution"
            assert "does not look like the X-ray" in body["abstention"]["words"]
            assert body["abstention"]["score"] > body["abstention"]["limit"]


def test_a_view_that_was_not_trained_on_is_abstained_from_and_its_embedding_refused(mr_release, xr_release):
    release = Release.open(xr_release)
    frontal = Release(release.path, release.card.model_copy(update={"views": ("PA", "AP")}), release.dossier_id)
    content = dicom(drawn_image("LATERAL"), view="LL")
    body = ask(Desk([frontal], "pneumonia"), content)
    assert body["abstention"]["reason"] == "wrong_view"
    assert "LATERAL view" in body["abstention"]["words"]
    with pytest.raises(Refusal, match="LATERAL view") as raised:
        ask(Desk([frontal], "embeddings"), content)
    assert raised.value.right == "send one of these views: PA, AP"
    assert ask(Desk([release], "pneumonia"), content)["abstention"] is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: np.zeros_like(x), "contrast"),
        (lambda x: np.full_like(x, 255), "contrast"),
        (lambda x: (x * 0.02).astype(np.uint8), "contrast"),
        (lambda x: mostly(0, 200, x.shape), "nearly black"),
        (lambda x: mostly(255, 30, x.shape), "nearly white"),
    ],
)
def test_a_film_on_which_nothing_can_be_read_is_abstained_from(pneumonia, spoil, words):
    film = spoil(drawn_image("PA"))
    for declared in (None, "XR"):
        said = ask(pneumonia, encoded(film), declared)["abstention"]
        assert said["reason"] == "unreadable_exposure"
        assert words in said["words"]


def test_what_lies_far_from_the_training_cases_is_out_of_distribution(xr_release):
    """The same film, a bank of cases that lies elsewhere: what the graph gives is then not told."""
    release = Release.open(xr_release)
    film = encoded(drawn_image("PA"))
    near = ask(Desk([release], "pneumonia"), film)
    assert near["abstention"] is None
    assert 0 <= near["out_of_distribution"]["percentile"] <= 1
    assert near["out_of_distribution"]["score"] <= near["out_of_distribution"]["limit"]
    far = Release.open(xr_release)
    kept = far.cases
    far.__dict__["cases"] = dataclasses.replace(kept, z_MD=kept.z_MD + 50 * kept.scale_D)
    desk = Desk([far], "pneumonia")
    [answer] = desk.answer([Request(film, neighbours=2)])
    assert answer.body["abstention"]["reason"] == "out_of_distribution"
    assert answer.body["probability"] is None
    assert np.isnan(answer.values).all()
    assert len(answer.body["nearest"]) == 2  # which the curious may still see


def test_what_is_asked_beside_comes_with_the_answer_and_only_then(pneumonia, embeddings, xr_release):
    film = encoded(drawn_image("PA"))
    plain = ask(pneumonia, film)
    assert not {"nearest", "saliency", "seen"} & set(plain)
    [answer] = pneumonia.answer([Request(film, neighbours=3, saliency=True, seen=True)])
    assert {key: answer.body[key] for key in plain} == plain
    assert [one["case"][:3] for one in answer.body["nearest"]] == ["xr-"] * 3
    distances = [one["distance"] for one in answer.body["nearest"]]
    assert distances == sorted(distances)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.body["seen"]))))
    assert np.array_equal(seen, Release.open(xr_release).prepare(decode(film)))
    shown = Image.open(io.BytesIO(base64.b64decode(answer.body["saliency"]["png"])))
    assert min(shown.size) >= 224
    assert shown.mode == "RGB"
    for request, words in (
        (Request(film, neighbours=21), "20 at most"),
        (Request(film, covariates={"age_years": 60.0}), "leave them out"),
    ):
        [refused] = pneumonia.answer([request])
        assert isinstance(refused, Refusal)
        assert words in refused.right
    [refused] = embeddings.answer([Request(film, saliency=True)])
    assert isinstance(refused, Refusal)


def test_what_does_it_mean_is_answered_with_the_held_out_images_of_such_a_probability(pneumonia, xr_release):
    head = Release.open(xr_release).card.head
    body = ask(pneumonia, encoded(drawn_image("PA")))
    [found] = [one for one in head.reliability if one.low < body["probability"] <= one.high]
    said = body["interval"]
    assert (said["observed"], said["low"], said["high"]) == (
        found.observed.value,
        found.observed.low,
        found.observed.high,
    )
    assert (said["n"], said["n_positive"]) == (found.observed.n, found.n_positive)
    assert f"Of the {said['n']} held-out images to which this model gave between" in body["meaning"]
    assert f"{said['n_positive']} had pneumonia" in body["meaning"]
    assert "rarer or more frequent" in body["meaning"]


def test_desks_share_their_graphs(xr_release, mr_release):
    both = desks([Release.open(xr_release), Release.open(mr_release)])
    assert list(both) == ["embeddings", "pneumonia"]
    assert both["embeddings"]._predictors["XR"] is both["pneumonia"]._predictors["XR"]


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
