"""A source: a plain folder used in place, or a path of a DVC repository at a revision.

The only file that imports dvc, and only where a DVC repository is named: a plain folder needs no dvc installed.

A location is a DVC repository if it is a git URL, a folder with `.dvc` in it, or if a revision is given. Any other
folder is used in place. Credentials and remotes come from the repository's own configuration, as `dvc pull` takes them.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hilum.errors import SourceError, UsageError
from hilum.identity import digest_file
from hilum.progress import bar

FOLDER: Final = "folder"  # the revision of a plain folder
TABLES: Final = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt")

_URL: Final = re.compile(r"^([a-z][a-z0-9+.-]*://|[^/@\s]+@[^/:\s]+:)")  # scheme://..., or user@host:path
_DIGEST_SUFFIX: Final = ".digest"


@dataclass(frozen=True)
class Resolved:
    """What a location and a revision come to.

    Attributes:
        revision: The git commit; `folder` for a plain folder.
        digest: Of the content: DVC's MD5 (`....dir` of a folder), or that of `digest_folder`.
    """

    revision: str
    digest: str


def resolve(location: str, revision: str = "", path: str = "data") -> Resolved:
    """Find what a location holds at a revision, without fetching it.

    Args:
        location: A folder, or the path or git URL of a DVC repository.
        revision: Branch, tag or commit; the last commit (of a URL's default branch) if empty, never the uncommitted
            state of a working tree, which no one could ask for again.
        path: What to look at in a DVC repository.

    Raises:
        UsageError: There is no such folder, repository, revision or path.
        SourceError: The repository's data cannot be reached.
    """
    if is_plain_folder(location, revision):
        return Resolved(FOLDER, digest_folder(Path(location)))
    with _repository(location, revision) as files:
        return Resolved(str(files.repo.get_rev()), _md5(files, path, location, revision))


def fetch(location: str, revision: str, into: Path, path: str = "data") -> Path:
    """Bring the data of a location at a revision to this machine.

    Args:
        location: As for `resolve`.
        revision: As for `resolve`.
        into: Folder to make from a DVC repository's data, whole or not at all; one that holds the same data is kept,
            one that `fetch` made of other data is replaced. Not used for a plain folder.
        path: What to fetch from a DVC repository.

    Returns:
        The folder with the data: `location` itself where that is a plain folder, else `into`.

    Raises:
        UsageError: There is no such folder, repository, revision or path, or `into` is something else.
        SourceError: The data cannot be reached, for instance because the DVC remote lacks a file.
    """
    if is_plain_folder(location, revision):
        return Path(location)
    noted = into.with_name(into.name + _DIGEST_SUFFIX)
    with _repository(location, revision) as files:
        digest = _md5(files, path, location, revision)
        if into.exists() and any(into.iterdir()):
            if not noted.is_file():
                raise UsageError(f"{into} exists and was not fetched by hilum; name another folder")
            if noted.read_text(encoding="utf-8") == digest:
                return into
        partial = into.with_name(into.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        _get(files, path, partial, location)
    noted.unlink(missing_ok=True)
    shutil.rmtree(into, ignore_errors=True)
    noted.write_text(digest, encoding="utf-8")
    partial.replace(into)
    return into


def is_plain_folder(location: str, revision: str = "") -> bool:
    """Whether a location is a folder that is used in place.

    Raises:
        UsageError: It is neither a folder nor a URL.
    """
    if _URL.match(location):
        return False
    if not Path(location).is_dir():
        raise UsageError(f"{location} is neither a folder nor the URL of a git repository with DVC data")
    return not revision and not (Path(location) / ".dvc").is_dir()


def digest_folder(folder: Path) -> str:
    """SHA-256, in hex, of a folder's relative file names and sizes, and of the content of its tables.

    Images are not read: 100,000 files take about a second. An image that is replaced by another of the same name and
    size is therefore not seen here; the dataset's own digest covers the pixels.

    Raises:
        UsageError: There is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; the source is the folder of a distribution")
    content = hashlib.sha256()
    for name, size in sorted(_files(str(folder), "")):
        content.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if name.lower().endswith(TABLES):
            content.update(digest_file(folder / name).encode())
    return content.hexdigest()


def _files(root: str, under: str) -> Iterator[tuple[str, int]]:
    """Relative name and size of each file, links followed, hidden ones and those of hidden folders left out."""
    with os.scandir(os.path.join(root, under)) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name = f"{under}{entry.name}"
            if entry.is_dir():
                yield from _files(root, name + "/")
            elif entry.is_file():
                yield name, entry.stat().st_size


@contextmanager
def _repository(location: str, revision: str) -> Iterator[Any]:
    """The files of a DVC repository at a revision, as fsspec sees them."""
    try:
        from dvc.api import DVCFileSystem
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.scm import CloneError, RevError, SCMError
        from scmrepo.exceptions import SCMError as GitError
    except ImportError as error:
        raise UsageError("DVC repositories need dvc: pip install 'hilum[data]'") from error
    try:
        at = revision or (None if _URL.match(location) else "HEAD")
        files = DVCFileSystem(location, rev=at, config=_configuration(location))
        files.repo  # noqa: B018  # opened when first asked for, and refused here rather than in the middle
    except NotDvcRepoError as error:
        raise UsageError(f"{location} is no DVC repository; a plain folder takes no revision") from error
    except RevError as error:
        raise UsageError(f"{location} has no revision {revision!r}; name a branch, tag or commit of it") from error
    except CloneError as error:
        raise SourceError(f"{location} cannot be cloned; check the URL and the credentials of git") from error
    except SCMError as error:
        if not (Path(location) / ".git").exists():
            raise UsageError(f"{location} is no git repository; a plain folder takes no revision") from error
        raise SourceError(
            f"{location} is no git repository that can be read; where it belongs to another user, "
            f"`git config --global --add safe.directory {location}`"
        ) from error
    except GitError as error:
        raise UsageError(f"{location} is a git repository without a commit; commit its .dvc files first") from error
    except DvcException as error:
        raise SourceError(f"{location} cannot be opened by DVC: {error}") from error
    try:
        yield files
    finally:
        files.close()


def _configuration(location: str) -> dict[str, Any] | None:
    """A local repository's remotes as they are configured now.

    DVC reads `.dvc/config` at the revision asked for, so a revision older than a change of remote would look for its
    data where it no longer lies.
    """
    folder = Path(location) / ".dvc"
    if _URL.match(location) or not folder.is_dir():
        return None
    from dvc.config import Config

    configured = Config(dvc_dir=str(folder), validate=True)
    return {section: dict(configured[section]) for section in ("core", "remote") if configured.get(section)}


def _md5(files: Any, path: str, location: str, revision: str) -> str:
    try:
        info = files.info(path)
    except FileNotFoundError as error:
        at = f" at {revision}" if revision else ""
        raise UsageError(f"{location} has no {path!r}{at}") from error
    md5 = (info.get("dvc_info") or {}).get("md5")
    if not md5:
        raise UsageError(f"{path!r} of {location} is not tracked by DVC; `dvc add {path}` would do so")
    return str(md5)


def _get(files: Any, path: str, partial: Path, location: str) -> None:
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError
    from fsspec.callbacks import Callback  # type: ignore[import-untyped]

    class Shown(Callback):  # type: ignore[misc]
        """fsspec's progress, on our bar."""

        def call(self, hook_name: str | None = None, **kwargs: Any) -> None:  # noqa: ARG002  # fsspec's signature
            shown.total = self.size
            shown.update(self.value - shown.n)

    try:
        with bar("fetch", unit="file") as shown:
            files.get(path, str(partial), recursive=True, callback=Shown())
    except (DvcException, DataIndexDirError, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SourceError(
            f"{path!r} of {location} cannot be fetched: a file is missing from the DVC remote (`dvc push` puts it "
            "there), or the remote cannot be reached"
        ) from error
