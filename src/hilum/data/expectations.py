"""Validation: is this dataset fit to be learnt from? A Great Expectations suite over the manifest, built in code.

The only file that imports Great Expectations, which costs seconds: callers import it when they validate. The suite is
never stored and reloaded, because a reloaded suite drops expectations of one's own without failing. What Great
Expectations sees carries no identity: ids are replaced by numbers first, so that neither its logs nor its Data Docs
can name a patient.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.checkpoint.actions import UpdateDataDocsAction
from great_expectations.core.metric_domain_types import MetricDomainTypes
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.execution_engine import PandasExecutionEngine
from great_expectations.expectations.expectation import BatchExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.table_metric_provider import TableMetricProvider

from hilum import identity, recipe
from hilum.data.images import pixel_digest
from hilum.data.manifest import MODALITIES, SEXES, SPLITS, VIEWS
from hilum.data.questions import REHASHED, ROW, Question, questions
from hilum.data.rules import MAX_ROWS, RULES
from hilum.data.store import Dataset, DatasetFacts, write_json
from hilum.data.verdict import Check, Verdict, composition, render
from hilum.errors import DatasetError
from hilum.page import write_page
from hilum.progress import bar, track

PAGE: Final = "validation.html"
VERDICT: Final = "verdict.json"
DATA_DOCS: Final = "data_docs"

_IDS: Final = ("image_id", "patient_id", "study_id", "pixel_digest", REHASHED)


_NOUNS: Final = {"": "images", "patient_id": "patients"}  # what a number of rows, or of different ids, counts
_VOCABULARIES: Final = {
    "modality": MODALITIES,
    "view": tuple(view for views in VIEWS.values() for view in views),
    "sex": SEXES,
    "split": SPLITS,
}


def validate(
    dataset: Path, out: Path, settings: recipe.Validation | None = None, *, data_docs: bool = False
) -> Verdict:
    """Validate a dataset folder and write `validation.html` and `verdict.json` into `out`.

    Args:
        dataset: The dataset folder.
        out: Where the two files go; made if it is not there.
        settings: The recipe's section `validation`.
        data_docs: Also write Great Expectations' own pages into `out/data_docs`; they load styles from the network.

    Returns:
        The verdict; `ok` is false where a critical check failed.

    Raises:
        DatasetError: The folder is not a whole dataset.
    """
    settings = settings or recipe.Validation()
    opened = Dataset.open(dataset)
    out.mkdir(parents=True, exist_ok=True)
    rehashed = rehash(opened, settings.hashed_images, settings.seed)
    with bar("validate", total=1, unit="suite") as shown:
        checks = check(
            opened.manifest,
            opened.facts,
            settings,
            rehashed=rehashed,
            data_docs=out / DATA_DOCS if data_docs else None,
        )
        shown.update()
    verdict = Verdict(
        ok=all(one.ok for one in checks if one.severity == "critical"),
        n_images=len(opened.manifest),
        n_patients=_n_patients(opened.manifest),
        checks=tuple(checks),
        caution=opened.facts.caution,
        run={
            "code_revision": identity.code_revision(),
            "data_digest": opened.facts.digest,
            "recipe_digest": recipe.digest(settings),
        },
    )
    write_page(out / PAGE, render(verdict, opened.facts, composition(opened.manifest, opened.facts.labels)))
    write_json(out / VERDICT, verdict.model_dump(mode="json"))
    return verdict


def rehash(dataset: Dataset, n_images: int, seed: int) -> pd.Series:
    """Digests of the pixels that are really there, for a random sample of rows; NaN for the others."""
    n_images = min(n_images, len(dataset.manifest))
    rows = np.sort(np.random.default_rng(seed).choice(len(dataset.manifest), size=n_images, replace=False))
    found = pd.Series(np.nan, index=range(len(dataset.manifest)), dtype="str")
    digests = [pixel_digest(dataset.images[row]) for row in track(rows, "hash pixels", unit="image")]
    found.iloc[rows] = digests
    return found


def check(
    manifest: pd.DataFrame,
    facts: DatasetFacts,
    settings: recipe.Validation | None = None,
    *,
    rehashed: pd.Series | None = None,
    data_docs: Path | None = None,
) -> list[Check]:
    """Put every question to a manifest; reads no files.

    Args:
        manifest: One row per image, as `manifest.parquet` has it.
        facts: What `dataset.json` says of it.
        settings: The recipe's section `validation`.
        rehashed: Digests of the pixels as they are, one per row, NaN where not hashed; None: pixels are not compared.
        data_docs: Where Great Expectations writes its own pages; nowhere if None.

    Returns:
        One check per question, in the order of the questions.

    Raises:
        DatasetError: The manifest has no rows.
    """
    if manifest.empty:
        raise DatasetError("the dataset has no images; ingest a source that holds some")
    table = _anonymous(manifest.reset_index(drop=True), rehashed)
    asked = list(questions(manifest, facts, settings or recipe.Validation(), pixels=rehashed is not None))
    results = _run(table, [question for question in asked if not question.absent], data_docs)
    return [_judge(question, results.get(question.name, [])) for question in asked]


def _anonymous(manifest: pd.DataFrame, rehashed: pd.Series | None) -> pd.DataFrame:
    """The manifest with its ids as numbers in order of appearance; blanks stay blank, and types keep their kind.

    A word that is not of a column's vocabulary becomes `(other)`: where columns are shifted it may be a name.
    """
    table = manifest.copy(deep=False)
    if rehashed is not None:
        table[REHASHED] = rehashed.to_numpy()
    digests = [name for name in ("pixel_digest", REHASHED) if name in table]
    shared = pd.factorize(pd.concat([table[name] for name in digests]).to_numpy(dtype=object))[0] if digests else []
    for name in (name for name in _IDS if name in table):
        if name in digests:  # one numbering for both, so that equal digests stay equal
            place = digests.index(name) * len(table)
            codes = np.asarray(shared[place : place + len(table)])
        else:
            codes = pd.factorize(table[name])[0]
        if pd.api.types.is_string_dtype(manifest[name] if name in manifest else table[name]):
            blank = table[name].isna() | (table[name].str.strip() == "")
            table[name] = pd.Series(codes).astype("str").where(~blank, table[name])
        else:
            table[name] = codes
    for name, words in _VOCABULARIES.items():
        if name in table:
            table[name] = table[name].where(table[name].isna() | table[name].isin(words), "(other)")
    table[ROW] = np.arange(len(table))
    return table


class TableFinding(TableMetricProvider):  # type: ignore[misc]
    """Great Expectations metric: what one rule of hilum.data.rules finds in the table."""

    metric_name = "table.hilum_finding"
    value_keys = ("rule", "arguments")

    @metric_value(engine=PandasExecutionEngine)  # type: ignore[untyped-decorator]
    def _pandas(
        cls,  # noqa: N805 - the decorator makes it a class method
        execution_engine: Any,
        metric_domain_kwargs: dict[str, Any],
        metric_value_kwargs: dict[str, Any],
        metrics: dict[str, Any],  # noqa: ARG002 - the signature is Great Expectations'
        runtime_configuration: dict[str, Any],  # noqa: ARG002
    ) -> dict[str, Any]:
        table, _, _ = execution_engine.get_compute_domain(metric_domain_kwargs, domain_type=MetricDomainTypes.TABLE)
        rule = RULES[metric_value_kwargs["rule"]]
        found = rule(table, **json.loads(metric_value_kwargs["arguments"]))
        return {"observed": found.observed, "n_failing": found.n_failing, "rows": list(found.rows)}


class ExpectRuleToHold(BatchExpectation):  # type: ignore[misc]
    """Great Expectations expectation: a rule of hilum.data.rules finds nothing."""

    rule: str
    arguments: str  # JSON, because a metric's arguments must be hashable
    metric_dependencies: ClassVar[tuple[str, ...]] = ("table.hilum_finding",)
    success_keys: ClassVar[tuple[str, ...]] = ("rule", "arguments")
    domain_keys: ClassVar[tuple[str, ...]] = ("batch_id", "table")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: Any = None,  # noqa: ARG002
        execution_engine: Any = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        found = metrics["table.hilum_finding"]
        return {
            "success": found["n_failing"] == 0,
            "result": {"observed_value": found["observed"], "details": found},
        }


def _expectations(question: Question) -> Iterator[Any]:
    named = {"severity": question.severity, "description": question.asks, "meta": {"question": question.name}}
    for test in question.tests:
        if test.expectation == "rule":
            yield ExpectRuleToHold(rule=test.kwargs["rule"], arguments=json.dumps(test.kwargs["arguments"]), **named)
        else:
            yield getattr(gxe, test.expectation)(**test.kwargs, **named)


def _run(table: pd.DataFrame, asked: list[Question], data_docs: Path | None) -> dict[str, list[Mapping[str, Any]]]:
    """Run one suite over the table; its results, by question."""
    # A rule that meets a column of the wrong type logs a whole traceback; the check says it in a sentence.
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    settings = DataContextConfig(
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
        # by default each context leaves a temporary folder behind
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
    )
    context = gx.get_context(mode="ephemeral", project_config=settings)
    asset = context.data_sources.add_pandas("dataset").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all rows")
    suite = context.suites.add(
        gx.ExpectationSuite(
            name="dataset", expectations=[expectation for question in asked for expectation in _expectations(question)]
        )
    )
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name="manifest", data=batch, suite=suite),
    )
    actions = []
    if data_docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(data_docs.resolve())}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        site = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
        context.add_data_docs_site(site_name="docs", site_config=site)
        actions.append(UpdateDataDocsAction(name="docs", site_names=["docs"]))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name="validate",
            validation_definitions=[definition],
            actions=actions,
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": [ROW],
                "partial_unexpected_count": MAX_ROWS,
            },
        )
    )
    (run,) = checkpoint.run(batch_parameters={"dataframe": table}).run_results.values()
    results: dict[str, list[Mapping[str, Any]]] = {}
    for result in run.to_json_dict()["results"]:
        results.setdefault(result["expectation_config"]["meta"]["question"], []).append(result)
    return results


def _judge(question: Question, results: list[Mapping[str, Any]]) -> Check:
    """One check from the results of a question's tests."""
    shared: dict[str, Any] = {
        "name": question.name,
        "asks": question.asks,
        "severity": question.severity,
        "expected": question.expected,
        "counted": question.counted,
    }
    if question.absent:
        missing = ", ".join(question.absent)
        return Check(ok=False, observed=f"not checked: the manifest has no column {missing}", n_failing=1, **shared)
    failed = [result for result in results if not result["success"]]
    observed = [_fault(result) for result in failed] or [found for one in results[:1] if (found := _rule_found(one))]
    rows = sorted({row for result in failed for row in _rows(result)})
    return Check(
        ok=not failed,
        observed="; ".join(observed) or question.holds,
        n_failing=sum(_count(result) for result in failed),
        examples=tuple(rows[:MAX_ROWS]),
        **shared,
    )


