"""What came back: an answer, a refusal, or nothing of hilum's."""

import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from hilum.client.faults import Refused, Unauthorized, Unavailable, Unexpected, Untrusted

MOST_BYTES: Final = 256 * 2**20  # of an answer: the embeddings of a volume have a few
_OF_TRANSFER: Final = ("content-encoding", "content-length", "transfer-encoding")
_BEFORE: Final = {  # refusals of a proxy, or of a server before its handler, which come without words of hilum's
    401: ("the token is not taken", "send one that is"),
    403: ("the call is forbidden", "ask whoever runs the server, or the proxy before it"),
    408: ("the image came too slowly", "send it faster"),
    413: ("the image is larger than the server, or a proxy before it, takes", "ask for a higher limit there"),
    429: ("too many calls were sent", "send fewer at once"),
}


class Pieces:
    """An answer as it comes, until it is too late or too large."""

    def __init__(self, end: float) -> None:
        """`end` is the moment of the monotonic clock after which it is too late."""
        self._end, self._read, self._held = end, 0, list[bytes]()

    def take(self, piece: bytes) -> None:
        """Hold one more.

        Raises:
            ReadTimeout: Of httpx: it is too late. Its own clock only bounds the wait for the next piece.
            Unexpected: It is larger than any answer.
        """
        self._read += len(piece)
        if self._read > MOST_BYTES:
            raise Unexpected(f"the answer has more than {MOST_BYTES // 2**20} MiB; check the URL")
        if time.monotonic() > self._end:
            raise httpx.ReadTimeout("the whole call")
        self._held.append(piece)

    def of(self, found: httpx.Response) -> httpx.Response:
        """All of them, as the response with which they came."""
        headers = [(key, value) for key, value in found.headers.multi_items() if key.lower() not in _OF_TRANSFER]
        return httpx.Response(found.status_code, headers=headers, content=b"".join(self._held))


def read(found: httpx.Response, attempt: int) -> dict[str, Any]:
    """The JSON of an answer.

    Raises:
        Refused: It is a refusal.
        Unavailable: The server failed.
        Unexpected: It is no JSON object, or a status that hilum does not send.
    """
    status, said = found.status_code, _json(found)
    if said is not None and status == 200:
        return said
    told = said or {}
    if status >= 500:
        raise Unavailable(f"the server failed (status {status})", attempt)
    if 400 <= status < 500 and "message" in told:
        keyless = status in (401, 403) or told.get("type") == "InvalidKeyException"  # TorchServe: 400 and this
        kind = Unauthorized if keyless else Refused
        raise kind(status, str(told.get("code", "")), str(told["message"]), str(told.get("right", "")))
    if status in _BEFORE:
        kind = Unauthorized if status in (401, 403) else Refused
        raise kind(status, f"http_{status}", *_BEFORE[status])
    raise Unexpected(f"the server answered with status {status} and a body that is no answer of hilum's; check the URL")


def retry_after(found: httpx.Response) -> float | None:
    """Seconds after which the server wants to be asked again, given as such or as a date (RFC 9110, section 10.2.3)."""
    stated = found.headers.get("retry-after", "").strip()
    if stated.isascii() and stated.isdigit() and len(stated) < 10:
        return float(stated)
    try:
        date = parsedate_to_datetime(stated)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def busy(found: httpx.Response) -> str:
    """For a status after which it is tried again."""
    return f"the server cannot answer now (status {found.status_code})"


def broken(error: httpx.TransportError) -> str:
    """For a connection that failed, without the library's words: they may hold a proxy's password.

    Raises:
        Untrusted: It failed over the certificate; another attempt would too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = "give the authority that signed it as `ca`, or the name that it is for as the address"
            raise Untrusted(f"the server's certificate is not trusted ({cause.verify_message}); {words}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return "the server cannot be reached"
    if isinstance(error, httpx.TimeoutException):
        return "the server did not answer in time"
    return "the connection broke"


def _json(found: httpx.Response) -> dict[str, Any] | None:
    try:
        said = found.json()
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None
