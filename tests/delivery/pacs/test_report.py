"""The structured report, item by item, against the answers that it reports; and against other people's readers."""

import io
import shutil
import subprocess

import filming
import highdicom
import pydicom
import pytest
import releasing
from filming import PATIENT, Study, walk
from releasing import dicom, drawn_image, photograph

from hilum.delivery.desk import Desk, Request
from hilum.delivery.pacs import codes, report, study
from hilum.delivery.pacs.reporting import Reporter
from hilum.delivery.predictor import Release

GROUP = "/Imaging Measurements/Measurement Group"
WHOLE = "/Qualitative Evaluations"


@pytest.fixture(scope="module")
def frontal(xr_release):
    """The release, as if it had been trained on frontal films only."""
    release = Release.open(xr_release)
    return Release(release.path, release.card.model_copy(update={"views": ("PA", "AP")}), release.dossier_id)


@pytest.fixture(scope="module")
def films():
    """One film that is answered, a lateral one, a photograph, one of two frames."""
    made = Study()
    made.add(drawn_image("PA"))
    made.add(drawn_image("LATERAL"), view="LL")
    made.add(photograph(), view="")
    header = made.add(drawn_image("PA"))
    header.NumberOfFrames, header.PixelData = 2, 2 * drawn_image("PA").tobytes()
    made.files[-1] = filming.encoded(header)
    return made


def reported(release, made):
    members = [
        study.Listed("DX", "1", str(number), lambda content=content: content)
        for number, content in enumerate(made.files)
    ]
    return Reporter(release).report(study.choose(members, "XR"))


@pytest.fixture(scope="module")
def document(frontal, films):
    found = reported(frontal, films)
    assert str(found.tally) == "4 images: 1 answered, 2 without a prediction (abstained), 1 refused"
    return pydicom.dcmread(io.BytesIO(report.encode(found.document)))


def groups(document):
    """The content items of each measurement group: [(path below the group, type, value)]."""
    [container] = [
        item
        for item in document.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    ]
    return [walk(group.ContentSequence) for group in container.ContentSequence]


def one(items, path, kind=None):
    [value] = [value for found, of, value in items if found == path and kind in (None, of)]
    return value


def test_every_number_of_the_answer_stands_in_the_report(document, frontal, films):
    body = Desk([frontal], "pneumonia").answer([Request(films.files[0])])[0].body
    items = groups(document)[0]
    numbers = {path: value for path, kind, value in items if kind == "NUM"}
    point = body["operating_point"]
    expected = {
        f"/{codes.PROBABILITY.meaning}": body["probability"],
        f"/{codes.OBSERVED.meaning}": body["interval"]["observed"],
        f"/{codes.OBSERVED.meaning}/{codes.LOWER.meaning}": body["interval"]["low"],
        f"/{codes.OBSERVED.meaning}/{codes.UPPER.meaning}": body["interval"]["high"],
        f"/{codes.OBSERVED.meaning}/{codes.COUNT.meaning}": body["interval"]["n"],
        f"/{codes.SCORE.meaning}": body["out_of_distribution"]["score"],
        f"/{codes.LIMIT.meaning}": body["out_of_distribution"]["limit"],
        f"/{codes.THRESHOLD.meaning}": body["threshold"],
    }
    for name, measured in ((codes.SENSITIVITY, point["sensitivity"]), (codes.SPECIFICITY, point["specificity"])):
        expected |= {
            f"/{name.meaning}": measured["value"],
            f"/{name.meaning}/{codes.LOWER.meaning}": measured["low"],
            f"/{name.meaning}/{codes.UPPER.meaning}": measured["high"],
            f"/{name.meaning}/{codes.COUNT.meaning}": measured["n"],
        }
    assert numbers == pytest.approx(expected, rel=1e-12)
    reached = body["probability"] >= body["threshold"]
    assert one(items, f"/{codes.DECISION.meaning}") == ("AT_OR_ABOVE" if reached else "BELOW", "99HILUM")
    assert one(items, f"/{codes.QUESTION.meaning}") == ("233604007", "SCT")
    assert one(items, f"/{codes.MEANING.meaning}") == body["meaning"]
    assert one(items, "/CAD Operating Point Description") == point["rule"]


