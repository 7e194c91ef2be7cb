"""Results to where people and servers look for them."""

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def publish(results: dsl.Input[dsl.Artifact], shelf: str, place: str):
    """Copy a folder of results into `shelf`/`place`, beside what lies there; an empty shelf publishes nothing."""
    from pathlib import Path

    from hilum.data.store import copy_into

    if shelf:
        copy_into(Path(results.path), Path(shelf) / place)
