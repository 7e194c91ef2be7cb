"""How an archive is called: at which address, as whom, trusting whom, for how long; and what is said when it fails.

Sentences are hilum's own: those of the libraries hold addresses with UIDs in them.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.util.retry import Retry

from hilum.errors import HilumError, UsageError

AGAIN: Final = (429, 502, 503, 504)


class PacsError(HilumError):
    """An archive cannot be asked, refuses, or answers otherwise than DICOMweb has it."""


@dataclass(frozen=True)
class Patience:
    """How long and how often an archive is tried.

    Attributes:
        attempts: Of one request, where it may help: no connection, no answer, or a status of AGAIN.
        connect_seconds: For a connection.
        answer_seconds: For the next piece of an answer.
        total_seconds: For one answer as a whole.
        first_wait_seconds: Before the third attempt (the second comes at once); it doubles with each.
        longest_wait_seconds: Between attempts, whatever the archive asks for.
    """

    attempts: int = 4
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0
    total_seconds: float = 600.0
    first_wait_seconds: float = 1.0
    longest_wait_seconds: int = 30


@dataclass(frozen=True)
class Credentials:
    """What an archive knows a caller by: a token, or a user's name and password; neither where it asks for none."""

    token: str = ""
    user: str = ""
    password: str = ""

    @classmethod
    def read(cls, token: Path | None, login: Path | None) -> "Credentials":
        """From a file with a token, or one with `user:password`.

        Raises:
            UsageError: Both are named, or one cannot be read or holds something else.
        """
        if token is not None and login is not None:
            raise UsageError("an archive is told a token or a login, not both; name one file")
        if token is not None:
            said = _line(token, "token")
            if not (said.isascii() and said.isprintable()) or " " in said:
                raise UsageError("the file of the token holds something else; write the token into it alone")
            return cls(token=said)
        if login is not None:
            user, colon, password = _line(login, "login").partition(":")
            if not user or not colon:
                raise UsageError("the file of the login holds something else; write user:password into it")
            return cls(user=user, password=password)
        return cls()

    def __bool__(self) -> bool:
        return bool(self.token or self.user)

    def __repr__(self) -> str:
        return "Credentials(...)"


def retries(patience: Patience) -> Retry:
    """What is tried again, by urllib3: no connection, no answer, and the statuses of AGAIN."""
    attempts = patience.attempts - 1
    return Retry(
        total=attempts,
        redirect=0,
        other=0,  # a certificate does not become better
        status_forcelist=AGAIN,
        allowed_methods=None,  # a report that is stored twice is the same one, by its UID
        backoff_factor=patience.first_wait_seconds / 2,
        backoff_jitter=patience.first_wait_seconds / 4,
        backoff_max=patience.longest_wait_seconds,
        retry_after_max=patience.longest_wait_seconds,
        raise_on_status=False,
        raise_on_redirect=False,
    )


def status_words(status: int, what: str, patience: Patience) -> str:
    """A sentence for a status that is not 2xx."""
    if status in (401, 403):
        return (
            f"the archive does not let this caller have the {what} (status {status}); give what it knows the caller by "
            "with --token-file or --login-file"
        )
    if status in AGAIN:
        return f"the archive cannot answer now (status {status}, after {patience.attempts} attempts); try again later"
    if status == 404 and what == "image":
        return "the archive lists an image that it does not have (status 404); nothing was reported"
    if status == 404:
        return "the archive knows no such address (status 404); check --from, which ends above /studies"
    if status == 413:
        return f"the {what} is larger than the archive takes (status 413); ask for a higher limit there"
    if status == 409:
        return "the archive refuses the report (status 409); see its log for why"
    return f"the archive answers with status {status} about the {what}; see its log for why"


def broken_words(error: Exception, what: str) -> str:
    """A sentence for a connection that failed, of requests or of urllib3."""
    reason = error.args[0] if error.args else None
    reason = getattr(reason, "reason", reason)
    left = "it may be there nevertheless" if what == "report" else "nothing was reported"
    timed_out = isinstance(error, requests.ReadTimeout | urllib3.exceptions.ReadTimeoutError)
    if timed_out or isinstance(reason, urllib3.exceptions.ReadTimeoutError):
        return f"the archive did not answer about the {what} in time; {left}"
    cut = isinstance(error, urllib3.exceptions.ProtocolError) or isinstance(reason, urllib3.exceptions.ProtocolError)
    if cut or isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the connection broke while the {what} was on its way; {left}"
    return "the archive cannot be reached; check --from, and that it runs"


def address(url: str, secret: bool) -> str:
    """A service's URL; `secret` where credentials will be sent there.

    Raises:
        UsageError: It is none, names a login, or would carry credentials in the clear.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise UsageError("--from is no URL of a DICOMweb service; give it as https://HOST:PORT/PATH, above /studies")
    if parts.username or parts.password:
        raise UsageError("--from names a login, which others can read there; give it in a file with --login-file")
    if secret and parts.scheme == "http" and not _loopback(host):
        raise UsageError("credentials are not sent in the clear; give --from with https, or a proxy on this machine")
    return url.rstrip("/")


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def certificates(path: Path) -> str:
    """The path of a file of certificates in PEM.

    Raises:
        UsageError: It holds none.
    """
    try:
        urllib3.util.ssl_.create_urllib3_context().load_verify_locations(cafile=str(path))
    except OSError:  # SSLError is one too
        raise UsageError("the file of --ca holds no certificates; give one in PEM") from None
    return str(path)


def _line(path: Path, what: str) -> str:
    try:
        said = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"the file of the {what} cannot be read as text") from None
    if not said or "\n" in said:
        raise UsageError(f"the file of the {what} has to have one line; this one has {len(said.splitlines())}")
    return said
