"""Sources: a folder in place, and a DVC repository at a revision, with a remote that moved since."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hilum.data.source import Resolved, digest_folder, fetch, resolve
from hilum.errors import SourceError, UsageError

# dvc's own dependencies, when a repository is opened
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pathspec", "ignore::ResourceWarning")


@dataclass
class Repository:
    """A git and DVC repository whose data has two tagged revisions, v1 without a remote and v2 with one."""

    path: Path
    remote: Path
    cache: Path

    def run(self, *command: str) -> str:
        environment = {
            **os.environ,
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }
        program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
        done = subprocess.run(
            [*program, *command[1:]], cwd=self.path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    base = tmp_path_factory.mktemp("dvc")
    made = Repository(base / "repository", base / "remote", base / "repository" / ".dvc" / "cache")
    made.path.mkdir()
    made.run("git", "init", "--quiet")
    made.run("dvc", "init", "--quiet")
    data = made.path / "data"
    (data / "films").mkdir(parents=True)
    (data / "table.csv").write_text("image\nfilms/a.png\n", encoding="utf-8")
    (data / "films" / "a.png").write_bytes(b"first")
    made.run("dvc", "add", "--quiet", "data")
    (made.path / "code").mkdir()
    (made.path / "code" / "readme.txt").write_text("kept by git", encoding="utf-8")
    made.run("git", "add", ".")
    made.run("git", "commit", "--quiet", "--message", "v1")
    made.run("git", "tag", "v1")
    made.run("dvc", "remote", "add", "--quiet", "--default", "store", str(made.remote))
    made.run("dvc", "push", "--quiet")
    (data / "films" / "b.png").write_bytes(b"second")
    made.run("dvc", "add", "--quiet", "data")
    made.run("dvc", "push", "--quiet")
    made.run("git", "add", ".")
    made.run("git", "commit", "--quiet", "--message", "v2")
    made.run("git", "tag", "v2")
    shutil.rmtree(made.cache)  # as in a fresh clone: only the remote has the data
    shutil.rmtree(data)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_revision_has_its_commit_and_digest(repository: Repository) -> None:
    location = str(repository.path)
    first, second = resolve(location, "v1"), resolve(location, "v2")
    assert first.revision == repository.run("git", "rev-parse", "v1")
    assert second.revision == repository.run("git", "rev-parse", "v2")
    stated = repository.run("git", "show", "v1:data.dvc")
    assert first.digest in stated
    assert first.digest.endswith(".dir")
    assert first.digest != second.digest
    assert resolve(location) == second  # the last commit
    assert resolve(location, first.revision) == first
    assert resolve(repository.path.as_uri(), "v2") == second  # by URL


def test_data_of_a_revision_older_than_the_remote_is_fetched(repository: Repository, tmp_path: Path) -> None:
    into = tmp_path / "raw"
    assert fetch(str(repository.path), "v1", into) == into
    assert names(into) == ["films/a.png", "table.csv"]
    assert (into / "films" / "a.png").read_bytes() == b"first"
    assert fetch(str(repository.path), "v2", into) == into  # in place of what was fetched before
    assert names(into) == ["films/a.png", "films/b.png", "table.csv"]
    before = (into / "table.csv").stat().st_mtime_ns
    fetch(str(repository.path), "v2", into)  # the same: kept
    assert (into / "table.csv").stat().st_mtime_ns == before
    assert not (tmp_path / "raw.partial").exists()


def test_uncommitted_changes_are_not_fetched(repository: Repository, tmp_path: Path) -> None:
    (repository.path / "data").mkdir()
    (repository.path / "data" / "mine.png").write_bytes(b"not yet added")
    try:
        assert names(fetch(str(repository.path), "", tmp_path / "raw")) == ["films/a.png", "films/b.png", "table.csv"]
    finally:
        shutil.rmtree(repository.path / "data")


def test_a_file_that_the_remote_lacks(repository: Repository, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    repository.remote.rename(hidden)
    try:
        with pytest.raises(SourceError, match="missing from the DVC remote"):
            fetch(str(repository.path), "v2", tmp_path / "raw")
    finally:
        hidden.rename(repository.remote)
    stored = next(path for path in repository.remote.rglob("*") if path.is_file() and path.read_bytes() == b"second")
    content = stored.read_bytes()
    stored.chmod(0o644)
    stored.unlink()
    try:
        with pytest.raises(SourceError, match="missing from the DVC remote"):
            fetch(str(repository.path), "v2", tmp_path / "raw")
    finally:
        stored.write_bytes(content)
    assert not (tmp_path / "raw").exists()
    assert not (tmp_path / "raw.partial").exists()


def test_what_cannot_be_asked_for(repository: Repository, tmp_path: Path) -> None:
    location = str(repository.path)
    with pytest.raises(UsageError, match="no revision 'v9'"):
        resolve(location, "v9")
    with pytest.raises(UsageError, match="no 'films' at v1"):
        resolve(location, "v1", path="films")
    with pytest.raises(UsageError, match=r"'code' of .* is not tracked by DVC"):
        resolve(location, "v1", path="code")
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="a plain folder takes no revision"):
        resolve(str(tmp_path / "plain"), "v1")
    git = Repository(tmp_path / "git", tmp_path, tmp_path)
    git.path.mkdir()
    git.run("git", "init", "--quiet")
    with pytest.raises(UsageError, match="without a commit"):
        resolve(str(git.path), "v1")
    git.run("git", "commit", "--quiet", "--allow-empty", "--message", "first")
    with pytest.raises(UsageError, match="no 'data' at HEAD"):
        resolve(str(git.path), "HEAD")
    with pytest.raises(UsageError, match="neither a folder nor the URL"):
        resolve(str(tmp_path / "absent"))
    with pytest.raises(SourceError, match="cannot be cloned"):
        resolve((tmp_path / "absent").as_uri(), "v1")


def test_a_folder_that_fetch_did_not_make_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UsageError, match="was not fetched by hilum"):
        fetch(str(repository.path), "v1", tmp_path)
    assert names(tmp_path) == ["thesis.txt"]


def test_a_plain_folder_is_used_in_place(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "films").mkdir(parents=True)
    (source / "films" / "a.png").write_bytes(b"first")
    (source / "table.csv").write_text("image,label\na,1\n", encoding="utf-8")
    assert fetch(str(source), "", tmp_path / "into") == source
    assert not (tmp_path / "into").exists()
    digest = digest_folder(source)
    assert resolve(str(source)) == Resolved("folder", digest)

    shutil.copytree(source, tmp_path / "copy")
    assert digest_folder(tmp_path / "copy") == digest  # neither place nor time is part of it
    (tmp_path / "copy" / ".DS_Store").write_bytes(b"noise")
    assert digest_folder(tmp_path / "copy") == digest

    (source / "table.csv").write_text("image,label\na,0\n", encoding="utf-8")  # same size, another label
    changed = {digest, digest_folder(source)}
    (source / "films" / "a.png").write_bytes(b"first, and longer")
    changed.add(digest_folder(source))
    (source / "films" / "a.png").rename(source / "films" / "b.png")
    changed.add(digest_folder(source))
    assert len(changed) == 4
    with pytest.raises(UsageError, match="is not a folder"):
        digest_folder(tmp_path / "absent")


def test_a_plain_folder_needs_no_dvc() -> None:
    code = "import sys, hilum.data.source; sys.exit(any(name.partition('.')[0] == 'dvc' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
