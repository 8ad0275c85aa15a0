"""The limit of PostgreSQL here: COPY into one table with a unique key, a commit for each batch.

The rows are made beforehand, one connection writes them, and nobody is asked or answered: no
decision, no stock, no reply. It must never skip the flush.
"""

from __future__ import annotations

import argparse
import struct
import sys
from secrets import token_bytes
from time import perf_counter
from typing import TYPE_CHECKING, Final

import psycopg

from loadtest.baselines.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD: Final = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TAIL: Final = struct.pack(">h", -1)
ROW: Final = struct.Struct(">hi16si16si")
STATE: Final = b"{" + b"x" * 618 + b"}"
"""As long as the event of a claim is in our store."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS claim (
    campaign uuid NOT NULL, person uuid NOT NULL, state bytea NOT NULL,
    PRIMARY KEY (campaign, person)
)
"""
_COPY: Final = "COPY claim FROM STDIN (FORMAT binary)"

ROWS_PER_S: Final = 120_000
"""Rows are made for this rate; a faster machine ends the run a little early."""


def batch(campaign: bytes, rows: int) -> bytes:
    """The bytes of so many claims of people who never came before."""
    people = (ROW.pack(3, 16, campaign, 16, token_bytes(16), len(STATE)) for _ in range(rows))
    return HEAD + STATE.join([next(people), *people, TAIL])


def run(connection: psycopg.Connection, rows: int, seconds: float) -> Tally:
    """Batch after batch, each in a transaction of its own."""
    campaign = token_bytes(16)
    batches = [batch(campaign, rows) for _ in range(max(1, int(ROWS_PER_S * seconds / rows)))]
    with Tally() as tally, connection.cursor() as cursor:
        for each in batches:
            began_s = perf_counter()
            if began_s >= tally.started_s + seconds:
                break
            with cursor.copy(_COPY) as copy:
                copy.write(each)
            connection.commit()
            tally.latencies_s.append(perf_counter() - began_s)
            tally.claims += rows
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Copy for so long and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.baselines.copy_claims")
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--rows", type=int, default=500, help="rows of a transaction")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    with psycopg.connect(options.database_url) as connection:
        connection.execute(SCHEMA)
        connection.commit()
        before = _count(connection)
        tally = run(connection, options.rows, options.seconds)
        stored = _count(connection) - before
    assert stored == tally.claims, f"{tally.claims} were copied, {stored} are stored"
    print(tally.line())
    return 0


def _count(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM claim").fetchone()
    connection.commit()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    sys.exit(main())
