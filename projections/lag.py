"""How far read models are behind their books, asked of the database in one statement.

The rows of a read model lag by as much as its first event not shown has been waiting. Anybody may
ask, whoever keeps the rows up and whether or not somebody does: the answer grows when nobody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from psycopg2 import sql

from projections.projection import Projection
from projections.registry import PROJECTIONS


class Lag(NamedTuple):
    """How far a read model is behind its book; `seconds` is the age of the first event behind."""

    projection: str
    book: str
    position: int
    events: int
    seconds: float


# In a book of simulated time, its own last instant is the present.
_LAGS: Final = sql.SQL("""
WITH shown AS MATERIALIZED ({shown}),
lagging AS (
    SELECT shown.turn, shown.name, wanted.book, coalesce(shown.position, 0) AS position,
        coalesce(head.position, 0) AS head,
        CASE
            WHEN EXISTS (
                SELECT FROM tidebook.installation WHERE name = 'clock' AND value = 'request'
            ) THEN head.at
            ELSE clock_timestamp()
        END AS now
    FROM unnest(%(books)s::text[]) WITH ORDINALITY AS wanted (book, turn)
    CROSS JOIN LATERAL (
        SELECT turn, name, (
            SELECT position FROM shown AS s WHERE s.name = model.name AND s.book = wanted.book
        ) AS position
        FROM unnest(%(names)s::text[]) WITH ORDINALITY AS model (name, turn)
    ) AS shown
    LEFT JOIN tidebook.book_head AS head ON head.book = wanted.book
)
SELECT lagging.name, lagging.book, lagging.position, greatest(0, lagging.head - lagging.position),
    greatest(0, coalesce(extract(epoch FROM lagging.now - (
        SELECT (convert_from(event.state, 'UTF8')::json ->> 'at')::timestamptz
        FROM tidebook.event AS event
        WHERE event.book = lagging.book AND event.position = lagging.position + 1
            AND event.position <= lagging.head
    )), 0))::float8
FROM lagging
""")

_SHOWN: Final = sql.SQL("SELECT {name} AS name, book, position FROM {tracking}")


def lags(
    curs: Any, books: Sequence[str], projections: Sequence[Projection] = PROJECTIONS
) -> list[Lag]:
    """Return how far each read model is behind each book: a look at a few rows."""
    shown = [
        _SHOWN.format(name=sql.Literal(one.name), tracking=sql.Identifier(one.schema, "tracking"))
        for one in projections
    ]
    statement = _LAGS.format(shown=sql.SQL(" UNION ALL ").join(shown))
    curs.execute(statement, {"books": list(books), "names": [one.name for one in projections]})
    return [Lag._make(row) for row in curs.fetchall()]
