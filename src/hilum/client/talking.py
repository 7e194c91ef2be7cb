"""The conversation with a server: retries, timeouts, many images; in turn (`Client`) or at once (`AsyncClient`).

Only what may have been an accident is tried again: no connection, no answer, 502, 503, 504. A server that names the
seconds after which to come back (Retry-After) is taken at its word, within the time there is. What the server refuses
stays refused. Every call is safe to send twice: it changes nothing on the server.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from hilum.client import calls, reading
from hilum.client.answers import Embedding, Prediction
from hilum.client.calls import Asked, Image
from hilum.client.faults import ClientError, Unavailable, Unexpected, Unsendable
from hilum.client.reading import Pieces

AGAIN: Final = (502, 503, 504)


@dataclass(frozen=True)
class Patience:
    """How long and how often a client tries.

    Attributes:
        attempts: Of one call.
        connect_seconds: For a connection.
        answer_seconds: For an answer, once a call is sent.
        total_seconds: For a call with all its attempts, from when the first is sent.
        first_wait_seconds: Before the second attempt; it doubles with each, and up to half is taken off at random.
    """

    attempts: int = 5
    connect_seconds: float = 5.0
    answer_seconds: float = 60.0
    total_seconds: float = 180.0
    first_wait_seconds: float = 0.25

    def wait(self, attempt: int, stated: float | None) -> float:
        """Seconds before the next attempt, after this many; where the server stated some, at least those."""
        drawn = self.first_wait_seconds * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.0)
        return max(drawn, stated or 0.0)

    def timeout(self, left: float) -> httpx.Timeout:
        """As httpx has it, where so many seconds are left of the whole call."""
        left = max(left, 1e-3)
        return httpx.Timeout(min(self.answer_seconds, left), connect=min(self.connect_seconds, left), pool=left)


class _Told:
    """What both clients know of a server."""

    def __init__(self, url: str, token: str | None, patience: Patience) -> None:
        self._url = _address(url)
        self._headers = _authorization(token)
        self._patience = patience

    def _next(self, end: float, attempt: int, why: str, stated: float | None) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            Unavailable: There is none left, or no time for it.
        """
        if attempt >= self._patience.attempts:
            raise Unavailable(why, attempt)
        seconds = self._patience.wait(attempt, stated)
        if time.monotonic() + seconds > end:
            raise Unavailable(why, attempt)
        return seconds


