"""The page in a real Chromium, opened from a file without a network: what it draws, shows, finds and exports."""

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from made_vectors import make_vectors
from making import make_dataset
from PIL import Image
from playwright.sync_api import Browser, Page

from hilum.cli import cli
from hilum.data import exclusion
from hilum.data.store import MANIFEST, Dataset
from hilum.data.vectors import Vectors
from hilum.errors import UsageError
from hilum.judgement.explorer import explore
from hilum.judgement.explorer.maps import OKABE_ITO
from hilum.recipe import Explore

SLOW_MS = 180_000  # a software renderer on a busy machine


@dataclass(frozen=True)
class Made:
    """A page and what it was made of."""

    path: Path
    dataset: Dataset
    z_ND: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """120 images of 60 patients; images 4 and 97 have one embedding, and are of two patients and two splits."""
    folder = tmp_path_factory.mktemp("explore")
    dataset = make_dataset(folder / "dataset")
    table = pd.read_parquet(dataset / MANIFEST)
    names = "name_of_a_file_" + table["image_id"]
    table.assign(image_id=names, patient_id="Jane-Doe-" + table["patient_id"]).to_parquet(dataset / MANIFEST)
    vectors = Vectors.open(make_vectors(dataset, folder / "made", "moco", 4.0))
    z_ND = np.array(vectors.z_ND)
    z_ND[97] = z_ND[4]
    Vectors(z_ND, vectors.rows, vectors.facts).write(folder / "vectors")
    explore.run(dataset, folder / "vectors", folder / "page.html", Explore(neighbours=5, outliers=7))
    return Made(folder / "page.html", Dataset.open(dataset), z_ND)


@pytest.fixture(scope="module")
def opened(made: Made, browser: Browser):
    """The page, drawn, and the requests that it made."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(made.path.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn > 0")
    yield page, asked, wrong
    context.close()


@pytest.fixture
def page(opened) -> Page:
    """The page as it is when it opens."""
    page, _, wrong = opened
    page.mouse.move(2, 2)
    page.click("#pan")
    page.click("#whole")
    page.evaluate(
        "state.selected = new Set(); state.former = []; state.current = state.pinned = -1; selectionChanged()"
    )
    page.evaluate("recolour(columns.findIndex((one) => one.name === 'view')).then(showCurrent)")
    page.evaluate("document.getElementById('colour').value = state.column; hover(-1); open('image')")
    assert wrong == []
    return page


def rows_of(made: Made, page: Page, numbers) -> list[int]:
    """Rows of the manifest of points of the page, by their keys."""
    keys = exclusion.image_keys(made.dataset.facts.digest, list(made.dataset.manifest["image_id"]))
    return [keys.index(key) for key in page.evaluate("(all) => all.map(key)", list(numbers))]


def drawn_colours(page: Page) -> np.ndarray:
    """(H, W, 3) of the map as it is on the screen."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    with Image.open(io.BytesIO(page.locator("#map").screenshot())) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def pixels_like(picture: np.ndarray, colour: str) -> int:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture - wanted).max(axis=2) < 40).sum())


def pictured(page: Page, selector: str) -> np.ndarray:
    """What a canvas shows, (S, S), once its picture is drawn."""
    page.wait_for_function("(css) => document.querySelector(css).dataset.drawn !== undefined", arg=selector)
    flat = page.evaluate(
        """(css) => { const canvas = document.querySelector(css);
        const { width, height } = canvas;
        return [width, height, ...canvas.getContext("2d").getImageData(0, 0, width, height).data]; }""",
        selector,
    )
    return np.array(flat[2:]).reshape(flat[1], flat[0], 4)[:, :, 0].astype(float)


def is_picture_of(shown: np.ndarray, made: Made, row: int) -> bool:
    """Whether it is this image and no other, but for JPEG's losses."""
    apart = np.abs(made.dataset.images.astype(float) - shown).mean(axis=(1, 2))
    return bool(apart.argmin() == row and apart[row] < 6)


def lasso(page: Page, polygon: list[tuple[float, float]]) -> None:
    page.click("#lasso")
    page.mouse.move(*polygon[0])
    page.mouse.down()
    for x, y in [*polygon[1:], polygon[0]]:
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.wait_for_function("document.getElementById('selection').hidden === false")


