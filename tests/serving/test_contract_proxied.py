"""The contract of test_contract.py once more, for callers who come through nginx and TLS."""

import pytest
from proxying import behind_a_proxy, proxy
from test_contract import *  # noqa: F403  its tests, with the fixture below in the place of its own

from hilum.delivery.fronts import torchserve


@pytest.fixture(scope="module", params=["torchserve", "starlette"])
def front(request, xr_release, mr_release, starlette_front, tmp_path_factory):
    folder = tmp_path_factory.mktemp("proxied")
    if request.param == "torchserve":
        serving = behind_a_proxy(folder / "serving")
        with (
            torchserve.start([xr_release, mr_release], serving=serving, port=0, workers=1) as behind,
            proxy(folder / "p", "torchserve", behind.port) as running,
        ):
            yield Posting(running)
    else:
        with starlette_front([xr_release, mr_release], "--workers", "2") as behind:
            port = int(behind.running.url.rsplit(":", 1)[1])
            with proxy(folder / "p", "starlette", port, behind.running.token) as running:
                yield running


class Posting:
    """A proxy before TorchServe: what has no content is posted as well, as OverTorchServe does."""

    def __init__(self, running):
        self.running = running

    def ask(self, path, content=None, headers=None, *, authorized=True):
        return self.running.ask(path, content or b"", headers, authorized=authorized)
