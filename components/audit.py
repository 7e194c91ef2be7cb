"""Drift, quality, fairness, shortcuts and mitigations of one embedding's answers."""

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def audit(
    dataset: dsl.Input[dsl.Dataset],
    vectors: dsl.Input[dsl.Dataset],
    scores: dsl.Input[dsl.Artifact],
    code: str,
    recipe: dict,
    findings: dsl.Output[dsl.Artifact],
    drift: dsl.Output[dsl.HTML],
    fairness: dsl.Output[dsl.HTML],
    shortcuts: dsl.Output[dsl.HTML],
    mitigation: dsl.Output[dsl.HTML],
):
    """Write the Evidently report, the fairness page, the shortcut audit and what mitigations change, of one encoder."""
    import shutil
    from pathlib import Path

    from hilum.judgement import judge, showing
    from hilum.recipe import Recipe

    out = Path(findings.path)
    judge.audit(Path(dataset.path), Path(vectors.path), Path(scores.path), Recipe.model_validate(recipe), out)
    for name, shown in (("audit", drift), ("fairness", fairness), ("shortcuts", shortcuts)):
        shutil.copyfile(out / f"{name}.html", shown.path)
    why = "No mitigation was asked for: `mitigation.methods` of the recipe is empty."
    showing.show(out / "mitigation.html", Path(mitigation.path), why, Path(scores.path) / judge.PROBE_FACTS)
    findings.metadata.update(code_revision=code)
