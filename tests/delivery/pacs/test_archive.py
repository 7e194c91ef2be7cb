"""Against a real DICOMweb server: a study is found, fetched and answered, and its report stored."""

import io
import subprocess
import sys
import time

import filming
import numpy as np
import orthanc
import pydicom
import pytest
from filming import Study, walk
from orthanc import QUICK
from pydicom.uid import RLELossless
from releasing import drawn_image

from hilum.delivery.pacs.calling import Credentials, PacsError
from hilum.errors import UsageError


def call(*words):
    return subprocess.run(
        [sys.executable, "-m", "hilum", "dicom", *map(str, words)], capture_output=True, text=True, check=False
    )


def test_a_study_is_fetched_and_its_report_stored(archive, films, xr_release, tmp_path):
    out = tmp_path / "out"
    done = call(
        xr_release, "--from", archive.url, "--study", films.uid, "--login-file", archive.login, "--store", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "2 images: 2 answered; 2 other series left alone",
        f"wrote its report to {out}",
        "stored its report in the archive",
    ]
    [content] = archive.reports(films.uid)
    [path] = out.iterdir()
    stored, written = pydicom.dcmread(io.BytesIO(content)), pydicom.dcmread(path)
    assert stored.SOPInstanceUID == written.SOPInstanceUID == path.stem
    assert walk(stored.ContentSequence) == walk(written.ContentSequence)
    assert str(stored.PatientName) == "Müllerová^Žofie"
    referred = [value for _, kind, value in walk(stored.ContentSequence) if kind == "IMAGE"]
    assert set(referred) == {str(filming.headers(one).SOPInstanceUID) for one in films.files[:2]}
    for secret in [*films.secrets, path.stem, orthanc.PASSWORD]:
        assert secret not in done.stdout + done.stderr, secret


def test_what_cannot_be_read_or_is_abstained_from_is_counted_and_stored(archive, xr_release, tmp_path):
    made = Study()
    made.add(drawn_image("PA"))
    made.add(np.zeros((96, 96), dtype=np.uint8), view="AP")
    damaged = made.add(drawn_image("LATERAL"), view="LL")
    damaged.PixelData = damaged.PixelData[:400]
    made.files[-1] = filming.encoded(damaged)
    made.add(drawn_image("AXIAL"), "MR", "")
    archive.send(made.files)
    done = call(xr_release, "--from", archive.url, "--study", made.uid, "--login-file", archive.login, "--store")
    counts = (
        "3 images: 1 answered, 1 without a prediction (abstained), 1 that cannot be read; 1 other series left alone"
    )
    assert done.stdout.splitlines() == [counts, "stored its report in the archive"], done.stderr
    [content] = archive.reports(made.uid)
    items = walk(pydicom.dcmread(io.BytesIO(content)).ContentSequence)
    assert counts in [value for _, kind, value in items if kind == "TEXT"]
    decisions = [value[0] for path, kind, value in items if path.endswith("Decision at the operating point")]
    assert sorted(decisions) in (["ABSTAINED", "AT_OR_ABOVE"], ["ABSTAINED", "BELOW"])


def test_it_says_the_same_as_of_files(archive, films, xr_release, tmp_path):
    films.write(tmp_path / "files")
    assert call(xr_release, tmp_path / "files", "--out", tmp_path / "of files").returncode == 0
    web_call = [
        "--from",
        archive.url,
        "--study",
        films.uid,
        "--login-file",
        archive.login,
        "--out",
        tmp_path / "of web",
    ]
    assert call(xr_release, *web_call).returncode == 0
    of_files, of_web = (
        pydicom.dcmread(next((tmp_path / name).iterdir())).ContentSequence for name in ("of files", "of web")
    )

    def said(items):
        new = ("/Tracking Unique Identifier", "/Tracking Identifier")  # differ from one report to the next
        return sorted(str(item) for item in walk(items) if not item[0].endswith(new))

    assert said(of_files) == said(of_web)


