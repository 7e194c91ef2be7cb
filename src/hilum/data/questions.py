"""What validation asks of a dataset: each question in words, how grave a no is, and the tests that answer it.

A critical failure refuses the dataset; a warning is a remark. The line between the two: what cannot be true of any
dataset (a type, an age of 300, a patient in two splits) or would spoil every result is critical; what is unusual, and
may be so for a reason that a person knows, is a warning, until it is so frequent that it can no longer be an oddity.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import pandas as pd

from hilum.data import units
from hilum.data.manifest import IDENTITY, MODALITIES, PIXELS, SEXES, SPLITS, UNCERTAIN, VIEWS
from hilum.data.rules import READS
from hilum.data.store import DatasetFacts
from hilum.recipe import Validation

ROW: Final = "row_number"  # columns that validation adds to its copy of the manifest
REHASHED: Final = "digest_of_stored_pixels"

AGES: Final = (0, 120)
DAYS: Final = (0, 120 * 366)
PIXEL_RANGES: Final = {
    "pixel_mean": (0, 255),
    "pixel_std": (0, 127.5),  # the largest that values in 0-255 can have
    "pixel_min": (0, 255),
    "pixel_max": (0, 255),
    "saturated_share": (0, 1),
}

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Test:
    """One expectation: its class in Great Expectations, or `rule` for one of hilum.data.rules."""

    expectation: str
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One question that a dataset has to answer.

    Attributes:
        name: Short, for programs.
        asks: For people.
        severity: What a no means.
        expected: What would be right.
        tests: All must succeed.
        counted: What `n_failing` counts, in the singular.
        holds: What is said where nothing failed and the tests observe no number of their own.
        absent: Columns that the question needs and the manifest lacks; then it is not put, which counts as a no.
    """

    name: str
    asks: str
    severity: Severity
    expected: str
    tests: tuple[Test, ...]
    counted: str = "image"
    holds: str = "none fails"
    absent: tuple[str, ...] = field(default=())


def questions(manifest: pd.DataFrame, facts: DatasetFacts, settings: Validation, pixels: bool) -> Iterator[Question]:
    """All questions to a dataset, gravest subjects first.

    Args:
        manifest: Only its column names are read here.
        facts: What the dataset says of itself.
        settings: The recipe's section `validation`.
        pixels: Whether digests of the pixels as they are have been taken (column REHASHED).
    """
    for question in _all(manifest, facts, settings, pixels):
        needed = {name for test in question.tests for name in _columns(test)}
        absent = tuple(sorted(needed - set(manifest.columns) - {REHASHED, ROW}))
        yield Question(**{**question.__dict__, "absent": absent})


def _all(manifest: pd.DataFrame, facts: DatasetFacts, settings: Validation, pixels: bool) -> Iterator[Question]:
    yield from _form(manifest, facts, pixels)
    yield from _people()
    yield from _images(settings, pixels)
    yield from _values(facts, settings)
    yield from _balance(facts, settings)


def _form(manifest: pd.DataFrame, facts: DatasetFacts, pixels: bool) -> Iterator[Question]:
    numeric = (*facts.labels, *facts.covariates)
    expected = [*IDENTITY, *numeric, *facts.attributes, *PIXELS]
    types = {**IDENTITY, **dict.fromkeys(numeric, "float64"), **PIXELS}
    added = [ROW, *([REHASHED] if pixels else [])]
    yield Question(
        "columns",
        "Has the manifest the columns that dataset.json announces, and no others?",
        "critical",
        f"{len(expected)} columns",
        (Test("ExpectTableColumnsToMatchSet", {"column_set": [*expected, *added], "exact_match": True}),),
        "column",
        f"{len(expected)} columns",
    )
    yield Question(
        "column_types",
        "Is every column of its type?",
        "critical",
        "text as str, numbers as float64",
        tuple(
            Test("ExpectColumnValuesToBeOfType", {"column": name, "type_": kind})
            for name, kind in types.items()
            if name in manifest  # a column that is not there is the question before this one
        ),
        "column",
        "all are",
    )
    yield Question(
        "counts",
        "Are there as many images and patients as dataset.json says?",
        "critical",
        f"{facts.n_images:,} images of {facts.n_patients:,} patients",
        (
            Test("ExpectTableRowCountToEqual", {"value": facts.n_images}),
            Test(
                "ExpectColumnUniqueValueCountToBeBetween",
                {"column": "patient_id", "min_value": facts.n_patients, "max_value": facts.n_patients},
            ),
        ),
        "number",
        "as said",
    )


