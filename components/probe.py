"""What an embedding knows: SVM probes, the pneumonia head, a map, the page to walk through it."""

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def probe(
    dataset: dsl.Input[dsl.Dataset],
    vectors: dsl.Input[dsl.Dataset],
    tuned: dsl.Input[dsl.Model],
    code: str,
    recipe: dict,
    scores: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    explorer: dsl.Output[dsl.HTML],
    uncertain: dsl.Output[dsl.HTML],
):
    """Score one embedding on every task that has enough cases; the head is the linear probe or the recipe's fusion."""
    import shutil
    from pathlib import Path

    from hilum.judgement import judge, showing
    from hilum.judgement.fusion import head
    from hilum.recipe import Recipe

    out, whole = Path(scores.path), Recipe.model_validate(recipe)
    released = head.named(Path(tuned.path), whole.finetune)
    found = judge.probe(Path(dataset.path), Path(vectors.path), whole, out, released)
    for name, value in found.metrics.items():
        metrics.log_metric(name, value)
    if found.roc:
        roc.log_roc_curve(*found.roc)
    for artifact in (metrics, roc):  # KFP caches a step only if its files exist
        Path(artifact.path).write_text(str(found.metrics), encoding="utf-8")
    shutil.copyfile(out / "explore.html", explorer.path)
    why = "No label of the dataset is uncertain."
    showing.show(out / "policies.html", Path(uncertain.path), why, out / judge.PROBE_FACTS)
    scores.metadata.update(code_revision=code)
