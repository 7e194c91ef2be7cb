"""Recipes: read, refused with the offending key, and named by a digest of what they resolve to."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from hilum import recipe
from hilum.errors import UsageError
from hilum.recipe import ENCODER_SECTIONS, Preprocessing, Recipe, Section, Train


def test_an_empty_recipe_is_the_default() -> None:
    assert recipe.parse({}) == Recipe()


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().train.epochs = 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"epoch": 3}}, r"train\.epoch: Extra inputs"),
        ({"train": {"epochs": 0}}, r"train\.epochs: .*greater than or equal to 1"),
        ({"ingest": {"preprocessing": {"size": "large"}}}, r"ingest\.preprocessing\.size: .*integer"),
        ({"encoders": [{"name": "nonsuch"}]}, "encoders.0: .*nonsuch"),
        ({"encoders": [{"name": "moco"}]}, "`pixels` is the floor"),
        ({"encoders": [{"name": "pixels"}, {"name": "pixels"}]}, "each encoder is named once"),
        ({"train": {"encoder": {"name": "vae"}}}, "train: .*the sections of encoders stand in `encoders`"),
        ({"train": {"modality": "MR"}}, "train: .*--modality"),
        ({"train_each": {"moco": {"encoder": {"name": "vae"}}}}, r"train_each\.moco: encoder: Extra inputs"),
        ({"train_each": {"moco": {"epochs": 0}}}, r"train_each\.moco: epochs: .*greater than or equal to 1"),
    ],
)
def test_what_does_not_belong_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe.parse(values)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        recipe.parse({"train": {"epochs": 0, "batch_size": 1}, "surprise": 1})
    assert all(name in str(caught.value) for name in ("train.epochs", "train.batch_size", "surprise"))


def test_numbers_that_a_pipeline_made_floats_are_integers_again() -> None:
    train = recipe.parse({"epochs": 3.0, "batch_size": 16.0}, Train)
    assert (train.epochs, type(train.epochs)) == (3, int)


def test_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("ingest: {layout: nih, preprocessing: {size: 64}}\ntrain: {epochs: 2}\n", encoding="utf-8")
    read = recipe.read(path)
    assert (read.ingest.layout, read.ingest.preprocessing.size, read.train.epochs) == ("nih", 64, 2)


@pytest.mark.parametrize("content", ["- a list\n", "just text", "", "a: [unclosed"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=r"recipe\.yaml (is not a recipe|cannot be read)"):
        recipe.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as a recipe"):
        recipe.read(tmp_path / "absent.yaml")


def test_train_of_gives_an_encoder_its_section() -> None:
    whole = recipe.parse({"encoders": [{"name": "pixels", "components": 7}, {"name": "moco"}], "train": {"epochs": 9}})
    train = whole.train_of("pixels", "MR")
    assert (train.encoder.name, train.encoder.components, train.modality, train.epochs) == ("pixels", 7, "MR", 9)
    with pytest.raises(UsageError, match="has no encoder 'vae'; it has pixels, moco"):
        whole.train_of("vae", "XR")


def test_every_encoder_section_is_found_by_its_name() -> None:
    for name, section in ENCODER_SECTIONS.items():
        assert section.model_fields["name"].default == name
        assert recipe.parse({"encoder": {"name": name}}, Train).encoder == section()


def test_a_digest_follows_the_resolved_values() -> None:
    assert recipe.digest(Recipe()) == recipe.digest(recipe.parse({"train": {"epochs": Train().epochs}}))
    assert recipe.digest(Recipe()) != recipe.digest(recipe.parse({"train": {"epochs": Train().epochs + 1}}))
    assert len(recipe.digest(Preprocessing())) == 64


def _sections(kind: type[Section]) -> set[type[Section]]:
    return {kind, *(deeper for below in kind.__subclasses__() for deeper in _sections(below))}


def test_every_section_is_frozen_closed_and_explained() -> None:
    for section in _sections(Section):
        assert section.model_config.get("frozen") is True
        assert section.model_config.get("extra") == "forbid"
        assert section.__doc__, section


FORM = {
    "layout": "nih",
    "encoders": ["moco", "pixels"],
    "epochs": 3,
    "image_size": 48,
    "seed": 7,
    "label": "effusion",
    "release_encoder": "pixels",
    "gate_min_auroc": 0.5,
    "gate_max_auroc_gap": 0.4,
}


def test_the_form_wins_over_the_recipe_and_leaves_the_rest() -> None:
    base = {
        "train": {"epochs": 99, "batch_size": 16},
        "encoders": [{"name": "moco", "queue_size": 12}],
        "ingest": {"limit": 5, "preprocessing": {"size": 300, "pad_value": 9}},
    }
    whole = recipe.compose(base, **FORM)
    assert (whole.train.epochs, whole.train.batch_size, whole.train.seed) == (3, 16, 7)
    assert (whole.ingest.layout, whole.ingest.limit, whole.ingest.seed) == ("nih", 5, 7)
    assert (whole.ingest.preprocessing.size, whole.ingest.preprocessing.pad_value) == (48, 9)
    assert [one.name for one in whole.encoders] == ["moco", "pixels"]
    assert whole.train_of("moco", "MR").encoder.queue_size == 12
    assert (whole.audit.label, whole.export.label, whole.export.encoder) == ("effusion", "effusion", "pixels")
    assert (whole.gate.min_auroc, whole.gate.max_auroc_gap) == (0.5, 0.4)


def test_what_is_not_asked_travels_through_a_form_and_through_plain_values() -> None:
    """Null does not, in KFP; a tolerance that was left out would come back as its default."""
    whole = recipe.compose({"gate": {"max_ece": None}}, **{**FORM, "gate_min_auroc": -1.0})
    assert (whole.gate.min_auroc, whole.gate.max_ece, whole.gate.min_sensitivity) == ("not asked", "not asked", 0.8)
    assert recipe.parse(recipe.plain(whole)).gate == whole.gate


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_auroc": 1.2}, "less than or equal to 1"),
        ({"min_group": 0}, "greater than or equal to 1"),
        ({"outside": ["children"]}, "ATTRIBUTE=GROUP, such as age_band=0-20, not 'children'"),
    ],
)
def test_a_gate_that_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe.parse({"gate": values})


def test_the_gate_asks_about_groups_that_the_audit_has() -> None:
    assert recipe.parse({"gate": {"groups": ["race"]}}).gate.groups == ("race",)  # the audit takes all that there are
    with pytest.raises(UsageError, match=r"gate\.groups names race, by which audit\.groups does not audit"):
        recipe.parse({"audit": {"groups": ["sex"]}, "gate": {"groups": ["race", "sex"]}})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"finetune": {"head": "gated"}}, "name it in finetune.fusions"),
        ({"finetune": {"head": "gated", "fusions": ["gated"], "modes": ["end_to_end"]}}, "linear in finetune.modes"),
        ({"finetune": {"label": "edema"}}, "must agree"),
        ({"mitigation": {"applied": "leace"}}, "cannot be mitigated"),
    ],
)
def test_a_head_that_fuses_covariates_is_made_in_the_run(values: dict[str, dict[str, object]], words: str) -> None:
    whole = {"finetune": {"head": "gated", "fusions": ["gated"], "modes": ["linear"]}}
    assert Recipe.model_validate(whole).finetune.head == "gated"
    if "finetune" in values and "head" not in values["finetune"]:
        values = {"finetune": {**whole["finetune"], **values["finetune"]}}
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate({**whole, **values})


def test_the_floor_cannot_be_left_out_of_a_form() -> None:
    with pytest.raises(UsageError, match="floor"):
        recipe.compose({}, **{**FORM, "encoders": ["moco"], "release_encoder": "moco"})


def test_what_is_released_is_among_the_encoders() -> None:
    with pytest.raises(UsageError, match="released encoder"):
        recipe.compose({}, **{**FORM, "release_encoder": "vae"})


def test_plain_values_have_no_null_and_make_the_same_recipe() -> None:
    whole = recipe.compose({}, **FORM)
    assert "limit" not in recipe.plain(whole)["ingest"]
    assert recipe.parse(recipe.plain(whole)) == whole
