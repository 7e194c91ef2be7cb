"""The certificate of a front and its key: seen to belong together before a port is bound, and read anew on a reload."""

import ssl
from pathlib import Path

from hilum.errors import UsageError


def check(certificate: Path, key: Path) -> None:
    """See that the two can be served.

    Args:
        certificate: PEM; the server's own first, then those that lead to one that callers trust.
        key: PEM, without a passphrase.

    Raises:
        UsageError: They cannot.
    """
    take_up(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)


def take_up(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Let a context show this certificate to connections that are made from now on; those that there are go on.

    Raises:
        UsageError: They cannot be served; the context is as it was.
    """
    for what, path in (("certificate", certificate), ("key", key)):
        _legible(what, path)
    try:
        # OpenSSL changes half of a context before it finds that the other half is wrong.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_passphrase)
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except _Locked as error:
        raise UsageError(
            "the key for TLS has a passphrase, and nobody is there to type it; give one without"
        ) from error
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            wrong = "the key for TLS is not that of the certificate; give the one that the certificate was made for"
        else:
            reason = (error.reason or "no reason is given").replace("_", " ").lower()
            wrong = f"the certificate and key for TLS cannot be used ({reason}); give both as whole PEM files"
        raise UsageError(wrong) from error
    except OSError as error:
        raise UsageError(f"the certificate and key for TLS cannot be read: {error.strerror}") from error


class _Locked(Exception):
    """OpenSSL asks for a passphrase."""


def _no_passphrase() -> str:
    """Stands where OpenSSL would ask at the terminal."""
    raise _Locked


def _legible(what: str, path: Path) -> None:
    """Name the file that is not what it should be; OpenSSL does not say which of the two it was."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"the {what} for TLS cannot be read: {error.strerror}; name a file that can") from error
    labels = {"certificate": "CERTIFICATE-----", "key": "PRIVATE KEY-----"}
    if labels[what] not in text:
        raise UsageError(
            f"the file for TLS that should hold a {what} holds none; give it as PEM, the certificate first"
        )
