"""Progress bars that reach the person, also from a step that the pipeline runs in a process of its own.

KFP's local runner reads a step's output line by line, which would turn each redraw of a bar into a line of the log.
The runner therefore names its terminal in `HILUM_PROGRESS`, and the bars of every step are drawn there. Where there is
no terminal (a cluster, CI), a bar is a line now and then.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

TERMINAL = "HILUM_PROGRESS"  # environment variable: path of the terminal on which bars are drawn
COLUMNS, ROWS = 80, 24  # of a terminal that does not say how large it is
SECONDS_BETWEEN_LINES = 10.0  # where bars are lines of a log


@contextmanager
def bar(
    what: str, total: int | None = None, unit: str = "it", initial: int = 0, silent: bool = False
) -> Iterator["tqdm[Any]"]:
    """A progress bar to be advanced by hand with `update`, closed at the end of the block.

    Args:
        what: What is being done, in a word or two.
        total: How many units there are; unknown if None.
        unit: The name of one unit.
        initial: How many units a resumed run had done before.
        silent: Draw nothing; for the workers of a run that are not the first.
    """
    with (
        _stream() as (stream, live),
        tqdm(
            desc=what,
            total=total,
            unit=unit,
            initial=initial,
            file=stream,
            **_shape(stream, live),
            mininterval=0.1 if live else SECONDS_BETWEEN_LINES,
            smoothing=0.1,
            disable=silent,
        ) as shown,
    ):
        yield shown


def track(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate over `items` under a progress bar."""
    with bar(what, total if total is not None else _length(items), unit) as shown:
        for item in items:
            yield item
            shown.update()


def _length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None


def _shape(stream: TextIO, live: bool) -> dict[str, Any]:
    """How tqdm is to learn the terminal's size; on one that says 0 x 0, as recorders do, it would draw nothing."""
    try:
        known = all(os.get_terminal_size(stream.fileno()))
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": live} if known or not live else {"ncols": COLUMNS, "nrows": ROWS}


@contextmanager
def _stream() -> Iterator[tuple[TextIO, bool]]:
    terminal = _terminal()
    if terminal is None:
        yield sys.stderr, sys.stderr.isatty()
        return
    with terminal:
        yield terminal, True


def _terminal() -> TextIO | None:
    named = os.environ.get(TERMINAL)
    if not named:
        return None
    try:
        return open(named, "w", encoding="utf-8")
    except OSError:
        return None  # the terminal has gone; a step is not lost for that
