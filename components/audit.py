"""Drift, quality, fairness and shortcuts of one embedding's answers."""

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
):
    """Write the Evidently report, the fairness page and the shortcut audit of one encoder."""
    import shutil
    from pathlib import Path

    from hilum.judgement import judge
    from hilum.recipe import Recipe

    out = Path(findings.path)
    judge.audit(Path(dataset.path), Path(vectors.path), Path(scores.path), Recipe.model_validate(recipe), out)
    for name, shown in (("audit", drift), ("fairness", fairness), ("shortcuts", shortcuts)):
        shutil.copyfile(out / f"{name}.html", shown.path)
    findings.metadata.update(code_revision=code)
