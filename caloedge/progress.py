"""Progress of long work: a bar with the time left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

FIRST_LINE_S, SECONDS_BETWEEN_LINES = 3.0, 20.0


def announce(line: str) -> None:
    """Say on standard error what will be done before it begins."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def about(seconds: float) -> str:
    """Return a duration as one would say it.

    >>> [about(value) for value in (0.2, 44, 85, 150, 2700, 5000, 17_800, 400_000)]
    ['1 s', '44 s', '85 s', '2 min', '45 min', '83 min', '5 h', '111 h']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{round(seconds / 3600)} h"


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more units are finished; everything goes to standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
            task = bars.add_task(label, total=total, completed=done)
            yield lambda n: bars.advance(task, n)
        return
    first, start = done, time.monotonic()
    said = start - SECONDS_BETWEEN_LINES + FIRST_LINE_S  # soon, so that one knows how long it will take

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or (done == total and said > start):  # short work is silent
            left_s = (now - start) / max(done - first, 1) * (total - done)
            print(f"{label}: {done}/{total}, {about(left_s)} left", file=sys.stderr, flush=True)  # noqa: T201
            said = now

    yield advance