def test_every_point_is_drawn_in_its_colour(page, made):
    assert page.evaluate("[map.data[0].type, map.data[0].x.length, state.order.length]") == ["scattergl", 120, 120]
    picture = drawn_colours(page)
    for colour in OKABE_ITO[:2]:  # two views
        assert pixels_like(picture, colour) > 60 * 25  # 60 points of 8 px across, some of them over one another
    at = page.evaluate("[0, 40, 119].map((i) => pixelOf(i))")
    box = page.locator("#map").bounding_box()
    views = made.dataset.manifest["view"].to_numpy()
    for (x, y), row in zip(at, rows_of(made, page, [0, 40, 119]), strict=True):
        colour = OKABE_ITO[("AP", "PA").index(views[row])]
        dot = picture[int(y - box["y"]) - 2 : int(y - box["y"]) + 3, int(x - box["x"]) - 2 : int(x - box["x"]) + 3]
        assert pixels_like(dot, colour) > 0


def test_nothing_is_asked_of_anyone(opened, made):
    page, asked, wrong = opened
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [made.path.as_uri()]
    assert wrong == []
    refused = page.evaluate("fetch('https://example.org/').then(() => 'fetched', () => 'refused')")
    assert refused == "refused"
    content = page.evaluate("document.querySelector('meta[http-equiv=Content-Security-Policy]').content")
    assert content.startswith("default-src 'none'")


def test_no_patient_and_no_file_is_named(made):
    text = made.path.read_text(encoding="utf-8")
    assert not re.search("Jane|Doe|name_of_a_file|p0[0-9][0-9]-", text)
    assert made.dataset.facts.caution in text
    assert made.dataset.facts.digest in text


def test_pointing_at_a_point_shows_its_image(page, made):
    for i in (17, 88):
        x, y = page.evaluate("(i) => pixelOf(i)", i)
        page.mouse.move(x - 40, y - 40)
        page.mouse.move(x, y, steps=3)
        page.wait_for_function("document.getElementById('card').hidden === false")
        page.wait_for_function(
            "(() => { const c = document.querySelector('#card canvas').dataset; return c.drawn === c.of })()"
        )
        shown = page.evaluate("Number(document.querySelector('#card canvas').dataset.drawn)")
        near = page.evaluate("([i, j]) => Math.hypot(...pixelOf(i).map((v, k) => v - pixelOf(j)[k]))", [i, shown])
        assert near < 9  # itself, or one that lies over it
        (row,) = rows_of(made, page, [shown])
        assert is_picture_of(pictured(page, "#card canvas"), made, row)
        said = page.text_content("#card div")
        assert f"view: {made.dataset.manifest['view'].iloc[row]}" in said
        assert f"sex: {made.dataset.manifest['sex'].iloc[row]}" in said
    page.mouse.move(2, 2)
    page.wait_for_function("document.getElementById('card').hidden === true")


def test_clicking_a_point_shows_its_nearest_neighbours(page, made):
    i = page.evaluate(
        """Array.from(data.x.keys()).reduce((best, i) => {  // the loneliest on the map, so that the click is on it
        const far = Math.min(...Array.from(data.x.keys()).filter((j) => j !== i)
            .map((j) => Math.hypot(data.x[i] - data.x[j], data.y[i] - data.y[j])));
        return far > best[1] ? [i, far] : best; }, [-1, -1])[0]"""
    )
    page.mouse.move(*page.evaluate("(i) => pixelOf(i)", i))
    page.wait_for_function("document.getElementById('card').hidden === false")
    page.mouse.click(*page.evaluate("(i) => pixelOf(i)", i))
    page.wait_for_selector("#image .thumbs button")
    (row,) = rows_of(made, page, [i])
    shown = page.evaluate("[...document.querySelectorAll('#image .thumbs button')].map((b) => Number(b.dataset.image))")
    z = (made.z_ND - made.z_ND.mean(axis=0, dtype=float)) / made.z_ND.std(axis=0, dtype=float)
    far = np.linalg.norm(z - z[row], axis=1)
    far[row] = np.inf
    assert rows_of(made, page, shown) == np.argsort(far)[:5].tolist()
    said = page.evaluate("[...document.querySelectorAll('#image .thumbs button')].map((b) => b.textContent)")
    patient = made.dataset.manifest["patient_id"].to_numpy()
    for text, other in zip(said, np.argsort(far)[:5], strict=True):
        assert float(re.match(r"[\d.]+", text)[0]) == pytest.approx(far[other], rel=0.01)
        assert ("same patient" in text) == (patient[other] == patient[row])
    assert is_picture_of(pictured(page, "#image canvas.large"), made, row)
    assert page.evaluate("map.data[3].x.length") == 6  # rings around it and its neighbours
    page.click("#image .thumbs button:first-child")
    assert page.evaluate("state.pinned") == shown[0]


