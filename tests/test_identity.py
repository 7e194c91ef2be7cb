"""Digests, and the revision of the code that runs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hilum import identity


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(identity.CODE_REVISION, raising=False)
    identity.code_revision.cache_clear()
    yield
    identity.code_revision.cache_clear()


def test_digests_are_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one piece
    (tmp_path / "file").write_bytes(content)
    assert identity.digest_file(tmp_path / "file") == identity.digest_bytes(content)
    assert identity.digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_digests_do_not_depend_on_order_or_blanks() -> None:
    assert identity.digest_json({"b": [1, 2], "a": "é"}) == identity.digest_json({"a": "é", "b": [1, 2]})
    assert identity.digest_json([1, 2]) != identity.digest_json([2, 1])
    assert identity.digest_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    with pytest.raises(ValueError, match="JSON"):
        identity.digest_json(float("nan"))


def _package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    (folder / "a.py").write_text("A = 1\n", encoding="utf-8")
    monkeypatch.setattr(identity, "PACKAGE", folder)
    return folder


def _revision() -> str:
    identity.code_revision.cache_clear()
    return identity.code_revision()


def test_a_named_revision_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(identity.CODE_REVISION, "v1.2-image")
    assert _revision() == "v1.2-image"


def test_without_git_the_sources_name_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = _package(tmp_path / "package", monkeypatch)
    first = _revision()
    assert first.startswith("src.")
    assert _revision() == first
    (package / "a.py").write_text("A = 2\n", encoding="utf-8")
    second = _revision()
    (package / "a.py").rename(package / "b.py")
    assert len({first, second, _revision()}) == 3


def test_with_git_it_is_the_commit_and_what_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = _package(tmp_path / "package", monkeypatch)
    for name, value in {"AUTHOR": "a", "COMMITTER": "c"}.items():
        monkeypatch.setenv(f"GIT_{name}_NAME", value)
        monkeypatch.setenv(f"GIT_{name}_EMAIL", f"{value}@example.org")
    for arguments in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        assert identity._git(*arguments) is not None
    commit = identity._git("rev-parse", "--short=12", "HEAD")
    assert _revision() == commit
    (package / "a.py").write_text("A = 2\n", encoding="utf-8")
    assert _revision().startswith(f"{commit}+src.")
