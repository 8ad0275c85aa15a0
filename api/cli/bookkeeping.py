"""`tidebook trial-balance`, `statement` and `journal`: what accountants ask of a book.

All three look at the projection `journal`, at any position that it shows or any instant.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from api.cli import output, stores
from api.cli.options import EXAMPLE_INSTANT, AsJson, Home, parse_until
from api.cli.trouble import Trouble, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.datastore import Datastore
    from projections.journal_reading import Account, KindTotal, Line

LINES_MAX: Final = 100_000
"""A statement of more lines is asked for in pieces: a table in memory has an end."""

FLUSH_LINES: Final = 5_000

Book = Annotated[str, typer.Option("--book", metavar="BOOK", help="The book.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME|POSITION",
        help=f"A position, or a time with its offset ({EXAMPLE_INSTANT}): as it was after all"
        " events up to then. Without it, as the journal shows it now.",
        show_default=False,
    ),
]


class Form(StrEnum):
    """What a journal is exported as."""

    BEANCOUNT = "beancount"
    HLEDGER = "hledger"
    PARQUET = "parquet"


class Action(StrEnum):
    """What is done with a journal."""

    EXPORT = "export"


def trial_balance(
    book: Book = "main",
    at: At = None,
    accounts: Annotated[
        bool, typer.Option("--accounts", help="Every account with its balance as well.")
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Every account of this kind, for example `merchant`."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Show what all accounts were debited and credited; the totals must be equal.

    Exit status 1 says that they are not.

    Examples:
    * `tidebook trial-balance`
    * `tidebook trial-balance --at 2026-05-01T20:00:00+08:00 --kind merchant`
    * `tidebook trial-balance --at 1000 --json`
    """
    from projections import journal_reading as reading

    if kind is not None and kind not in reading.KINDS:
        raise Trouble(f"--kind: one of {', '.join(reading.KINDS)} is wanted, not {kind[:40]!r}")
    moment = None if at is None else parse_until(at, "--at")
    with stores.store(stores.load_settings(home)) as datastore:
        head = _head(datastore, book, moment)
        with datastore.transaction() as curs:
            totals = reading.trial_balance(curs, book, head["position"])
        listed = (
            list(reading.all_accounts(datastore, book, head["position"], kind))
            if accounts or kind is not None
            else None
        )
    document = head | {"currencies": _currencies(totals)}
    if listed is not None:
        document["accounts"] = [_account(one) for one in listed]
    if as_json:
        output.print_json(document)
    else:
        _print_trial_balance(document)
    return 0 if all(one["is_balanced"] for one in document["currencies"]) else 1