def test_who_answered_stands_in_every_group(document, frontal):
    for items in groups(document):
        assert one(items, "/Algorithm Name") == frontal.card.name
        assert one(items, "/Algorithm Version") == frontal.card.version
        parameters = [value for path, _, value in items if path == "/Algorithm Parameters"]
        assert parameters == [
            f"dossier: {frontal.short_id}",
            "engine: onnxruntime-fp32 (float32)",
            "label: pneumonia",
        ]


def test_each_group_refers_to_its_image_and_the_evidence_to_all(document, films):
    asked = [str(filming.headers(content).SOPInstanceUID) for content in films.files]
    assert [one(items, "/Source of Measurement", "IMAGE") for items in groups(document)] == asked
    [of_study] = document.CurrentRequestedProcedureEvidenceSequence
    assert of_study.StudyInstanceUID == films.uid
    named = {
        (str(series.SeriesInstanceUID), str(image.ReferencedSOPInstanceUID), str(image.ReferencedSOPClassUID))
        for series in of_study.ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    }
    sent = map(filming.headers, films.files)
    assert named == {(str(h.SeriesInstanceUID), str(h.SOPInstanceUID), str(h.SOPClassUID)) for h in sent}


def test_no_prediction_has_a_reason_and_no_probability(document):
    _, lateral, strange, frames = groups(document)
    for items, decision, reason, words in (
        (lateral, "ABSTAINED", "WRONG_VIEW", "LATERAL view"),
        (strange, "ABSTAINED", "UNLIKE", "does not look like"),
        (frames, "REFUSED", "NOT_ANSWERED", "2 frames"),
    ):
        assert one(items, f"/{codes.DECISION.meaning}") == (decision, "99HILUM")
        assert one(items, f"/{codes.REASON.meaning}") == (reason, "99HILUM")
        assert words in one(items, f"/{codes.WORDS.meaning}")
        paths = {path for path, _, _ in items}
        assert not paths & {f"/{codes.PROBABILITY.meaning}", f"/{codes.OBSERVED.meaning}"}
    assert f"/{codes.SENSITIVITY.meaning}" in {path for path, _, _ in lateral}
    assert not [path for path, kind, _ in frames if kind == "NUM"]


def test_no_image_is_said_to_show_the_finding(document):
    concepts = [
        (item.ConceptNameCodeSequence[0].CodeValue, item.ConceptNameCodeSequence[0].CodingSchemeDesignator)
        for element in document.iterall()
        if element.keyword == "ContentSequence"
        for item in element.value
        if "ConceptNameCodeSequence" in item
    ]
    assert ("QUESTION", "99HILUM") in concepts
    assert ("121071", "DCM") not in concepts


def test_the_whole_says_what_it_is_for_and_what_became_of_the_images(document, frontal):
    items = walk(document.ContentSequence)
    assert "Not for clinical use" in one(items, f"{WHOLE}/{codes.INTENDED_USE.meaning}")
    assert one(items, f"{WHOLE}/{codes.GATE.meaning}") == "pass"
    assert one(items, f"{WHOLE}/{codes.CAUTION.meaning}") == "made by a test"
    assert one(items, f"{WHOLE}/{codes.IMAGES.meaning}").startswith("4 images: 1 answered")
    assert one(items, "/Procedure reported") == ("168537006", "SCT")
    assert one(items, "/Observer Type") == ("121007", "DCM")
    assert document.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert document.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_it_belongs_to_the_patient_and_is_preliminary_and_unverified(document, films):
    for name, value in PATIENT.items():
        assert str(document[name].value) == value, name
    assert document.StudyInstanceUID == films.uid
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.PreliminaryFlag == "PRELIMINARY"
    assert "not for clinical use" in document.SeriesDescription
    uids = {str(filming.headers(content)[name].value) for content in films.files for name in study.UIDS}
    assert not {str(document.SOPInstanceUID), str(document.SeriesInstanceUID)} & uids


