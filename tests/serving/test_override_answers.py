"""The handlers as TorchServe calls them: what they answer of a release that somebody answers for."""

import json
from urllib.parse import unquote

import pytest
import releasing
from releasing import SERVING, SOMEBODY, drawn_image, encoded

from hilum.delivery.releasing.archive import archive
from serving.embeddings import EmbeddingsHandler
from serving.pneumonia import PneumoniaHandler


class Context:
    """The part of TorchServe's context that a handler sees, for requests without headers."""

    def __init__(self, model_dir=None):
        self.system_properties = {"model_dir": str(model_dir)}
        self.model_yaml_config = {}
        self.status, self.headers = {}, {}

    def get_all_request_header(self, idx):
        return {}

    def set_response_status(self, code=200, phrase="", idx=0):
        self.status[idx] = code

    def set_response_content_type(self, idx, value):
        self.set_response_header(idx, "content-type", value)

    def set_response_header(self, idx, key, value):
        self.headers.setdefault(idx, {})[key] = value


@pytest.mark.parametrize(("question", "kind"), [("embeddings", EmbeddingsHandler), ("pneumonia", PneumoniaHandler)])
def test_the_override_stands_in_every_answer(base, tmp_path, question, kind):
    model = archive(question, [releasing.overridden(base)], SERVING, tmp_path, form="no-archive")
    handler, context = kind(), Context()
    handler.initialize(Context(model))
    film, refused, broken = handler.handle(
        [{"body": encoded(drawn_image("PA"))}, {"body": encoded(drawn_image("PA"))[:300]}, {"body": "no image"}],
        context,
    )
    assert json.loads(film)["gate"] == {"verdict": "fail", "override": SOMEBODY.model_dump()}
    assert context.status == {1: 422, 2: 415}
    assert {json.loads(refused)["status"], json.loads(broken)["status"]} == {422, 415}
    for number in range(3):
        told = {key: unquote(value) for key, value in context.headers[number].items() if key != "content-type"}
        assert told == {f"x-override-{name}": value for name, value in SOMEBODY.model_dump().items()}


def test_a_release_that_passed_says_so_and_names_nobody(xr_release, tmp_path):
    handler, context = PneumoniaHandler(), Context()
    handler.initialize(Context(archive("pneumonia", [xr_release], SERVING, tmp_path, form="no-archive")))
    [film] = handler.handle([{"body": encoded(drawn_image("PA"))}], context)
    assert json.loads(film)["gate"] == {"verdict": "pass", "override": None}
    assert set(context.headers[0]) == {"content-type"}
