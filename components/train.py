"""Which encoders to train, and the training of one."""

from typing import List

from kfp import dsl

from components.images import AUDIT, TRAIN


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def plan(dataset: dsl.Input[dsl.Dataset], passed: str, code: str, recipe: dict) -> List[dict]:
    """One job per encoder of the recipe and modality of the dataset, each with all that its steps are told."""
    from hilum.data.store import Dataset
    from hilum.recipe import Recipe, plain

    whole = Recipe.model_validate(recipe)
    return [
        {"code": code, "recipe": plain(whole), "train": plain(whole.train_of(encoder.name, modality))}
        for modality in sorted(Dataset.open(dataset.path).modalities, reverse=True)
        for encoder in whole.encoders
    ]


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def train(dataset: dsl.Input[dsl.Dataset], code: str, recipe: dict, encoder: dsl.Output[dsl.Model]):
    """Train one encoder on the train split of one modality, on all GPUs that the step was given."""
    from pathlib import Path

    from hilum.learning import launching
    from hilum.recipe import Train

    section = Train.model_validate(recipe)
    launching.run(Path(dataset.path), section, Path(encoder.path), launching.gpus())
    encoder.metadata.update(encoder=section.encoder.name, modality=section.modality, code_revision=code)
