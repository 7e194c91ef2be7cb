"""Who may call: tokens from a file that can be changed while the server runs.

The file has a line per token: what it is for (`inference` or `management`), a blank, the token. Several lines may be
for one use, so that a new token can be handed out before the old one is taken away. Tokens have no date of expiry: a
service does not go down because nobody renewed one. Empty lines and lines that begin with # are passed over.

Only the SHA-256 of a token is kept in memory, and compared in constant time.
"""

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final, Literal

from hilum.errors import UsageError

Use = Literal["inference", "management"]
USES: Final[tuple[Use, ...]] = ("inference", "management")
SHORTEST: Final = 16  # characters; 96 bits where they are random
_LINE: Final = re.compile(r"(inference|management)[ \t]+([A-Za-z0-9._~+/=-]+)")  # a token as RFC 6750, section 2.1


class Keys:
    """The tokens of a file, read anew when the file changes."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            UsageError: It cannot be read, a line is not as described, or it lets nobody in.
        """
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._digests: dict[Use, list[bytes]] = {}
        self._read()

    @classmethod
    def made(cls, path: Path) -> "Keys":
        """Draw a token for each use, and write them to a new file that only its owner reads."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.writelines(f"{use} {secrets.token_urlsafe(24)}\n" for use in USES)
        return cls(path)

    def admits(self, authorization: str, use: Use) -> bool:
        """Whether an Authorization header carries a token for a use."""
        self._refresh()
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        given = hashlib.sha256(token.strip().encode()).digest()
        found = [hmac.compare_digest(given, one) for one in self._digests[use]]
        return any(found)

    def first(self, use: Use) -> str:
        """The first token for a use, for a caller on this machine who may read the file."""
        return next(token for named, token in _tokens(self._path) if named == use)

    def _refresh(self) -> None:
        """Read a changed file; one that has become unreadable changes nothing: who was let in stays in."""
        try:
            changed = _stamp(self._path) != self._stamp
            if changed:
                self._read()
        except (OSError, UsageError):
            return

    def _read(self) -> None:
        try:
            stamp, tokens = _stamp(self._path), _tokens(self._path)
        except OSError as error:
            raise UsageError(f"the file of tokens cannot be read: {error.strerror}; name one that can") from error
        if missing := [use for use in USES if use not in {named for named, _ in tokens}]:
            raise UsageError(f"the file of tokens has none for {missing[0]}; add a line `{missing[0]} TOKEN`")
        self._digests = {
            use: [hashlib.sha256(token.encode()).digest() for named, token in tokens if named == use] for use in USES
        }
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes with the file, also where a mounted Secret is exchanged for another file."""
    said = path.stat()
    return said.st_mtime_ns, said.st_size, said.st_ino


def _tokens(path: Path) -> list[tuple[str, str]]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        matched = _LINE.fullmatch(line.strip())
        if matched is None:
            raise UsageError(f"line {number} of the file of tokens is not `inference TOKEN` or `management TOKEN`")
        if len(matched[2]) < SHORTEST:
            raise UsageError(f"the token in line {number} has fewer than {SHORTEST} characters; draw a longer one")
        found.append((matched[1], matched[2]))
    return found
