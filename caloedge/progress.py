"""Progress of long work: a bar with the time left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 20.0


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
    said = start

    def advance(n: int) -> None:
        nonlocal done, said
        done += n
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or (done == total and said > start):  # short work is silent
            left_s = (now - start) / max(done - first, 1) * (total - done)
            print(f"{label}: {done}/{total}, {left_s:.0f} s left", file=sys.stderr, flush=True)  # noqa: T201
            said = now

    yield advance