def _people() -> Iterator[Question]:
    required = ("image_id", "patient_id", "study_id", "modality", "split")
    yield Question(
        "identifiers",
        "Has every image an image, patient and study id, a modality and a split?",
        "critical",
        "no blanks",
        (
            *(Test("ExpectColumnValuesToNotBeNull", {"column": name}) for name in required),
            *(Test("ExpectColumnValuesToMatchRegex", {"column": name, "regex": r"\S"}) for name in required[:3]),
        ),
        "value",
        "no blanks",
    )
    yield Question(
        "image_ids_unique",
        "Is every image id there once?",
        "critical",
        "no id twice",
        (Test("ExpectColumnValuesToBeUnique", {"column": "image_id"}),),
        holds="no id twice",
    )
    yield _rule(
        "patients_in_two_splits",
        "Is every patient in one split only?",
        "critical",
        "no patient in two splits",
    )
    yield _rule(
        "empty_splits",
        f"Are there images in each of {', '.join(SPLITS)}?",
        "critical",
        "at least one image in each",
        counted="split",
    )
    yield _rule(
        "modalities_without_split",
        "Has each modality images in every split?",
        "warning",
        "each in every split",
        counted="gap",
    )
    yield _rule("patients_of_two_sexes", "Has every patient one sex on record?", "warning", "no patient with both")
    yield _rule(
        "ages_out_of_step",
        "Do patients grow older as their studies go on?",
        "warning",
        "age and date move together, to a year",
    )


def _images(settings: Validation, pixels: bool) -> Iterator[Question]:
    yield _rule(
        "duplicates_across_splits",
        "Does any picture lie in more than one split?",
        "critical",
        "no picture in two splits",
    )
    yield _rule(
        "duplicates_within_split",
        "Is any picture stored more than once within a split?",
        "warning",
        "every picture once",
    )
    if pixels:
        equal = {"column_A": "pixel_digest", "column_B": REHASHED, "ignore_row_if": "either_value_is_missing"}
        yield Question(
            "pixels_agree",
            "Are the stored pixels those that the manifest describes?",
            "critical",
            "equal digests in a sample of images",
            (Test("ExpectColumnPairValuesToBeEqual", equal),),
            holds=f"equal in a sample of up to {settings.hashed_images:,} images",
        )
    yield Question(
        "pixel_statistics",
        "Are the pixel statistics there, and possible for 8-bit grey?",
        "critical",
        "means in 0-255, shares in 0-1, none missing",
        (
            *(Test("ExpectColumnValuesToNotBeNull", {"column": name}) for name in PIXELS),
            *(_between(name, bounds) for name, bounds in PIXEL_RANGES.items()),
        ),
        "value",
        "all are",
    )
    flat = ("pixel_std", (settings.min_pixel_std, None))
    burnt = ("saturated_share", (None, settings.max_saturated_share))
    for name, what, (column, bounds), limit in (
        (
            "constant_images",
            "constant (show nothing)",
            flat,
            f"spread of at least {settings.min_pixel_std:g} grey levels",
        ),
        ("saturated_images", "mostly white", burnt, f"at most {settings.max_saturated_share:.0%} of pixels at 255"),
    ):
        yield Question(name, f"Is any image {what}?", "warning", limit, (_between(column, bounds),), holds="none is")
        yield Question(
            f"{name}_share",
            f"Are more than {settings.max_faulty_share:.0%} of the images {what}?",
            "critical",
            f"at most {settings.max_faulty_share:.0%} of images",
            (_between(column, bounds, mostly=1 - settings.max_faulty_share),),
            holds="no",
        )


