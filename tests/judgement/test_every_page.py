"""Every page of a small judgement, from validation to gate: it names its run, warns, asks nothing of any network, and
says nothing of any patient."""

import base64
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import make_dataset
from playwright.sync_api import Browser

from hilum.data import expectations
from hilum.data.store import FACTS, MANIFEST, Dataset, read_json, write_json
from hilum.identity import code_revision
from hilum.judgement import judge, showing
from hilum.judgement.fusion import ladder
from hilum.judgement.report import revisions
from hilum.learning import embedding, finetune, training
from hilum.recipe import Recipe, Train

SLOW_MS = 120_000  # a software renderer on a busy machine
CAUTION = "Drawn by a test, so of nobody."
RECIPE = Recipe.model_validate(
    {
        "probe": {"bootstrap": 100, "kernels": ["rbf"], "min_cases": 3},
        "audit": {"bootstrap": 100, "min_group": 4, "groups": ["sex", "view"]},
        "shortcuts": {"permutations": 99, "bootstrap": 100, "min_group": 4, "attributes": ["site", "sex"]},
        "mitigation": {"methods": ["reweighting"]},
        "finetune": {"modes": ["linear"], "linear_epochs": 3, "linear_rates": [0.003], "bootstrap": 100},
        "export": {"encoder": "pixels"},
    }
)
PAGES = {
    "index", "validation", "leaderboard", "fairness", "audit", "shortcuts", "mitigation", "explore", "policies",
    "fusion", "gate", "nothing", "drift",
}  # fmt: skip


def named_dataset(path: Path, patients: int = 120) -> Path:
    """A dataset whose ids are names of a patient and of files, with a few uncertain labels, and one duplicate."""
    dataset = make_dataset(path, n_patients=patients)
    table = pd.read_parquet(dataset / MANIFEST)
    table["pneumonia"] = np.where(np.arange(len(table)) % 23 == 0, -1.0, table["pneumonia"])
    table["image_id"] = "scans/Doe_Jane/" + table["image_id"] + ".dcm"
    table["patient_id"] = "DOE^JANE-" + table["patient_id"]
    table["study_id"] = "ACC-0815-" + table["study_id"]
    table.loc[table.index[-1], "pixel_digest"] = table["pixel_digest"].iloc[0]  # so that the validation names rows
    table.to_parquet(dataset / MANIFEST, index=False)
    write_json(dataset / FACTS, {**read_json(dataset / FACTS), "caution": CAUTION})
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named_dataset(tmp_path_factory.mktemp("every") / "cohort-of-a-hospital")