class Client(_Told):
    """Asks a server, one call after the other."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        ca: Path | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: Of the server, as `hilum serve` prints it.
            token: For inference.
            patience: How long and how often is tried.
            ca: A file of certificates to trust in place of the usual ones; TLS is always verified.
        """
        super().__init__(url, token, patience or Patience())
        self._http = httpx.Client(headers=self._headers, verify=_trust(ca))

    def embed(self, image: Image, *, modality: str | None = None) -> Embedding:
        """The embedding of an image.

        Raises:
            ClientError: There is none; the tree of errors stands in `hilum.client`.
        """
        return Embedding.of(self._ask(calls.ask(image, "/predictions/embeddings", modality=modality)))

    def predict(
        self,
        image: Image,
        label: str = "pneumonia",
        *,
        modality: str | None = None,
        covariates: Mapping[str, float | None] | None = None,
        neighbours: int = 0,
        saliency: bool = False,
        seen: bool = False,
    ) -> Prediction:
        """What the head of a label answers to an image.

        Args:
            image: The bytes of a file, its path, an open file, or uint8 pixels of shape (H, W).
            label: The question.
            modality: `XR` or `MR`, where the file does not say it.
            covariates: By name, None where unknown; only where the head uses them.
            neighbours: How many of the nearest training cases to name, 20 at most.
            saliency: Whether to draw what moved the answer; it costs some seconds.
            seen: Whether to send back the image as the model saw it.

        Raises:
            ClientError: There is none.
        """
        wanted = {"covariates": covariates, "neighbours": neighbours, "saliency": saliency, "seen": seen}
        return Prediction.of(self._ask(calls.ask(image, f"/predictions/{label}", modality=modality, **wanted)))  # type: ignore[arg-type]

    def model(self, name: str) -> dict[str, Any]:
        """What the server says of a model: inputs, outputs, releases."""
        return self._ask(Asked(f"/v2/models/{name}", b"", {}))

    def ready(self) -> bool:
        """Whether the server answers calls; False where it does not answer at all."""
        try:
            return self._http.get(f"{self._url}/v2/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, asked: Asked) -> dict[str, Any]:
        end, attempt = time.monotonic() + self._patience.total_seconds, 0
        while True:
            attempt += 1
            stated = None
            try:
                found = self._send(asked, end)
            except httpx.TransportError as error:
                why = reading.broken(error)
            else:
                if found.status_code not in AGAIN:
                    return reading.read(found, attempt)
                why, stated = reading.busy(found), reading.retry_after(found)
            time.sleep(self._next(end, attempt, why, stated))

    def _send(self, asked: Asked, end: float) -> httpx.Response:
        """One attempt, read piece by piece: an answer that drips has an end too."""
        timeout = self._patience.timeout(end - time.monotonic())
        try:
            with self._http.stream(**_request(self._url, asked), timeout=timeout) as found:
                pieces = Pieces(end)
                for piece in found.iter_bytes():
                    pieces.take(piece)
        except httpx.DecodingError:
            raise _garbled() from None
        return pieces.of(found)


class AsyncClient(_Told):
    """Asks a server, many calls at once."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        ca: Path | None = None,
        at_once: int = 8,
    ) -> None:
        """As `Client`.

        Args:
            url: Of the server.
            token: For inference.
            patience: How long and how often is tried.
            ca: A file of certificates to trust.
            at_once: Calls under way at most.
        """
        super().__init__(url, token, patience or Patience())
        if at_once < 1:
            raise Unsendable(f"{at_once} calls under way send nothing; allow 1 at least")
        limits = httpx.Limits(max_connections=at_once)
        self._http = httpx.AsyncClient(headers=self._headers, verify=_trust(ca), limits=limits)
        self._places = asyncio.Semaphore(at_once)

    async def embed(self, image: Image, *, modality: str | None = None) -> Embedding:
        """As `Client.embed`."""
        return Embedding.of(await self._ask(partial(calls.ask, image, "/predictions/embeddings", modality=modality)))

    async def predict(
        self,
        image: Image,
        label: str = "pneumonia",
        *,
        modality: str | None = None,
        covariates: Mapping[str, float | None] | None = None,
        neighbours: int = 0,
        saliency: bool = False,
        seen: bool = False,
    ) -> Prediction:
        """As `Client.predict`."""
        wanted = {"covariates": covariates, "neighbours": neighbours, "saliency": saliency, "seen": seen}
        asked = partial(calls.ask, image, f"/predictions/{label}", modality=modality, **wanted)  # type: ignore[arg-type]
        return Prediction.of(await self._ask(asked))

    async def embed_all(self, images: Iterable[Image], *, modality: str | None = None) -> list[Embedding | ClientError]:
        """Embeddings of many images in their order; where one has none, its error stands in its place."""
        found: list[Embedding | ClientError] = await asyncio.gather(
            *(_kept(self.embed(one, modality=modality)) for one in images)
        )
        return found

    async def predict_all(
        self, images: Iterable[Image], label: str = "pneumonia", *, modality: str | None = None
    ) -> list[Prediction | ClientError]:
        """Predictions for many images in their order; where one has none, its error stands in its place."""
        found: list[Prediction | ClientError] = await asyncio.gather(
            *(_kept(self.predict(one, label, modality=modality)) for one in images)
        )
        return found

    async def model(self, name: str) -> dict[str, Any]:
        """As `Client.model`."""
        return await self._ask(partial(Asked, f"/v2/models/{name}", b"", {}))

    async def ready(self) -> bool:
        """As `Client.ready`."""
        try:
            return (await self._http.get(f"{self._url}/v2/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, make: Callable[[], Asked]) -> dict[str, Any]:
        asked, end, attempt = None, None, 0
        while True:
            attempt += 1
            stated = None
            async with self._places:  # an image is read when its turn has come: of many, few are in memory
                if asked is None or end is None:  # once: an open file gives its bytes only once
                    asked = await asyncio.to_thread(make)
                    end = time.monotonic() + self._patience.total_seconds
                try:
                    found = await self._send(asked, end)
                except httpx.TransportError as error:
                    why = reading.broken(error)
                else:
                    if found.status_code not in AGAIN:
                        return reading.read(found, attempt)
                    why, stated = reading.busy(found), reading.retry_after(found)
            await asyncio.sleep(self._next(end, attempt, why, stated))

    async def _send(self, asked: Asked, end: float) -> httpx.Response:
        left = end - time.monotonic()
        request = {**_request(self._url, asked), "timeout": self._patience.timeout(left)}
        try:
            async with asyncio.timeout(left), self._http.stream(**request) as found:
                pieces = Pieces(end)
                async for piece in found.aiter_bytes():
                    pieces.take(piece)
        except TimeoutError:
            raise httpx.ReadTimeout("the whole call") from None
        except httpx.DecodingError:
            raise _garbled() from None
        return pieces.of(found)


async def _kept(asked: Any) -> Any:
    """An answer, or the error in its place."""
    try:
        return await asked
    except ClientError as error:
        return error


def _request(url: str, asked: Asked) -> dict[str, Any]:
    method = "POST" if asked.path.startswith("/predictions/") else "GET"
    return {
        "method": method,
        "url": url + asked.path,
        "content": asked.content if method == "POST" else None,
        "headers": dict(asked.headers),
    }


def _garbled() -> Unexpected:
    return Unexpected("the answer is not compressed as its header says; see what stands between here and the server")


def _address(url: str) -> str:
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        found = httpx.URL("")
    if found.scheme not in ("http", "https") or not found.host:
        raise Unsendable("the address of the server is no URL; give it as https://HOST:PORT")
    return url.rstrip("/")


def _authorization(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Unsendable("the token holds a blank, a line break or a letter that no token has; give it alone")
    return {"authorization": f"Bearer {token}"}


def _trust(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError:  # SSLError is one too
        raise Unsendable("the certificates to trust cannot be read; give a file in PEM") from None
