"""Verifying read models: a fresh fold of the events against the live rows, row for row.

The fold is made beside the live tables in a schema of its own, up to the position that the live
rows stand for, and compared in one snapshot. What is wrong is a value in a list, never raised:
an audit reports all that it finds. Nothing live is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from psycopg2 import sql

from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import EventTypes
from ledger.history import PositionGap
from projections.lease import Clock, LeaseHeld, LeaseLost
from projections.projection import CHECK, Projection, RowMissing, live_shape, tables_of
from projections.reading import AheadOfBook, Stopped
from projections.rebuild import FreshBuild, Progress, clear_leftovers, exclusive, read_heads
from projections.registry import PROJECTIONS

FINDINGS_MAX: Final = 100
"""Findings of one table; after so many the table is known to be wrong."""

PAGE_EVENTS: Final = 20_000


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as the events say. `code` is stable; the rest is for people."""

    code: str
    where: str
    expected: str | None = None
    found: str | None = None


def verify(
    datastore: Datastore,
    on_progress: Progress | None = None,
    *,
    projections: Sequence[Projection] = PROJECTIONS,
    books: Sequence[str] | None = None,
    holder: str | None = None,
    clock: Clock | None = None,
    types: EventTypes = EVENT_TYPES,
) -> list[Finding]:
    """Compare the live rows of read models, of all books or some, with a fresh fold.

    Codes: `outdated_read_model`, `read_model_busy` (a rebuild runs), `ahead_of_book`,
    `position_gap`, `unreadable_event`, `fold_failed`, `row_missing`, `row_unexpected`,
    `row_differs`, `too_many_findings`.
    """
    findings: list[Finding] = []
    for projection in projections:
        try:
            with exclusive(datastore, projection, holder, clock=clock) as (worker, lease):
                schema = projection.schema + CHECK
                fresh = FreshBuild(worker, projection, schema, lease, types, on_progress)
                findings += _verify(worker, fresh, books)
                clear_leftovers(worker, projection, schema)
        except (LeaseHeld, LeaseLost) as busy:
            findings.append(Finding("read_model_busy", projection.schema, None, str(busy)))
    return findings


def _verify(datastore: Datastore, fresh: FreshBuild, books: Sequence[str] | None) -> list[Finding]:
    projection = fresh.projection
    with datastore.transaction() as curs:
        found = live_shape(curs, projection)
        if found != projection.shape:
            return [Finding("outdated_read_model", projection.schema, projection.shape, found)]
        targets, ahead = _targets(curs, projection, books)
    if ahead:
        return ahead
    try:
        fresh.start()
        fresh.load(targets)
        fresh.settle()
        with datastore.transaction() as curs:
            # One snapshot for the position, the events up to it, and both sets of rows.
            curs.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            return _compare_now(curs, fresh, books)
    except PositionGap as gap:
        return [Finding("position_gap", _place(gap.book, gap.expected), "an event", "none")]
    except Stopped as stopped:
        place = _place(stopped.book, stopped.position)
        return [Finding("unreadable_event", place, "a known event", str(stopped.cause))]
    except (RowMissing, AheadOfBook) as error:
        return [Finding("fold_failed", projection.schema, None, str(error))]


def _targets(
    curs: Any, projection: Projection, books: Sequence[str] | None
) -> tuple[dict[str, int], list[Finding]]:
    """Return each book's live position, and the books of which the rows are ahead."""
    live = _live_positions(curs, projection, books)
    heads = read_heads(curs)
    ahead = [
        Finding("ahead_of_book", f"{projection.schema} {book}", str(heads.get(book, 0)), str(at))
        for book, at in sorted(live.items())
        if at > heads.get(book, 0)
    ]
    return live, ahead


def _live_positions(
    curs: Any, projection: Projection, books: Sequence[str] | None
) -> dict[str, int]:
    tracking = sql.Identifier(projection.schema, "tracking")
    curs.execute(sql.SQL("SELECT book, position FROM {} ORDER BY book").format(tracking))
    return {book: at for book, at in curs.fetchall() if books is None or book in books}


def _compare_now(curs: Any, fresh: FreshBuild, books: Sequence[str] | None) -> list[Finding]:
    """Bring the fresh fold to where the live rows have come meanwhile, and compare."""
    for book, position in _live_positions(curs, fresh.projection, books).items():
        while fresh.advance(curs, book, position, PAGE_EVENTS):
            pass
    findings: list[Finding] = []
    for table in tables_of(curs, fresh.schema):
        findings += compare_table(curs, fresh.schema, fresh.projection.schema, table, books)
    return findings


def compare_table(
    curs: Any, expected: str, found: str, table: str, books: Sequence[str] | None = None
) -> list[Finding]:
    """Return how the rows of a table differ between two schemas, by its primary key."""
    key = sql.SQL(", ").join(map(sql.Identifier, _key_of(curs, expected, table)))
    curs.execute(
        _COMPARE.format(
            expected=sql.Identifier(expected, table), found=sql.Identifier(found, table), key=key
        ),
        {"books": None if books is None else list(books), "limit": FINDINGS_MAX},
    )
    findings = [
        Finding(
            "row_missing"
            if here is None
            else "row_unexpected"
            if wanted is None
            else "row_differs",
            f"{found}.{table} {where}",
            wanted,
            here,
        )
        for where, wanted, here in curs.fetchall()
    ]
    if len(findings) == FINDINGS_MAX:
        findings.append(Finding("too_many_findings", f"{found}.{table}"))
    return findings


_COMPARE: Final = sql.SQL("""
SELECT row({key})::text, wanted::text, here::text
FROM {expected} AS wanted FULL JOIN {found} AS here USING ({key})
WHERE wanted::text IS DISTINCT FROM here::text
    AND (%(books)s::text[] IS NULL OR book = ANY (%(books)s::text[]))
LIMIT %(limit)s
""")

_KEY: Final = """
SELECT a.attname
FROM pg_constraint AS c
CROSS JOIN unnest(c.conkey) WITH ORDINALITY AS k (attnum, place)
JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
WHERE c.conrelid = to_regclass(%s) AND c.contype = 'p'
ORDER BY k.place
"""


def _key_of(curs: Any, schema: str, table: str) -> list[str]:
    curs.execute(_KEY, (f"{schema}.{table}",))
    return [name for (name,) in curs.fetchall()]


def _place(book: str, position: int) -> str:
    return f"book {book} position {position}"
