"""`tidebook sweep`: record the expiry of coupons whose validity has ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from api.cli import output, stores
from api.cli.longwork import in_threads, running
from api.cli.options import EXAMPLE_INSTANT, AsJson, Books, Home, parse_instant
from api.cli.projecting import runner_of
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.settings import Settings
    from api.sweeper import Sweeper
    from ledger.datastore import Datastore


def sweep(
    once: Annotated[bool, typer.Option("--once", help="Expire what is due now, and end.")] = False,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help=f"The instant to sweep at ({EXAMPLE_INSTANT}), in a ledger of simulated time"
            " only; ends after one sweep. Without it such a ledger is swept at the instant of its"
            " last event.",
            show_default=False,
        ),
    ] = None,
    book: Books = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Record the expiry of coupons whose validity has ended, until stopped.

    Every coupon is judged again by the book's writer, so any number of sweepers may run.

    Examples:
    * `tidebook sweep`
    * `tidebook sweep --once --json`
    """
    if as_json and not (once or at):
        raise Trouble("--json: only --once and --at end with something to tell")
    instant = None if at is None else parse_instant(at, "--at")
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore, ExitStack() as stack:
        simulated = _is_simulated(datastore, settings)
        if instant is not None and not simulated:
            raise Trouble("--at: this ledger's time is the database's, nobody can choose it")
        finite = once or instant is not None
        books = stores.chosen_books(datastore, book) if finite else book or list(settings.books)
        sweepers = [stack.enter_context(_sweeper(datastore, one, simulated)) for one in books]
        if finite:
            return _sweep_once(datastore, sweepers, instant, as_json)
        with running(settings) as stop:
            in_threads([(one.book, lambda one=one: one.run(stop)) for one in sweepers], stop)
    return 0


def _is_simulated(datastore: Datastore, settings: Settings) -> bool:
    """Whether the ledger's time comes with the requests: as it was begun, else as it is set."""
    with datastore.transaction() as cursor:
        cursor.execute("SELECT value FROM installation WHERE name = 'clock'")
        row = cursor.fetchone()
    return (row[0] if row else settings.clock) == "request"


@contextmanager
def _sweeper(datastore: Datastore, book: str, simulated: bool) -> Iterator[Sweeper]:
    from api.sweeper import Sweeper
    from campaigns.accounting import check_postings
    from campaigns.event_types import MAPPER
    from ledger.commit import GroupCommit

    writer = GroupCommit(datastore, book, MAPPER, check=check_postings).start()
    try:
        yield Sweeper(datastore, writer, by_the_book=simulated)
    finally:
        writer.close()


def _sweep_once(
    datastore: Datastore, sweepers: list[Sweeper], at: datetime | None, as_json: bool
) -> int:
    """Sweep once, keeping the wallets up meanwhile in case that nobody else does."""
    from projections.wallets import WALLETS

    document = []
    stop = threading.Event()
    for sweeper in sweepers:
        runner = runner_of(datastore, WALLETS, sweeper.book)
        wallets = threading.Thread(target=runner.run, args=(stop,), daemon=True)
        wallets.start()
        try:
            with output.progress(f"{sweeper.book}: sweep", None, "coupons") as advance:
                swept = sweeper.sweep(at, advance)
        finally:
            stop.set()
            wallets.join()
            stop.clear()
        document.append({"book": sweeper.book, **swept._asdict()})
    if as_json:
        output.print_json(document)
    else:
        for row in document:
            print(f"{row['book']}: {row['expired']:,} expired, {row['refused']:,} judged otherwise")
    behind = [row["book"] for row in document if row["behind"]]
    if behind:
        raise Trouble(f"the wallets of {', '.join(map(str, behind))} lag: sweep again later")
    return 0
