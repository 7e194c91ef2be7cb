"""What may go wrong between hilum and an archive: never half a study, never a word about whose it is."""

import contextlib
import json
import logging
import subprocess
import sys
import time

import filming
import orthanc
import pytest
import requests
from orthanc import QUICK

from hilum.delivery.pacs import web
from hilum.delivery.pacs.calling import PacsError, Patience


def call(*words):
    return subprocess.run(
        [sys.executable, "-m", "hilum", "dicom", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_a_busy_archive_is_asked_again_and_not_for_ever(archive, films, login, connect):
    with orthanc.before(archive, lambda call, number: number < 2 and busy(call)) as between:
        assert len(connect(between.url, login, patience=QUICK).find(films.uid)) == 4
    with orthanc.before(archive, lambda call, number: busy(call)) as between:
        with pytest.raises(PacsError, match=r"cannot answer now \(status 503, after 3 attempts\)"):
            connect(between.url, login, patience=QUICK).find(films.uid)
        assert len(between.calls) == 3


def busy(call):
    call.reply(503, b"", {"Retry-After": "0"})
    return True


def test_a_wait_that_is_asked_for_is_kept_within_bounds(archive, films, login, connect):
    def later(call, number):
        if number == 0:
            call.reply(503, b"", {"Retry-After": "3600"})
        return number == 0

    with orthanc.before(archive, later) as between:
        patience = Patience(attempts=2, longest_wait_seconds=1, first_wait_seconds=0.01)
        begun = time.monotonic()
        assert connect(between.url, login, patience=patience).find(films.uid)
        assert 0.9 < time.monotonic() - begun < 10


def cut(call, number):
    """Half of an image, and then nothing."""
    if "/instances/" not in call.path:
        return False
    call.send_response(200)
    call.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=b')
    call.send_header("Content-Length", "10000")
    call.end_headers()
    call.wfile.write(b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + b"\0" * 128 + b"DICM")
    call.close_connection = True
    return True


def stall(call, number):
    if "/instances/" in call.path:
        time.sleep(3)
    return False


def drip(call, number):
    """An image that comes byte by byte, each in time."""
    if "/instances/" not in call.path:
        return False
    call.send_response(200)
    call.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=b')
    call.send_header("Content-Length", "1000000")
    call.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(100):
            call.wfile.write(b"\0")
            time.sleep(0.1)
    call.close_connection = True
    return True


def gone(call, number):
    if "/instances/" in call.path:
        call.reply(404)
    return "/instances/" in call.path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (cut, "the connection broke while the image was on its way; nothing was reported"),
        (stall, "did not answer about the image in time"),
        (gone, "lists an image that it does not have"),
        (drip, "took more than 1 s"),
        (lambda call, _: "/instances/" in call.path and (call.reply(500) or True), "answers with status 500"),
        (lambda call, _: "/instances/" in call.path and (call.reply(200, b"x") or True), "none of DICOMweb's"),
        (lambda call, _: call.reply(200, b"<html>", {"Content-Type": "text/html"}) or True, "none of DICOMweb's"),
        (lambda call, _: call.reply(200, b'{"a": 1}', {"Content-Type": "application/json"}) or True, "no instance"),
    ],
)
def test_what_goes_wrong_on_the_way_is_one_sentence(archive, films, login, fault, words, connect):
    patience = Patience(attempts=2, connect_seconds=1, answer_seconds=1, total_seconds=1, first_wait_seconds=0.01)
    with orthanc.before(archive, fault) as between, pytest.raises(PacsError, match=words) as raised:
        [listed.load() for listed in connect(between.url, login, patience=patience).find(films.uid)]
    assert raised.value.__cause__ is None  # whose words would hold addresses with UIDs
    assert not [secret for secret in films.secrets if secret in str(raised.value)]


def test_another_image_than_was_asked_for_is_not_reported(archive, films, login, connect):
    other = filming.headers(films.files[1])

    def swapped(call, number):
        if "/instances/" in call.path and "/1.2.840.99.1/" in call.path:
            call.path = (
                f"/dicom-web/studies/{films.uid}/series/{other.SeriesInstanceUID}/instances/{other.SOPInstanceUID}"
            )
        return False

    with orthanc.before(archive, swapped) as between:
        found = connect(between.url, login, patience=QUICK).find(films.uid)
        [listed] = [one for one in found if one.series == "1.2.840.99.1"]
        with pytest.raises(PacsError, match="another image"):
            listed.load()


