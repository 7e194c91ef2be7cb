"""Fine-tuning of one encoder, and its fusion with covariates, where the recipe asks for them."""

from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def finetune(
    dataset: dsl.Input[dsl.Dataset],
    encoder: dsl.Input[dsl.Model],
    code: str,
    recipe: dict,
    tuned: dsl.Output[dsl.Model],
    table: dsl.Output[dsl.Markdown],
    fusion: dsl.Output[dsl.HTML],
):
    """Every mode and fusion of the recipe's `finetune` section, side by side; none where it names no mode."""
    from pathlib import Path

    from hilum.errors import CheckFailed
    from hilum.judgement import showing
    from hilum.recipe import Recipe

    section, out = Recipe.model_validate(recipe).finetune, Path(tuned.path)
    out.mkdir(parents=True, exist_ok=True)
    said = "No fine-tuning was asked for: `finetune.modes` is empty.\n"
    if section.modes:
        from hilum.judgement.fusion import ladder as fusions
        from hilum.learning import finetune as tuning

        section = tuning.possible(section, Path(encoder.path))
        said = "This encoder has no weights that steps could move, and `linear` was not asked for.\n"
    if section.modes:
        try:
            tuning.ladder(Path(dataset.path), Path(encoder.path), section, out)
            fusions.run(Path(dataset.path), out, section, out)
            said = (out / "fusion.md").read_text(encoding="utf-8")
        except CheckFailed as refusal:  # as of MR slices, for which no pneumonia is known
            said = fusions.refused(out, section.label, str(refusal))
    Path(table.path).write_text(said, encoding="utf-8")
    facts = (Path(dataset.path) / "dataset.json", Path(encoder.path) / "card.json")
    showing.show(out / "fusion.html", Path(fusion.path), said.strip(), *facts)
    tuned.metadata.update(code_revision=code)
