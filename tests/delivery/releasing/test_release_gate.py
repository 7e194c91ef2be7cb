"""Nothing leaves without a pass or a name: what export refuses, and where an override travels to."""

import json
import shutil
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import releasing
from releasing import LENIENT, SERVING, SOMEBODY, drawn_image, encoded, gated, phantom_dataset, trained

from hilum.delivery import batch, dossier
from hilum.delivery.card import ReleaseCard
from hilum.delivery.desk import Desk
from hilum.delivery.fronts import exchange
from hilum.delivery.releasing import export
from hilum.delivery.releasing.sources import Judged, Sources
from hilum.errors import CheckFailed, DatasetError, ReleaseError, UsageError
from hilum.judgement.gate import verdict as verdicts
from hilum.recipe import Export

RECIPE = Export(encoder="pixels")
TOLD = SOMEBODY.model_dump()


@pytest.fixture(scope="module")
def failing(base):
    return releasing.failing(base)


@pytest.fixture(scope="module")
def overridden(base):
    return releasing.overridden(base)


def refused(base, tmp_path, judged):
    run, _ = trained(base, "XR")
    try:
        export.export(phantom_dataset(base), run, RECIPE, tmp_path / "r", serving=SERVING, judged=judged)
    finally:
        assert not (tmp_path / "r").exists()


def test_without_a_verdict_or_a_name_nothing_is_exported(base, tmp_path):
    with pytest.raises(UsageError, match="needs the gate's verdict") as raised:
        refused(base, tmp_path, Judged(trained(base, "XR")[1]))
    assert "--override NAME --reason TEXT" in str(raised.value)


def test_a_gate_that_failed_is_obeyed(base, failing, tmp_path):
    with pytest.raises(CheckFailed, match=r"refuses the release \(fail\): XR: Does it rank .* at least 1 is asked for"):
        refused(base, tmp_path, failing)


def test_insufficient_data_is_obeyed(base, tmp_path):
    passed = gated(base, "XR")
    unsure = LENIENT.model_copy(update={"min_sensitivity": 0.5})
    out = tmp_path / "gate"
    assert verdicts.run([passed.scores], [passed.findings], unsure, "pixels", "pneumonia", out).verdict == (
        "insufficient data"
    )
    with pytest.raises(CheckFailed, match=r"refuses the release \(insufficient data\)"):
        refused(base, tmp_path, replace(passed, verdict=out))


def test_a_verdict_that_was_edited_is_refused(base, failing, tmp_path):
    forged = shutil.copytree(failing.verdict, tmp_path / "forged")
    said = json.loads((forged / "verdict.json").read_text())
    (forged / "verdict.json").write_text(json.dumps({**said, "verdict": "pass"}))
    with pytest.raises(DatasetError, match="does not follow from its own numbers"):
        refused(base, tmp_path, replace(failing, verdict=forged))
    said["criteria"][0] |= {"verdict": "pass", "low": 1.0, "high": 1.0, "value": 1.0}
    (forged / "verdict.json").write_text(json.dumps({**said, "verdict": "pass"}))
    with pytest.raises(CheckFailed, match="does not follow from this evidence"):
        refused(base, tmp_path, replace(failing, verdict=forged))


def test_a_verdict_needs_the_evidence_that_it_rests_on(base, tmp_path):
    passed = gated(base, "XR")
    with pytest.raises(UsageError, match="rests on a probe and an audit"):
        refused(base, tmp_path, replace(passed, findings=None))
    with pytest.raises(UsageError, match=r"is on pixels for pneumonia \(MR\), but the release is of .* \(XR\)"):
        refused(base, tmp_path, replace(passed, verdict=gated(base, "MR").verdict))
    other = shutil.copytree(passed.verdict, tmp_path / "other")
    said = json.loads((other / "verdict.json").read_text())
    said["run"]["data_digest"] = "cd" * 32
    (other / "verdict.json").write_text(json.dumps(said))
    with pytest.raises(DatasetError, match="the verdict is of another dataset"):
        refused(base, tmp_path, replace(passed, verdict=other))


def test_the_validation_of_another_dataset_is_refused(base, tmp_path):
    (tmp_path / "verdict.json").write_text(json.dumps({"ok": True, "run": {"data_digest": "cd" * 32}}))
    with pytest.raises(DatasetError, match="the validation is of another dataset"):
        refused(base, tmp_path, replace(gated(base, "XR"), validation=tmp_path))


