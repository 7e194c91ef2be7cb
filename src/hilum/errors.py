"""What can go wrong, as one tree; every message is one sentence: what is wrong, and what would be right.

HilumError
|-- UsageError      the call asks for what cannot be (exit status 2)
|-- CheckFailed     a check was made and did not hold: validation, gate, parity (exit status 1)
|-- SourceError     a source folder is not laid out as its layout says
|-- DatasetError    a dataset folder is not whole, or not what the step needs
|-- ImageError      an image cannot be read, or is read and refused
|-- TrainingError   training cannot start, go on or be resumed
`-- ReleaseError    a release is incomplete, corrupt or does not answer what was asked
"""

from typing import Literal


class HilumError(Exception):
    """Base of every error that hilum raises on purpose."""

    exit_status = 1


class UsageError(HilumError):
    """The call asks for something that cannot be; the message says what can."""

    exit_status = 2


class CheckFailed(HilumError):
    """A check was made and did not hold."""


class SourceError(HilumError):
    """A source folder or table is not as its layout is published."""


class DatasetError(HilumError):
    """A dataset folder is not whole, or lacks what a step needs."""


ImageFault = Literal["empty", "unsupported", "corrupt", "too_large", "refused"]


class ImageError(HilumError):
    """An image cannot be read, or is read and refused.

    Attributes:
        fault: `empty` (no bytes), `unsupported` (not a format hilum reads), `corrupt` (a known format, damaged),
            `too_large` (more pixels than the limit), `refused` (readable, but not what was asked for).
    """

    def __init__(self, message: str, fault: ImageFault) -> None:
        super().__init__(message)
        self.fault: ImageFault = fault


class TrainingError(HilumError):
    """Training cannot start, go on or be resumed."""


class ReleaseError(HilumError):
    """A release is incomplete, corrupt, or does not answer what was asked."""