def test_a_compressed_image_comes_as_it_is_stored(archive, login, connect):
    made = Study()
    header = made.add(drawn_image("PA"))
    header.compress(RLELossless)
    made.files[0] = filming.encoded(header)
    archive.send(made.files)
    [listed] = connect(archive.url, login).find(made.uid)
    fetched = pydicom.dcmread(io.BytesIO(listed.load()))
    assert fetched.file_meta.TransferSyntaxUID == RLELossless
    assert fetched.PixelData == header.PixelData
    assert (fetched.pixel_array == drawn_image("PA")).all()


def test_what_the_archive_lists_has_its_modality_and_series(archive, films, login, connect):
    found = connect(archive.url, login).find(films.uid)
    named = sorted((one.modality, one.series, one.instance) for one in found)
    sent = map(filming.headers, films.files)
    assert named == sorted((h.Modality, h.SeriesInstanceUID, h.SOPInstanceUID) for h in sent)


def test_a_study_that_is_not_there(archive, login, connect):
    with pytest.raises(PacsError, match="no such study"):
        connect(archive.url, login).find("1.2.3.4.5")
    with pytest.raises(UsageError, match="is no UID"):
        connect(archive.url, login).find("Müller")


@pytest.mark.parametrize("wrong", [None, Credentials(user="hilum", password="other"), Credentials(token="abc")])
def test_a_caller_that_the_archive_does_not_know(archive, films, wrong, connect):
    with pytest.raises(PacsError, match=r"does not let this caller .* \(status 401\).* --login-file"):
        connect(archive.url, wrong).find(films.uid)


def test_an_archive_that_is_not_there(xr_release):
    begun = time.monotonic()
    done = call(xr_release, "--from", "http://127.0.0.1:9/dicom-web", "--study", "1.2.3", "--store")
    assert done.returncode == 1
    assert done.stderr.strip() == "hilum: the archive cannot be reached; check --from, and that it runs"
    assert time.monotonic() - begun < 30


def test_an_address_that_is_no_archive(archive, films, login, connect):
    with pytest.raises(PacsError, match=r"no such address \(status 404\)"):
        connect(archive.rest + "/nothing", login).find(films.uid)


def test_a_list_that_comes_in_pages_is_read_to_its_end(archive, films, login, connect):
    def one_at_a_time(call, number):
        if "/instances?" in call.path or "/series?" in call.path:
            call.path += "&limit=1"
        return False

    with orthanc.before(archive, one_at_a_time) as between:
        assert len(connect(between.url, login).find(films.uid)) == 4


def test_tls_is_verified(archive, films, login, tmp_path, connect):
    key, certificate = orthanc.certificate(tmp_path)
    with orthanc.before(archive, certificate=(key, certificate)) as between:
        with pytest.raises(PacsError, match=r"certificate is not trusted; .* --ca"):
            connect(between.url, login, patience=QUICK).find(films.uid)
        assert between.calls == []
        assert len(connect(between.url, login, ca=certificate, patience=QUICK).find(films.uid)) == 4


def test_environment_and_netrc_change_neither_trust_nor_login(archive, films, login, tmp_path, monkeypatch, connect):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login thief password thief\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    key, certificate = orthanc.certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with orthanc.before(archive, certificate=(key, certificate)) as between:
        with pytest.raises(PacsError, match="not trusted"):
            connect(between.url, login, patience=QUICK).find(films.uid)
        connect(between.url, Credentials(), ca=certificate, patience=QUICK)
        with pytest.raises(PacsError, match="401"):
            connect(between.url, Credentials(), ca=certificate, patience=QUICK).find(films.uid)
        assert "Authorization" not in between.calls[0][2]


def test_a_token_travels_as_bearer_and_the_host_with_its_port(archive, films, connect):
    with orthanc.before(archive) as between, pytest.raises(PacsError):
        connect(between.url, Credentials(token="abc.def-1"), patience=QUICK).find(films.uid)
    [(_, _, headers)] = between.calls
    assert headers["Authorization"] == "Bearer abc.def-1"
    assert f"http://{headers['Host']}/dicom-web" == between.url
