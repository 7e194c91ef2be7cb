"""The verbs `finetune` and `fusion`: what they print, and one sentence where they cannot."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from making import make_dataset

from hilum.cli import cli
from hilum.errors import CheckFailed, UsageError
from hilum.learning import training
from hilum.recipe import Train, read

RECIPES = Path(__file__).resolve().parents[1] / "pipelines" / "recipes"
RECIPE = """
finetune: {linear_epochs: 3, linear_rates: [0.003], bootstrap: 100, fusions: [tabular_only, gated]}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    dataset = make_dataset(folder / "dataset", n_patients=120)
    run = training.run(dataset, Train.model_validate({"encoder": {"name": "pixels", "components": 8}}), folder / "run")
    (folder / "recipe.yaml").write_text(RECIPE)
    return dataset, run, folder / "recipe.yaml"


def call(*words):
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_finetune_prints_scores_with_intervals_and_n(made, tmp_path):
    dataset, run, recipe = made
    done = call("finetune", dataset, "--run", run, "--recipe", recipe, "--out", tmp_path / "out")
    assert "auroc" in done.output
    assert "test images of" in done.output
    card = (tmp_path / "out" / "card.json").read_text()
    assert '"fusion": "gated"' in card  # because there are covariates
    assert (tmp_path / "out" / "test.json").is_file()


def test_fusion_prints_the_table(made, tmp_path):
    dataset, run, recipe = made
    done = call("fusion", dataset, "--run", run, "--recipe", recipe, "--out", tmp_path / "out")
    assert "| linear | gated | all |" in done.output
    assert "stacking" not in done.output  # the recipe names others
    assert (tmp_path / "out" / "fusion.html").is_file()


def test_what_cannot_be_is_one_sentence(made, tmp_path):
    dataset, run, _ = made
    with pytest.raises(UsageError, match="no label 'gout'"):
        call("finetune", dataset, "--run", run, "--label", "gout", "--out", tmp_path / "a")
    strict = tmp_path / "strict.yaml"
    strict.write_text("finetune: {min_patients: 500}")
    with pytest.raises(CheckFailed, match="insufficient data: train has"):
        call("fusion", dataset, "--run", run, "--recipe", strict, "--out", tmp_path / "b")


@pytest.mark.parametrize("name", ["small/finetune", "sources/mimic-finetune"])
def test_the_recipes_hold_together_and_climb_the_whole_ladder(name):
    section = read(RECIPES / f"{name}.yaml").finetune
    assert section.fusions == ("image_only", "tabular_only", "concatenation", "stacking", "gated")
    assert section.modes == ("linear", "end_to_end")


@pytest.mark.parametrize("verb", ["finetune", "fusion"])
def test_help_has_an_example(verb):
    shown = call(verb, "--help")
    assert f"hilum {verb} " in shown.output
    assert "Example:" in shown.output
