"""The verdict: what programs read, and what the page says and does not say."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from hilum.data.store import DatasetFacts
from hilum.data.verdict import Check, Verdict, composition, render
from hilum.errors import CheckFailed
from hilum.recipe import Preprocessing

RUN = {"code_revision": "abc", "data_digest": "d" * 64, "recipe_digest": "e" * 64}
GOOD = Check(name="a", asks="Is a right?", ok=True, severity="critical", observed="7", expected="7")
WARNING = Check(name="b", asks="Is b right?", ok=False, severity="warning", observed="odd", expected="even")
FAULT = Check(
    name="c",
    asks="Is <c> right?",
    ok=False,
    severity="critical",
    observed="3 bad",
    expected="none",
    n_failing=30,
    examples=(4, 9),
)
FACTS = DatasetFacts(
    layout="folder",
    source_revision="v1",
    source_digest="0" * 64,
    digest="d" * 64,
    code_revision="abc",
    hilum_version="0",
    preprocessing=Preprocessing(size=32),
    labels=("pneumonia",),
    covariates=(),
    n_images=1204,
    n_patients=1,
    n_rejected=2,
    licence="none",
    citation="none",
    caution="not real",
)


def verdict(*checks: Check, ok: bool) -> Verdict:
    return Verdict(ok=ok, n_images=1204, n_patients=1, checks=checks, caution="not real", run=RUN)


def test_sentence_names_the_failing_checks_and_rows() -> None:
    said = verdict(GOOD, WARNING, FAULT, ok=False).sentence
    assert said == (
        "1,204 images of 1 patient: 1 critical check failed: c: 3 bad, where right is: none; rows 4, 9, ..."
    )
    assert verdict(GOOD, WARNING, ok=True).sentence.endswith("all critical checks passed, with 1 remark")


def test_require_stops_on_a_refusal_only() -> None:
    verdict(GOOD, WARNING, ok=True).require()
    with pytest.raises(CheckFailed, match="1 critical check failed: c: 3 bad"):
        verdict(FAULT, ok=False).require()


def test_verdict_survives_json_and_is_closed() -> None:
    told = verdict(GOOD, FAULT, ok=False)
    assert Verdict.model_validate_json(told.model_dump_json()) == told
    with pytest.raises(ValidationError):
        Verdict.model_validate({**told.model_dump(), "verdict": "fine"})


def test_composition_counts_images_patients_and_labels() -> None:
    manifest = pd.DataFrame(
        {
            "modality": ["XR", "XR", "XR", "MR"],
            "split": ["train", "train", "test", "val"],
            "patient_id": ["p", "p", "q", "r"],
            "pneumonia": [1.0, 0.0, -1.0, np.nan],
        }
    )
    made_of = composition(manifest, ["pneumonia"])
    assert made_of.splits == [
        ["MR", "0 of 0", "1 of 1", "0 of 0", "1 of 1"],
        ["XR", "2 of 1", "0 of 0", "1 of 1", "3 of 2"],
    ]
    assert made_of.labels == [["pneumonia", "1", "1", "1", "1", "50.0%"]]


@pytest.mark.parametrize(
    ("checks", "ok", "there", "not_there"),
    [
        ((GOOD,), True, ("the dataset may be used", "Is a right?"), ("To put right", "How to find the rows")),
        ((GOOD, WARNING), True, ("Worth a look", "Is b right?"), ("To put right", "How to find the rows")),
        ((GOOD, FAULT), False, ("the dataset is refused", "4, 9, ...", "counted from 0"), ("Worth a look",)),
    ],
)
def test_page_shows_what_there_is(checks, ok, there, not_there) -> None:
    shown = render(verdict(*checks, ok=ok), FACTS, composition(pd.DataFrame(), []))
    assert all(words in shown for words in (*there, "not real", "abc", "d" * 64, "1,204 images of 1 patient"))
    assert not any(words in shown for words in not_there)


def test_page_escapes_and_asks_nothing_of_the_network() -> None:
    shown = render(verdict(FAULT, ok=False), FACTS, composition(pd.DataFrame(), []))
    assert "Is &lt;c&gt; right?" in shown
    assert not any(words in shown for words in ("http://", "https://", "<script", "<link"))
