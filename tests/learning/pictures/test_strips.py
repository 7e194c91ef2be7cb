"""The pictures for a clinician: what is written, what they show, and that nobody can be found in them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from making import make_dataset
from PIL import Image

from hilum.data.store import Dataset
from hilum.errors import DatasetError, TrainingError, UsageError
from hilum.learning import training
from hilum.learning.pictures import imaging, sheet, strips
from hilum.learning.pictures.imaging import Codes, mixed
from hilum.recipe import Backbone, Diffae, Optimizer, Pixels, Section, Train, Vae

SECTIONS: dict[str, Section] = {
    "diffae": Diffae(
        semantic=16,
        backbone=Backbone(width=8, norm="group"),
        channels=(8, 16),
        blocks=1,
        attention_levels=(),
        dropout=0,
    ),
    "vae": Vae(latent=8, channels=(8, 16, 16)),
    "pixels": Pixels(components=8),
}


@pytest.fixture(scope="module")
def runs(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for name, section in SECTIONS.items():
        recipe = {"encoder": section, "epochs": 6, "batch_size": 16, "optimizer": Optimizer(learning_rate=3e-3)}
        made[name] = training.run(tiny_dataset, Train.model_validate(recipe), folder / name)
    return made


@pytest.mark.parametrize("name", ["diffae", "vae"])
def test_sheets_and_figures_are_written(
    name: str, runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, sheets = sheet.save, []
    monkeypatch.setattr(sheet, "save", lambda drawn, path: sheets.append(drawn) or save(drawn, path))
    asked = ["sex", "age_years", "view=AP"]
    told = strips.run(tiny_dataset, runs[name], tmp_path / "out", asked, n=3, steps=10)
    pictures = ["along-age_years.png", "along-sex.png", "along-view-AP.png", "interpolate.png", "reconstruct.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*pictures, "strips.json"])
    for path in pictures:
        with Image.open(tmp_path / "out" / path) as picture:
            assert picture.mode == "RGB"
            assert json.loads(picture.text["Source"]) == told["run"]
    assert json.loads((tmp_path / "out" / "strips.json").read_text(encoding="utf-8")) == told
    dataset = Dataset.open(tiny_dataset)
    assert told["run"]["data_digest"] == dataset.facts.digest
    assert (told["encoder"], told["modality"], told["shown"]) == (name, "XR", {"split": "test", "n": 3})
    assert told["steps"] == (10 if name == "diffae" else None)
    assert told["caution"] == "made by a test"
    assert set(told["attributes"]) == set(asked)
    fitted, held_out = told["attributes"]["sex"]["fitted"], told["attributes"]["sex"]["held_out"]
    assert (fitted["n"], fitted["n_patients"]) == (72, 36)  # the train split
    assert (held_out["n"], held_out["n_patients"]) == (24, 12)  # the test split: 6 patients of either sex are too few
    assert held_out["value"] is None
    held_out = told["attributes"]["age_years"]["held_out"]
    assert held_out["measure"] == "correlation"
    assert held_out["low"] <= held_out["value"] <= held_out["high"]
    words = json.dumps(told) + "".join(
        "\n".join([drawn.title, drawn.lead, *drawn.columns, *(row.label for row in drawn.rows)]) for drawn in sheets
    )
    assert "test patients" in words
    assert not any(str(patient) in words for patient in dataset.manifest["patient_id"])


def test_the_same_seed_draws_the_same_sheets(runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        strips.run(tiny_dataset, runs["diffae"], tmp_path / out, ["sex"], n=1, steps=10, seed=3)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_round_trip_is_near_the_film_though_the_network_is_barely_trained(
    runs: dict[str, Path], tiny_dataset: Path
) -> None:
    dataset = Dataset.open(tiny_dataset)
    imager = imaging.load(runs["diffae"], steps=250)
    x = np.array(dataset.images[:2])
    codes = imager.codes(x)
    assert codes.noise_NCHW is not None
    back = imager.images(codes)
    assert np.square(2 * (back - x / 255.0)).mean() < 1e-2
    other = Codes(codes.z_ND, torch.randn(codes.noise_NCHW.shape, generator=torch.Generator().manual_seed(0)))
    assert np.square(imager.images(other) - back).mean() > 1e-3


def test_directions_move_what_is_known_to_show_the_attribute(tmp_path: Path) -> None:
    """In the made films sex F is 40 grey levels more on the left third: the vae must draw that, and only there."""
    data = make_dataset(tmp_path / "data", n_patients=90)
    recipe = {"encoder": Vae(latent=8, channels=(16, 32)), "epochs": 20, "batch_size": 16}
    run = training.run(
        data, Train.model_validate({**recipe, "optimizer": Optimizer(learning_rate=3e-3)}), tmp_path / "r"
    )
    dataset, imager = Dataset.open(data), imaging.load(run, 10)
    from hilum.learning.pictures import directions

    rows = dataset.rows("XR", ["train"])
    codes = imager.codes(np.ascontiguousarray(dataset.images[rows]))
    wanted = directions.attribute(dataset, "sex=F", rows)
    z = codes.z_ND.numpy()
    found = directions.fit(z, wanted.y_N[rows], dataset.manifest["patient_id"].to_numpy()[rows])
    ends = [imager.images(Codes(torch.from_numpy(found.moved(z[:20], by).astype(np.float32)))) for by in (-1, 1)]
    change = (ends[1] - ends[0]).mean(axis=0)
    assert change[4:-10, :9].mean() > 0.05  # of 0.157
    assert abs(change[4:-10, 14:].mean()) < 0.25 * change[4:-10, :9].mean()


def test_an_encoder_without_a_decoder_is_refused(runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pixels has no decoder, so it makes no images; `diffae` and `vae` do"):
        strips.run(tiny_dataset, runs["pixels"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_longer_walks_are_for_codes_that_a_film_gave(runs: dict[str, Path], tiny_dataset: Path) -> None:
    x_NHW = np.array(Dataset.open(tiny_dataset).images[:2])
    usual, longer = (imaging.load(runs["diffae"], steps) for steps in (imaging.DRAWN_STEPS, 125))
    codes = usual.codes(x_NHW)
    assert np.array_equal(usual.images(codes, drawn=True), longer.images(codes, drawn=True))
    assert not np.allclose(usual.images(codes), longer.images(codes), atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attributes": ["weight"]}, "a direction is asked of 'weight'"),
        ({"steps": 7}, "1000 timesteps are not walked in 7 equal steps"),
        ({"n": 0}, "at least one patient is to be shown, not 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
    asked: dict[str, object], message: str, runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        strips.run(tiny_dataset, runs["diffae"], tmp_path / "out", **asked)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("out/*"))


def test_films_of_another_size_or_without_test_patients_are_refused(
    runs: dict[str, Path], tmp_path: Path, tiny_dataset: Path
) -> None:
    with pytest.raises(DatasetError, match="48 pixels wide, but the encoder was trained on 32"):
        strips.run(make_dataset(tmp_path / "data", n_patients=10, size=48), runs["vae"], tmp_path / "out")
    none = make_dataset(tmp_path / "none", n_patients=4)  # patients 0 to 3: three of train, one of val
    with pytest.raises(DatasetError, match="XR images of train and of test patients, but there are 6 and 0"):
        strips.run(none, runs["vae"], tmp_path / "out")


def test_a_damaged_decoder_is_refused(runs: dict[str, Path], tiny_dataset: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs["vae"], tmp_path / "run")
    (tmp_path / "run" / "decoder.pt").write_bytes(b"PK")
    with pytest.raises(TrainingError, match=r"decoder\.pt is missing or damaged; train the encoder again"):
        strips.run(tiny_dataset, tmp_path / "run", tmp_path / "out")


def test_noise_between_two_films_stays_on_the_sphere_and_the_embedding_on_the_line() -> None:
    generator = torch.Generator().manual_seed(0)
    one = Codes(torch.tensor([0.0, 2.0]), torch.randn(1, 8, 8, generator=generator))
    other = Codes(torch.tensor([4.0, 0.0]), torch.randn(1, 8, 8, generator=generator))
    assert one.noise_NCHW is not None
    assert other.noise_NCHW is not None
    angle = math.acos(
        float((one.noise_NCHW * other.noise_NCHW).sum() / one.noise_NCHW.norm() / other.noise_NCHW.norm())
    )
    for share in (0.0, 0.3, 0.5, 1.0):
        made = mixed(one, other, share)
        assert made.noise_NCHW is not None
        torch.testing.assert_close(made.z_ND, torch.tensor([4 * share, 2 - 2 * share]))
        a, b = one.noise_NCHW.flatten().tolist(), other.noise_NCHW.flatten().tolist()
        expected = [
            (math.sin((1 - share) * angle) * a[i] + math.sin(share * angle) * b[i]) / math.sin(angle) for i in range(64)
        ]
        torch.testing.assert_close(made.noise_NCHW.flatten(), torch.tensor(expected), atol=1e-5, rtol=1e-4)
    halfway = mixed(one, other, 0.5).noise_NCHW
    assert halfway is not None
    straight = (one.noise_NCHW + other.noise_NCHW) / 2
    assert halfway.norm() > 0.95 * one.noise_NCHW.norm() > 1.2 * straight.norm()
    same = mixed(one, one, 0.4).noise_NCHW
    assert same is not None
    torch.testing.assert_close(same, one.noise_NCHW)


def test_differences_are_blue_where_darker_orange_where_brighter_and_white_where_none() -> None:
    colours = sheet.coloured(np.array([[-0.2, -0.1, 0.0, 0.1, 0.5]]), limit=0.2)[0]
    assert colours[2].tolist() == [255, 255, 255]
    assert colours[0].tolist() == sheet.LESS.tolist()
    assert colours[4].tolist() == sheet.MORE.tolist()  # beyond the limit there is no further colour
    assert colours[1].tolist() == [round(255 + (c - 255) / 2) for c in sheet.LESS.tolist()]
    assert sheet.limit_of(np.full((2, 4, 4), 0.07)) == 0.1
    assert sheet.limit_of(np.full((2, 4, 4), 3.0)) == 1.0


def test_long_words_and_captions_stay_on_the_page() -> None:
    row = sheet.Row("1", [np.zeros((8, 8)), "no\npicture"])
    run = {"data_digest": "f" * 400}
    page = sheet.Sheet("A title", "words " * 200, ["one", "two"], [row], run, 0.1, "beware " * 60)
    pixels = np.asarray(sheet.draw(page).convert("L"))
    assert (pixels[:, : sheet.MARGIN - 2] == 255).all()
    assert (pixels[:, -sheet.MARGIN + 4 :] == 255).all()
    assert (pixels[-8:] == 255).all()
