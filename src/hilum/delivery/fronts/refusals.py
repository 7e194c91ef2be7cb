"""Calls that are refused: their words, their status, and what would be right."""

from collections.abc import Mapping
from typing import Final

from hilum.errors import HilumError, ImageFault

STATUS: Final[dict[ImageFault, int]] = {
    "empty": 400,
    "too_large": 413,
    "unsupported": 415,
    "corrupt": 422,
    "refused": 422,
}
CODES: Final = frozenset(  # every code there is: programs read them, and GET /openapi.json lists them
    (
        *STATUS,
        *("bad_request", "fault", "gone", "method", "not_acceptable", "not_ready", "not_reloaded", "overloaded"),
        *("stopping", "timeout", "too_many", "unauthorized", "unknown_model", "unknown_path", "worker_ended"),
    )
)
_RIGHT: Final[dict[ImageFault, str]] = {
    "empty": "send the bytes of one PNG, JPEG, DICOM or NIfTI file as the body, or as the field `data` of a form",
    "too_large": "send the image at the size at which it was taken, not enlarged",
    "unsupported": "send the bytes of one PNG, JPEG, DICOM or NIfTI file",
    "corrupt": "send the whole file, unchanged",
    "refused": "send a single image of a kind that the model was trained on",
}


def right_of(fault: ImageFault) -> str:
    """What would be right instead of an image with this fault."""
    return _RIGHT[fault]


class CallError(HilumError):
    """A call, not an image, is refused.

    Attributes:
        code: One word for programs, of CODES.
        status: Of HTTP.
        message: What is wrong.
        right: What would be right.
        headers: That go with it (`retry-after`, `www-authenticate`, `allow`).
    """

    def __init__(
        self, code: str, message: str, right: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        assert code in CODES, f"{code} is not among the codes that are documented"
        super().__init__(f"{message}; {right}")
        self.code, self.status, self.message, self.right = code, status, message, right
        self.headers: Mapping[str, str] = headers or {}
