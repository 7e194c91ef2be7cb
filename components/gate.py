"""Whether the evidence allows a release."""

from typing import List

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def gate(
    encoders: dsl.Input[List[dsl.Model]],
    scores: dsl.Input[List[dsl.Artifact]],
    findings: dsl.Input[List[dsl.Artifact]],
    code: str,
    recipe: dict,
    override_by: str,
    override_reason: str,
    candidate: dsl.Output[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> bool:
    """Bundle the encoder that is to be released, and judge its evidence against the recipe's tolerances."""
    import shutil
    from pathlib import Path

    from hilum.judgement import judge
    from hilum.recipe import Recipe

    for artifact in (candidate, verdict):
        artifact.metadata.update(code_revision=code)
    allowed = judge.gate(
        [Path(one.path) for one in encoders],
        [Path(one.path) for one in scores],
        [Path(one.path) for one in findings],
        Recipe.model_validate(recipe),
        Path(candidate.path),
        Path(verdict.path),
        override_by=override_by,
        override_reason=override_reason,
    )
    shutil.copyfile(Path(verdict.path) / "gate.html", page.path)
    return allowed


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def refuse(verdict: dsl.Input[dsl.Artifact]):
    """End the run as failed, saying which tolerance the evidence does not meet."""
    from pathlib import Path

    from hilum.judgement.gate import verdict as verdicts

    verdicts.refuse(Path(verdict.path))
