"""The baselines in plain SQL: a stock row, locked by SELECT … FOR UPDATE or taken by one UPDATE.

What most shops run, written as one would for service: psycopg 3 with a pool, in an event loop; one
transaction a claim and as few round trips as its way allows; a unique (campaign, person), so that a
second claim cannot be written; the key beside it, so that a retry gets its first answer; a commit
flushed to disk before each answer. It must never issue more than the stock.

Each claim holds the stock row from its lock to the end of its commit, flush included, so that the
claims of one campaign stand in line: this is the limit of both ways, not the language.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import psycopg
from psycopg.errors import UniqueViolation
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from loadtest.baselines import serving
from loadtest.baselines.claims import (
    AlreadyClaimed,
    Coupon,
    Desk,
    NewCampaign,
    NotFound,
    SoldOut,
    application,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fastapi import FastAPI

DATABASE_URL: Final = "ROWS_DATABASE_URL"
WAY: Final = "ROWS_WAY"
POOL_SIZE: Final = "ROWS_POOL_SIZE"

POOL_SIZE_DEFAULT: Final = 4
"""Connections per worker: more of them only wait for the row."""

SCHEMA: Final = """
CREATE TABLE campaign (
    id uuid PRIMARY KEY, name text NOT NULL, face_minor bigint NOT NULL, currency text NOT NULL,
    quota bigint NOT NULL, remaining bigint NOT NULL CHECK (remaining >= 0)
) WITH (fillfactor = 10);
CREATE TABLE claim (
    campaign uuid NOT NULL, person text NOT NULL, coupon uuid NOT NULL, key text NOT NULL,
    claimed_at timestamptz NOT NULL, PRIMARY KEY (campaign, person)
);
"""

_OPEN: Final = "INSERT INTO campaign VALUES (%s, %s, %s, %s, %s, %s)"

_LOCK: Final = (
    "SELECT remaining, face_minor, currency, clock_timestamp() FROM campaign WHERE id = %s "
    "FOR UPDATE"
)
_INSERT: Final = "INSERT INTO claim VALUES (%s, %s, %s, %s, %s)"
_TAKE: Final = "UPDATE campaign SET remaining = remaining - 1 WHERE id = %s"

_TAKE_IF_LEFT: Final = """
WITH stock AS (
    UPDATE campaign SET remaining = remaining - 1 WHERE id = %s AND remaining > 0
    RETURNING id, face_minor, currency
), coupon AS (
    INSERT INTO claim SELECT id, %s, %s, %s, clock_timestamp() FROM stock RETURNING claimed_at
)
SELECT face_minor, currency, claimed_at FROM stock, coupon
"""

_EARLIER: Final = """
SELECT c.coupon, c.key, c.claimed_at, s.face_minor, s.currency
FROM campaign s LEFT JOIN claim c ON c.campaign = s.id AND c.person = %s WHERE s.id = %s
"""

_FIGURES: Final = """
SELECT quota - remaining, quota, (SELECT count(*) FROM claim WHERE campaign = id)
FROM campaign WHERE id = %s
"""

Pool = AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]


class Rows(Desk):
    """Campaigns and claims in two tables; how the stock is taken is the subclass's."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def open_campaign(self, new: NewCampaign) -> UUID:
        """Insert the campaign with its stock."""
        campaign = uuid4()
        row = (campaign, new.name, new.face_minor, new.currency, new.quota, new.quota)
        async with self._pool.connection() as connection:
            await connection.execute(_OPEN, row)
        return campaign

    async def claim(self, campaign: UUID, person: str, key: str) -> Coupon:
        """Take one from the stock and write who has it, or say which rule is in the way."""
        try:
            coupon = await self._take(campaign, person, uuid4(), key)
        except UniqueViolation:
            coupon = None
        return coupon or await self._earlier(campaign, person, key)

    async def _take(self, campaign: UUID, person: str, coupon: UUID, key: str) -> Coupon | None:
        """One transaction; None when there is nothing to take."""
        raise NotImplementedError

    async def _earlier(self, campaign: UUID, person: str, key: str) -> Coupon:
        """What an earlier request with the same key was given."""
        row = await self._one(_EARLIER, (person, campaign))
        if row is None:
            raise NotFound
        coupon, its_key, claimed_at, face_minor, currency = row
        if coupon is None:
            raise SoldOut
        if its_key != key:
            raise AlreadyClaimed
        return Coupon(coupon, campaign, face_minor, currency, claimed_at.isoformat(), replayed=True)

    async def figures(self, campaign: UUID) -> dict[str, int]:
        """Counted in the stock row, and claim by claim."""
        row = await self._one(_FIGURES, (campaign,))
        assert row is not None
        return dict(zip(("issued", "quota", "claims"), row, strict=True))

    async def _one(self, statement: str, values: tuple[Any, ...]) -> TupleRow | None:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(statement, values, prepare=True)
            return await cursor.fetchone()


class ForUpdate(Rows):
    """Lock the row, look, then write. Two round trips: the writes and the commit are pipelined."""

    async def _take(self, campaign: UUID, person: str, coupon: UUID, key: str) -> Coupon | None:
        async with self._pool.connection() as connection, connection.pipeline():
            cursor = await connection.execute(_LOCK, (campaign,), prepare=True)
            row = await cursor.fetchone()
            if row is None or row[0] == 0:
                await connection.rollback()
                return None
            _, face_minor, currency, now = row
            values = (campaign, person, coupon, key, now)
            await connection.execute(_INSERT, values, prepare=True)
            await connection.execute(_TAKE, (campaign,), prepare=True)
            await connection.commit()
        return Coupon(coupon, campaign, face_minor, currency, now.isoformat())


class Conditional(Rows):
    """UPDATE … WHERE remaining > 0 and the insert in one statement, which is its transaction."""

    async def _take(self, campaign: UUID, person: str, coupon: UUID, key: str) -> Coupon | None:
        row = await self._one(_TAKE_IF_LEFT, (campaign, person, coupon, key))
        if row is None:
            return None
        face_minor, currency, claimed_at = row
        return Coupon(coupon, campaign, face_minor, currency, claimed_at.isoformat())


WAYS: Final[dict[str, type[Rows]]] = {"for-update": ForUpdate, "conditional": Conditional}


@asynccontextmanager
async def opened() -> AsyncIterator[Desk]:
    """The desk over the database, and in the way, that the environment names."""
    way = WAYS[os.environ[WAY]]
    size = int(os.environ.get(POOL_SIZE, POOL_SIZE_DEFAULT))
    pool = AsyncConnectionPool(
        os.environ[DATABASE_URL],
        min_size=size,
        max_size=size,
        kwargs={"autocommit": way is Conditional},
        open=False,
    )
    async with pool:
        yield way(pool)


def create_app() -> FastAPI:
    """The service."""
    return application(opened)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the baseline until terminated."""
    parser = serving.parser(
        "python -m loadtest.baselines.rows", "Serve claims with FastAPI from a stock row."
    )
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--pool-size", type=int, default=POOL_SIZE_DEFAULT)
    options = parser.parse_args(arguments)
    os.environ[DATABASE_URL] = options.database_url
    os.environ[WAY] = options.way
    os.environ[POOL_SIZE] = str(options.pool_size)
    with psycopg.connect(options.database_url) as connection:
        connection.execute(SCHEMA)
    serving.serve("loadtest.baselines.rows:create_app", options, factory=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
