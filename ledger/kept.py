"""Kept replies as the past needs them: by key, and those of some codes in order of position.

Nothing here writes. The order is made once, by the server, in a result that it keeps outside of
any transaction: rows are then fetched page by page, and nothing is held up meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from ledger.datastore import Datastore

PAGE_REPLIES: Final = 5_000


class Kept(NamedTuple):
    """A kept reply in full; `position` is the book's when it was decided, its events included."""

    scope: str
    key: str
    fingerprint: bytes
    code: str
    body: bytes
    position: int


Key = tuple[str, str]
"""A scope and an idempotency key in it."""


def kept_by_key(datastore: Datastore, book: str, keys: list[Key]) -> dict[Key, Kept]:
    """Return the replies that are kept under keys, where there are any."""
    if not keys:
        return {}
    with datastore.transaction() as cursor:
        scopes, names = [scope for scope, _ in keys], [key for _, key in keys]
        cursor.execute(_BY_KEY, (scopes, names, book))
        return {(kept.scope, kept.key): kept for kept in map(_kept, cursor.fetchall())}


def kept_in_order(
    datastore: Datastore,
    book: str,
    codes: Collection[str],
    until: int,
    fingerprints: Collection[bytes] | None = None,
) -> Iterator[Kept]:
    """Yield the replies of some codes up to a position, in order; of some requests only, if told.

    Those of one position come in no order that anybody knows, and so by scope and key.
    """
    connection = datastore.connect()
    try:
        with connection.cursor() as cursor:
            wanted = None if fingerprints is None else list(fingerprints)
            cursor.execute(_IN_ORDER, (book, until, list(codes), wanted, wanted))
            connection.commit()
            while True:
                cursor.execute(_FETCH)
                rows = cursor.fetchall()
                connection.commit()
                yield from map(_kept, rows)
                if len(rows) < PAGE_REPLIES:
                    return
    finally:
        connection.close()


def _kept(row: tuple[Any, ...]) -> Kept:
    scope, key, fingerprint, code, body, position = row
    return Kept(scope, key, bytes(fingerprint), code, bytes(body), position)


_BY_KEY: Final = (
    "SELECT i.scope, i.key, i.fingerprint, i.code, i.body, i.position"
    " FROM unnest(%s::text[], %s::text[]) AS w (scope, key),"
    " LATERAL (SELECT * FROM idempotency WHERE book = %s AND scope = w.scope AND key = w.key"
    " OFFSET 0) i"
)
_IN_ORDER: Final = (
    "DECLARE kept CURSOR WITH HOLD FOR"
    " SELECT scope, key, fingerprint, code, body, position FROM idempotency"
    " WHERE book = %s AND position <= %s AND code = ANY (%s::text[])"
    " AND (%s::bytea[] IS NULL OR fingerprint = ANY (%s::bytea[]))"
    " ORDER BY position, scope, key"
)
_FETCH: Final = f"FETCH {PAGE_REPLIES} FROM kept"
