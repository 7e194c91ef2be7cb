"""TLS of the maintained front: who verifies it gets answers, a renewed certificate needs no restart."""

import re
import shutil
import signal
import socket
import ssl
import time

import certificates
import httpx
import pytest
from cryptography import x509
from releasing import drawn_image, encoded

from hilum.client import Client, Untrusted
from hilum.delivery.fronts import tls
from hilum.errors import HilumError, UsageError

FILM = "/predictions/pneumonia"


@pytest.fixture(scope="module")
def film():
    return encoded(drawn_image("PA"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return certificates.made(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def front(xr_release, starlette_front, pair):
    with starlette_front([xr_release], "--workers", "1", "--tls", str(pair[0]), str(pair[1])) as running:
        yield running.running


def shown(front) -> str:
    """Whom the certificate that the front shows now is for."""
    host, port = front.url.removeprefix("https://").split(":")
    pem = ssl.get_server_certificate((host, int(port)))
    return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()


def test_answers_come_through_tls_to_who_verifies_it(front, pair, film):
    assert front.url.startswith("https://127.0.0.1:")
    trust = ssl.create_default_context(cafile=str(pair[2]))
    headers = {"Authorization": f"Bearer {front.token}"}
    with httpx.Client(base_url=front.url, verify=trust, headers=headers) as caller:
        said = caller.post(FILM, content=film)
        assert said.status_code == 200
        assert 0 < said.json()["probability"] < 1
        assert caller.get("/v2/health/ready").json() == {"ready": True}
        large = caller.post(FILM, content=bytes(20_000_000))
        assert (large.status_code, large.json()["code"]) == (415, "unsupported")
    with httpx.Client(base_url=front.url, verify=trust) as stranger:
        assert stranger.post(FILM, content=film).status_code == 401


def test_the_page_may_load_its_own_files_and_nobody_may_frame_it(front, pair):
    with httpx.Client(base_url=front.url, verify=ssl.create_default_context(cafile=str(pair[2]))) as caller:
        for path in ("/", "/page.js", "/page.css"):
            said = caller.get(path)
            assert said.status_code == 200
            policy = dict(
                part.strip().partition(" ")[::2] for part in said.headers["content-security-policy"].split(";")
            )
            assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert said.headers["x-content-type-options"] == "nosniff"
        page = caller.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page)


def test_who_does_not_know_the_authority_sends_nothing(front, film, tmp_path):
    other = certificates.made(tmp_path / "other")[2]
    with (
        httpx.Client(base_url=front.url, verify=ssl.create_default_context(cafile=str(other))) as caller,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        caller.post(FILM, content=film)


def test_the_client_takes_a_file_of_authorities(front, pair, film):
    with Client(front.url, front.token, ca=pair[2]) as client:
        assert 0 < client.predict(film).probability < 1
    with Client(front.url, front.token) as client, pytest.raises(Untrusted, match="not trusted"):
        client.predict(film)


def test_plain_http_and_old_tls_are_not_answered(front):
    host, port = front.url.removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), 10) as caller:
        caller.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"HTTP/1.1 200" not in caller.recv(1000)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), 10) as caller, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(caller)


def test_a_renewed_certificate_is_shown_without_a_restart(xr_release, starlette_front, film, tmp_path):
    certificate, key, ca = certificates.made(tmp_path / "served", "first")
    second = certificates.made(tmp_path / "second", "second")
    with starlette_front([xr_release], "--workers", "1", "--tls", str(certificate), str(key)) as running:
        front = running.running
        assert shown(front) == "CN=first"
        headers = {"Authorization": f"Bearer {front.token}"}
        with httpx.Client(
            base_url=front.url, verify=ssl.create_default_context(cafile=str(ca)), headers=headers
        ) as old:
            assert old.post(FILM, content=film).status_code == 200
            shutil.copyfile(second[0], certificate)  # and not its key: refused, the first goes on
            refused = running.ask("/reload", b"", port="management")
            assert refused.status == 409
            assert "not that of the certificate" in refused.json["message"]
            assert shown(front) == "CN=first"
            shutil.copyfile(second[1], key)
            front.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + 60
            while shown(front) != "CN=second":
                assert time.monotonic() < until
                time.sleep(0.1)
            assert old.post(FILM, content=film).status_code == 200  # on the connection that was there
        with Client(front.url, front.token, ca=second[2]) as client:
            assert client.ready()


def wrong(pair, tmp_path):
    """What people give by mistake: certificate, key, and what they are told."""
    certificate, key, _ = pair
    other = certificates.made(tmp_path / "other")
    locked = certificates.made(tmp_path / "locked", passphrase=b"secret")
    torn = tmp_path / "torn.pem"
    torn.write_text(certificate.read_text()[:120] + "\n-----END CERTIFICATE-----\n")
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    return {
        "another's key": (certificate, other[1], "key for TLS is not that of the certificate"),
        "in the wrong order": (key, certificate, "should hold a certificate holds none"),
        "the certificate twice": (certificate, certificate, "should hold a key holds none"),
        "not PEM": (binary, key, "should hold a certificate holds none"),
        "torn": (torn, key, "cannot be used"),
        "with a passphrase": (locked[0], locked[1], "has a passphrase"),
        "not there": (certificate, tmp_path / "absent", "cannot be read: No such file"),
        "a folder": (tmp_path, key, "cannot be read: Is a directory"),
    }


def test_files_that_cannot_be_served_get_a_sentence(pair, tmp_path):
    for certificate, key, words in wrong(pair, tmp_path).values():
        with pytest.raises(UsageError, match=words) as raised:
            tls.check(certificate, key)
        assert "\n" not in str(raised.value)


def test_a_wrong_key_ends_the_start_with_a_sentence_and_no_traceback(xr_release, starlette_front, pair, tmp_path):
    other = certificates.made(tmp_path / "other")[1]
    with pytest.raises(HilumError, match="the key for TLS is not that of the certificate") as raised:
        starlette_front([xr_release], "--workers", "1", "--tls", str(pair[0]), str(other)).__enter__()
    assert "Traceback" not in str(raised.value)
