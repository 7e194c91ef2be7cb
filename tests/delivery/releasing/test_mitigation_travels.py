"""A head that was treated says so wherever it answers: card, dossier, model card, every answer of a server."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from releasing import LENIENT, SERVING, audit, drawn_image, encoded, phantom_dataset, trained

from hilum.delivery import batch, dossier
from hilum.delivery.card import Mitigated, ReleaseCard
from hilum.delivery.desk import Desk, Request
from hilum.delivery.fronts import exchange
from hilum.delivery.predictor import Predictor
from hilum.delivery.releasing import export
from hilum.delivery.releasing.archive import archive
from hilum.delivery.releasing.sources import Judged
from hilum.errors import ReleaseError
from hilum.judgement.fairness import mitigation
from hilum.judgement.gate import verdict as verdicts
from hilum.recipe import Export, Recipe
from serving.pneumonia import PneumoniaHandler

TOLD = {"method": "balanced_sampling", "attribute": "sex"}


@pytest.fixture(scope="module")
def treated(base, tmp_path_factory):
    """A release whose head was fitted with a mitigation, by the whole way."""
    root = tmp_path_factory.mktemp("treated")
    dataset, (run, plain) = phantom_dataset(base), trained(base, "XR")
    scores, findings = shutil.copytree(plain, root / "scores"), root / "findings"
    recipe = Recipe.model_validate({"mitigation": {"applied": TOLD["method"], "attribute": TOLD["attribute"]}})
    said = mitigation.apply(dataset, base / "vectors" / "XR", recipe, scores)
    assert {name: said["mitigation"][name] for name in TOLD} == TOLD
    facts = {"modality": "XR", "encoder": "pixels", "run": {"data_digest": "ab" * 32}, "caution": "made"}
    (scores / "probe.json").write_text(json.dumps(facts))
    findings.mkdir()
    (findings / "audit.json").write_text(json.dumps(audit()))
    verdicts.run([scores], [findings], LENIENT, "pixels", "pneumonia", root / "gate")
    judged = Judged(scores, findings, verdict=root / "gate")
    return export.export(dataset, run, Export(encoder="pixels"), root / "xr-pixels", serving=SERVING, judged=judged)


class Context:
    """The part of TorchServe's context that a handler sees."""

    def __init__(self, model_dir=None, **sent):
        self.system_properties, self.model_yaml_config = {"model_dir": str(model_dir)}, {}
        self.sent, self.headers = sent, {}

    def get_all_request_header(self, idx):
        return self.sent

    def set_response_status(self, code=200, phrase="", idx=0):
        pass

    def set_response_content_type(self, idx, value):
        pass

    def set_response_header(self, idx, key, value):
        self.headers.setdefault(idx, {})[key] = value


def test_card_dossier_and_model_card_name_it(treated):
    assert ReleaseCard.load(treated).mitigation == Mitigated(**TOLD)
    assert dossier.facts(dossier.read(treated))["head_mitigation"] == "balanced sampling by sex"
    words = " ".join((treated / "MODEL_CARD.md").read_text().split())
    assert "**A mitigation was applied.** The classifier was fitted with balanced sampling by sex" in words
    assert Predictor.load(treated).release.card.mitigation == Mitigated(**TOLD)


def test_a_release_without_one_says_that(xr_release, mr_release):
    for release in (xr_release, mr_release):
        assert ReleaseCard.load(release).mitigation is None
        assert dossier.facts(dossier.read(release))["head_mitigation"] == "absent"
    assert "No mitigation against a gap between groups was applied" in (xr_release / "MODEL_CARD.md").read_text()
    assert "itigation" not in (mr_release / "MODEL_CARD.md").read_text()


def test_it_cannot_be_taken_out_of_the_card(treated, tmp_path):
    release = shutil.copytree(treated, tmp_path / "release")
    facts = dossier.facts(dossier.read(release))
    card = json.loads((release / "card.json").read_text())
    card["head"]["mitigation"] = None
    (release / "card.json").write_text(json.dumps(card))
    (release / "dossier.json").unlink()  # by one who draws the dossier up anew
    (release / "dossier.json").write_text(json.dumps(dossier.draw_up(release, facts)))
    with pytest.raises(ReleaseError, match="head_mitigation"):
        dossier.verify(release)


def test_every_answer_of_the_pneumonia_server_names_it(treated, xr_release, tmp_path):
    answered = {}
    for release in (treated, xr_release):
        handler, context, model = PneumoniaHandler(), Context(), tmp_path / release.parent.name
        handler.initialize(Context(archive("pneumonia", [release], SERVING, model, form="no-archive")))
        [film] = handler.handle([{"body": encoded(drawn_image("PA"))}], context)
        answered[release] = json.loads(film)
    assert answered[treated]["mitigation"] == TOLD
    assert "fitted with a mitigation: balanced sampling by sex." in answered[treated]["meaning"]
    assert answered[xr_release]["mitigation"] is None
    assert "fitted with a mitigation" not in answered[xr_release]["meaning"]


def test_it_travels_with_bare_numbers_and_stays_away_from_embeddings(treated):
    rows, sent = [{"body": encoded(drawn_image("PA"))}], {"Accept": "application/octet-stream"}
    context = Context(**sent)
    [body] = exchange.respond(Desk.load([treated], "pneumonia"), rows, context)
    assert len(np.frombuffer(body, "<f4")) == 1
    assert context.headers[0]["x-mitigation"] == "balanced sampling by sex"
    embeddings, context = Desk.load([treated], "embeddings"), Context(**sent)
    exchange.respond(embeddings, rows, context)
    assert "x-mitigation" not in context.headers[0]
    [answer] = embeddings.answer([Request(encoded(drawn_image("PA")))])
    assert "mitigation" not in answer.body  # an embedding is the encoder's, which no mitigation of the head changes


def test_answers_for_files_name_it(treated, xr_release, tmp_path):
    (tmp_path / "film.png").write_bytes(encoded(drawn_image("PA")))
    for release, told in ((treated, "balanced sampling by sex"), (xr_release, "")):
        out = tmp_path / "out.parquet"
        batch.predict(release, [tmp_path / "film.png"], out)
        assert pd.read_parquet(out)["mitigation"].tolist() == [told]
