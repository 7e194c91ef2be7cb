"""`hilum dicom` on files: what it writes, what it counts, what it says, and what it never says."""

import subprocess
import sys

import filming
import numpy as np
import pydicom
import pytest
from filming import Study
from releasing import drawn_image

BLANK = np.full((64, 64), 7, dtype=np.uint8)


def call(*words):
    return subprocess.run(
        [sys.executable, "-m", "hilum", "dicom", *map(str, words)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def mixed(tmp_path):
    """A study as it comes: a film that is answered, a black one, a damaged one, an MRI, a CT of two slices."""
    made = Study()
    made.add(drawn_image("PA"))
    made.add(np.zeros((96, 96), dtype=np.uint8), view="AP")
    damaged = made.add(drawn_image("PA"))
    damaged.PixelData = damaged.PixelData[:400]
    made.files[-1] = filming.encoded(damaged)
    made.add(drawn_image("AXIAL"), "MR", "")
    made.add(BLANK, "CT", "", series="1.2.3.4")
    made.add(BLANK, "CT", "", series="1.2.3.4")
    made.write(tmp_path / "study")
    return made


def test_a_mixed_study_gets_one_report_and_counts_of_all(mixed, xr_release, tmp_path):
    done = call(xr_release, tmp_path / "study", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "study 1 of 1: 3 images: 1 answered, 1 without a prediction (abstained), 1 that cannot be read; "
        "2 other series left alone",
        f"wrote 1 report to {tmp_path / 'out'}",
    ]
    [path] = (tmp_path / "out").iterdir()
    written = pydicom.dcmread(path)
    assert path.name == f"{written.SOPInstanceUID}.dcm"
    assert (written.Modality, written.PatientID) == ("SR", "MRN-4711-geheim")
    [images] = [
        value for path, _, value in filming.walk(written.ContentSequence) if path.endswith("Images of the study")
    ]
    assert images == done.stdout.splitlines()[0].removeprefix("study 1 of 1: ")
    referred = [value for _, kind, value in filming.walk(written.ContentSequence) if kind == "IMAGE"]
    assert referred == [str(filming.headers(content).SOPInstanceUID) for content in mixed.files[:2]]


def test_nothing_that_names_anybody_is_said(mixed, xr_release, tmp_path):
    (tmp_path / "study" / "Meier Hans.txt").write_text("no dicom")
    done = call(xr_release, tmp_path / "study", "--out", tmp_path / "out")
    said = done.stdout + done.stderr
    assert "1 file passed over, no DICOM instance" in done.stdout
    for secret in [*mixed.secrets, "Meier", "IM0000", "geheim"]:
        assert secret not in said, secret
    uid = next((tmp_path / "out").iterdir()).stem
    assert uid not in said


def test_each_study_has_its_own_report_and_one_of_two_patients_has_none(xr_release, tmp_path):
    whole, mistaken = Study(), Study()
    whole.add(drawn_image("PA"))
    mistaken.add(drawn_image("PA"))
    mistaken.add(drawn_image("PA"), PatientID="somebody-else")
    whole.write(tmp_path / "a")
    mistaken.write(tmp_path / "b")
    done = call(xr_release, tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "study 1 of 2: 1 image: 1 answered" in done.stdout
    assert "study 2 of 2: the images of one study name more than one patient" in done.stderr
    assert "hilum: 1 study with an X-ray got no report" in done.stderr
    assert "somebody-else" not in done.stdout + done.stderr
    [path] = (tmp_path / "out").iterdir()
    assert pydicom.dcmread(path).StudyInstanceUID == whole.uid


def test_a_study_without_a_readable_film_has_no_report(xr_release, tmp_path):
    made = Study()
    header = made.add(drawn_image("PA"))
    header.Rows = 30000
    made.files[-1] = filming.encoded(header)
    made.add(drawn_image("AXIAL"), "MR", "")
    made.write(tmp_path / "study")
    done = call(xr_release, tmp_path / "study", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "1 image: 0 answered, 1 that cannot be read; 1 other series left alone" in done.stdout
    assert "1 study with an X-ray got no report" in done.stderr
    assert not (tmp_path / "out").exists()


def test_studies_without_a_film_are_left_alone(xr_release, tmp_path):
    film, slices, more = Study(), Study(), Study()
    film.add(drawn_image("PA"))
    slices.add(drawn_image("AXIAL"), "MR", "")
    more.add(BLANK, "CT", "")
    for name, made in (("a", film), ("b", slices), ("c", more)):
        made.write(tmp_path / name)
    done = call(xr_release, *(tmp_path / name for name in "abc"), "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 studies left alone, without an X-ray" in done.stdout
    assert f"wrote 1 report to {tmp_path / 'out'}" in done.stdout
    done = call(xr_release, tmp_path / "b", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "no X-ray among the files" in done.stderr


def test_a_report_that_cannot_be_written_leaves_nothing_behind(mixed, xr_release, tmp_path):
    (tmp_path / "taken").write_text("a file")
    done = call(xr_release, tmp_path / "study", "--out", tmp_path / "taken" / "out")
    assert done.returncode == 1
    assert "no report can be written to" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_release_without_a_head_says_that_a_report_needs_one(mr_release, tmp_path):
    done = call(mr_release, tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("hilum: mr-pixels answers embeddings only")
    assert "export a release with a head" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name the files of studies, or a service"),
        (["."], "name a folder with --out, or --store"),
        ([".", "--from", "https://pacs.example/dicom-web", "--study", "1.2"], "one of the two"),
        (["--from", "https://pacs.example/dicom-web"], "--from and --study go together"),
        (["--study", "1.2", ".", "--out", "x"], "--from and --study go together"),
        ([".", "--out", "x", "--store"], "belong to a service"),
        (["--from", "https://pacs.example", "--study", "1.2"], "a report has to go somewhere"),
        (["--from", "ftp://pacs.example", "--study", "1.2", "--store"], "no URL of a DICOMweb service"),
        (["--from", "https://me:pw@pacs.example", "--study", "1.2", "--store"], "names a login"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence_and_status_2(options, words, xr_release):
    done = call(xr_release, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_stays_light_without_it():
    code = (
        "import sys, hilum.cli; print({'highdicom', 'dicomweb_client', 'requests', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