def _values(facts: DatasetFacts, settings: Validation) -> Iterator[Question]:
    vocabularies = {"modality": MODALITIES, "sex": SEXES, "split": SPLITS}
    yield Question(
        "vocabularies",
        "Are modality, sex and split spelt as hilum spells them?",
        "critical",
        "; ".join(f"{name}: {', '.join(words)}" for name, words in vocabularies.items()),
        tuple(_in_set(name, words) for name, words in vocabularies.items()),
        "value",
    )
    yield _rule(
        "views_of_another_modality",
        "Does every view belong to its modality?",
        "critical",
        "; ".join(f"{modality}: {', '.join(views)}" for modality, views in VIEWS.items()),
    )
    if facts.labels:
        yield Question(
            "label_values",
            "Is every label present, absent, uncertain or unknown?",
            "critical",
            "1, 0, -1 or blank",
            tuple(_in_set(name, (0.0, 1.0, UNCERTAIN)) for name in facts.labels),
            "value",
        )
    yield Question(
        "ages_and_dates",
        "Are ages, days and study numbers possible?",
        "critical",
        f"age {AGES[0]}-{AGES[1]} years, days and study numbers not negative",
        (_between("age_years", AGES), _between("days", DAYS), _between("study_order", (0, 100_000))),
        "value",
    )
    if facts.covariates:
        limit = settings.max_implausible_share
        yield Question(
            "covariate_values",
            "Is every measurement plausible for its unit?",
            "warning",
            units.described(facts.covariates),
            tuple(_between(name, units.covariate_range(name)) for name in facts.covariates),
            "value",
        )
        yield Question(
            "covariate_units",
            "Are measurements given in the unit that their name says?",
            "critical",
            f"at most {limit:.0%} of the known values of a column implausible",
            tuple(_between(name, units.covariate_range(name), mostly=1 - limit) for name in facts.covariates),
            "value",
        )


def _balance(facts: DatasetFacts, settings: Validation) -> Iterator[Question]:
    if facts.labels:
        yield _rule(
            "labels_without_cases",
            "Has every label images where it is present and images where it is absent?",
            "warning",
            "both for every label",
            {"labels": facts.labels},
            counted="label",
        )
    gaps = {
        "columns": ["age_years", "sex", "view", *facts.labels, *facts.covariates],
        "groups": ["sex", "site"],
        "max_gap": settings.max_missing_gap,
        "min_group": settings.min_group,
    }
    yield _rule(
        "missing_by_group",
        "Are values missing equally often for both sexes and at all sites?",
        "warning",
        f"shares at most {settings.max_missing_gap:.0%} apart, among groups of {settings.min_group} patients or more",
        gaps,
        counted="finding",
    )


def _columns(test: Test) -> Iterable[str]:
    if test.expectation == "rule":
        arguments = test.kwargs["arguments"]
        return (*READS[test.kwargs["rule"]], *arguments.get("labels", ()), *arguments.get("columns", ()))
    return (test.kwargs[key] for key in ("column", "column_A", "column_B") if key in test.kwargs)


def _rule(
    name: str,
    asks: str,
    severity: Severity,
    expected: str,
    arguments: dict[str, Any] | None = None,
    counted: str = "image",
) -> Question:
    test = Test("rule", {"rule": name, "arguments": arguments or {}})
    return Question(name, asks, severity, expected, (test,), counted)


def _between(column: str, bounds: tuple[float | None, float | None], mostly: float = 1.0) -> Test:
    low, high = bounds
    kwargs = {"column": column, "min_value": low, "max_value": high, "mostly": mostly}
    return Test("ExpectColumnValuesToBeBetween", kwargs)


def _in_set(column: str, allowed: Iterable[object]) -> Test:
    return Test("ExpectColumnValuesToBeInSet", {"column": column, "value_set": list(allowed)})
