"""A glance at a book: what one moment shows, read by keys and without the head's lock.

Whoever has a guess can compare it with the store here: stock, how far a campaign has come, which
requests were answered, which streams exist. All of a glance is of one moment. Nothing is decided
by it and nothing is written: a glance may say that something is no more to be had, and never that
it is to be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from ledger.appending import Capacity, PoolKey
from ledger.datastore import Datastore

SESSION: Final = {
    # All is read by key, whatever the planner believes of a table that has just begun to grow.
    "enable_seqscan": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",  # planned once for a connection
    "statement_timeout": "2s",
}
"""Session settings of a connection that is used for glances only."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A request, and a stream that may exist; `request` as `ledger.appending.request_id`."""

    request: bytes
    scope: str
    key: str
    stream: str
    """The stream's id in 32 hex digits."""


class Sight(NamedTuple):
    """A pool, and the last version of its campaign's stream; 0 when there is none."""

    capacity: Capacity
    version: int


class Glance(NamedTuple):
    """What was seen: `now` and `at` as in `ledger.appending.Head`, the rest in the order asked."""

    position: int
    now: datetime
    at: datetime | None
    pools: list[Sight]
    answered: list[bool]
    """Whether the store has a reply or an event of that request."""
    existing: list[bool]
    """Whether the stream has an event."""

    @property
    def instant(self) -> datetime:
        """The instant at which a decision would be judged now."""
        return self.now if self.at is None or self.now >= self.at else self.at


def glance(
    connection: Any, book: str, pools: Sequence[PoolKey], asked: Sequence[Asked] = ()
) -> Glance:
    """Look once, in one round trip, on a connection from `connect`. Raises the driver's errors.

    No scope or key may hold a line break; none does.
    """
    with connection.cursor() as cursor:
        cursor.execute(LOOK, look_arguments(book, pools, asked))
        return glance_of(cursor.fetchone(), asked)


def look_arguments(book: str, pools: Sequence[PoolKey], asked: Sequence[Asked]) -> tuple[str, ...]:
    """Return what `LOOK` is executed with."""
    return (
        book,
        ",".join([campaign.hex for campaign, _ in pools]),
        ",".join([pool for _, pool in pools]),
        ",".join([one.request.hex() for one in asked]),
        "\n".join([one.scope for one in asked]),
        "\n".join([one.key for one in asked]),
        ",".join([one.stream for one in asked]),
    )


def glance_of(row: Any, asked: Sequence[Asked]) -> Glance:
    """Return what the row of `LOOK` says."""
    now, position, at, sights, recorded, kept, streams = row
    answered = existing = [False] * len(asked)
    if recorded or kept:
        numbers = {int(number) - 1 for number in _parts(kept)}
        marks = set(_parts(recorded and recorded.replace("-", "")))
        answered = [
            number in numbers or one.request.hex() in marks for number, one in enumerate(asked)
        ]
    if streams:
        found = set(_parts(streams.replace("-", "")))
        existing = [one.stream in found for one in asked]
    return Glance(
        position or 0,
        now,
        at,
        [_sight(text) for text in (sights or "").split(";") if text],
        answered,
        existing,
    )


def connect(datastore: Datastore) -> Any:
    """Open a connection for glances; the caller closes it.

    Raises the library's errors, or the driver's.
    """
    connection = datastore.with_session(SESSION).connect()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(PREPARE)
    return connection


def _parts(text: str | None) -> list[str]:
    return text.split(",") if text else []


def _sight(text: str) -> Sight:
    *capacity, version = map(int, text.split(","))
    return Sight(Capacity(*capacity), version)


# Lists travel as one string each: the driver takes longer to write an array than the server to cut
# a string. Every look-up is by a unique index; a LATERAL subquery behind OFFSET 0 stays one per key
# whatever the planner believes.
LOOK: Final = "EXECUTE glance (%s, %s, %s, %s, %s, %s, %s)"
PREPARE: Final = r"""
PREPARE glance (text, text, text, text, text, text, text) AS
SELECT clock_timestamp(), h.position, nullif(h.at, '-infinity'),
  (SELECT string_agg(
      concat_ws(',', coalesce(c.issued, 0), coalesce(c.quota, 0), coalesce(c.granted_minor, 0),
                coalesce(c.budget_minor, 0), coalesce(v.version, 0)), ';' ORDER BY w.n)
   FROM ROWS FROM (unnest(string_to_array($2, ',')::uuid[]),
                   unnest(string_to_array($3, ',')))
        WITH ORDINALITY AS w (campaign, pool, n)
   LEFT JOIN LATERAL (SELECT * FROM capacity WHERE book = $1 AND campaign = w.campaign
                      AND pool = w.pool OFFSET 0) c ON true
   LEFT JOIN LATERAL (SELECT max(originator_version) AS version FROM event
                      WHERE book = $1 AND originator_id = w.campaign OFFSET 0) v ON true),
  (SELECT string_agg(request::text, ',') FROM event
   WHERE book = $1 AND request = ANY (string_to_array($4, ',')::uuid[])),
  (SELECT string_agg(w.n::text, ',')
   FROM ROWS FROM (unnest(string_to_array($5, E'\n')), unnest(string_to_array($6, E'\n')))
        WITH ORDINALITY AS w (scope, key, n),
   LATERAL (SELECT FROM idempotency
            WHERE book = $1 AND scope = w.scope AND key = w.key OFFSET 0) i),
  (SELECT string_agg(originator_id::text, ',') FROM event
   WHERE book = $1 AND originator_id = ANY (string_to_array($7, ',')::uuid[])
   AND originator_version = 1)
FROM (SELECT 1) AS one LEFT JOIN book_head h ON h.book = $1
"""
