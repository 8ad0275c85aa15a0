"""A connection of its own for a runner: few round trips, and commits that nobody waits for.

A round trip costs both sides more than a small statement, so BEGIN travels with the first
statement and a look at the book is one statement without a transaction. The commits of rows and
tracking are not waited for on disk (`synchronous_commit = off`): what a crash takes is whole
transactions from the end, rows together with the tracking, and the events are folded again.
Nothing but read models may be written here: an event or a reply written this way could be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
from psycopg2 import extensions, sql

from ledger.datastore import CommitUnknown, Datastore, translated_errors

_BEGIN: Final = sql.SQL("BEGIN; SET LOCAL synchronous_commit = off; ")
_SEARCH: Final = sql.SQL("SET LOCAL search_path = {}; ")


class _Cursor(extensions.cursor):
    """Sends what opens the transaction together with its first statement."""

    opening = b""

    def execute(self, query: Any, variables: Any = None) -> None:
        """Run a statement."""
        if self.opening:
            query, variables = self.opening + self.mogrify(query, variables), None
            self.opening = b""
        super().execute(query, variables)


class Line:
    """A connection that is opened when it is first used, and again after it broke.

    Not for two threads at once.
    """

    def __init__(self, datastore: Datastore) -> None:
        self._datastore = datastore
        self._connection: Any = None

    @contextmanager
    def look(self) -> Iterator[Any]:
        """Lend a cursor on which every statement is a transaction of its own."""
        with self._cursor() as curs:
            yield curs

    @contextmanager
    def transaction(self, schema: str | None = None) -> Iterator[Any]:
        """Lend a cursor in a transaction; table names mean those of `schema`, if one is given.

        Its first statement must be an `execute`. Raises `CommitUnknown` when the connection
        failed around COMMIT.
        """
        with self._cursor() as curs:
            opening: sql.Composable = _BEGIN
            if schema is not None:
                opening += _SEARCH.format(sql.Identifier(schema))
            curs.opening = opening.as_string(curs).encode()
            yield curs
            if curs.opening:
                return
            try:
                curs.execute("COMMIT")
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                raise CommitUnknown(str(error).strip()) from error
            assert curs.statusmessage == "COMMIT", "an error in the transaction was passed over"

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with translated_errors():
            if self._connection is None or self._connection.closed:
                self._connection = self._datastore.connect()
                self._connection.autocommit = True
            connection = self._connection
            try:
                with connection.cursor(cursor_factory=_Cursor) as curs:
                    yield curs
            except BaseException:
                self._abandon(connection)
                raise

    def _abandon(self, connection: Any) -> None:
        """Roll back what was begun; a connection that cannot even do that is given up."""
        idle = extensions.TRANSACTION_STATUS_IDLE
        try:
            if connection.info.transaction_status != idle:
                with connection.cursor() as curs:
                    curs.execute("ROLLBACK")
        except psycopg2.Error:
            self.close()
