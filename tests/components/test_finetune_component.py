"""The component's wiring, called as the function it is: asked, not asked, and refused by the data."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from making import make_dataset

from components.finetune import finetune
from hilum.errors import DatasetError
from hilum.judgement.fusion import head
from hilum.learning import training
from hilum.recipe import Finetune, Recipe, Train, plain

QUICK = {"linear_epochs": 3, "linear_rates": [0.003], "bootstrap": 100}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("cohort") / "dataset", n_patients=120)


@pytest.fixture(scope="module")
def pixels(cohort, tmp_path_factory):
    section = Train.model_validate({"encoder": {"name": "pixels", "components": 8}})
    return training.run(cohort, section, tmp_path_factory.mktemp("encoder") / "pixels")


def call(dataset, encoder, out, **section):
    out.mkdir()
    tuned, table, page = (SimpleNamespace(path=str(out / name), metadata={}) for name in ("tuned", "table", "page"))
    finetune.python_func(
        dataset=SimpleNamespace(path=str(dataset)),
        encoder=SimpleNamespace(path=str(encoder)),
        code="c",
        recipe=plain(Recipe.model_validate({"finetune": section})),
        tuned=tuned,
        table=table,
        fusion=page,
    )
    shown = (out / "page").read_text()
    written = out / "tuned" / "fusion.html"
    if written.is_file():
        assert shown == written.read_text()
    else:  # one line, of the run and with the dataset's caution
        assert (out / "table").read_text().strip().replace("`", "") in shown
        assert "made by a test" in shown
        assert json.loads((Path(encoder) / "card.json").read_text())["run"]["recipe_digest"] in shown
    assert tuned.metadata == {"code_revision": "c"}
    return (out / "table").read_text(), out / "tuned"


def test_a_recipe_that_asks_for_none_gets_none(cohort, pixels, tmp_path):
    said, tuned = call(cohort, pixels, tmp_path / "out")
    assert said == "No fine-tuning was asked for: `finetune.modes` is empty.\n"
    assert list(tuned.iterdir()) == []


def test_the_ladder_that_is_asked_for_is_climbed(cohort, pixels, tmp_path):
    said, tuned = call(cohort, pixels, tmp_path / "out", modes=["linear"], fusions=["tabular_only", "gated"], **QUICK)
    assert "| linear | gated | all |" in said
    assert "| none | tabular only | all |" in said
    assert (tuned / "linear" / "gated" / "card.json").is_file()
    assert json.loads((tuned / "fusion.json").read_text())["answered"]
    asked = {"modes": ["linear"], "fusions": ["gated", "concatenation"]}
    assert head.named(tuned, Finetune.model_validate({**asked, "head": "gated"})) == tuned / "linear" / "gated"
    assert head.named(tuned, Finetune.model_validate(asked)) is None
    with pytest.raises(DatasetError, match="concatenation is not there"):
        head.named(tuned, Finetune.model_validate({**asked, "head": "concatenation"}))


def test_pixels_have_no_weights_to_move(cohort, pixels, tmp_path):
    said, tuned = call(cohort, pixels, tmp_path / "out", modes=["end_to_end"])
    assert said.startswith("This encoder has no weights that steps could move")
    assert list(tuned.iterdir()) == []
    said, tuned = call(cohort, pixels, tmp_path / "both", modes=["linear", "end_to_end"], **QUICK)
    assert "| linear | image only |" in said


def test_a_modality_of_which_the_label_is_not_known_does_not_end_the_run(cohort, pixels, tmp_path):
    refused = {"modes": ["linear"], "min_patients": 500, **QUICK}
    said, tuned = call(cohort, pixels, tmp_path / "out", **refused)
    assert said.startswith("No fine-tuning for pneumonia: insufficient data: train has ")
    assert json.loads((tuned / "fusion.json").read_text())["answered"] is False
    assert head.named(tuned, Finetune(modes=("linear",), fusions=("gated",), head="gated")) is None  # another stays
