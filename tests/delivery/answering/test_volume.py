"""A volume that is sent: the planes of the bids layout, and their embeddings, bit by bit."""

import gzip
import json

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from releasing import drawn_image, encoded

from hilum.data.ingest import ingest
from hilum.data.planes import decode_planes
from hilum.delivery import batch
from hilum.delivery.answering.routing import Refusal
from hilum.delivery.desk import Answer, Desk, Request
from hilum.delivery.fronts import wire
from hilum.delivery.fronts.asking import Call
from hilum.delivery.predictor import Predictor, Release
from hilum.errors import ImageError
from hilum.recipe import Ingest

VIEWS = ("AXIAL", "CORONAL", "SAGITTAL")
N = 96


@pytest.fixture(scope="module")
def brain() -> bytes:
    """A volume whose three central planes are drawn ones; elsewhere it is the noise of a head's grey values."""
    drawn = {view: np.asarray(Image.fromarray(drawn_image(view)).resize((N, N))).astype(np.float32) for view in VIEWS}
    middle = int(0.5 * (N - 1) + 0.5)
    voxels = np.zeros((N, N, N), np.float32)
    # As volumes.slice_plane shows a plane: rows and columns reversed, the patient's right on the left.
    voxels[middle] = drawn["SAGITTAL"][::-1, ::-1].T
    voxels[:, middle] = drawn["CORONAL"][::-1, ::-1].T
    voxels[:, :, middle] = drawn["AXIAL"][::-1, ::-1].T
    return gzip.compress(nibabel.Nifti1Image(voxels.astype(np.uint8), np.eye(4)).to_bytes())


@pytest.fixture(scope="module")
def embeddings(xr_release, mr_release):
    return Desk.load([xr_release, mr_release], "embeddings")


def test_a_volume_is_answered_with_the_embeddings_of_the_planes_that_bids_ingests(
    embeddings, mr_release, brain, tmp_path
):
    source = tmp_path / "source"
    (source / "sub-01" / "anat").mkdir(parents=True)
    (source / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(brain)
    (source / "participants.tsv").write_text("participant_id\nsub-01\n", encoding="utf-8")
    release = Release.open(mr_release)
    recipe = Ingest(layout="bids", preprocessing=release.card.preprocessing)
    dataset = ingest(source, tmp_path / "dataset", recipe, workers=1)
    by_view = {view: dataset.images[row] for row, view in enumerate(dataset.manifest["view"])}
    expected = Predictor(release).run(np.stack([by_view[view] for view in release.card.views])).z_BD

    [answer] = embeddings.answer([Request(brain, "MR")])
    assert isinstance(answer, Answer), answer
    body = json.loads(wire.dumped(answer.body))
    assert body["shape"] == [3, release.card.dim]
    assert np.array_equal(np.float32(body["embedding"]), expected)
    assert np.array_equal(answer.values, expected)
    assert [(one["view"], one["position"]) for one in body["planes"]] == [(view, 0.5) for view in release.card.views]
    assert (body["modality"], body["modality_known_by"]) == ("MR", "declared")
    assert body["dossier"] == release.short_id


def test_beside_images_and_with_what_is_asked_of_each_plane(embeddings, brain):
    film = encoded(drawn_image("PA"))
    first, whole, broken, last = embeddings.answer(
        [Request(film), Request(brain, "MR", neighbours=2, seen=True), Request(brain[:3000], "MR"), Request(film)]
    )
    assert first.body == last.body
    assert [len(plane["nearest"]) for plane in whole.body["planes"]] == [2, 2, 2]
    assert len({plane["seen"] for plane in whole.body["planes"]}) == 3
    assert not {"nearest", "seen", "out_of_distribution"} & set(whole.body)
    assert isinstance(broken, ImageError)
    assert broken.fault == "corrupt"


def test_numbers_alone_have_two_axes(embeddings, brain):
    reply = wire.answer(embeddings, Call(brain, {"accept": "application/octet-stream", "x-modality": "MR"}))
    assert reply.status == 200, reply.body
    assert reply.headers["x-shape"] == ",".join(map(str, (3, embeddings.releases["MR"].card.dim)))
    [answer] = embeddings.answer([Request(brain, "MR")])
    assert reply.body == answer.values.astype("<f4").tobytes()


def test_what_no_volume_is_asked(xr_release, mr_release, embeddings, brain):
    for desk, content, modality, words in (
        (Desk.load([xr_release], "embeddings"), brain, None, "no release here was trained on its planes"),
        (Desk.load([xr_release, mr_release], "pneumonia"), brain, None, "pneumonia is asked of one image"),
        (embeddings, brain, "XR", "looks like an MRI"),
    ):
        [refused] = desk.answer([Request(content, modality)])
        assert isinstance(refused, Refusal)
        assert words in str(refused)
        assert refused.right


def test_one_plane_that_is_unlike_refuses_the_volume(embeddings):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 40)).astype(np.uint8)
    content = nibabel.Nifti1Image(noise, np.eye(4)).to_bytes()
    assert len(decode_planes(content, VIEWS)) == 3
    [refused] = embeddings.answer([Request(content, "MR")])
    assert isinstance(refused, Refusal)
    assert str(refused).startswith("the AXIAL plane at 0.5 of the volume: ")


def test_a_batch_names_the_planes_of_a_volume(embeddings, mr_release, brain, tmp_path):
    (tmp_path / "brain.nii.gz").write_bytes(brain)
    (tmp_path / "slice.png").write_bytes(encoded(drawn_image("AXIAL")))
    files = [tmp_path / "brain.nii.gz", tmp_path / "slice.png"]
    assert batch.predict(mr_release, files, tmp_path / "out.parquet") == 0
    rows = pd.read_parquet(tmp_path / "out.parquet")
    asked = embeddings.answer([Request(brain)])[0]
    assert np.array_equal(np.asarray(rows["embedding"][0], np.float32), asked.z_D)
    said = ", ".join(f"{one['view']} {one['position']:g}" for one in asked.body["planes"])
    assert rows["planes"].tolist() == [said, ""]
    assert len(said.split(", ")) * 12 == len(rows["embedding"][0])
