"""Damaged files of every format: an image or an ImageError, soon, in bounded memory, and no word of the patient."""

import resource
import time
import warnings

import numpy as np
import pytest
from mutating import FORMATS, SECRET, mutants, seeds

from hilum.data.images import decode, preprocess
from hilum.data.planes import decode_planes, is_nifti
from hilum.errors import ImageError
from hilum.recipe import Preprocessing

NUMBERS = Preprocessing(size=64)
VIEWS = ("AXIAL", "CORONAL", "SAGITTAL")
SECONDS = 3.0  # for one file of a few kilobytes; the largest that a header of theirs may claim takes a good second
MEBIBYTES = 700  # what the process may grow by; a decoder that leaks or believes a header takes gigabytes


def read(content: bytes) -> list[np.ndarray]:
    """The way of a request: what came, decoded and prepared."""
    if is_nifti(content):
        return [preprocess(plane.pixels, NUMBERS) for plane in decode_planes(content, VIEWS)]
    return [preprocess(decode(content).pixels, NUMBERS)]


def survives(kind: str, count: int, seed: int, capfd: pytest.CaptureFixture[str]) -> tuple[int, int]:
    """Reads that many mutants; how many were refused, and how many read."""
    for content in seeds()[kind]:
        assert read(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answered, messages = 0, []
    for number, content in enumerate(mutants(kind, count, seed)):
        start = time.perf_counter()
        try:
            images = read(content)
        except ImageError as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"mutant {number} of {kind}, seed {seed}: {type(error).__name__}: {error}") from error
        else:
            answered += 1
            for image in images:
                assert image.shape == (64, 64)
                assert image.dtype == np.uint8
        took = time.perf_counter() - start
        assert took < SECONDS, f"mutant {number} of {kind}, seed {seed}, took {took:.1f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEBIBYTES, f"{kind}: memory grew by {grown:.0f} MiB"
    assert all(messages)
    assert all(message.isprintable() for message in messages)
    said = capfd.readouterr()
    assert "ecret" not in "".join([*messages, said.out, said.err])
    return len(messages), answered


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_read_or_refused(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    refused, answered = survives(kind, 500, 0, capfd)
    # Mutants that are all refused at the door, or all harmless, would try nothing.
    assert refused > 100
    assert answered > 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("kind", FORMATS)
def test_many_damaged_files_are_read_or_refused(kind: str, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    survives(kind, 500, seed, capfd)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutants_are_the_same_for_the_same_seed_and_others_for_another(kind: str) -> None:
    first, again, other = (list(mutants(kind, 50, seed)) for seed in (3, 3, 4))
    assert first == again
    assert len(set(first) & set(other)) < 10
    assert len(set(first) | set(seeds()[kind])) > 40


def test_seeds_hold_what_no_message_may() -> None:
    assert all(SECRET in content for content in seeds()["dicom"])


def test_decoders_warn_nobody() -> None:
    """A warning on stderr quotes the file; so there must be none, whatever the filters are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in FORMATS:
            for content in mutants(kind, 60, 99):
                try:
                    read(content)
                except ImageError:
                    continue
    assert not [str(one.message)[:80] for one in caught]