def test_the_device_of_a_release_is_always_the_same_and_the_report_never(document, frontal, films):
    again = reported(frontal, films).document
    assert again.SOPInstanceUID != document.SOPInstanceUID
    assert again.SeriesInstanceUID != document.SeriesInstanceUID
    device = "/Device Observer UID"
    assert one(walk(again.ContentSequence), device) == one(walk(document.ContentSequence), device)
    assert again.DeviceSerialNumber == frontal.short_id


def test_private_codes_are_declared_and_short_enough(document):
    [declared] = document.CodingSchemeIdentificationSequence
    assert declared.CodingSchemeDesignator == codes.SCHEME
    own = [value for value in vars(codes).values() if getattr(value, "scheme_designator", "") == codes.SCHEME]
    own += [*codes.DECISIONS.values(), *codes.REASONS.values()]
    assert len({one.value for one in own}) == len(own)
    for code in own:
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64


def test_a_label_without_a_code_has_hilum_s_own():
    assert codes.finding("enlarged_cardiomediastinum").meaning == "enlarged cardiomediastinum"
    assert codes.finding("enlarged_cardiomediastinum").scheme_designator == codes.SCHEME


def test_highdicom_reads_it_back(document, films):
    read = highdicom.sr.srread(io.BytesIO(report.encode(document)))
    found = read.content.get_image_measurement_groups()
    assert len(found) == 4
    [probability] = found[0].get_measurements(name=codes.PROBABILITY)
    assert probability.unit == codes.ONE
    assert len(read.get_evidence()) == len(films.files)


@pytest.mark.parametrize("tool", ["dciodvfy", "dsrdump"])
def test_other_readers_find_no_fault_in_it(tool, document, tmp_path):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: apt-get install dicom3tools dcmtk")
    path = tmp_path / "report.dcm"
    path.write_bytes(report.encode(document))
    done = subprocess.run([tool, str(path)], capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert "ComprehensiveSR" in said.replace(" ", "")
    assert not [line for line in said.splitlines() if line.startswith(("Error", "E:", "F:"))]
    strange = [line for line in said.splitlines() if line.startswith(("Warning", "W:"))]
    known = (
        "Unrecognized defined term <99HILUM>",
        "Character Set: ISO_IR 192",
    )  # ours, and one that dcmtk cannot check
    assert [line for line in strange if not any(words in line for words in known)] == []


def test_an_override_stands_in_the_report(base, films):
    release = Release.open(releasing.overridden(base))
    made = Study(files=films.files[:1])
    items = walk(reported(release, made).document.ContentSequence)
    said = one(items, f"{WHOLE}/{codes.GATE.meaning}")
    assert said.startswith("fail; released under an override by Dr Example on ")
    assert said.endswith("100% gezeichnet – für den Betrieb")


def test_a_mitigation_and_an_unmeasured_sensitivity_are_told(xr_release):
    body = Desk([Release.open(xr_release)], "pneumonia").answer([Request(dicom(drawn_image("PA")))])[0].body
    unknown = {"value": None, "low": None, "high": None, "n": 3, "note": ""}
    body["operating_point"] = body["operating_point"] | {"sensitivity": unknown}
    body["interval"] = None
    made = Study()
    header = study.kept(made.add(drawn_image("PA")))
    author = report.Author("x", "1", "XR", "pneumonia", "ab" * 32, "e", "pass", "group thresholds by sex", "use", "")
    document = report.make([report.Answered(header, body)], author, "1 image")
    [items] = groups(document)
    assert "mitigation: group thresholds by sex" in [value for path, _, value in items if "Parameters" in path]
    paths = {path for path, _, _ in items}
    assert f"/{codes.SPECIFICITY.meaning}" in paths
    assert not paths & {f"/{codes.SENSITIVITY.meaning}", f"/{codes.OBSERVED.meaning}"}
    assert f"{WHOLE}/{codes.CAUTION.meaning}" not in {path for path, _, _ in walk(document.ContentSequence)}
