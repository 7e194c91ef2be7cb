"""The client and the maintained front, together."""

import numpy as np
import pytest
from coroutines import finished
from releasing import SOMEBODY, drawn_image, encoded, overridden

from hilum.client import AsyncClient, Client, Refused, Unauthorized


@pytest.fixture(scope="module")
def front(base, mr_release, starlette_front):
    with starlette_front([overridden(base), mr_release], "--workers", "2") as running:
        yield running.running


@pytest.fixture(scope="module")
def film():
    return encoded(drawn_image("PA"))


def test_a_prediction_with_everything(front, film):
    with Client(front.url, front.token) as client:
        assert client.ready()
        found = client.predict(film, neighbours=2, saliency=True, seen=True)
        assert client.model("pneumonia")["name"] == "pneumonia"
    assert 0 < found.probability < 1
    assert found.interval.low <= found.interval.value <= found.interval.high
    assert found.sensitivity.n > 0
    assert len(found.nearest) == 2
    assert found.saliency.startswith(b"\x89PNG")
    assert found.seen.startswith(b"\x89PNG")
    assert (found.engine, found.gate) == ("onnxruntime-fp32", "fail")
    assert found.override["by"] == SOMEBODY.by
    assert "What does" in found.meaning
    assert "Not for clinical use" in found.intended_use


def test_pixels_as_an_array_and_an_abstention(front):
    with Client(front.url, front.token) as client:
        whole = client.predict(drawn_image("PA"))
        found = client.predict(np.zeros((96, 96), np.uint8), modality="XR")
    assert whole.abstention is None
    assert (found.probability, found.decision, found.abstention.reason) == (None, "abstained", "unreadable_exposure")


def test_what_the_server_refuses(front, film):
    with Client(front.url, front.token) as client, pytest.raises(Refused, match="empty") as raised:
        client.embed(b"")
    assert raised.value.code == "empty"
    with Client(front.url, "wrong" * 5) as client, pytest.raises(Unauthorized):
        client.embed(film)


def test_many_at_once(front):
    images = [encoded(drawn_image(view)) for view in ("PA", "AXIAL", "LATERAL", "SAGITTAL")] * 5

    async def ask():
        async with AsyncClient(front.url, front.token) as client:
            return await client.embed_all([*images, b"rubbish"])

    *found, last = finished(ask())
    assert [one.raw["modality"] for one in found] == ["XR", "MR", "XR", "MR"] * 5
    assert isinstance(last, Refused)
