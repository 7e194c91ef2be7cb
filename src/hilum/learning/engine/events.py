"""TensorBoard event files, written where and when the run writes its metrics.

tensorboardX knows the messages and their checksums; its own writer puts the host's name into the file's name, and
hangs when the disk is full, because the thread that writes has died and nobody reads its queue.
"""

import time
from pathlib import Path
from typing import Final

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

VERSION: Final = "brain.Event:2"


class Events:
    """One session of a run: a resumed run begins another file, which makes void what the former wrote too far."""

    def __init__(self, folder: Path, first: int) -> None:
        """Begin a file.

        Args:
            folder: Where event files lie; made where it does not exist.
            first: The first step that will be written; events of it and later ones in other files no longer count.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._records = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns():019d}"))
        self._write(Event(wall_time=time.time(), file_version=VERSION))
        self._write(Event(wall_time=time.time(), step=first, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write the figures of a step."""
        told = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=told)))

    def flush(self) -> None:
        """Let what has been written reach the file."""
        self._records.flush()

    def close(self) -> None:
        """Flush and close."""
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
