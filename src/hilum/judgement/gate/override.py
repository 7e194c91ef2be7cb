"""An override: somebody releases what the gate did not pass, by name and with a reason that travels with the release.

It needs pydantic alone: servers read it, and have no more.
"""

from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from hilum.errors import UsageError

LONGEST: Final = {"by": 100, "reason": 500}  # characters: both stand in every answer of the server


class Override(BaseModel):
    """Who released it all the same, when, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    reason: str
    on: str  # the day, in UTC, as YYYY-MM-DD

    @classmethod
    def of(cls, by: str, reason: str) -> "Override | None":
        """An override of today; None where neither is given.

        Args:
            by: The name of whoever answers for it.
            reason: Why it is released although the gate did not pass it.

        Raises:
            UsageError: One is given without the other, or is too long to travel in every answer.
        """
        told = {"by": " ".join(by.split()), "reason": " ".join(reason.split())}
        if not any(told.values()):
            return None
        if not all(told.values()):
            missing = "a reason" if told["by"] else "a name"
            raise UsageError(f"an override needs the name of who answers for it and a reason; {missing} is missing")
        for part, longest in LONGEST.items():
            if len(told[part]) > longest or not told[part].isprintable():
                raise UsageError(
                    f"the {'name' if part == 'by' else 'reason'} of an override is printable text of at most "
                    f"{longest} characters, since it stands in every answer; this one has {len(told[part])}"
                )
        return cls(**told, on=datetime.now(UTC).date().isoformat())

    def __str__(self) -> str:
        return f"released under an override by {self.by} on {self.on}: {self.reason}"
