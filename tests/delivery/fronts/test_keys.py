"""The file of tokens: who is let in, what is kept of a token, which files are refused."""

import gc

import pytest

from hilum.delivery.fronts.keys import SHORTEST, Keys
from hilum.errors import UsageError

ONE, OTHER = "a" * 20, "b" * 20


def written(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_made_file_is_its_owners_alone_and_lets_its_tokens_in(tmp_path):
    path = tmp_path / "keys"
    keys = Keys.made(path)
    assert path.stat().st_mode & 0o777 == 0o600
    for use, other in (("inference", "management"), ("management", "inference")):
        assert keys.admits(f"Bearer {keys.first(use)}", use)
        assert not keys.admits(f"Bearer {keys.first(use)}", other)
    with pytest.raises(FileExistsError):
        Keys.made(path)


def test_headers_that_let_nobody_in(tmp_path):
    keys = Keys(written(tmp_path / "keys", f"inference {ONE}", f"management {OTHER}"))
    assert keys.admits(f"bearer {ONE}", "inference")  # the scheme has no case, the token has
    for said in (
        "",
        ONE,
        f"Basic {ONE}",
        "Bearer",
        "Bearer ",
        f"Bearer {ONE}x",
        f"Bearer {ONE.upper()}",
        f"Bearer {OTHER}",
    ):
        assert not keys.admits(said, "inference")


def test_no_token_stays_in_memory(tmp_path):
    keys = Keys(written(tmp_path / "keys", f"inference {ONE}-kept", f"management {OTHER}"))
    gc.collect()
    assert f"{ONE}-kept" not in repr(vars(keys))
    assert all(len(digest) == 32 for digests in keys._digests.values() for digest in digests)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ((), "has none for inference; add a line `inference TOKEN`"),
        ((f"inference {ONE}",), "has none for management"),
        ((f"inference {ONE}", f"admin {OTHER}"), "line 2 of the file of tokens is not"),
        ((f"inference {ONE}", "management short"), f"fewer than {SHORTEST} characters"),
        ((f"inference {ONE} twice", f"management {OTHER}"), "line 1"),
    ],
)
def test_files_that_are_refused(tmp_path, lines, words):
    with pytest.raises(UsageError, match=words) as raised:
        Keys(written(tmp_path / "keys", *lines))
    assert ONE not in str(raised.value)
    assert OTHER not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file or directory"):
        Keys(tmp_path / "keys")
