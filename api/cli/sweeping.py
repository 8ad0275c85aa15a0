"""`tidebook sweep` and `tidebook draw`: what is due to expire or to go back, and lotteries."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.longwork import in_threads, running
from api.cli.options import EXAMPLE_INSTANT, AsJson, Books, Home, parse_instant
from api.cli.projecting import runner_of
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from uuid import UUID

    from api.drawer import Drawer
    from api.finisher import Finisher
    from api.publicdraws import DrawHolder
    from api.returner import Returner
    from api.settings import Settings
    from api.sweeper import Sweeper
    from api.vault.eraser import Eraser
    from ledger.commit import GroupCommit
    from ledger.datastore import Datastore
    from projections.projection import Projection


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
    """Record what has expired, give back what nobody took, and hold draws, until stopped.

    Everything is judged by the book's writer, so any number of sweepers may run. What is left of
    group packets goes back after a day, and purses are emptied when nobody can send from them.
    Leftovers of packets go into the next round, and seeds of splits are shown after the last claim.
    With `--once` or `--at` that is done and nothing is drawn: for this there is `tidebook draw`.

    Examples:
    * `tidebook sweep`
    * `tidebook sweep --once --json`
    """
    if as_json and not (once or at):
        raise Trouble("--json: only --once and --at end with something to tell")
    instant = None if at is None else parse_instant(at, "--at")
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore, ExitStack() as stack:
        simulated = is_simulated(datastore, settings)
        if instant is not None and not simulated:
            raise Trouble("--at: this ledger's time is the database's, nobody can choose it")
        finite = once or instant is not None
        books = stores.chosen_books(datastore, book) if finite else book or list(settings.books)
        writers = [stack.enter_context(writer_of(datastore, one, settings)) for one in books]
        sweepers = [_sweeper(datastore, writer, simulated) for writer in writers]
        returners = [_returner(datastore, writer, settings, simulated) for writer in writers]
        finishers = [_finisher(datastore, writer, settings, simulated) for writer in writers]
        eraser = _eraser(datastore, writers, settings, simulated)
        if finite:
            each = list(zip(sweepers, returners, finishers, strict=True))
            return _sweep_once(datastore, each, eraser, instant, as_json)
        drawers = [_drawer(datastore, writer, settings, simulated) for writer in writers]
        holders = [_holder(datastore, writer, settings, simulated) for writer in writers]
        with running(settings) as stop:
            in_threads(
                [
                    *((one.book, lambda one=one: one.run(stop)) for one in sweepers),
                    *((f"{one.book} draw", lambda one=one: one.run(stop)) for one in drawers),
                    *((f"{one.book} hold", lambda one=one: one.run(stop)) for one in holders),
                    *((f"{one.book} return", lambda one=one: one.run(stop)) for one in returners),
                    *((f"{one.book} finish", lambda one=one: one.run(stop)) for one in finishers),
                    ("erase", lambda: eraser.run(stop)),
                ],
                stop,
            )
    return 0


def draw(
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help=f"The instant to draw at ({EXAMPLE_INSTANT}), in a ledger of simulated time only."
            " Without it such a ledger is drawn at the instant of its last event.",
            show_default=False,
        ),
    ] = None,
    book: Books = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Draw the lotteries whose intake is over, take the due steps of public draws, and end.

    `tidebook run` and `tidebook sweep` do this by themselves. It may be stopped and started again
    at any moment, and run twice at once: everybody's luck is decided by the seed that was committed
    to when the campaign was opened, and in public draws by a beacon beside it. While this does not
    speak, such a draw waits.

    Examples:
    * `tidebook draw`
    * `tidebook draw --book main --json`
    """
    instant = None if at is None else parse_instant(at, "--at")
    settings = stores.load_settings(home)
    document = []
    with stores.store(settings) as datastore, ExitStack() as stack:
        simulated = is_simulated(datastore, settings)
        if instant is not None and not simulated:
            raise Trouble("--at: this ledger's time is the database's, nobody can choose it")
        for one in stores.chosen_books(datastore, book):
            writer = stack.enter_context(writer_of(datastore, one, settings))
            drawer = _drawer(datastore, writer, settings, simulated)
            document += _draw_once(drawer, instant)
            document += _hold_once(_holder(datastore, writer, settings, simulated), instant)
    if as_json:
        output.print_json(document)
    else:
        for row in document:
            things = "seats" if "steps" in row else "coupons"
            steps = "".join(f"{step}, " for step in row.get("steps", ()))
            print(f"{row['campaign']}: {steps}{row['given']:,} {things} given")
        if not document:
            print("nothing to draw")
    return 0


def is_simulated(datastore: Datastore, settings: Settings) -> bool:
    """Whether the ledger's time comes with the requests: as it was begun, else as it is set."""
    with datastore.transaction() as cursor:
        cursor.execute("SELECT value FROM installation WHERE name = 'clock'")
        row = cursor.fetchone()
    return (row[0] if row else settings.clock) == "request"


def _sweeper(datastore: Datastore, writer: GroupCommit, simulated: bool) -> Sweeper:
    from api.sweeper import Sweeper

    return Sweeper(datastore, writer, by_the_book=simulated)


def _returner(
    datastore: Datastore, writer: GroupCommit, settings: Settings, simulated: bool
) -> Returner:
    from functools import cache

    from api.returner import Returner

    return Returner(datastore, writer, cache(settings.draw_secret), by_the_book=simulated)


def _finisher(
    datastore: Datastore, writer: GroupCommit, settings: Settings, simulated: bool
) -> Finisher:
    from functools import cache

    from api.finisher import Finisher

    return Finisher(datastore, writer, cache(settings.draw_secret), by_the_book=simulated)


