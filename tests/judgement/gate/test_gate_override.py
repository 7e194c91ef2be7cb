"""An override: a name and a reason, both or neither."""

import re
from datetime import UTC, datetime

import pytest

from hilum.errors import UsageError
from hilum.judgement.gate.override import Override


def test_name_and_reason_and_day_are_kept_on_one_line():
    found = Override.of("  Dr   Example ", "a phantom,\nno patient\tis concerned")
    assert (found.by, found.reason) == ("Dr Example", "a phantom, no patient is concerned")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found.on)
    assert abs((datetime.now(UTC).date() - datetime.fromisoformat(found.on).date()).days) <= 1
    assert str(found) == f"released under an override by Dr Example on {found.on}: a phantom, no patient is concerned"


def test_neither_is_none():
    assert Override.of("", " \n ") is None


@pytest.mark.parametrize(("by", "reason", "missing"), [("Dr Example", "", "a reason"), (" ", "because", "a name")])
def test_half_of_one_is_refused(by, reason, missing):
    with pytest.raises(UsageError, match=f"needs the name of who answers for it and a reason; {missing} is missing"):
        Override.of(by, reason)


@pytest.mark.parametrize(("by", "reason"), [("x" * 101, "r"), ("x", "r" * 501), ("x\x00y", "r"), ("x", "a\x1b[31m")])
def test_what_cannot_travel_in_an_answer_is_refused(by, reason):
    with pytest.raises(UsageError, match="printable text of at most"):
        Override.of(by, reason)


def test_it_is_read_without_pandas():
    import subprocess
    import sys

    code = "import sys, hilum.judgement.gate.override; print({'pandas', 'numpy', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