def _fault(result: Mapping[str, Any]) -> str:
    """What a failed test observed, without values of text columns: where columns are shifted they may hold names."""
    kwargs = result["expectation_config"]["kwargs"]
    about = " against ".join(kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs)
    if _broken(result):
        return f"{about or kwargs.get('rule')}: cannot be checked, a column is not of its type"
    if said := _rule_found(result):
        return said
    found = result["result"]
    if "unexpected_count" in found:
        known = found["element_count"] - found.get("missing_count", 0)
        if found["unexpected_count"] == found.get("missing_count"):  # the test asked for blanks
            known = found["element_count"]
        numbers = sorted({n for n in found.get("partial_unexpected_list", []) if isinstance(n, int | float)})
        such_as = f", such as {', '.join(f'{number:g}' for number in numbers[:3])}" if numbers else ""
        return f"{about}: {found['unexpected_count']:,} of {known:,}{such_as}"
    if "mismatched" in (details := found.get("details", {})):
        kinds = [f"{kind} {', '.join(names)}" for kind, names in sorted(details["mismatched"].items())]
        return "; ".join(kinds)
    observed = found.get("observed_value")
    return f"{about}: {observed}" if isinstance(observed, str) else f"{observed} {_NOUNS.get(about, about)}"


def _rule_found(result: Mapping[str, Any]) -> str:
    """What a rule of hilum.data.rules said; empty where the test is none."""
    return str(result["result"].get("details", {}).get("observed", ""))


def _count(result: Mapping[str, Any]) -> int:
    found = result["result"]
    if "details" in found and "n_failing" in found["details"]:
        return int(found["details"]["n_failing"])
    return int(found.get("unexpected_count") or 1)


def _rows(result: Mapping[str, Any]) -> list[int]:
    found = result["result"]
    if "details" in found and "rows" in found["details"]:
        return list(found["details"]["rows"])
    return [int(place[ROW]) for place in found.get("partial_unexpected_index_list") or []]


def _broken(result: Mapping[str, Any]) -> bool:
    raised = result.get("exception_info", {})
    return bool(
        raised.get(
            "raised_exception", any(one.get("raised_exception") for one in raised.values() if isinstance(one, dict))
        )
    )


def _n_patients(manifest: pd.DataFrame) -> int:
    return int(manifest["patient_id"].nunique()) if "patient_id" in manifest else 0