def test_an_override_stands_in_verdict_card_dossier_and_model_card(overridden):
    assert json.loads((overridden / "evidence" / "verdict.json").read_text())["override"] == TOLD
    card = ReleaseCard.load(overridden)
    assert (card.gate.verdict, card.gate.override.model_dump()) == ("fail", TOLD)
    facts = dossier.facts(dossier.read(overridden))
    assert facts["gate_verdict"] == "fail"
    assert {name: facts[f"gate_override_{name}"] for name in TOLD} == TOLD
    words = (overridden / "MODEL_CARD.md").read_text()
    assert "**Released under an override.** The gate did not let this release pass (fail)." in words
    assert f"Dr Example answers for it since {SOMEBODY.on}: {SOMEBODY.reason}" in words


def test_an_override_cannot_be_taken_out_of_the_card(overridden, tmp_path):
    release = shutil.copytree(overridden, tmp_path / "release")
    facts = dossier.facts(dossier.read(release))
    card = json.loads((release / "card.json").read_text())
    card["gate"]["override"] = None
    (release / "card.json").write_text(json.dumps(card))
    with pytest.raises(ReleaseError, match=r"card\.json of the release is not the one"):
        dossier.verify(release)
    (release / "dossier.json").unlink()  # not even by one who draws the dossier up anew
    (release / "dossier.json").write_text(json.dumps(dossier.draw_up(release, facts)))
    with pytest.raises(ReleaseError, match="gate_override_by"):
        dossier.verify(release)


class Context:
    """What a handler sets of TorchServe's answer."""

    def __init__(self, **headers):
        self.sent, self.headers = headers, {}

    def get_all_request_header(self, idx):
        return self.sent

    def set_response_status(self, code=200, phrase="", idx=0):
        pass

    def set_response_content_type(self, idx, value):
        pass

    def set_response_header(self, idx, key, value):
        self.headers.setdefault(idx, {})[key] = value


@pytest.mark.parametrize("question", ["embeddings", "pneumonia"])
def test_an_override_travels_in_every_answer(overridden, mr_release, question):
    desk = Desk.load([overridden, mr_release], question)
    context = Context()
    rows = [{"body": encoded(drawn_image("PA"))}, {"body": encoded(drawn_image("PA"))[:300]}]
    answered, refusal = exchange.respond(desk, rows, context)
    assert json.loads(answered)["gate"] == {"verdict": "fail", "override": TOLD}
    assert json.loads(refusal)["status"] == 422
    for number in (0, 1):
        headers = {key: unquote(value) for key, value in context.headers[number].items() if "override" in key}
        assert headers == {f"x-override-{name}": TOLD[name] for name in TOLD}
        assert all(value.isascii() and "\n" not in value for value in context.headers[number].values())


def test_an_override_travels_with_bare_numbers(overridden):
    context = Context(Accept="application/octet-stream")
    [body] = exchange.respond(
        Desk.load([overridden], "embeddings"), [{"body": encoded(drawn_image("PA")), "modality": b"XR"}], context
    )
    assert len(np.frombuffer(body, "<f4")) == 12
    assert context.headers[0]["x-gate"] == "fail"
    assert context.headers[0]["x-override-by"] == "Dr Example"


def test_another_release_on_the_same_desk_does_not_speak_of_it(overridden, mr_release):
    context = Context()
    [body] = exchange.respond(
        Desk.load([overridden, mr_release], "embeddings"), [{"body": encoded(drawn_image("AXIAL"))}], context
    )
    assert json.loads(body)["gate"] == {"verdict": "not asked", "override": None}
    assert 0 not in context.headers


def test_answers_for_files_name_it(overridden, tmp_path):
    (tmp_path / "film.png").write_bytes(encoded(drawn_image("PA")))
    batch.predict(overridden, [tmp_path / "film.png"], tmp_path / "out.parquet")
    [row] = pd.read_parquet(tmp_path / "out.parquet").to_dict("records")
    assert (row["gate"], row["override"]) == ("fail", str(SOMEBODY))


def test_where_no_gate_was_run_the_release_says_that(base, tmp_path):
    run, scores = trained(base, "XR")
    sources = Sources.open(phantom_dataset(base), run, RECIPE, Judged(scores, override=SOMEBODY))
    assert (sources.gate.verdict, sources.gate.override) == ("not asked", SOMEBODY)
    assert json.loads(sources.evidence["verdict.json"])["criteria"] == []


def test_an_override_of_a_pass_is_not_recorded(base):
    run, _ = trained(base, "XR")
    sources = Sources.open(phantom_dataset(base), run, RECIPE, replace(gated(base, "XR"), override=SOMEBODY))
    assert (sources.gate.verdict, sources.gate.override) == ("pass", None)