def test_half_a_study_is_not_reported(archive, films, xr_release, tmp_path):
    last = filming.headers(films.files[1])

    def second(call, number):
        return f"/instances/{last.SOPInstanceUID}" in call.path and gone(call, number)

    with orthanc.before(archive, second) as between:
        options = ["--login-file", archive.login, "--store", "--out", tmp_path / "out"]
        done = call(xr_release, "--from", between.url, "--study", films.uid, *options)
    assert done.returncode == 1
    assert "nothing was reported" in done.stderr
    assert not (tmp_path / "out").exists()
    assert archive.reports(films.uid) == []


SEVEN = {"00080060": {"vr": "CS", "Value": ["DX"]}, "00201209": {"vr": "IS", "Value": [7]}}


def some(call, **changed):
    """The first result of a search, as an archive gives it that gives no more, whatever offset is asked for."""
    asked = call.path.split("offset=")[0] + "limit=1"
    with requests.Session() as session:
        session.trust_env = False
        headers = {key: call.headers[key] for key in ("Authorization", "Accept")}
        [first] = session.get(call.there + asked, headers=headers, timeout=20).json()
    first |= changed.pop("attributes", {})
    call.reply(200, json.dumps([first]).encode(), {"Content-Type": "application/dicom+json", **changed})
    return True


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Warning": '299 dicom "there are 3 more"'}, "lists only some of the study"),
        ({"attributes": SEVEN}, "counts 7 images in a series and lists 1"),
    ],
)
def test_a_list_that_is_not_whole_is_no_study(archive, films, login, connect, changed, words):
    def limited(call, number):
        call.there = archive.rest
        return "offset=" in call.path and "/series?" in call.path and some(call, **changed)

    with orthanc.before(archive, limited) as between, pytest.raises(PacsError, match=words):
        connect(between.url, login, patience=QUICK).find(films.uid)


def test_an_archive_that_knows_no_offset_does_not_keep_us_for_ever(archive, films, login, connect):
    def from_the_start(call, number):
        call.path = call.path.split("offset=")[0].rstrip("?&") if "offset=" in call.path else call.path
        return False

    with orthanc.before(archive, from_the_start) as between:
        assert len(connect(between.url, login).find(films.uid)) == 4


def test_an_answer_that_is_too_large_is_not_taken(archive, films, login, monkeypatch, connect):
    [listed, *_] = connect(archive.url, login).find(films.uid)
    monkeypatch.setattr(web, "MOST_BYTES", 5000)
    with pytest.raises(PacsError, match="no image is that large"):
        listed.load()


def test_a_redirect_is_not_followed_and_nobody_else_learns_the_password(archive, films, login, connect):
    with orthanc.before(archive) as elsewhere:

        def away(call, number):
            call.reply(302, b"", {"Location": elsewhere.url + "/studies"})
            return True

        with (
            orthanc.before(archive, away) as between,
            pytest.raises(PacsError, match="redirects to another address"),
        ):
            connect(between.url, login, patience=QUICK).find(films.uid)
        assert elsewhere.calls == []


def answered(status, **said):
    def fault(call, number):
        if call.command == "POST":
            call.reply(status, json.dumps(said).encode(), {"Content-Type": "application/dicom+json"})
        return call.command == "POST"

    return fault


FAILED = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}}


def cut_off(call, number):
    if call.command == "POST":
        call.close_connection = True
        call.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    return call.command == "POST"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (cut_off, "broke while the report was on its way; it may be there nevertheless"),
        (answered(409), r"refuses the report \(status 409\)"),
        (answered(413), r"larger than the archive takes \(status 413\)"),
        (answered(403), r"let this caller have the report \(status 403\)"),
        (answered(202, **FAILED), r"did not store the report \(failure reason A700\)"),
        (answered(200), "did not confirm"),
    ],
)
def test_a_report_that_is_not_stored(archive, login, document, fault, words, connect):
    with orthanc.before(archive, fault) as between, pytest.raises(PacsError, match=words):
        connect(between.url, login, patience=QUICK).store(document)


def test_storing_twice_after_a_busy_answer_leaves_one(archive, films, login, document, connect):
    seen = []

    def once(call, number):
        seen.append(number)
        return len(seen) == 1 and busy(call)

    with orthanc.before(archive, once) as between:
        connect(between.url, login, patience=QUICK).store(document)
    assert len(seen) == 2
    connect(archive.url, login).store(document)
    assert len(archive.reports(films.uid)) == 1


def test_no_library_s_log_names_the_study(archive, films, login, document, caplog, connect):
    with (
        caplog.at_level(logging.DEBUG),
        orthanc.before(archive, lambda call, number: number < 1 and busy(call)) as between,
    ):
        found = connect(between.url, login, patience=QUICK).find(films.uid)
        found[0].load()
        connect(between.url, login, patience=QUICK).store(document)
    for secret in [*films.secrets, str(document.SOPInstanceUID), orthanc.PASSWORD]:
        assert secret not in caplog.text, secret
