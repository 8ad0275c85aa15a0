"""`tidebook erasure`: who was erased, whether anything can still be read, and new epoch keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, stores
from api.cli.options import AsJson, Home, parse_person
from api.cli.trouble import Trouble

if TYPE_CHECKING:
    from api.settings import Settings
    from ledger.datastore import Datastore

ROWS = 500
"""Rows of the vault that one transaction wraps anew."""


def erasure(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="list, check or rotate.")],
    person: Annotated[
        str | None, typer.Argument(metavar="PERSON", help="With check: a pseudonym.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """List erasures, check that of a person, or rotate the vault's epoch key.

    `check` asks every book, the vault, its keys and the list of the erased, and ends with 1 when
    something could still be read. `rotate` wraps what is left in the vault with a new key and
    destroys the old ones: from then on no older backup of it can be opened. Take a new one at once.

    Examples:
    * `tidebook erasure list --json`
    * `tidebook erasure check 6664a42048c6d6d7fe3657e39b14155c`
    * `tidebook erasure rotate`
    """
    if what not in ("list", "check", "rotate"):
        raise Trouble(f"WHAT: list, check or rotate is wanted, not {what[:40]!r}")
    if (what == "check") != (person is not None):
        raise Trouble("PERSON: check, and nothing else, wants a person")
    settings = stores.load_settings(home)
    with stores.store(settings) as datastore:
        if what == "rotate":
            return _rotate(datastore, settings, as_json)
        if person is not None:
            return _check(datastore, settings, parse_person(person, "PERSON"), as_json)
        return _list(datastore, as_json)


def _list(datastore: Datastore, as_json: bool) -> int:
    from projections.erasures import erasures

    with datastore.transaction() as cursor:
        rows = erasures(cursor, stores.books_in(datastore))
    if as_json:
        output.print_json([{**row._asdict(), "state": row.state} for row in rows])
        return 0
    for row in rows:
        print(f"{row.person} {row.book} {row.state} {row.erased_at or row.requested_at}")
    if not rows:
        print("nobody asked to be erased")
    return 0


def _check(datastore: Datastore, settings: Settings, person: str, as_json: bool) -> int:
    from api.vault.wiring import vault_of

    vault = vault_of(settings)
    known = stores.books_in(datastore)
    with datastore.transaction() as cursor:
        books = [_of_book(cursor, book, person) for book in known]
        has_rows, key = vault.has_rows(cursor, person), vault.key(cursor, person)
        links = len(vault.links(cursor, person))
    document: dict[str, Any] = {
        "person": person,
        "books": books,
        "listed": vault.keyring.is_erased(person),
        "rows_in_vault": has_rows,
        "links_in_vault": links,
        "readable": key is not None,
    }
    erased = [one["book"] for one in books if one["state"] == "erased"]
    open_books = [one["book"] for one in books if one["state"] == "erasing"]
    document["erased"] = bool(
        erased
        and not open_books
        and document["listed"]
        and not has_rows
        and not links
        and key is None
    )
    if as_json:
        output.print_json(document)
    else:
        for one in books:
            print(f"{one['book']}: {one['state']}, {one['sealed']} particulars sealed")
        if document["listed"] and links:
            print("a row still says whose pseudonym this is: `tidebook erasure rotate` removes it")
        print("erased: nothing can be read" if document["erased"] else "not erased")
    return 0 if document["erased"] else 1


def _of_book(cursor: Any, book: str, person: str) -> dict[str, Any]:
    from campaigns.event_types import MAPPER
    from campaigns.persons.person import PERSON_FOLD, Person, person_id
    from ledger.history import streams_by_key

    known: Person | None = None
    stream = person_id(person)
    for positioned in streams_by_key(cursor, book, MAPPER, [stream]).get(stream, []):
        known = PERSON_FOLD.evolve(known, positioned.event)
    if known is None:
        return {"book": book, "state": "unknown", "sealed": 0}
    return {"book": book, "state": known.state, "sealed": len(known.sealed)}


def _rotate(datastore: Datastore, settings: Settings, as_json: bool) -> int:
    from api.vault.wiring import vault_of

    vault = vault_of(settings)
    with datastore.transaction() as cursor:
        epoch = vault.begin_epoch(cursor)
    rows = 0
    with output.progress("rotate", None, "rows") as advance:
        while True:
            with datastore.transaction() as cursor:
                wrapped = vault.rewrap(cursor, epoch, ROWS)
            if not wrapped:
                break
            rows += wrapped
            advance(wrapped)
    destroyed = [old for old in vault.keyring.epochs() if old < epoch]
    for old in destroyed:
        vault.keyring.destroy(old)
    if as_json:
        output.print_json({"epoch": epoch, "rows": rows, "destroyed": destroyed})
    else:
        print(f"epoch {epoch}: {rows:,} rows wrapped anew, {len(destroyed)} older keys destroyed")
    return 0