def _eraser(
    datastore: Datastore, writers: list[GroupCommit], settings: Settings, simulated: bool
) -> Eraser:
    from api.vault.eraser import Eraser
    from api.vault.wiring import vault_of

    return Eraser(
        datastore,
        writers,
        vault_of(settings),
        after_s=settings.erasure_after_s,
        by_the_book=simulated,
    )


def _drawer(
    datastore: Datastore, writer: GroupCommit, settings: Settings, simulated: bool
) -> Drawer:
    from api.drawer import Drawer

    return Drawer(datastore, writer, settings.draw_secret, by_the_book=simulated)


def _holder(
    datastore: Datastore, writer: GroupCommit, settings: Settings, simulated: bool
) -> DrawHolder:
    from api.beacons import Beacons
    from api.publicdraws import DrawHolder

    return DrawHolder(
        datastore,
        writer,
        settings.draw_secret,
        Beacons(settings.beacon_sources(), settings.beacons_least),
        settings.lists,
        by_the_book=simulated,
    )


def _hold_once(holder: DrawHolder, at: datetime | None) -> list[dict[str, Any]]:
    """Take every step that is due; return a row for each campaign on which something was done."""
    from api.upkeep import Troubled
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import PublicId

    done: dict[UUID, dict[str, Any]] = {}
    try:
        with output.progress(f"{holder.book}: hold", None, "seats") as advance:
            for step in holder.steps(at):
                name = str(PublicId(CAMPAIGN_PREFIX, holder.book, step.campaign))
                row = done.setdefault(step.campaign, {"campaign": name, "given": 0, "steps": []})
                row["given"] += step.given
                if step.code != "seats_given":
                    row["steps"].append(step.code)
                advance(step.given)
    except Troubled as error:
        raise Trouble(str(error)) from None
    return list(done.values())


def _draw_once(drawer: Drawer, at: datetime | None) -> list[dict[str, Any]]:
    """Draw everything that is due; return a row for each campaign on which something was done."""
    from api.drawer import WrongDrawKey
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import PublicId

    given: dict[UUID, int] = {}
    try:
        with output.progress(f"{drawer.book}: draw", None, "coupons") as advance:
            for step in drawer.steps(at):
                given[step.campaign] = given.get(step.campaign, 0) + step.given
                advance(step.given)
    except WrongDrawKey as error:
        raise Trouble(str(error)) from None
    return [
        {"campaign": str(PublicId(CAMPAIGN_PREFIX, drawer.book, campaign)), "given": count}
        for campaign, count in given.items()
    ]


@contextmanager
def writer_of(datastore: Datastore, book: str, settings: Settings) -> Iterator[GroupCommit]:
    """Lend a writer of this process, which tells the gate of stock that comes back."""
    from api.gatekeeper import freeing_of
    from campaigns.accounting import check_postings
    from campaigns.event_types import MAPPER
    from ledger.commit import GroupCommit

    freeing = freeing_of(settings)
    writer = GroupCommit(datastore, book, MAPPER, check=check_postings, observer=freeing).start()
    try:
        yield writer
    finally:
        writer.close()
        if freeing is not None:
            freeing.close()


def _sweep_once(
    datastore: Datastore,
    each: list[tuple[Sweeper, Returner, Finisher]],
    eraser: Eraser,
    at: datetime | None,
    as_json: bool,
) -> int:
    """Sweep once, keeping what is looked at up meanwhile in case that nobody else does."""
    from api.vault.eraser import LOOKED_AT
    from projections.groups import GROUPS
    from projections.packets import PACKETS
    from projections.wallets import WALLETS

    document = []
    for sweeper, returner, finisher in each:
        with (
            _kept_up(datastore, sweeper.book, WALLETS, PACKETS, GROUPS),
            output.progress(f"{sweeper.book}: sweep", None, "expired") as advance,
        ):
            swept = sweeper.sweep(at, advance)
            returned = returner.sweep(at)
            finished = [done.code for done in finisher.sweep(at)]
        document.append(
            {
                "book": sweeper.book,
                **swept._asdict(),
                "groups": returned.groups,
                "purses": returned.purses,
                "rolled_over": finished.count("rolled_over") + finished.count("reclaimed"),
                "splits_shown": finished.count("split_shown"),
                "refused": swept.refused + returned.refused,
                "behind": swept.behind or returned.behind,
            }
        )
    with ExitStack() as stack:
        for sweeper, _, _ in each:
            stack.enter_context(_kept_up(datastore, sweeper.book, *LOOKED_AT))
        erased = eraser.sweep().erased
    if as_json:
        output.print_json(document)
    else:
        if erased:
            print(f"{len(erased):,} persons erased")
        for row in document:
            print(f"{row['book']}: {row['expired']:,} expired, {row['refused']:,} judged otherwise")
            if row["groups"] or row["purses"]:
                print(f"{row['book']}: {row['groups']:,} groups, {row['purses']:,} purses returned")
            if row["rolled_over"] or row["splits_shown"]:
                finished_words = f"{row['rolled_over']:,} leftovers moved on"
                print(f"{row['book']}: {finished_words}, {row['splits_shown']:,} seeds shown")
    behind = [row["book"] for row in document if row["behind"]]
    if behind:
        raise Trouble(f"the wallets of {', '.join(map(str, behind))} lag: sweep again later")
    return 0


@contextmanager
def _kept_up(datastore: Datastore, book: str, *projections: Projection) -> Iterator[None]:
    """Keep projections of a book up for the length of a block."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=runner_of(datastore, one, book).run, args=(stop,), daemon=True)
        for one in projections
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
