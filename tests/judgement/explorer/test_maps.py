import numpy as np
import pandas as pd
import pytest
from making import make_dataset
from PIL import Image

from hilum.data.store import Dataset
from hilum.data.vectors import VectorFacts, Vectors
from hilum.errors import DatasetError
from hilum.identity import Run
from hilum.judgement.explorer import maps as explorer


def embed(folder, out, modality="XR"):
    """Flattened, shrunken pixels as embeddings."""
    dataset = Dataset.open(folder)
    z = dataset.images[:, ::4, ::4].reshape(len(dataset.images), -1).astype(np.float32)
    rows = dataset.manifest[["image_id", "patient_id", "split"]].copy()
    rows.insert(0, "row", np.arange(len(rows)))
    run = Run(code_revision="test", data_digest=dataset.facts.digest, recipe_digest="1" * 64)
    facts = VectorFacts(encoder="pixels", modality=modality, dim=z.shape[1], n=len(z), run=run)
    Vectors(z, rows, facts).write(out)
    return out


def test_neighbours_in_the_embedding_are_neighbours_on_the_map():
    random = np.random.default_rng(0)
    cluster = np.repeat(np.arange(3), 40)
    z = random.normal(size=(120, 10)) + 12 * np.eye(3, 10)[cluster]
    at = explorer.project(z)
    assert at.shape == (120, 2)
    apart = np.linalg.norm(at[:, None] - at[None], axis=2) + 1e9 * np.eye(120)
    assert (cluster[apart.argmin(axis=1)] == cluster).mean() > 0.97
    np.testing.assert_array_equal(at, explorer.project(z))


@pytest.mark.parametrize("n", [4, 7])
def test_a_handful_of_points_is_mapped(n):
    assert np.isfinite(explorer.project(np.random.default_rng(0).normal(size=(n, 3)))).all()


def test_fewer_than_four_points_are_refused():
    with pytest.raises(DatasetError, match="at least 4 images, not 3"):
        explorer.project(np.zeros((3, 2)))


def test_a_constant_dimension_does_no_harm():
    z = np.random.default_rng(0).normal(size=(40, 3))
    z[:, 1] = 5.0
    assert np.isfinite(explorer.project(z)).all()


def test_a_sample_takes_whole_patients_up_to_the_limit():
    patients = pd.Series(np.repeat([f"p{i}" for i in range(50)], 3))
    chosen = explorer.sample_patients(patients, 31, seed=1)
    assert len(chosen) == 30
    assert (patients.iloc[chosen].value_counts() == 3).all()
    np.testing.assert_array_equal(chosen, explorer.sample_patients(patients, 31, seed=1))
    assert set(chosen) != set(explorer.sample_patients(patients, 31, seed=2))
    np.testing.assert_array_equal(explorer.sample_patients(patients, 150), np.arange(150))


def test_a_map_is_written_whole_and_twice_the_same(tiny_dataset, tmp_path):
    vectors = embed(tiny_dataset, tmp_path / "vectors")
    for name in ("one", "two"):
        explorer.map_picture(tiny_dataset, vectors, tmp_path / name)
    first, second = ((tmp_path / name / "map.png").read_bytes() for name in ("one", "two"))
    assert first == second
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["map.png"]
    with Image.open(tmp_path / "one" / "map.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in explorer.OKABE_ITO[:3]:  # three splits, so three colours are drawn
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels.astype(int) - wanted).max(axis=1) < 3).sum() > 20, colour


def test_a_map_of_mri_calls_the_view_a_plane_and_leaves_out_what_is_not_known(tmp_path):
    folder = make_dataset(tmp_path / "mri", n_patients=11, modality="MR")
    table = Dataset.open(folder).manifest
    titles = [title for title, _ in explorer._panels(table.assign(site=np.nan), None)]
    assert titles == ["plane", "sex", "age (years)", "split"]
    labelled = dict(explorer._panels(table, "pneumonia"))["pneumonia"]
    assert set(labelled.dropna()) == {"present", "absent"}
    assert int(labelled.isna().sum()) == int(table["pneumonia"].isna().sum()) == 2


def test_embeddings_of_another_dataset_are_refused(tiny_dataset, tmp_path):
    other = make_dataset(tmp_path / "other", n_patients=8, seed=5)
    with pytest.raises(DatasetError, match="another dataset"):
        explorer.map_picture(tiny_dataset, embed(other, tmp_path / "vectors"), tmp_path / "map")
    assert not (tmp_path / "map").exists()


def test_a_contact_sheet_has_a_band_for_each_view(tiny_dataset, tmp_path):
    explorer.contact_sheet(tiny_dataset, tmp_path / "sheet.png", columns=4, rows_per_view=1)
    explorer.contact_sheet(tiny_dataset, tmp_path / "tall.png", columns=4, rows_per_view=2)
    with Image.open(tmp_path / "sheet.png") as sheet, Image.open(tmp_path / "tall.png") as tall:
        assert tall.width == sheet.width
        assert tall.height > 1.4 * sheet.height
        assert sheet.height > 250  # two bands: PA and AP
        assert np.asarray(sheet.convert("L")).std() > 30


def test_no_id_enters_a_picture_file(tiny_dataset, tmp_path):
    explorer.contact_sheet(tiny_dataset, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert not {key.lower() for key in sheet.info} & {"software", "title", "author", "description", "comment"}


def test_a_real_set_is_mapped_by_its_view(real_data, tmp_path):
    """X-rays taken from front and back lie apart already on the pixels' principal components."""
    source = real_data("nih-chestxray14-1000")
    entries = pd.read_csv(source / "Data_Entry_2017_v2020.csv").head(300)
    pixels = []
    for name in entries["Image Index"]:
        with Image.open(source / "images" / name) as film:
            pixels.append(np.asarray(film.convert("L").resize((16, 16))).ravel())
    at = explorer.project(np.array(pixels, dtype=float))
    apart = np.linalg.norm(at[:, None] - at[None], axis=2) + 1e9 * np.eye(len(at))
    view = entries["View Position"].to_numpy()
    patient = entries["Patient ID"].to_numpy()
    apart[patient[:, None] == patient[None]] = 1e9  # a patient's own films would make it easy
    same = (view[apart.argmin(axis=1)] == view).mean()
    chance = max((view == "PA").mean(), (view == "AP").mean())
    assert same > chance
