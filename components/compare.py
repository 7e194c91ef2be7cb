"""The leaderboard, and every report of the run in one folder."""

from typing import List

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def compare(
    verdict: dsl.Input[dsl.Artifact],
    scores: dsl.Input[List[dsl.Artifact]],
    findings: dsl.Input[List[dsl.Artifact]],
    tuned: dsl.Input[List[dsl.Model]],
    code: str,
    reports: dsl.Output[dsl.Artifact],
    leaderboard: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
):
    """Put all encoders side by side."""
    import shutil
    from pathlib import Path

    from hilum.judgement import judge

    out = Path(reports.path)
    folders = [[Path(one.path) for one in each] for each in (scores, findings, tuned)]
    judge.compare(Path(verdict.path), *folders, out)
    shutil.copyfile(out / "leaderboard.html", leaderboard.path)
    shutil.copyfile(out / "leaderboard.md", summary.path)
    reports.metadata.update(code_revision=code)
