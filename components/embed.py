"""Images to vectors."""

from kfp import dsl

from components.images import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def embed(dataset: dsl.Input[dsl.Dataset], encoder: dsl.Input[dsl.Model], code: str, vectors: dsl.Output[dsl.Dataset]):
    """Embed every image of the encoder's modality."""
    from pathlib import Path

    from hilum.learning import embedding

    made = embedding.run(Path(dataset.path), Path(encoder.path), Path(vectors.path))
    vectors.metadata.update(code_revision=code, **made.facts.model_dump(mode="json", exclude={"run"}))
