"""A header may say anything of a patient: what ingest keeps of it is on a list, and answers hold none of it."""

import io
import json

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import DicomDictionary
from releasing import dicom, drawn_image

from hilum.data import headers, layouts
from hilum.data.manifest import conform
from hilum.delivery.desk import Answer, Desk, Request
from hilum.delivery.fronts import wire
from hilum.delivery.fronts.asking import Call

WORDS = {"AE": 16, "LO": 64, "LT": 200, "PN": 64, "SH": 16, "ST": 200, "UC": 200, "UT": 200}  # characters
NAMED = 0x0042  # above it are measurements and pixels
# What a manifest tells of a header in its own words, as hilum.data.layouts.dicom says.
TOLD = {"InstitutionName", "Manufacturer", "ManufacturerModelName"}


def talkative() -> bytes:
    """A film whose header has a secret in every attribute of words, in private ones and in nested ones."""
    file = dcmread(io.BytesIO(dicom(drawn_image("PA"))))
    for tag, (vr, multiplicity, _, retired, keyword) in DicomDictionary.items():
        kept = not keyword or retired or tag >> 16 in (0x0000, 0x0002) or tag >> 16 > NAMED
        if kept or vr not in WORDS or not multiplicity.startswith("1") or keyword in TOLD:
            continue
        setattr(file, keyword, f"h_d{tag:08x}"[: WORDS[vr]])  # no base64 has a _
    file.PatientBirthDate, file.StudyDate, file.StudyTime = "19330405", "20200131", "120000"
    inner = Dataset()
    inner.PatientName, inner.PatientID = "h_d^nested", "h_d-nested"
    file.OtherPatientIDsSequence = file.RequestAttributesSequence = [inner]
    block = file.private_block(0x0009, "h_d maker", create=True)
    block.add_new(0x01, "LO", "h_d private")
    stream = io.BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


@pytest.fixture(scope="module")
def film():
    content = talkative()
    assert content.count(b"h_d") > 100
    return content


def test_what_ingest_reads_of_a_header_is_on_a_list(film, tmp_path):
    (tmp_path / "film.dcm").write_bytes(film)
    cohort = layouts.read("dicom", tmp_path, {})
    manifest = conform(cohort.rows, cohort.labels, cohort.covariates, cohort.attributes)
    written = manifest.to_csv() + json.dumps([cohort.caution, cohort.licence])
    for secret in ("h_d", "1933", "2020"):
        assert secret not in written
    named = [name for name in headers.TAGS if "Name" in name or "Address" in name or "Comment" in name]
    assert set(named) <= TOLD  # no name of a person


def test_an_answer_says_nothing_of_a_header(film, xr_release):
    for question in ("embeddings", "pneumonia"):
        desk = Desk.load([xr_release], question)
        [answer] = desk.answer([Request(film, neighbours=3, saliency=question != "embeddings", seen=True)])
        assert isinstance(answer, Answer)
        reply = wire.answer(desk, Call(film, {"content-type": "application/dicom"}))
        assert reply.status == 200
        said = wire.dumped(answer.body) + reply.body + repr(reply.headers).encode()
        for secret in (b"h_d", b"1933", b"20200131"):
            assert secret not in said


def test_a_refusal_says_nothing_of_a_header(film, xr_release):
    desk = Desk.load([xr_release], "pneumonia")
    random = np.random.default_rng(5)
    statuses = set()
    for _ in range(60):
        content = bytearray(film)
        for at in random.integers(132, 6000, 4):
            content[at] = int(random.integers(256))
        reply = wire.answer(desk, Call(bytes(content[: random.integers(3000, len(content))])))
        statuses.add(reply.status)
        assert b"h_d" not in reply.body + repr(reply.headers).encode()
    assert statuses - {200}
