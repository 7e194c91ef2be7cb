"""An archive over DICOMweb (PS3.18): QIDO-RS to find a study, WADO-RS to fetch it, STOW-RS to store its report.

The only door to dicomweb-client. It logs addresses with UIDs in them, has no bound on what it reads and tries again
whatever went wrong; here its loggers are silent, what comes back is bounded in bytes and seconds before it is taken
apart, and only what may be temporary is tried again, below it, by urllib3.
"""

import io
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import pydicom
import requests
import urllib3
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset
from requests.adapters import HTTPAdapter

from hilum.data.dicom_pixels import MODALITIES
from hilum.delivery.pacs.calling import (
    Credentials,
    PacsError,
    Patience,
    address,
    broken_words,
    certificates,
    retries,
    status_words,
)
from hilum.delivery.pacs.study import Listed
from hilum.errors import HilumError, UsageError

MOST_BYTES: Final = 1 << 29  # of one answer: an image of 25 megapixels in 16 bits has a tenth of it
MOST_LISTED: Final = 20_000  # instances of a study; a search that goes on beyond is one that never ends
_PIECE: Final = 1 << 16
_BROKEN: Final = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
_UID: Final = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")

for _name in ("dicomweb_client", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)  # their lines name studies


class Archive:
    """A DICOMweb service."""

    def __init__(
        self,
        url: str,
        credentials: Credentials | None = None,
        *,
        ca: Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: Of the service, below which `/studies` lies.
            credentials: What it knows the caller by.
            ca: A file of certificates to trust in place of the usual ones; TLS is always verified.
            patience: How long and how often is tried.

        Raises:
            UsageError: The URL is none, names a password, or would carry credentials in the clear; or `ca` is no file
                of certificates.
        """
        known, self._patience = credentials or Credentials(), patience or Patience()
        self._warned = False  # PS3.18 8.3.4: an answer with a Warning may hold only some of the results
        service = address(url, bool(known))
        self._session = session = requests.Session()
        session.proxies = dict(requests.utils.get_environ_proxies(service))
        session.trust_env = False  # ~/.netrc would send other credentials, REQUESTS_CA_BUNDLE go before --ca
        session.headers["Accept-Encoding"] = "identity"  # Orthanc packs a film of 10 MB in 1.3 s, sends it in 0.1
        session.max_redirects = 0  # a study is asked of the archive that was named, and of no other
        if ca is not None:
            session.verify = certificates(ca)
        if known.token:
            session.headers["Authorization"] = f"Bearer {known.token}"
        elif known.user:
            session.auth = (known.user.encode(), known.password.encode())
        adapter = HTTPAdapter(max_retries=retries(self._patience))
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        session.hooks["response"] = [self._bounded]
        waits = (self._patience.connect_seconds, self._patience.answer_seconds)
        self._client = DICOMwebClient(service, session, permissive_uid=True, timeout=waits, chunk_size=MOST_BYTES)
        self._client.host = urlsplit(service).netloc  # for the header Host, which wants the port too
        self._client.set_http_retry_params(retry=False)  # it would try again what can never succeed

    def find(self, study: str) -> list[Listed]:
        """The instances of a study; each is fetched when it is loaded.

        Raises:
            UsageError: `study` is no UID.
            PacsError: There is no such study, or the archive cannot be asked.
        """
        if not _UID.fullmatch(study):
            raise UsageError("--study is no UID; give the StudyInstanceUID, digits and dots")
        client = self._client
        with self._sentences("study"):
            if not client.search_for_studies(search_filters={"StudyInstanceUID": study}, limit=1):
                raise PacsError("the archive has no such study; check --study, and that this caller may see it")
            series = self._paged(partial(client.search_for_series, study), "SeriesInstanceUID")
            listed: list[Listed] = []
            for uid, said in series.items():
                found = self._paged(partial(client.search_for_instances, study, uid), "SOPInstanceUID")
                modality = _value(said, "Modality").upper()
                stated = _value(said, "NumberOfSeriesRelatedInstances")
                if modality in MODALITIES and stated.isdecimal() and int(stated) > len(found):
                    raise PacsError(
                        f"the archive counts {stated} images in a series and lists {len(found)}; nothing is reported "
                        "of half a study"
                    )
                listed += [Listed(modality, uid, one, partial(self._fetch, study, uid, one)) for one in found]
        if not listed:
            raise PacsError("the archive lists the study, and no instance of it; nothing can be reported")
        return listed

    def store(self, document: Dataset) -> None:
        """Store a report in the study that it is about.

        Raises:
            PacsError: The archive does not say that it has stored it.
        """
        with self._sentences("report"):
            said = self._client.store_instances([document], document.StudyInstanceUID)
            stored = [str(one.ReferencedSOPInstanceUID) for one in said.get("ReferencedSOPSequence", None) or []]
            if failed := said.get("FailedSOPSequence", None):
                reason = failed[0].get("FailureReason", None)
                code = f" (failure reason {int(reason):04X})" if reason is not None else ""
                raise PacsError(f"the archive did not store the report{code}; see its log for why")
            if str(document.SOPInstanceUID) not in stored:
                raise PacsError("the archive did not confirm that it stored the report; look for it there")

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _fetch(self, study: str, series: str, instance: str) -> bytes:
        """One instance as the archive has it, in its own transfer syntax."""
        with self._sentences("image"):
            fetched = self._client.retrieve_instance(study, series, instance, media_types=(("application/dicom", "*"),))
            if str(fetched.get("SOPInstanceUID", "")) != instance:
                raise PacsError("the archive sent another image than it was asked for; nothing is reported")
            stream = io.BytesIO()
            pydicom.dcmwrite(stream, fetched)
        return stream.getvalue()

    def _paged(self, search: Callable[..., list[dict[str, Any]]], name: str) -> dict[str, dict[str, Any]]:
        """All results of a search by their UID; an archive may give only some at a time."""
        found: dict[str, dict[str, Any]] = {}
        self._warned = False
        while True:
            page = {_value(one, name): one for one in search(offset=len(found))}
            fresh = {uid: one for uid, one in page.items() if uid and uid not in found}
            if not fresh and page and self._warned:
                raise PacsError(
                    "the archive lists only some of the study and gives the same again when asked for more; nothing is "
                    "reported of half a study"
                )
            if not fresh:  # all are there; an archive that knows no offset gives them again
                return found
            found |= fresh
            if len(found) > MOST_LISTED:
                raise PacsError(f"the archive lists more than {MOST_LISTED} instances of the study; that is no study")

    def _bounded(self, response: requests.Response, *_: Any, **__: Any) -> requests.Response:
        """Read an answer while it is neither too large nor too late, and hand it on as if it were just coming."""
        end, held = time.monotonic() + self._patience.total_seconds, io.BytesIO()
        self._warned |= "Warning" in response.headers
        try:
            # read1 gives what has come; what waits for a whole piece would wait for one that comes byte by byte.
            while piece := response.raw.read1(_PIECE, decode_content=True):
                if held.tell() + len(piece) > MOST_BYTES:
                    raise PacsError(
                        f"the archive's answer has more than {MOST_BYTES >> 20} MiB; no image is that large"
                    )
                if time.monotonic() > end:
                    raise PacsError(f"the archive's answer took more than {self._patience.total_seconds:g} s")
                held.write(piece)
        except Exception:
            response.raw.close()  # with its connection: the rest of the answer would be taken for the next one
            raise
        held.seek(0)
        response.raw.release_conn()
        response.raw = held
        return response

    @contextmanager
    def _sentences(self, what: str) -> Iterator[None]:
        """Say in a sentence what went wrong; the libraries' words hold addresses with UIDs."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote values of the header
                yield
        except HilumError:
            raise
        except requests.HTTPError as error:
            raise PacsError(status_words(error.response.status_code, what, self._patience)) from None
        except requests.TooManyRedirects:
            raise PacsError("the archive redirects to another address; give that one with --from") from None
        except requests.exceptions.SSLError:
            raise PacsError(
                "the archive's certificate is not trusted; name the file of its authority with --ca"
            ) from None
        except (*_BROKEN, urllib3.exceptions.HTTPError) as error:
            raise PacsError(broken_words(error, what)) from None
        except Exception as error:
            raise PacsError(
                f"the archive's answer about the {what} is none of DICOMweb's ({type(error).__name__}); check --from, "
                "which ends above /studies"
            ) from None


def _value(said: dict[str, Any], name: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18 F.2); empty where there is none."""
    tag = f"{pydicom.datadict.tag_for_keyword(name):08X}"
    values = said.get(tag, {}).get("Value") or [""]
    return str(values[0] or "").strip()
