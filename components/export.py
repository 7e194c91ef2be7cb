"""The releases: ONNX, card, golden images, archives, dossier."""

from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def export(
    dataset: dsl.Input[dsl.Dataset],
    candidate: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Artifact],
    code: str,
    recipe: dict,
    releases: dsl.Output[dsl.Model],
):
    """Export the candidate of every modality."""
    from pathlib import Path

    import serving
    from hilum.delivery.releasing import export
    from hilum.recipe import Recipe

    export.export_all(
        Path(dataset.path),
        Path(candidate.path),
        Path(verdict.path),
        Recipe.model_validate(recipe).export,
        Path(releases.path),
        serving=serving.FOLDER,
        validation=Path(validation.path),
    )
    releases.metadata.update(code_revision=code)
