"""Warming reads whole indexes into the cache, or nothing where that would not help."""

from __future__ import annotations

from contextlib import closing

import psycopg2
import pytest

from ledger import warming
from ledger.datastore import Datastore
from tests.support.desk import Desk, person


def pages_of_indexes(url: str) -> int:
    """Pages of the indexes that requests are looked up in."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        names = [f"tidebook.{name}" for name in warming.INDEXES]
        cursor.execute(
            "SELECT sum(pg_relation_size(c.oid)) / current_setting('block_size')::int"
            " FROM pg_class AS c WHERE c.oid = ANY (%s::regclass[])",
            (names,),
        )
        [(pages,)] = cursor.fetchall()
        return int(pages)


def test_every_page_of_the_indexes_is_read(datastore: Datastore, database_url: str) -> None:
    """In the application's role, which may read but not own them."""
    desk = Desk(datastore)
    campaign = desk.opened(quota=30)
    for number in range(30):
        desk.claim(campaign, person(number), f"key {number}")
    desk.close()
    assert warming.warm(datastore) == pages_of_indexes(database_url) > len(warming.INDEXES)


def test_indexes_that_would_fill_the_cache_are_left_alone(
    datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would only push each other out."""
    monkeypatch.setattr(warming, "SHARE", 1e-9)
    assert warming.warm(datastore) == 0


def test_a_database_without_the_extension_is_served_as_well(
    datastore: Datastore, database_url: str
) -> None:
    """Not every server has it, and not every role may create it."""
    with closing(psycopg2.connect(database_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("DROP EXTENSION pg_prewarm")
    assert warming.warm(datastore) == 0
