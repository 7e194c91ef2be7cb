"""Releases, built once per test run; the maintained front on them, started once per module that asks for it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import releasing

from hilum.delivery.fronts import door
from hilum.delivery.fronts.door import Running


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder under which everything that takes time is made once."""
    return tmp_path_factory.getbasetemp() / "releasing"


@pytest.fixture(scope="session")
def xr_release(base: Path) -> Path:
    """An X-ray release with a pneumonia head; read-only by agreement."""
    return releasing.release(base, "XR")


@pytest.fixture(scope="session")
def mr_release(base: Path) -> Path:
    """An MRI release that answers embeddings only; read-only by agreement."""
    return releasing.release(base, "MR")


@dataclass
class Said:
    """What a server said."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Front:
    """A maintained front that runs, as a caller sees it."""

    running: Running

    def ask(self, path, content=None, headers=None, *, port="predictions", authorized=True, method=None, timeout=60):
        """One request; the token of the port's use is sent unless `authorized` is false."""
        url = {
            "predictions": self.running.url,
            "management": self.running.management,
            "metrics": self.running.metrics.removesuffix("/metrics"),
        }[port]
        sent = dict(headers or {})
        if authorized and self.running.keys is not None:
            use = "management" if port == "management" else "inference"
            sent["Authorization"] = f"Bearer {door.Keys(self.running.keys).first(use)}"
        if content is not None:
            sent.setdefault("Content-Type", "application/octet-stream")
        request = urllib.request.Request(url + path, content, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Said(answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()})
        except urllib.error.HTTPError as error:
            with error:
                return Said(error.code, error.read(), {k.lower(): v for k, v in error.headers.items()})


@pytest.fixture(scope="session")
def starlette_front():
    """`with starlette_front(releases, *arguments) as front`: a process of its own."""

    @contextmanager
    def started(releases, *arguments) -> Iterator[Front]:
        with door.start([*map(str, releases), "--port", "0", *arguments]) as running:
            yield Front(running)

    return started
