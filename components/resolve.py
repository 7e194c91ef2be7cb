"""From a data revision and the run form to what every later step is told."""

from typing import List, NamedTuple

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def resolve(
    source: str,
    revision: str,
    layout: str,
    encoders: List[str],
    epochs: int,
    image_size: int,
    seed: int,
    label: str,
    release_encoder: str,
    gate_min_auroc: float,
    gate_max_auroc_gap: float,
    override_by: str,
    override_reason: str,
    recipe: dict,
) -> NamedTuple("Resolved", [("digest", str), ("code", str), ("recipe", dict)]):
    """Name the data by content, the code by revision and the recipe in full: the cache keys of every later step."""
    from hilum import identity
    from hilum.data import source as sources
    from hilum.judgement.gate.override import Override
    from hilum.recipe import compose, plain

    Override.of(override_by, override_reason)  # refuse half of one now, not after hours of training
    whole = compose(
        recipe,
        layout=layout,
        encoders=encoders,
        epochs=epochs,
        image_size=image_size,
        seed=seed,
        label=label,
        release_encoder=release_encoder,
        gate_min_auroc=gate_min_auroc,
        gate_max_auroc_gap=gate_max_auroc_gap,
    )
    return (sources.resolve(source, revision).digest, identity.code_revision(), plain(whole))
