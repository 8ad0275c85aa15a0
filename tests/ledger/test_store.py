"""The database beneath: migrations, safe settings, connections and their errors."""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
import pytest
from eventsourcing import persistence as es

from ledger import datastore as datastore_module
from ledger import migrations
from ledger.datastore import CommitUnknown, Datastore, PoolExhausted
from ledger.migrations import Migration, MigrationError, migrate
from ledger.safety import UnsafeDatabase, check_settings, require_safe
from tests.support.proxy import Proxy


def test_migrating_twice_changes_nothing(empty_database_url: str) -> None:
    """The first run applies every migration, the second none."""
    assert migrate(empty_database_url) == [m.name for m in migrations.read_migrations("ledger")]
    assert migrate(empty_database_url) == []


def test_two_processes_migrate_at_once(empty_database_url: str) -> None:
    """They take turns: each migration is applied once."""
    applied: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: applied.append(migrate(empty_database_url)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations.read_migrations("ledger"))]


def test_an_edited_migration_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was applied never changes; an edit is an error, not a surprise."""
    edited = [m._replace(sql=m.sql + " ") for m in migrations.read_migrations("ledger")]
    monkeypatch.setattr(migrations, "read_migrations", lambda _: edited)
    with pytest.raises(MigrationError, match="edited"):
        migrate(database_url)


def test_a_database_from_the_future_is_refused(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program older than the database does not touch it."""
    monkeypatch.setattr(migrations, "read_migrations", lambda _: [])
    with pytest.raises(MigrationError, match="lacks"):
        migrate(database_url)


def test_events_of_before_are_migrated_without_a_touch(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of the first version gets the column for requests, null in all that it has."""
    every = migrations.read_migrations("ledger")
    monkeypatch.setattr(migrations, "read_migrations", lambda _: every[:1])
    migrate(empty_database_url)
    connection = psycopg2.connect(empty_database_url)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(
        "INSERT INTO tidebook.event (book, position, originator_id, originator_version, topic,"
        " state) VALUES ('main', 1, gen_random_uuid(), 1, 'x', 'y') RETURNING ctid, xmin"
    )
    place = cursor.fetchone()
    monkeypatch.setattr(migrations, "read_migrations", lambda _: every)
    assert migrate(empty_database_url) == [one.name for one in every[1:]]
    cursor.execute("SELECT ctid, xmin, request FROM tidebook.event")
    assert cursor.fetchall() == [(*(place or ()), None)]
    connection.close()


def test_a_broken_migration_leaves_nothing_behind(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration is applied whole or not at all."""
    known = migrations.read_migrations("ledger")
    broken = Migration("ledger", len(known) + 1, "broken", "CREATE TABLE half (); SELECT 1/0")
    monkeypatch.setattr(migrations, "read_migrations", lambda _: [*known, broken])
    with pytest.raises(psycopg2.errors.DivisionByZero):
        migrate(database_url)
    with Datastore(database_url).transaction() as cursor:
        cursor.execute("SELECT to_regclass('tidebook.half')")
        assert cursor.fetchone() == (None,)


def test_the_embedded_server_is_safe(datastore: Datastore) -> None:
    """Flushing, full pages and checksums are on where the tests run."""
    with datastore.transaction() as cursor:
        assert check_settings(cursor) == []
        require_safe(cursor)


def test_a_session_without_synchronous_commit_is_unsafe(database_url: str) -> None:
    """A commit that is answered before it is flushed is refused, and the reason is said."""
    lazy = Datastore(database_url, session={"synchronous_commit": "off"})
    with lazy.transaction() as cursor, pytest.raises(UnsafeDatabase, match="synchronous_commit"):
        require_safe(cursor)


class Settings:
    """A cursor that answers as a server with other settings would."""

    def __init__(self, **changes: str) -> None:
        self.values = {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "wal_level": "replica",
            "data_sync_retry": "off",
            "server_encoding": "UTF8",
            "server_version_num": "180000",
            **changes,
        }

    def execute(self, *_: Any) -> None:
        """Ask nobody."""

    def fetchall(self) -> list[tuple[str, str]]:
        """Return the settings."""
        return list(self.values.items())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
        ("data_checksums", "off"),
        ("wal_level", "minimal"),
        ("data_sync_retry", "on"),
        ("server_encoding", "SQL_ASCII"),
        ("server_version_num", "130011"),
    ],
)
def test_each_unsafe_setting_is_named(setting: str, value: str) -> None:
    """Every setting that could lose an answered effect is refused by its name."""
    assert [finding.setting for finding in check_settings(Settings(**{setting: value}))] == [
        setting
    ]


def test_the_pool_is_bounded(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all connections are lent, the next caller is told so instead of waiting for ever."""
    monkeypatch.setattr(datastore_module, "POOL_WAIT_S", 0.05)
    store = Datastore(database_url, pool_size=1)
    with store.transaction(), pytest.raises(PoolExhausted), store.transaction():
        pass
    with store.transaction() as cursor:
        cursor.execute("SELECT 1")


def test_an_exception_rolls_back(datastore: Datastore) -> None:
    """What a failed block wrote is gone, and the connection is usable again."""
    with pytest.raises(es.DataError), datastore.transaction() as cursor:
        cursor.execute("INSERT INTO book_head (book) VALUES ('x'); SELECT 1/0")
    with datastore.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM book_head")
        assert cursor.fetchone() == (0,)


def test_driver_errors_become_the_librarys(datastore: Datastore) -> None:
    """Callers see the eventsourcing library's errors only."""
    with pytest.raises(es.ProgrammingError), datastore.transaction() as cursor:
        cursor.execute("SELECT * FROM nowhere")
    with pytest.raises(es.IntegrityError), datastore.transaction() as cursor:
        cursor.execute("INSERT INTO book_head VALUES ('x'), ('x')")


def test_a_commit_whose_reply_is_lost_is_unknown(database_url: str) -> None:
    """The block's effect is in the store, but its caller was told that nobody knows."""
    proxy = Proxy(database_url)
    store = Datastore(proxy.url)
    proxy.cut_once(b"COMMIT", "after")
    with pytest.raises(CommitUnknown), store.transaction() as cursor:
        cursor.execute("INSERT INTO book_head (book) VALUES ('x')")
    with store.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM book_head")
        assert cursor.fetchone() == (1,)
    store.close()
    proxy.close()
