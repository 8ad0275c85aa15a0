"""`tidebook restate`: a merchant's day as it was first known, and as it is known now."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home, parse_until
from api.cli.replaying import Until, position_of
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


def restate(
    merchant: Annotated[str, typer.Option(metavar="NAME", help="The merchant.")],
    day: Annotated[str, typer.Option(metavar="DATE", help="The day, for example 2026-05-01.")],
    zone: Annotated[
        str, typer.Option(metavar="ZONE", help="The zone of the day.")
    ] = "Asia/Shanghai",
    known_at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|POSITION",
            help="When the day was first stated.  [default: the end of the day]",
            show_default=False,
        ),
    ] = None,
    until: Until = None,
    book: Annotated[str, typer.Option(metavar="BOOK", help="The book.")] = "main",
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """State a merchant's day twice: as it was known then, and as it is known now.

    What was given back later corrects the day of the order. Both figures stand side by side, with
    the events that make the difference. Nothing is rewritten.

    Examples:
    * `tidebook restate --merchant cafe --day 2026-05-01`
    * `tidebook restate --merchant cafe --day 2026-05-01 --known-at 20 --json`
    """
    from campaigns.event_types import MAPPER
    from campaigns.replaying.restating import day_of, lines_of, restated
    from ledger.history import History

    window = day_of(_day(day), _zone(zone))
    known = window.end if known_at is None else parse_until(known_at, "--known-at")
    moment = None if until is None else parse_until(until)
    with stores.store(stores.load_settings(home)) as datastore:
        stores.chosen_books(datastore, [book])
        history = History(datastore, book, MAPPER)
        last = position_of(history, moment)
        first_known = min(position_of(history, known), last)
        with output.progress(f"{book}: events", last) as advance:
            one, rest = output.counted(advance)
            statement = restated(
                _told(lines_of(merchant, history.events(last)), one), window, first_known
            )
            rest()
    document = {
        "book": book,
        "merchant": merchant,
        "from": window.start,
        "until": window.end,
        "first_known_at": first_known,
        "known_at": last,
        "first": [_total(each) for each in statement.first],
        "restated": [_total(each) for each in statement.restated],
        "changes": statement.changes,
    }
    if as_json:
        output.print_json(document)
    else:
        _print(document)
    return 0


def _told(lines: Any, one: Any) -> Any:
    for line in lines:
        one()
        yield line


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Trouble(
            f"--day: a date is wanted, for example 2026-05-01, not {text[:40]!r}"
        ) from None


def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Trouble(f"--zone: there is no zone {name[:64]!r}; Asia/Shanghai is one") from None


def _total(total: Any) -> dict[str, Any]:
    return {
        "currency": total.currency,
        "taken_minor": total.taken_minor,
        "given_back_minor": total.given_back_minor,
        "net_minor": total.net_minor,
    }


def _print(document: dict[str, Any]) -> None:
    console = output.console()
    console.print(
        f"{document['merchant']}, {document['from']} to {document['until']}", style="bold"
    )
    numbers = ("taken", "given back", "net")
    totals = output.table(None, "statement", "known at", "currency", *numbers, numbers=numbers)
    for name, known in (("first", "first_known_at"), ("restated", "known_at")):
        for each in document[name]:
            minors = (each[f"{one}_minor"] for one in ("taken", "given_back", "net"))
            cells = (f"{minor:,}" for minor in minors)
            totals.add_row(name, f"{document[known]:,}", each["currency"], *cells)
    console.print(totals)
    if not document["changes"]:
        console.print("Nothing was recorded of this day afterwards.")
        return
    columns = ("position", "recorded", "effective", "event", "order", "amount")
    changes = output.table("What changed it", *columns, numbers=("position", "amount"))
    for line in document["changes"]:
        instants = (one.isoformat() for one in (line.recorded_at, line.effective_at))
        amount = f"{line.amount_minor:+,} {line.currency}"
        changes.add_row(f"{line.position:,}", *instants, line.event, line.order, amount)
    console.print(changes)
