"""`tidebook daily-proof`: what was issued by the end of each day, told, checked and made up."""

from __future__ import annotations

import sys
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.longwork import this_process
from api.cli.options import AsJson, Home
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from uuid import UUID

    from api.daily.making import Maker
    from api.daily.store import Stored
    from api.settings import Settings
    from ledger.books import PublicId
    from ledger.datastore import Datastore
    from ledger.transparency.notes import Signer, Verifier
    from ledger.verification import Finding


class Action(StrEnum):
    """What is wanted of daily proofs."""

    LIST = "list"
    SHOW = "show"
    CHECK = "check"
    MAKE = "make"


def daily_proof(
    action: Annotated[
        Action,
        typer.Argument(
            help="`list` them, `show` one, `check` them against the events, or `make` what is due."
        ),
    ],
    campaign: Annotated[
        str | None,
        typer.Argument(
            metavar="[CAMPAIGN]", help="A campaign's id; without it, all.", show_default=False
        ),
    ] = None,
    day: Annotated[
        str | None,
        typer.Argument(
            metavar="[DAY]", help="The day to show, such as 2026-05-01.", show_default=False
        ),
    ] = None,
    book: Annotated[str, typer.Option(metavar="BOOK", help="The book of the proofs.")] = "main",
    notes: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Check these published proofs of one campaign, with no store: signatures, chain,"
            " and whether the figures fit. Files in order of their names.",
            show_default=False,
        ),
    ] = None,
    statement_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Verifier key of the operator's statements; can be given again. Needed with"
            " --notes; otherwise it is the home's.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Look at the daily proofs of no over-issue, and add them up again from the events.

    `tidebook log` makes them behind the writers; `make` makes up what is missing and ends. Exit
    status of `check`: **0** all hold, **1** something differs, **2** could not run.

    Examples:
    * `tidebook daily-proof list`
    * `tidebook daily-proof show cmp_main_0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50 2026-05-01`
    * `tidebook daily-proof check --json`
    * `tidebook daily-proof check --notes ./published --statement-key "$STATEMENTS"`
    """
    from api.cli.receipts import verifier_key

    keys = [verifier_key(text, "--statement-key") for text in statement_key or ()]
    if notes is not None:
        return _tell_findings(_check_notes(action, notes, keys), as_json)
    settings = stores.load_settings(home)
    wanted = None if campaign is None else _campaign(campaign)
    if wanted is not None:
        book = wanted.book
    with stores.store(settings) as datastore:
        stores.chosen_books(datastore, [book])
        if action is Action.MAKE:
            return _make(datastore, settings, book, as_json)
        if action is Action.CHECK:
            return _check(datastore, settings, book, wanted, keys, as_json)
        with datastore.transaction() as cursor:
            return _look(cursor, action, book, wanted, day, as_json)


def makers(settings: Settings, datastore: Datastore, books: Iterable[str]) -> list[Maker]:
    """Return who makes the daily proofs of books, in this process."""
    from api.cli.sweeping import is_simulated
    from api.daily.making import Maker

    simulated = is_simulated(datastore, settings)
    holder = this_process()
    return [
        Maker(datastore, book, holder, signer_of(settings), simulated=simulated) for book in books
    ]


def signer_of(settings: Settings) -> Callable[[str], Signer]:
    """Return how the key of a log's statements is found by the log's origin."""
    from ledger.transparency.statements import statement_signer

    return lambda origin: statement_signer(origin, settings.refusal_secret())


def _make(datastore: Datastore, settings: Settings, book: str, as_json: bool) -> int:
    from api.daily.store import Held

    [maker] = makers(settings, datastore, [book])
    made = []
    try:
        with output.progress(f"{book}: daily proofs", None, "proofs") as advance:
            for one in maker.make():
                made.append(one)
                advance(1)
    except Held as held:
        raise Trouble(str(held)) from None
    if as_json:
        output.print_json([dict(one.statement.lines) for one in made])
    else:
        print(f"{book}: {len(made):,} daily proofs made")
    return 0


def _look(
    cursor: Any, action: Action, book: str, wanted: PublicId | None, day: str | None, as_json: bool
) -> int:
    from api.daily import store

    if action is Action.LIST:
        _list(book, store.proofs(cursor, book, wanted and wanted.uuid), as_json)
        return 0
    if wanted is None or day is None:
        raise Trouble("CAMPAIGN, DAY: `show` needs both")
    try:
        stored = store.proof(cursor, book, wanted.uuid, date.fromisoformat(day))
    except ValueError:
        raise Trouble(f"DAY: a day such as 2026-05-01, not {day[:40]!r}") from None
    if stored is None:
        raise Trouble(f"DAY: there is no proof of {wanted} for {day}")
    if as_json:
        output.print_json(_lines(stored))
    else:
        sys.stdout.write(stored.note.decode())
    return 0


def _list(book: str, found: list[Stored], as_json: bool) -> None:
    told = [_lines(one) for one in found]
    if as_json:
        output.print_json(told)
        return
    columns = ("issued", "outstanding", "redeemed", "refunded", "reclaimed", "quota")
    table = output.table(
        f"{book}: daily proofs", "campaign", "day", *columns, "over", numbers=columns
    )
    for lines in told:
        table.add_row(
            lines["campaign"],
            lines["day"],
            *(f"{int(lines[name]):,}" for name in columns),
            lines["over_issued"],
        )
    output.console().print(table)


def _check(
    datastore: Datastore,
    settings: Settings,
    book: str,
    wanted: PublicId | None,
    keys: list[Verifier],
    as_json: bool,
) -> int:
    keys = keys or own_keys(datastore, settings, book)
    if not keys:
        raise Trouble(
            f"--statement-key: this home signed no statements of {book}; give the key of those who"
            " did (`tidebook log --statement-key` tells it), or begin the log with `tidebook log`"
        )
    found = list(checked(datastore, book, keys, wanted and wanted.uuid))
    return _tell_findings(found, as_json)


def own_keys(datastore: Datastore, settings: Settings, book: str) -> list[Verifier]:
    """Return the home's key of a book's statements; none where it has none, or no log yet."""
    from ledger.transparency import store as log_store
    from ledger.transparency.checkpoints import Checkpoint

    with datastore.transaction() as cursor:
        note = log_store.published(cursor, book)
    if note is None or not settings.has_refusal_secret():
        return []
    return [signer_of(settings)(Checkpoint.parse(note.text).origin).verifier]


def checked(
    datastore: Datastore, book: str, keys: list[Verifier] | None, campaign: UUID | None = None
) -> Iterator[Finding]:
    """Yield what is wrong with the daily proofs of a book, or of one campaign.

    Without keys (None) nothing is said of who signed them.
    """
    from api.daily.checking import check

    with output.progress(f"{book}: daily proofs", None) as advance:
        yield from check(datastore, book, keys, campaign, advance)


def _check_notes(action: Action, folder: Path, keys: list[Verifier]) -> list[Finding]:
    from api.daily.checking import check_notes

    if action is not Action.CHECK:
        raise Trouble("--notes: only `check` reads published proofs")
    if not keys:
        raise Trouble("--statement-key: published proofs are judged by the key of statements")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if not files:
        raise Trouble(f"--notes: there is no file in {folder}")
    return list(check_notes((path.read_bytes() for path in files), keys))


def _tell_findings(found: list[Finding], as_json: bool) -> int:
    if as_json:
        output.print_json({"findings": [one._asdict() for one in found]})
    else:
        for one in found:
            print(one)
        print(f"{len(found):,} findings" if found else "the daily proofs hold")
    return 1 if found else 0


def _lines(stored: Stored) -> dict[str, str]:
    from ledger.transparency.notes import parse_note
    from ledger.transparency.statements import Statement

    return dict(Statement.parse(parse_note(stored.note).text).lines)


def _campaign(text: str) -> PublicId:
    from campaigns.replies import CAMPAIGN_PREFIX
    from ledger.books import MalformedId, PublicId

    try:
        return PublicId.parse(text, CAMPAIGN_PREFIX)
    except MalformedId as error:
        raise Trouble(f"CAMPAIGN: {error}") from None
