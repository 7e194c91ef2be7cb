"""Drift, quality and fairness of one embedding's answers."""

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
):
    """Write the Evidently report and the fairness table of one encoder."""
    import shutil
    from pathlib import Path

    from hilum.judgement.report import audit as report
    from hilum.recipe import Recipe

    out = Path(findings.path)
    report.run(Path(dataset.path), Path(vectors.path), Path(scores.path), Recipe.model_validate(recipe).audit, out)
    shutil.copyfile(out / "audit.html", drift.path)
    shutil.copyfile(out / "fairness.html", fairness.path)
    findings.metadata.update(code_revision=code)
