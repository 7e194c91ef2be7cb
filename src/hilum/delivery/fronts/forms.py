"""Multipart forms, taken apart within bounds; and text in headers."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from hilum.delivery.fronts.refusals import CallError

MAX_PARTS: Final = 128
_RIGHT: Final = "send multipart/form-data as browsers and `curl -F data=@FILE` do"


def parse(content: bytes, content_type: str) -> dict[str, list[bytes]]:
    """The parts of a form by name, in order.

    Raises:
        CallError: It is malformed, or has more than MAX_PARTS parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise CallError("bad_request", "the form's Content-Type names no boundary", _RIGHT)
    reading = _Reading()
    try:
        parser = MultipartParser(boundary, reading.callbacks(), max_size=len(content) + 1)
        parser.write(content)
        parser.finalize()
    except MultipartParseError as error:
        raise CallError("bad_request", "the form is malformed", _RIGHT) from error
    if not reading.ended:
        raise CallError("bad_request", "the form is truncated", _RIGHT)
    return reading.parts


class _Reading:
    """What the parser's callbacks gather."""

    def __init__(self) -> None:
        self.parts: dict[str, list[bytes]] = {}
        self.ended = False
        self._field = self._value = b""
        self._name = ""
        self._data: list[bytes] = []
        self._count = 0

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise CallError("too_many", f"the form has more than {MAX_PARTS} parts", "send fewer", 413)
        self._name, self._data, self._field, self._value = "", [], b"", b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._name = parse_options_header(self._value)[1].get(b"name", b"").decode("utf-8", "replace")
        self._field = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _part_end(self) -> None:
        if not self._name:
            raise CallError("bad_request", "a part of the form has no name", _RIGHT)
        self.parts.setdefault(self._name, []).append(b"".join(self._data))

    def _end(self) -> None:
        self.ended = True


@lru_cache(64)  # a handful of texts, all of cards, and each of them in every answer
def quoted(text: str) -> str:
    """Text as a header can carry it: percent-encoded UTF-8, blanks kept."""
    return quote(text, safe=" ")


def override_headers(found: Sequence[Any]) -> dict[str, str]:
    """x-override-by, -on and -reason; none where there is no override."""
    return {
        f"x-override-{part}": ",".join(quoted(getattr(one, part)) for one in found)
        for part in ("by", "on", "reason")
        if found
    }