@pytest.fixture(scope="module")
def pages(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page that the steps of a run write, by name."""
    root = tmp_path_factory.mktemp("run")
    encoder, vectors, scores, findings, tuned = (
        root / name for name in ("encoder", "vectors", "scores", "findings", "tuned")
    )
    expectations.validate(dataset, root / "validation")
    training.run(dataset, Train.model_validate({"encoder": {"name": "pixels", "components": 8}}), encoder)
    embedding.run(dataset, encoder, vectors)
    judge.probe(dataset, vectors, RECIPE, scores)
    judge.audit(dataset, vectors, scores, RECIPE, findings)
    finetune.ladder(dataset, encoder, finetune.possible(RECIPE.finetune, encoder), tuned)
    ladder.run(dataset, tuned, RECIPE.finetune, tuned)
    judge.compare(root / "validation", [scores], [findings], [tuned], root / "out")
    judge.gate([encoder], [scores], [findings], RECIPE, root / "candidate", root / "gate")
    facts = scores / judge.PROBE_FACTS
    elsewhere = named_dataset(root / "cohort-before", patients=100)
    embedding.run(elsewhere, encoder, root / "before")
    revisions.run(elsewhere, dataset, RECIPE.audit, root / "drift", (root / "before", vectors))
    showing.show(root / "none", root / "nothing.html", "There is nothing to show.", facts)
    found = {path.read_bytes(): path for path in sorted(root.rglob("*.html"), reverse=True)}  # some are copied
    assert {path.stem for path in found.values()} == PAGES
    return {path.relative_to(root).as_posix(): path for path in found.values()}


def said(path: Path) -> str:
    """What a page holds: its text, and whatever it carries in base64."""
    content = path.read_text(encoding="utf-8")
    carried = re.findall(r"[A-Za-z0-9+/]{64,}={0,2}", content)
    return "\n".join([content, *(base64.b64decode(one + "=" * (-len(one) % 4)).decode("latin-1") for one in carried)])


def betrayed(path: Path, dataset: Path) -> list[str]:
    """Which of a dataset's names, or of the folders where it lies, a page tells."""
    table = Dataset.open(dataset).manifest
    names = {str(name) for column in ("patient_id", "image_id", "study_id") for name in table[column]}
    # Halves of them too: a page that cut a path or an id in two would still tell whose it is.
    names |= {"Doe_Jane", "DOE^JANE", "ACC-0815", "p003-1", ".dcm", dataset.name, str(dataset), str(path.parent)}
    content = said(path)
    return sorted(name for name in names if name in content)


def requested(path: Path, browser: Browser) -> tuple[set[str], set[str]]:
    """What a page asks for when it is opened, and where its links lead, beyond itself and the pages beside it."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.set_default_timeout(SLOW_MS)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    linked = page.evaluate(
        "[...document.querySelectorAll('[src],[href],[action],[data]')]"
        ".flatMap((one) => [one.src, one.href, one.action, one.data])"
        ".map((one) => String(one?.baseVal ?? one ?? ''))"
    )
    context.close()
    assert asked[0] == path.as_uri()
    return (
        {url for url in asked[1:] if not url.startswith(("data:", "blob:"))},
        {url for url in linked if re.match(r"(?!file:|data:|blob:|javascript:)[a-z]+:", url)},
    )


def test_each_names_the_run_and_carries_the_caution(pages, dataset):
    digest = Dataset.open(dataset).facts.digest
    for name, path in pages.items():
        content = path.read_text(encoding="utf-8")
        assert code_revision() in content, name
        assert digest in content, name
        assert re.search(r"recipe digest <code>[0-9a-f]{64}</code>", content), name
        assert CAUTION in content, name


def test_none_tells_a_patient_an_image_a_file_or_a_folder(pages, dataset):
    assert {name: told for name, path in pages.items() if (told := betrayed(path, dataset))} == {}


def test_none_asks_anything_of_a_network(pages, browser):
    found = {name: requested(path, browser) for name, path in pages.items()}
    assert {name: asked for name, (asked, _) in found.items() if asked} == {}
    linked = {name: urls for name, (_, urls) in found.items() if urls and not name.endswith("audit.html")}
    assert linked == {}
    [(_, evidentlys)] = [urls for name, urls in found.items() if name.endswith("audit.html")]
    assert evidentlys <= {"https://plotly.com/"}  # the maker's mark beside each figure: a link, which nothing follows


@pytest.mark.parametrize("form", ["plain", "base64"])
def test_a_page_that_told_a_patient_would_be_found(dataset, tmp_path, form):
    row = "<td>DOE^JANE-p003</td>" + " " * 60
    told = row if form == "plain" else base64.b64encode(row.encode()).decode()
    (tmp_path / "page.html").write_text(f"<p>{told}</p>")
    assert "DOE^JANE-p003" in betrayed(tmp_path / "page.html", dataset)


@pytest.mark.parametrize(
    "piece",
    [
        '<img src="http://example.org/a.png">',
        '<style>@import url("https://example.org/a.css");</style>',
        '<script>fetch("https://example.org/a")</script>',
        '<a href="https://example.org/">there</a>',
        '<p style="background:url(//example.org/a.png)">x</p>',
    ],
)
def test_a_page_that_asked_something_would_be_found(browser, tmp_path, piece):
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><html><body>{piece}</body></html>")
    asked, linked = requested(path, browser)
    assert any("example.org" in url for url in (linked if "<a " in piece else asked))