def test_a_lasso_exports_what_lies_in_it(page, made, tmp_path):
    box = page.locator("#map").bounding_box()
    middle, top, bottom = box["x"] + 0.45 * box["width"], box["y"] + 6, box["y"] + box["height"] - 6
    slanted = [(box["x"] + 6, top), (middle, top), (middle + 60, bottom), (box["x"] + 6, bottom)]
    lasso(page, slanted)
    at = np.array(page.evaluate("Array.from(data.x.keys()).map((i) => pixelOf(i))"))
    edge = middle + 60 * (at[:, 1] - top) / (bottom - top)
    clear = np.abs(at[:, 0] - edge) > 3  # not on the line itself
    expected = np.flatnonzero(at[:, 0] < edge)
    assert 10 < len(expected) < 110
    with page.expect_download() as waiting:
        page.click("#export")
    waiting.value.save_as(tmp_path / "exclude.csv")
    assert waiting.value.suggested_filename == "exclude.csv"
    listed = exclusion.read([tmp_path / "exclude.csv"]).of(made.dataset.manifest["image_id"])
    chosen = set(np.flatnonzero(listed).tolist())
    sure = set(rows_of(made, page, np.flatnonzero(clear).tolist()))
    assert chosen & sure == set(rows_of(made, page, expected.tolist())) & sure
    n_patients = made.dataset.manifest["patient_id"][listed].nunique()
    assert page.text_content("#chosen").startswith(f"{len(chosen)} images of {n_patients} patients")
    assert page.evaluate("map.data[1].x.length") == len(chosen)
    page.click("#undo")
    assert page.evaluate("state.selected.size") == 0
    assert page.is_disabled("#export")


def test_a_level_that_is_hidden_is_neither_drawn_nor_chosen(page, made):
    page.click("#legend button:has-text('AP')")
    assert page.get_attribute("#legend button:has-text('AP')", "aria-pressed") == "false"
    page.wait_for_function("map.data[0].x.length === 60")
    picture = drawn_colours(page)
    assert pixels_like(picture, OKABE_ITO[0]) == 0
    assert pixels_like(picture, OKABE_ITO[1]) > 1000
    page.click("#view")
    rows = rows_of(made, page, page.evaluate("[...state.selected]"))
    assert sorted(rows) == np.flatnonzero(made.dataset.manifest["view"] == "PA").tolist()
    page.click("#legend button:has-text('AP')", modifiers=["Shift"])
    page.wait_for_function("state.order.every((i) => columns[state.column].text(i) === 'AP')")
    assert page.evaluate("map.data[0].x.length") == 60
    page.click("#legend button:has-text('AP')", modifiers=["Shift"])
    page.wait_for_function("map.data[0].x.length === 120")


def test_points_take_the_colour_of_what_is_asked_for(page, made):
    page.select_option("#colour", label="age (years; 90 is 90 or more)")
    page.wait_for_selector("#scale")
    colours = page.evaluate("map.data[0].marker.color.map((c, k) => [state.order[k], c])")
    scale = page.evaluate("raw.scale")
    age = made.dataset.manifest["age_years"].clip(upper=90).round().to_numpy()
    rows = rows_of(made, page, [i for i, _ in colours])
    place = np.array([scale.index(colour) for _, colour in colours])
    expected = 64 * (age[rows] - age.min()) / (age.max() - age.min())
    assert np.abs(place - np.minimum(expected, 63)).max() <= 1
    page.select_option("#colour", label="pneumonia")
    unknown = int(made.dataset.manifest["pneumonia"].isna().sum())
    assert f"unknown {unknown}" in page.text_content("#legend")


