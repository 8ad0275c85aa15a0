"""`tidebook project`: keep the projections up with the books, or rebuild them."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.longwork import in_threads, running, this_process
from api.cli.options import AsJson, Books, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from ledger.datastore import Datastore
    from projections.line import Line
    from projections.projection import Projection
    from projections.runner import Runner

_log = logging.getLogger("tidebook.projections")


def project(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Projections; without a name, all of them."),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Rebuild from position 0, swap in, and end.")
    ] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Catch up with the book as it is now, and end.")
    ] = False,
    lag: Annotated[
        bool, typer.Option("--lag", help="Tell how far the projections are behind now, and end.")
    ] = False,
    book: Books = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Keep the projections up with the books until stopped, or rebuild them.

    Any number of these may run: a lease lets one write each projection of a book. While a rebuild
    runs, everybody reads the old rows.

    Examples:
    * `tidebook project`
    * `tidebook project --once`
    * `tidebook project --rebuild wallets --json`
    * `tidebook project --lag`
    """
    if rebuild and (once or book):
        raise Trouble("--rebuild: a rebuild is of all books and ends by itself")
    if lag and (once or rebuild):
        raise Trouble("--lag: it only looks, so --once and --rebuild cannot be given")
    if as_json and not (rebuild or once or lag):
        raise Trouble("--json: only --rebuild, --once and --lag end with something to tell")
    chosen = _projections(names or [])
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        if rebuild:
            return _rebuild(datastore, chosen, as_json)
        if once:
            return _catch_up(datastore, chosen, stores.chosen_books(datastore, book), as_json)
        if lag:
            return _tell_lag(datastore, chosen, stores.chosen_books(datastore, book), as_json)
        with running(settings) as stop:
            _keep_up(datastore, chosen, book or list(settings.books), stop)
    return 0


def _projections(names: list[str]) -> list[Projection]:
    from projections.registry import PROJECTIONS

    known = {one.name: one for one in PROJECTIONS}
    for name in names:
        if name not in known:
            raise Trouble(f"NAME: there is no projection {name!r}, but {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)] if names else list(PROJECTIONS)


def _rebuild(datastore: Datastore, chosen: list[Projection], as_json: bool) -> int:
    reports = [rebuild_one(datastore, one) for one in chosen]
    if as_json:
        output.print_json(reports)
        return 0
    rows = output.table(
        None,
        "projection",
        "events",
        "seconds",
        "events/s",
        numbers=("events", "seconds", "events/s"),
    )
    for report in reports:
        rows.add_row(
            report.projection,
            f"{report.events:,}",
            f"{report.seconds:,.1f}",
            f"{report.events_per_s:,.0f}",
        )
    output.console().print(rows)
    return 0


def rebuild_one(datastore: Datastore, projection: Projection) -> Any:
    """Rebuild a projection with a bar; return the report."""
    from projections.rebuild import rebuild as rebuild_projection

    with output.progress(f"{projection.name}: rebuild", None) as advance:
        done = 0

        def on_progress(_phase: str, events: int, _total: int) -> None:
            nonlocal done
            advance(events - done)
            done = events

        return rebuild_projection(datastore, projection, on_progress)


def runner_of(
    datastore: Datastore, projection: Projection, book: str, line: Line | None = None
) -> Runner:
    """Return this process's runner of a projection of a book."""
    from projections.runner import Runner

    holder = this_process()
    return Runner(datastore, projection, book, holder, line=line)


def _catch_up(
    datastore: Datastore, chosen: list[Projection], books: list[str], as_json: bool
) -> int:
    """Bring projections to where the books are now, or wait while somebody else does."""
    from campaigns.event_types import MAPPER
    from ledger.history import History
    from projections.tracking import position

    document = []
    for book in books:
        head = History(datastore, book, MAPPER).head()
        for projection in chosen:
            with datastore.transaction() as cursor:
                before = position(cursor, projection, book)
            with output.progress(f"{book}: {projection.name}", head - before) as advance:
                after = _run_to(runner_of(datastore, projection, book), datastore, head, advance)
            document.append(
                {
                    "book": book,
                    "projection": projection.name,
                    "position": after,
                    "events": after - before,
                }
            )
    if as_json:
        output.print_json(document)
    else:
        for row in document:
            print(f"{row['book']}: {row['projection']} at position {row['position']:,}")
    return 0


def _tell_lag(
    datastore: Datastore, chosen: list[Projection], books: list[str], as_json: bool
) -> int:
    from projections.lag import lags

    with datastore.transaction() as cursor:
        found = lags(cursor, books, chosen)
    if as_json:
        output.print_json([{**lag._asdict(), "seconds": round(lag.seconds, 3)} for lag in found])
        return 0
    for lag in found:
        if lag.events:
            behind = f"{lag.events:,} events behind, the first {lag.seconds:,.1f} s old"
        else:
            behind = "shows all events"
        print(f"{lag.book}: {lag.projection} at position {lag.position:,}, {behind}")
    return 0


def _run_to(runner: Runner, datastore: Datastore, head: int, advance: output.Advance) -> int:
    from projections.lease import LeaseHeld
    from projections.tracking import position, wait_for

    while True:
        try:
            advance(runner.run_once())
        except LeaseHeld:
            wait_for(datastore, runner.projection, runner.book, head, 1.0)
        with datastore.transaction() as cursor:
            at = position(cursor, runner.projection, runner.book)
            if at >= head:
                if runner.lease.epoch is not None:
                    runner.lease.release(cursor)
                return at


def _keep_up(
    datastore: Datastore, chosen: list[Projection], books: list[str], stop: threading.Event
) -> None:
    from projections.line import Line
    from projections.runner import Following

    work = []
    for book in books:
        line = Line(datastore)
        runners = [runner_of(datastore, projection, book, line) for projection in chosen]
        following = Following(runners, on_trouble=_log_trouble)
        work.append((f"the projections of {book}", lambda one=following: one.run(stop)))
    in_threads(work, stop)


def _log_trouble(runner: Runner, trouble: Exception) -> None:
    """One projection that stops does not hold up the others."""
    _log.error(
        "%s of %s stopped; it is tried again", runner.projection.name, runner.book, exc_info=trouble
    )
