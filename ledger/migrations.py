"""Numbered SQL migrations: each applied once, in order, in its own transaction.

A migration that was applied never changes: its checksum is kept and compared, so that an edited
file is refused instead of half-believed. Two processes that start together take turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

import psycopg2

SCHEMA: Final = "tidebook"
_LOCK: Final = 0x7469_6465  # one lock for every package's migrations: they may touch one another

_BOOTSTRAP: Final = """
CREATE SCHEMA IF NOT EXISTS tidebook;
SET LOCAL search_path TO tidebook;
CREATE TABLE IF NOT EXISTS schema_migration (
    package text NOT NULL,
    number integer NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (package, number)
);
"""


class MigrationError(Exception):
    """The migrations on disk and those applied to the database do not agree."""


class Migration(NamedTuple):
    """One numbered SQL file of a package."""

    package: str
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the SQL text, hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrate(url: str, package: str = "ledger") -> list[str]:
    """Apply what is missing of `package`'s migrations; return their names, none on a second run.

    `url` connects as the owner of the schema. Raises `MigrationError` when an applied migration
    was edited afterwards or when the database is ahead of this program.
    """
    wanted = read_migrations(package)
    with _locked(url) as connection:
        applied = _applied(connection, package)
        _check_history(wanted, applied)
        fresh = [m for m in wanted if m.number not in applied]
        for migration in fresh:
            _apply(connection, migration)
    return [m.name for m in fresh]


def missing(cursor: Any, packages: Iterable[str]) -> list[str]:
    """Return what is not applied of the packages' migrations, as `package 0001_name`.

    `cursor` may be the application's: a server looks before it serves, and applies nothing. A
    database that is ahead of this program is none of its business here.
    """
    cursor.execute("SELECT package, number FROM tidebook.schema_migration")
    applied = set(cursor.fetchall())
    return [
        f"{one.package} {one.name}"
        for package in packages
        for one in read_migrations(package)
        if (one.package, one.number) not in applied
    ]


def read_migrations(package: str) -> list[Migration]:
    """Return the migrations of `package` in order of their numbers: 1, 2, 3 and so on."""
    folder: Traversable = files(package) / "sql" / "migrations"
    found = sorted(
        (f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda file: file.name
    )
    migrations = [Migration(package, int(f.name[:4]), f.name[:-4], f.read_text()) for f in found]
    if [m.number for m in migrations] != list(range(1, len(migrations) + 1)):
        raise MigrationError(f"the migrations of {package} are not numbered 1, 2, 3, …")
    return migrations


@contextmanager
def _locked(url: str) -> Iterator[Any]:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            cursor.execute(_BOOTSTRAP)
        yield connection
    finally:
        connection.close()


def _applied(connection: Any, package: str) -> dict[int, tuple[str, str]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT number, name, checksum FROM tidebook.schema_migration WHERE package = %s",
            (package,),
        )
        return {number: (name, checksum) for number, name, checksum in cursor.fetchall()}


def _check_history(wanted: list[Migration], applied: dict[int, tuple[str, str]]) -> None:
    by_number = {m.number: m for m in wanted}
    for number, (name, checksum) in sorted(applied.items()):
        if number not in by_number:
            raise MigrationError(f"the database has migration {name}, which this program lacks")
        if by_number[number].checksum != checksum:
            raise MigrationError(f"migration {name} was edited after it had been applied")


def _apply(connection: Any, migration: Migration) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute("SET LOCAL search_path TO tidebook")
        cursor.execute(migration.sql)
        cursor.execute(
            "INSERT INTO tidebook.schema_migration (package, number, name, checksum)"
            " VALUES (%s, %s, %s, %s)",
            (migration.package, migration.number, migration.name, migration.checksum),
        )