def test_duplicates_and_outliers_are_listed_and_open(page, made):
    page.click("#tab-duplicates")
    (group,) = page.query_selector_all("#groups .pair")
    assert "2 images, near-identical · 2 patients" in group.text_content()
    splits = sorted(made.dataset.manifest["split"].iloc[[4, 97]].unique())
    assert " and ".join(splits) in group.text_content()
    members = [int(button.get_attribute("data-image")) for button in group.query_selector_all("[data-image]")]
    assert sorted(rows_of(made, page, members)) == [4, 97]
    page.click("#all-duplicates")
    assert page.evaluate("[...state.selected]") == members[1:]
    page.click("#groups .pair .thumbs button")
    assert page.evaluate("state.pinned") == members[0]
    page.click("#tab-outliers")
    shown = page.evaluate("[...document.querySelectorAll('#far-thumbs button')].map((b) => Number(b.dataset.image))")
    z = (made.z_ND - made.z_ND.mean(axis=0, dtype=float)) / made.z_ND.std(axis=0, dtype=float)
    fifth = np.sort(np.linalg.norm(z[:, None] - z[None], axis=2), axis=1)[:, 5]
    assert rows_of(made, page, shown) == np.argsort(-fifth)[:7].tolist()


def test_the_page_is_used_without_a_mouse(page):
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.evaluate("state.current")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("state.current")
    assert first >= 0
    dx, dy = page.evaluate("([i, j]) => [data.x[j] - data.x[i], data.y[j] - data.y[i]]", [first, second])
    assert dx > 0
    assert abs(dy) <= dx
    page.keyboard.press("s")
    assert page.evaluate("[...state.selected]") == [second]
    page.keyboard.press("Enter")
    page.wait_for_selector("#image .thumbs button")
    before = page.evaluate("view()[0][1] - view()[0][0]")
    page.keyboard.press("+")
    page.wait_for_function("(before) => view()[0][1] - view()[0][0] < 0.7 * before", arg=before)
    page.keyboard.press("Escape")
    assert page.evaluate("state.current") == -1
    page.focus("#legend button:has-text('PA')")
    page.keyboard.press("Enter")
    page.wait_for_function("map.data[0].x.length === 60")
    assert page.evaluate("document.activeElement.textContent") == "PA 60"
    page.keyboard.press("Enter")
    page.wait_for_function("map.data[0].x.length === 120")
    page.focus("#tab-image")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-selection", "aria-selected") == "true"
    assert "1 image of 1 patient." in page.text_content("#chosen")


def test_the_verb_draws_a_sample_of_whole_patients_and_says_so(tiny_dataset, tmp_path):
    vectors = make_vectors(tiny_dataset, tmp_path / "vectors", "moco", 2.0)
    (tmp_path / "recipe.yaml").write_text("explore: {max_points: 40, metric: cosine}")
    call = ["explore", str(tiny_dataset), "--vectors", str(vectors), "--out", str(tmp_path / "page.html")]
    ran = CliRunner().invoke(cli, [*call, "--recipe", str(tmp_path / "recipe.yaml")])
    assert ran.exit_code == 0, ran.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "40 images of 20 patients, a sample of 120 by patient" in text
    assert "by cosine distance of the vectors" in text
    assert '"n":40,' in text
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_is_no_page(tiny_dataset, tmp_path):
    with pytest.raises(UsageError, match=r"is a folder; name the HTML file"):
        explore.run(tiny_dataset, make_vectors(tiny_dataset, tmp_path / "v", "moco", 2.0), tmp_path, Explore())


def test_points_are_put_in_an_order_of_places():
    at = np.random.default_rng(0).uniform(size=(4000, 2))
    order = explore.along_the_map(at)
    assert sorted(order) == list(range(4000))
    steps = np.linalg.norm(np.diff(at[order], axis=0), axis=1)
    assert np.median(steps) < 0.1 * np.median(np.linalg.norm(np.diff(at, axis=0), axis=1))
    np.testing.assert_array_equal(explore.along_the_map(np.zeros((3, 2))), [0, 1, 2])