def statement(
    account: Annotated[
        str,
        typer.Argument(
            metavar="ACCOUNT", help="For example `merchant:cafe`, as trial balances name it."
        ),
    ],
    book: Book = "main",
    after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|POSITION",
            help="Only lines after this; the balance by then is the opening balance.",
            show_default=False,
        ),
    ] = None,
    at: At = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=LINES_MAX, help="Most lines of a currency.")
    ] = 1_000,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Show an account line by line with the balance after each, oldest first.

    Examples:
    * `tidebook statement merchant:cafe`
    * `tidebook statement merchant:cafe --after 2026-05-01T00:00:00+08:00`
    * `tidebook statement sponsor:city --at 1000 --json`
    """
    from projections import journal_reading as reading

    since = None if after is None else parse_until(after, "--after")
    moment = None if at is None else parse_until(at, "--at")
    with stores.store(stores.load_settings(home)) as datastore:
        head = _head(datastore, book, moment)
        until = head["position"]
        start = 0 if since is None else min(_head(datastore, book, since)["position"], until)
        with datastore.transaction() as curs:
            opening = {one.currency: one for one in reading.balances(curs, book, account, start)}
            closing = reading.balances(curs, book, account, until)
            parts = [
                _part(
                    opening.get(one.currency),
                    one,
                    reading.statement(
                        curs,
                        book,
                        account,
                        one.currency,
                        after=(start, reading.ENDLESS),
                        until=until,
                        limit=limit + 1,
                    ),
                    limit,
                )
                for one in closing
            ]
    if not parts:
        raise Trouble(f"ACCOUNT: book {book} has no account {account[:80]!r} at position {until}")
    document = head | {"account": account, "after": start, "currencies": parts}
    if as_json:
        output.print_json(document)
    else:
        _print_statement(document)
    return 0


def journal(
    action: Annotated[
        Action, typer.Argument(metavar="export", help="Write the whole journal for another tool.")
    ],
    form: Annotated[
        Form, typer.Option("--format", help="For which tool: beancount, hledger or parquet.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write it here. Without it, text goes to standard output.",
            show_default=False,
        ),
    ] = None,
    book: Book = "main",
    at: At = None,
    home: Home = None,
) -> int:
    """Export the journal of a book: one transaction per event, and every balance at the end.

    It needs little memory, however long the journal is. docs/journal.md has the names of accounts.

    Examples:
    * `tidebook journal export --format beancount --to main.beancount`
    * `tidebook journal export --format hledger > main.journal`
    * `tidebook journal export --format parquet --to main.parquet`
    """
    from projections import journal_export as export

    assert action is Action.EXPORT, "there is nothing else to do"
    if form is Form.PARQUET and to is None:
        raise Trouble("--to: Parquet is written to a file")
    moment = None if at is None else parse_until(at, "--at")
    with stores.store(stores.load_settings(home)) as datastore:
        head = _head(datastore, book, moment)
        extent = export.extent_of(datastore, book, head["position"])
        if extent is None:
            raise Trouble(f"--at: no money had moved in book {book} at position {head['position']}")
        with output.progress(f"{book}: {form}", extent.position) as advance:
            done = 0

            def on_position(position: int) -> None:
                nonlocal done
                if position - done >= output.STEP or position == extent.position:
                    advance(position - done)
                    done = position

            if form is Form.PARQUET:
                assert to is not None, "it was asked for"
                export.write_parquet(datastore, extent, to, on_position)
            else:
                _write(export.FORMATS[form](datastore, extent, on_position), to)
    return 0


def _write(lines: Iterator[str], to: Path | None) -> None:
    if to is None:
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return
    with to.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _head(datastore: Datastore, book: str, moment: int | datetime | None) -> dict[str, Any]:
    """Return how every document begins: which book, up to where, up to when."""
    from projections import journal_reading as reading

    stores.chosen_books(datastore, [book])
    with datastore.transaction() as curs:
        curs.execute("SELECT position FROM book_head WHERE book = %s", (book,))
        (end,) = curs.fetchone()
        try:
            position = (
                reading.position_at(curs, book, moment)
                if isinstance(moment, datetime)
                else reading.shown_position(curs, book, moment)
            )
        except reading.PositionAhead as ahead:
            if ahead.shown < end:
                raise Trouble(f"{ahead}: run `tidebook project --once journal`") from None
            raise Trouble(f"--at: book {book} ends at position {end}, before {moment}") from None
        shown = reading.shown_position(curs, book)
        at = reading.instant_of(curs, book, position) if position else None
    if shown < end and not isinstance(moment, int):
        say(
            f"the journal of book {book} shows position {shown} of {end}:"
            " run `tidebook project --once journal` for the rest"
        )
    return {"book": book, "position": position, "at": at}


# Documents


def _currencies(totals: list[KindTotal]) -> list[dict[str, Any]]:
    document = []
    for currency in sorted({one.currency for one in totals}):
        own = [one for one in totals if one.currency == currency]
        debited = sum(one.debited_minor for one in own)
        credited = sum(one.credited_minor for one in own)
        document.append(
            {
                "currency": currency,
                "kinds": [
                    {
                        "kind": one.kind,
                        "debited_minor": one.debited_minor,
                        "credited_minor": one.credited_minor,
                        "balance_minor": one.balance_minor,
                    }
                    for one in own
                ],
                "debited_minor": debited,
                "credited_minor": credited,
                "is_balanced": debited == credited,
            }
        )
    return document


def _account(one: Account) -> dict[str, Any]:
    return {
        "account": one.account,
        "currency": one.currency,
        "opened": one.opened,
        "opened_at": one.opened_at.astimezone(UTC),
        "balance_minor": one.balance_minor,
    }


def _part(
    opening: Account | None, closing: Account, lines: list[Line], limit: int
) -> dict[str, Any]:
    """Return a statement in one currency; `more` says that lines are left out at its end."""
    shown = lines[:limit]
    if len(lines) > limit:
        # What follows is asked for by position, so an event is shown whole or not at all.
        shown = [one for one in shown if one.position < lines[limit].position] or shown
    last = shown[-1].balance_minor if shown else closing.balance_minor
    return {
        "currency": closing.currency,
        "opening_minor": opening.balance_minor if opening else 0,
        "lines": [
            {
                "position": one.position,
                "line": one.line,
                "at": one.at.astimezone(UTC),
                "event": one.topic,
                "stream": one.stream.hex,
                "other": one.other,
                "amount_minor": one.amount_minor,
                "balance_minor": one.balance_minor,
            }
            for one in shown
        ],
        "closing_minor": last,
        "more": len(lines) > limit,
    }


# Tables


def _title(document: dict[str, Any]) -> str:
    at = document["at"]
    when = "before its first event" if at is None else _instant(at)
    return f"Book {document['book']} at position {document['position']:,}, {when}"


def _instant(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _money(amount_minor: int, currency: str) -> str:
    from ledger.money import in_major_units

    return in_major_units(amount_minor, currency, ",")


def _side(amount_minor: int, currency: str, sign: int) -> str:
    """Return an amount for the debit (1) or the credit (-1) column, nothing for the other."""
    return _money(sign * amount_minor, currency) if sign * amount_minor > 0 else ""


def _print_trial_balance(document: dict[str, Any]) -> None:
    console = output.console()
    console.print(_title(document))
    for one in document["currencies"]:
        unit = one["currency"]
        numbers = ("debited", "credited", "debit balance", "credit balance")
        rows = output.table(f"Trial balance, {unit}", "accounts", *numbers, numbers=numbers)
        for kind in one["kinds"]:
            balance = kind["balance_minor"]
            rows.add_row(
                f"{kind['kind']}s",
                *(_money(kind[name], unit) for name in ("debited_minor", "credited_minor")),
                *(_side(balance, unit, sign) for sign in (1, -1)),
            )
        balances = [kind["balance_minor"] for kind in one["kinds"]]
        debits, credits_ = (sum(max(0, sign * each) for each in balances) for sign in (1, -1))
        sums = one["debited_minor"], one["credited_minor"], debits, credits_
        rows.add_row("all", *(_money(each, unit) for each in sums), style="bold")
        console.print(rows)
        if not one["is_balanced"]:
            console.print(f"The totals of {unit} are not equal.", style="bold red")
    if "accounts" in document:
        _print_accounts(document["accounts"])


def _print_accounts(accounts: list[dict[str, Any]]) -> None:
    rows = output.table(
        "Accounts", "account", "opened", "debit", "credit", "currency", numbers=("debit", "credit")
    )
    for one in accounts:
        sides = (_side(one["balance_minor"], one["currency"], sign) for sign in (1, -1))
        rows.add_row(one["account"], _instant(one["opened_at"]), *sides, one["currency"])
    output.console().print(rows)


def _print_statement(document: dict[str, Any]) -> None:
    console = output.console()
    console.print(_title(document))
    numbers = ("position", "debit", "credit", "balance")
    for part in document["currencies"]:
        unit = part["currency"]
        columns = ("position", "at", "event", "other account", "debit", "credit", "balance")
        title = f"{document['account']}, {unit}"
        rows = output.table(title, *columns, numbers=numbers)
        opening = _money(part["opening_minor"], unit)
        rows.add_row(f"{document['after']:,}", "", "opening balance", "", "", "", opening)
        for one in part["lines"]:
            rows.add_row(
                f"{one['position']:,}",
                _instant(one["at"]),
                one["event"],
                one["other"],
                *(_side(one["amount_minor"], unit, sign) for sign in (1, -1)),
                _money(one["balance_minor"], unit),
            )
        if not part["more"]:
            closing = _money(part["closing_minor"], unit)
            rows.add_row("", "", "closing balance", "", "", "", closing, style="bold")
        console.print(rows)
        if part["more"]:
            console.print(f"More lines follow: --after {part['lines'][-1]['position']}")
