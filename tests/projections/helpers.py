"""Helpers of the tests of read models: a clock to move, catching up, rows as text, planted bugs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.datastore import Datastore
from projections import merchant_balances
from projections.lease import Lease
from projections.projection import Batch, Projection
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.tracking import PositionTracking


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def catch_up(datastore: Datastore, *projections: Projection, book: str = "main") -> None:
    """Run each read model (all without) to the book's head."""
    for projection in projections or PROJECTIONS:
        runner = Runner(datastore, projection, book, "test")
        while runner.run_once():
            pass
        with datastore.transaction() as curs:
            runner.lease.release(curs)


def rows_of(datastore: Datastore, projection: Projection, schema: str | None = None) -> Any:
    """Every row of a read model's tables and its tracking, as text, in order."""
    schema = schema or projection.schema
    rows = {}
    with datastore.transaction() as curs:
        curs.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename <> 'shape'",
            (schema,),
        )
        for (table,) in curs.fetchall():
            curs.execute(f"SELECT t::text FROM {schema}.{table} AS t ORDER BY t::text")
            rows[table] = [text for (text,) in curs.fetchall()]
    return rows


def with_hook(projection: Projection, after_rows: Callable[[], None]) -> Projection:
    """A read model that does something between writing its rows and committing them."""

    def apply_rows(curs: Any, book: str, batch: Batch) -> None:
        projection.apply_rows(curs, book, batch)
        after_rows()

    return replace(projection, apply_rows=apply_rows)


def _apply_sums(curs: Any, book: str, batch: Batch) -> None:
    merchant_balances._add_to_balances(curs, book, merchant_balances.sums_of(batch))


SUMS = replace(merchant_balances.MERCHANT_BALANCES, apply_rows=_apply_sums)
"""The merchant balances without their list, whose key would refuse a second copy by itself."""


class UnfencedLease(Lease):
    """Planted bug: whoever once had the lease may commit for ever."""

    def fence(self, curs: Any) -> None:
        """Look at nothing."""


class ForgetfulTracking(PositionTracking):
    """Planted bug: the tracking is overwritten without a look at where it stands."""

    def advance(self, curs: Any, book: str, after: int, last: int) -> None:
        """Write the position, whatever was there."""
        curs.execute(
            "INSERT INTO rm_wallets.tracking VALUES (%s, %s)"
            " ON CONFLICT (book) DO UPDATE SET position = excluded.position",
            (book, last),
        )
