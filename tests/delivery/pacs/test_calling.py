"""How an archive may be called: addresses, credentials, certificates."""

import pytest

from hilum.delivery.pacs import calling
from hilum.delivery.pacs.calling import Credentials
from hilum.errors import UsageError


@pytest.mark.parametrize(
    ("url", "secret", "words"),
    [
        ("pacs.example/dicom-web", False, "no URL"),
        ("https://", False, "no URL"),
        ("https://pacs.example:99999/", False, "no URL"),
        ("https://pacs.example/dicom-web?x=1", False, "no URL"),
        ("https://me@pacs.example/", False, "names a login"),
        ("http://pacs.example/dicom-web", True, "not sent in the clear"),
        ("http://10.1.2.3/dicom-web", True, "not sent in the clear"),
    ],
)
def test_addresses_that_are_refused(url, secret, words):
    with pytest.raises(UsageError, match=words) as raised:
        calling.address(url, secret)
    assert "example" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://pacs.example/dicom-web", True),
        ("http://127.0.0.1:8042/dicom-web/", True),
        ("http://[::1]:8042/dicom-web", True),
        ("http://localhost:8042/dicom-web", True),
        ("http://pacs.example/dicom-web", False),
    ],
)
def test_addresses_that_are_taken_without_their_last_slash(url, secret):
    assert calling.address(url, secret) == url.rstrip("/")


def test_credentials_come_from_a_file_of_one_line(tmp_path):
    path = tmp_path / "file"
    path.write_text("abc.DEF_1~+/=\n")
    token = Credentials.read(path, None)
    assert (token.token, token.user) == ("abc.DEF_1~+/=", "")
    path.write_text("me:pass:wörd with blanks\n", encoding="utf-8")
    login = Credentials.read(None, path)
    assert (login.user, login.password) == ("me", "pass:wörd with blanks")
    assert "wörd" not in repr(login)
    assert "wörd" not in str(login)
    assert bool(login)
    assert not Credentials.read(None, None)


@pytest.mark.parametrize(
    ("use", "content", "words"),
    [
        ("token", b"", "has to have one line; this one has 0"),
        ("token", b"a\nb\n", "this one has 2"),
        ("token", b"Bearer abc", "holds something else"),
        ("token", "tökén".encode(), "holds something else"),
        ("token", b"\xff\xfe", "cannot be read as text"),
        ("login", b"nobody", "user:password"),
        ("login", b":password", "user:password"),
    ],
)
def test_files_of_credentials_that_hold_something_else(tmp_path, use, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words) as raised:
        Credentials.read(**{"token": None, "login": None, use: path})
    assert "abc" not in str(raised.value)
    assert "nobody" not in str(raised.value)


def test_both_kinds_of_credentials_are_one_too_many(tmp_path):
    with pytest.raises(UsageError, match="not both"):
        Credentials.read(tmp_path / "a", tmp_path / "b")


def test_a_file_without_certificates_is_named_as_such(tmp_path):
    (tmp_path / "ca.pem").write_text("hello")
    with pytest.raises(UsageError, match="holds no certificates"):
        calling.certificates(tmp_path / "ca.pem")
    with pytest.raises(UsageError, match="holds no certificates"):
        calling.certificates(tmp_path / "nothing.pem")
