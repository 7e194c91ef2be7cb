"""An archive for all tests, a study that lies in it, and how hilum sees it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import orthanc
import pytest
from filming import Study
from orthanc import Orthanc
from releasing import drawn_image

from hilum.delivery.answering.routing import Refusal
from hilum.delivery.pacs import report, study
from hilum.delivery.pacs.calling import Credentials
from hilum.delivery.pacs.web import Archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One Orthanc for all tests; each uses studies of its own."""
    with orthanc.started(tmp_path_factory.mktemp("pacs") / "orthanc") as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Callable[..., Archive]]:
    """`connect(url, credentials, ...)`: an archive as hilum sees it, closed when the test ends."""
    with ExitStack() as opened:
        yield lambda *words, **named: opened.enter_context(Archive(*words, **named))


@pytest.fixture
def films(archive):
    """A study that lies in the archive: two films, an MRI, and a CT."""
    made = Study()
    made.add(drawn_image("PA"), series="1.2.840.99.1")
    made.add(drawn_image("LATERAL"), "CR", "LL")
    made.add(drawn_image("AXIAL"), "MR", "")
    made.add(drawn_image("PA"), "CT", "")
    archive.send(made.files)
    return made


@pytest.fixture
def login(archive):
    return Credentials.read(None, archive.login)


@pytest.fixture
def document(films):
    """Some report of that study."""
    header = study.header_of(films.files[0])
    author = report.Author("x", "1", "XR", "pneumonia", "ab" * 32, "e", "pass", "", "not for clinical use", "")
    return report.make([report.Answered(header, Refusal("wrong", "right"))], author, "1 image")
