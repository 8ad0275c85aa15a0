"""Warming: what a rush will look up is read into PostgreSQL's cache before it begins.

Ids are hashes, so each claim of a large book lands on pages of its indexes that nobody has touched
for a while, and a batch would wait for the disk once a claim. Read in order and beforehand, the
same pages take seconds. It is an offer: without the extension, or where the indexes would crowd
everything else out of the cache, nothing is done. It must never be waited for by a caller.
"""

from __future__ import annotations

from typing import Final

from psycopg2 import sql

from ledger.datastore import Datastore

SHARE: Final = 0.5
"""The most of the cache that warmed indexes may fill."""

TIMEOUT: Final = "60s"

INDEXES: Final = ("event_pkey", "event_request", "idempotency_pkey")
"""Those in which the places of new rows are anywhere; the one by position only grows at its end."""

_SCHEMA: Final = """
SELECT n.nspname FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname = 'pg_prewarm'
"""
_FITS: Final = """
SELECT sum(pg_relation_size(c.oid)) <= pg_size_bytes(current_setting('shared_buffers')) * %s
FROM pg_class AS c WHERE c.oid = ANY (%s::regclass[])
"""


def warm(datastore: Datastore) -> int:
    """Read the indexes that each request is looked up in into the cache; return the pages read.

    Returns 0 where that cannot or should not be done. Raises the library's errors.
    """
    indexes = [f"tidebook.{name}" for name in INDEXES]
    patient = datastore.with_session({"statement_timeout": TIMEOUT})
    try:
        with patient.transaction() as cursor:
            cursor.execute(_SCHEMA)
            found = cursor.fetchone()
            cursor.execute(_FITS, (SHARE, indexes))
            if found is None or not cursor.fetchone()[0]:
                return 0
            prewarm = sql.SQL("SELECT {}.pg_prewarm(%s::regclass)").format(sql.Identifier(found[0]))
            pages = 0
            for index in indexes:
                cursor.execute(prewarm, (index,))
                pages += cursor.fetchone()[0]
            return pages
    finally:
        patient.close()
