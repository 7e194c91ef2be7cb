"""From a native layout to a dataset."""

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def ingest(source: str, revision: str, digest: str, code: str, recipe: dict, dataset: dsl.Output[dsl.Dataset]):
    """Fetch one revision of the source and turn it into a dataset folder."""
    import tempfile
    from pathlib import Path

    from hilum.data import ingest
    from hilum.data import source as sources
    from hilum.recipe import Recipe

    with tempfile.TemporaryDirectory() as scratch:
        folder = sources.fetch(source, revision, Path(scratch) / "source")
        made = ingest.ingest(
            folder,
            Path(dataset.path),
            Recipe.model_validate(recipe).ingest,
            source_revision=revision or "folder",
            source_digest=digest,
        )
    dataset.metadata.update(digest=made.facts.digest, code_revision=code, images=made.facts.n_images)
