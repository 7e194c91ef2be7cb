"""The page beside the API, in a real browser: with and without a mouse, and with nothing from elsewhere."""

import base64
import time
from itertools import pairwise

import numpy as np
import pytest
from releasing import SOMEBODY, drawn_image, encoded, overridden

from hilum.client import Client


@pytest.fixture(scope="module")
def front(base, mr_release, starlette_front):
    with starlette_front([overridden(base), mr_release], "--workers", "1") as running:
        yield running.running


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patient-mustermann")
    contents = {
        "film": encoded(drawn_image("PA")),
        "black": encoded(np.zeros((96, 96), np.uint8)),
        "broken": b"rubbish",
        "head": encoded(drawn_image("CORONAL")),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def page(browser, front):
    """The page, opened; afterwards it must have asked nobody else and complained of nothing."""
    context = browser.new_context(viewport={"width": 1000, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    asked, complaints = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if "status of 4" not in said.text else None)
    opened.goto(front.url + "/")
    opened.get_by_label("Token").fill(front.token)
    yield opened
    assert not complaints
    assert not [url for url in asked if not url.startswith((front.url, "data:", "blob:"))]
    context.close()


def sent(page, files, *names):
    page.set_input_files("#files", [files / name for name in names])
    page.get_by_text("Done:").wait_for(timeout=30_000)


def test_a_film_is_shown_as_the_model_saw_it_with_all_that_is_known(page, files):
    sent(page, files, "film")
    answer = page.locator("#answer")
    told = answer.inner_text()
    assert "the threshold for pneumonia" in told
    assert "held-out images with such a probability" in told
    assert "What does" in told
    assert "sensitivity" in told
    assert f"{SOMEBODY.by} answers for it" in told
    assert SOMEBODY.reason in told
    assert "Not for clinical use" in page.locator("header").inner_text()
    assert answer.locator("tbody tr").count() == 5
    assert answer.locator("tbody tr td").first.inner_text().startswith("xr-")
    for picture in answer.locator(".seen img").all():
        assert picture.evaluate("one => one.complete && one.naturalWidth > 0")
    overlay = answer.locator("#overlay")
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "1"
    answer.get_by_label("what moved it").fill("0")
    assert overlay.evaluate("one => getComputedStyle(one).opacity") == "0"
    assert "mustermann" not in page.content().lower()


def test_an_image_that_cannot_be_read_gets_a_reason_and_no_number(page, files):
    page.get_by_label("Modality").select_option("XR")
    sent(page, files, "black")
    told = page.locator("#answer").inner_text()
    assert "No prediction for pneumonia" in told
    assert "contrast" in told
    assert not page.locator("#answer .number").count()


def test_several_files_are_a_list_of_answers(page, files):
    sent(page, files, "film", "broken", "head")
    assert page.get_by_text("Done: 2 answered, 1 refused.").count() == 1
    names = [one.inner_text() for one in page.locator("#results button").all()]
    assert [name.split(":")[1].strip() for name in names][1:] == ["refused", "abstained"]
    page.locator("#results button").nth(1).click()
    told = page.locator("#answer").inner_text()
    assert "Refused" in told
    assert "Send the bytes of one" in told
    page.locator("#results button").nth(2).click()
    assert "looks like an MRI" in page.locator("#answer").inner_text()


def test_without_a_mouse(page, files):
    """Tab reaches everything in order, and the drop zone opens the choice of files with Enter."""
    page.on("filechooser", lambda _: None)  # Chromium is told now: told just before Enter, it may hear it too late
    page.get_by_label("Token").focus()
    reached = []
    for _ in range(5):
        reached.append(page.evaluate("document.activeElement.id"))
        page.keyboard.press("Tab")
    assert reached == ["token", "drop", "question", "modality", "saliency"]
    page.get_by_label("Token").focus()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    with page.expect_file_chooser(timeout=5_000) as chosen:
        page.keyboard.press("Enter")
    chosen.value.set_files([files / "film", files / "head"])
    page.get_by_text("Done:").wait_for(timeout=30_000)
    assert outline == "solid"
    assert page.evaluate("document.activeElement.id") == "answer"
    page.locator("#results button").nth(1).focus()
    page.keyboard.press("Enter")
    assert "MRI" in page.locator("#answer").inner_text()


def test_an_embedding_can_be_taken_along(page, files, tmp_path):
    page.get_by_label("Question").select_option("embeddings")
    sent(page, files, "film")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "z.npy")
    assert download.value.suggested_filename == "image-1.npy"
    assert np.load(tmp_path / "z.npy").shape == (12,)


def test_a_wrong_token_is_said_to_be_wrong(page, files):
    page.get_by_label("Token").fill("nothing-like-it")
    sent(page, files, "film")
    assert "no valid token" in page.locator("#answer").inner_text()


def test_it_fits_a_narrow_window_and_keeps_no_token(browser, front, files):
    context = browser.new_context(viewport={"width": 360, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(front.url + "/")
    page.get_by_label("Token").fill(front.token)
    sent(page, files, "film")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
    page.reload()
    assert page.get_by_label("Token").input_value() == ""
    context.close()


def test_nobody_is_taken_away_from_what_they_read(page, files):
    """While others are answered, the first answer stays, and with it what the keyboard was at."""
    page.set_input_files("#files", [files / name for name in ("film", "head", "film", "head")])
    page.locator("#results button").first.get_by_text("%").wait_for(timeout=30_000)
    page.locator("#results button").first.focus()
    page.get_by_text("Done: 4 answered.").wait_for(timeout=30_000)
    assert page.locator("#answer h2").first.inner_text() == "Image 1"
    assert page.evaluate("[...document.querySelectorAll('#results button')].indexOf(document.activeElement)") == 0


def test_after_a_wrong_token_the_image_need_not_be_chosen_again(page, front, files):
    page.get_by_label("Token").fill("nothing-like-it")
    sent(page, files, "film")
    page.get_by_label("Token").fill(front.token)
    page.get_by_role("button", name="Ask again").click()
    page.get_by_text("the threshold for pneumonia").wait_for(timeout=30_000)
    assert page.locator("#results button").count() == 1


def test_the_download_is_what_the_server_answered(page, front, files, tmp_path):
    page.get_by_label("Question").select_option("embeddings")
    sent(page, files, "film")
    page.get_by_label("Token").fill("gone by now")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "z.npy")
    with Client(front.url, front.token) as client:
        expected = client.embed(files / "film").z
    found = np.load(tmp_path / "z.npy")
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)


def test_a_volume_is_shown_plane_by_plane(page, files, tmp_path):
    """The answer is made up here: whether a made volume is taken is the desk's affair."""
    seen = base64.b64encode(encoded(drawn_image("AXIAL"))).decode()
    views = ("AXIAL", "CORONAL", "SAGITTAL")

    def answer(route):
        body = route.fetch().json()
        planes = [{"view": view, "position": 0.5, "seen": seen} for view in views]
        del body["seen"]
        body |= {"shape": [3, 12], "embedding": [body["embedding"]] * 3, "planes": planes}
        route.fulfill(json=body)

    page.route("**/predictions/embeddings*", answer)
    page.get_by_label("Question").select_option("embeddings")
    sent(page, files, "head")
    shown = page.locator("#answer .planes img")
    assert [one.get_attribute("alt").split()[1] for one in shown.all()] == ["axial", "coronal", "sagittal"]
    assert all(one.evaluate("one => one.naturalWidth > 0") for one in shown.all())
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "z.npy")
    assert np.load(tmp_path / "z.npy").shape == (3, 12)


