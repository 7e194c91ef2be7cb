"""Where weights are found: named, cached, downloaded from a server that the test starts, or nowhere."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from weights_files import imagenet_state

from hilum.errors import TrainingError, UsageError
from hilum.learning.nets import pretrained, published
from hilum.recipe import Backbone

SMALL = Backbone(name="resnet18", width=8, stem="7x7")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is published over HTTP, in place of torchvision's; the cache folder is `cache` beside it."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shelf)))
    serving.asked = []
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    monkeypatch.setattr(published, "SOURCE", f"http://127.0.0.1:{serving.server_port}")
    monkeypatch.setenv("HILUM_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield shelf
    serving.shutdown()
    thread.join()
    serving.server_close()


def publish(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A made file for resnet18, named by its own hash, as torchvision's are."""
    made = shelf / "made.pth"
    torch.save(imagenet_state(SMALL), made)
    name = f"resnet18-{hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.pth"
    made.rename(shelf / name)
    monkeypatch.setitem(published.FILES, "resnet18", name)
    return name


def test_a_published_file_is_downloaded_once_and_checked(
    server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = publish(server, monkeypatch)
    path = published.locate(SMALL)
    assert path == tmp_path / "cache" / name
    assert path.read_bytes() == (server / name).read_bytes()
    assert [file.name for file in path.parent.iterdir()] == [name]
    assert pretrained.read(path).keys() == imagenet_state(SMALL).keys()
    (server / name).unlink()  # from now on only the cache can answer
    assert published.locate(SMALL.model_copy(update={"weights": "imagenet"})) == path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(TrainingError, match=r"is damaged or another file: its SHA-256 begins with \w{8} and not \w{8}"):
        published.locate(SMALL)


def test_a_download_that_is_not_what_its_name_says_leaves_nothing(server: Path, tmp_path: Path) -> None:
    (server / published.FILES["resnet50"]).write_bytes(b"a login page")
    with pytest.raises(TrainingError, match=r"is not resnet50-0676ba61\.pth: its SHA-256 begins with"):
        published.locate(Backbone(name="resnet50", width=64, stem="7x7"))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "file"), [("resnet18", "resnet18-f37072fd.pth"), ("densenet121", "densenet121-a639ec97.pth")]
)
def test_with_neither_file_nor_answer_the_message_says_where_to_put_it(
    name: str, file: str, server: Path, tmp_path: Path
) -> None:
    section = Backbone.model_validate({"name": name, "stem": "7x7"})
    with pytest.raises(TrainingError) as raised:
        published.locate(section)
    told = str(raised.value)
    assert f"no ImageNet weights at {tmp_path / 'cache' / file}" in told
    assert "404" in told
    assert "put the file there, or name a folder that has it in $HILUM_WEIGHTS" in told
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_network_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "SOURCE", "http://127.0.0.1:1")
    with pytest.raises(TrainingError, match=r"cannot be downloaded .*; put the file there"):
        published.locate(SMALL)


def test_a_cache_folder_that_cannot_be_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("HILUM_WEIGHTS", str(tmp_path / "file"))
    with pytest.raises(TrainingError, match="there are no ImageNet weights at"):
        published.locate(SMALL)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HILUM_WEIGHTS", "")
    assert published.folder() == Path.home() / ".cache" / "hilum" / "weights"


def test_a_named_file_is_used_and_its_absence_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    section = SMALL.model_copy(update={"weights": str(path)})
    with pytest.raises(TrainingError, match=r"there is no weights file .*mine\.pt; backbone\.weights names"):
        published.locate(section)
    path.write_bytes(b"any")
    assert published.locate(section) == path


def test_backbones_without_published_weights_are_told() -> None:
    with pytest.raises(UsageError, match="no ImageNet weights are published for resnet_small; there are some for res"):
        published.locate(Backbone())
