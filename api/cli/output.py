"""What commands show: text and tables on standard output, progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STEP: Final = 2_000
"""Events between two looks at a progress bar: for each would cost more than reading does."""

WIDTH: Final = 160
"""Columns of a table that goes to a file or a pipe, where nobody can widen the window."""

Advance = Callable[[int], None]
"""Told by how many events the work has advanced."""


def console() -> Console:
    """Return standard output for people: colours and the window's width on a terminal only."""
    from rich.console import Console

    return Console(
        highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH, soft_wrap=False
    )


def table(title: str | None, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in `numbers` are aligned to the right."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def print_json(document: Any) -> None:
    """Print one JSON document; ids, instants and structs in the form of the HTTP API."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    sys.stdout.buffer.flush()


@contextmanager
def progress(what: str, total: int | None, unit: str = "events") -> Iterator[Advance]:
    """Show a bar with the rate and the time left, on a terminal; elsewhere show nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, Left())
    started = time.monotonic()
    with Progress(
        *columns, console=Console(stderr=True), transient=True, refresh_per_second=4
    ) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(count: int) -> None:
            bar.advance(task, count)
            done = bar.tasks[0].completed
            per_s = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, rate=f"{per_s:,.0f} {unit}/s")

        yield advance


def counted(advance: Advance) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a cheap function to call for every single event, and one to call at the end."""
    waiting = 0

    def one() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == STEP:
            rest()

    def rest() -> None:
        nonlocal waiting
        advance(waiting)
        waiting = 0

    return one, rest