@pytest.mark.parametrize("threshold", [0.03, 0.5, 0.97])
def test_the_threshold_is_named_where_it_is(page, files, threshold):
    sent(page, files, "film")
    page.evaluate("threshold => { results[0].body.threshold = threshold; show(0); }", threshold)
    mark = page.locator(".scale .threshold").bounding_box()
    label = page.get_by_text("threshold", exact=False).and_(page.locator(".label")).bounding_box()
    assert label["x"] - 2 <= mark["x"] <= label["x"] + label["width"] + 2
    boxes = [one.bounding_box() for one in page.locator(".scale .label").all()]
    boxes.sort(key=lambda box: box["x"])
    assert all(a["x"] + a["width"] <= b["x"] for a, b in pairwise(boxes))


def test_its_use_stays_in_sight(page, files):
    sent(page, files, "film")
    page.mouse.wheel(0, 5_000)
    scrolled = time.monotonic() + 10  # asked again and again from outside: the page's own policy lets nothing evaluate
    while page.evaluate("window.scrollY") <= 200 and time.monotonic() < scrolled:
        page.wait_for_timeout(50)
    assert page.evaluate("window.scrollY") > 200
    box = page.get_by_text("Not for clinical use", exact=True).bounding_box()
    assert 0 <= box["y"] < 60


def test_a_server_that_is_gone_and_a_proxy_in_its_place(page, files):
    page.route("**/predictions/*", lambda route: route.fulfill(status=413, body="<html>too large</html>"))
    sent(page, files, "film")
    assert "status 413" in page.locator("#answer").inner_text()
    page.unroute("**/predictions/*")
    page.route("**/about.json", lambda route: route.fulfill(status=200, body="<html>"))
    page.reload()
    page.get_by_text("The server cannot be reached").wait_for(timeout=5_000)
