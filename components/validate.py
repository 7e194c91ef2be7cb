"""Great Expectations over a dataset, before a GPU is touched."""

from kfp import dsl

from components.images import AUDIT


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def validate(
    dataset: dsl.Input[dsl.Dataset],
    code: str,
    report: dsl.Output[dsl.HTML],
    verdict: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Check the dataset; the answer is whether training may start."""
    import shutil
    from pathlib import Path

    from hilum.data import expectations

    found = expectations.validate(Path(dataset.path), Path(verdict.path))
    shutil.copyfile(Path(verdict.path) / "validation.html", report.path)
    failed = [check.name for check in found.checks if not check.ok]
    metrics.log_metric("checks", len(found.checks))
    metrics.log_metric("checks_failed", len(failed))
    Path(metrics.path).write_text(",".join(failed), encoding="utf-8")  # KFP caches a step only if its files exist
    return found.ok


@dsl.component(base_image=AUDIT, install_kfp_package=False)
def require(ok: bool, verdict: dsl.Input[dsl.Artifact]) -> str:
    """Stop the run, with the failing checks and rows named, unless the dataset passed."""
    from pathlib import Path

    from hilum.data.store import read_json
    from hilum.data.verdict import Verdict

    if not ok:
        Verdict.model_validate(read_json(Path(verdict.path) / "verdict.json")).require()
    return "passed"
