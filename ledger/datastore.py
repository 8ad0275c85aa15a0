"""Connections to PostgreSQL: a bounded pool, safe session settings, our names for its errors.

Driver errors become the eventsourcing library's errors here and nowhere else. A connection that
failed is never handed out again. No lock is held while waiting for the network.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
import psycopg2.extensions
import psycopg2.extras
from eventsourcing import persistence as es

APP_ROLE: Final = "tidebook_app"

POOL_WAIT_S: Final = 5.0
"""How long a caller waits for a free connection before it is told that there is none."""

_SESSION: Final = {
    "role": APP_ROLE,
    "search_path": "tidebook",
    "timezone": "UTC",
    "jit": "off",  # compiling takes longer than any statement here
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
}

_TRANSLATION: Final[tuple[tuple[type[Exception], type[Exception]], ...]] = (
    (psycopg2.IntegrityError, es.IntegrityError),
    (psycopg2.DataError, es.DataError),
    (psycopg2.InternalError, es.InternalError),
    (psycopg2.ProgrammingError, es.ProgrammingError),
    (psycopg2.NotSupportedError, es.NotSupportedError),
    (psycopg2.OperationalError, es.OperationalError),
    (psycopg2.DatabaseError, es.DatabaseError),
    (psycopg2.InterfaceError, es.InterfaceError),
    (psycopg2.Error, es.PersistenceError),
)

psycopg2.extras.register_uuid()  # type: ignore[no-untyped-call]


class CommitUnknown(es.OperationalError):
    """The connection failed around COMMIT: the transaction may or may not be in the store."""


class PoolExhausted(es.OperationalError):
    """Every connection was in use for longer than a caller may wait."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the driver's errors as the eventsourcing library's, with the cause attached."""
    try:
        yield
    except psycopg2.Error as error:
        for theirs, ours in _TRANSLATION:
            if isinstance(error, theirs):
                raise ours(str(error).strip()) from error
        raise


class Datastore:
    """A bounded pool of connections to one database, in the application's role.

    `url` is a libpq URI or keyword string. `session` overrides session settings (GUC name →
    value); a setting of None is left to the server. Thread-safe. Close it when done.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        session: Mapping[str, str | None] | None = None,
        connect_timeout_s: int = 5,
    ) -> None:
        self.url = url
        self._pool_size = pool_size
        self._session = session or {}
        settings = {**_SESSION, **(session or {})}
        self._options = " ".join(f"-c {k}={v}" for k, v in settings.items() if v is not None)
        self._connect_timeout_s = connect_timeout_s
        self._free = threading.BoundedSemaphore(pool_size)
        self._idle: list[_Idle] = []
        self._lock = threading.Lock()
        self._generation = 0
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """Lend a connection in a transaction: commit at the end, roll back on any exception.

        Raises `CommitUnknown` when the connection failed around COMMIT.
        """
        if not self._free.acquire(timeout=POOL_WAIT_S):
            raise PoolExhausted(f"no database connection became free within {POOL_WAIT_S:g} s")
        try:
            with translated_errors():
                connection, generation = self._take()
                try:
                    yield connection
                except BaseException:
                    self._abandon(connection, generation)
                    raise
                self._commit(connection, generation)
        finally:
            self._free.release()

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Lend a cursor in a transaction of its own."""
        with self.connection() as connection, connection.cursor() as cursor:
            yield cursor

    def connect(self) -> Any:
        """Open a connection outside the pool (a writer keeps its own); the caller closes it."""
        with translated_errors():
            return self._open()

    def begin_connecting(self) -> Any:
        """Begin to open a connection that is polled by its owner and blocks nobody.

        It commits each statement by itself. Names of hosts are looked up before this returns.
        Raises the driver's errors.
        """
        return self._open(async_=1)

    def with_session(self, session: Mapping[str, str | None]) -> Datastore:
        """Return a datastore of the same database with further session settings."""
        return Datastore(
            self.url,
            pool_size=self._pool_size,
            session={**self._session, **session},
            connect_timeout_s=self._connect_timeout_s,
        )

    def close(self) -> None:
        """Close every idle connection; those lent out are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            _discard(connection)

    def _open(self, **how: Any) -> Any:
        return psycopg2.connect(
            self.url,
            **how,
            options=self._options,
            connect_timeout=self._connect_timeout_s,
            application_name="tidebook",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )

    def _take(self) -> _Idle:
        with self._lock:
            while self._idle:
                connection, generation = self._idle.pop()
                if generation == self._generation and not connection.closed:
                    return connection, generation
                _discard(connection)
            generation = self._generation
        return self._open(), generation

    def _commit(self, connection: Any, generation: int) -> None:
        try:
            connection.commit()
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            self._lost(connection)
            raise CommitUnknown(str(error).strip()) from error
        except BaseException:
            self._abandon(connection, generation)
            raise
        self._give_back(connection, generation)

    def _abandon(self, connection: Any, generation: int) -> None:
        try:
            connection.rollback()
        except psycopg2.Error:
            self._lost(connection)
        else:
            self._give_back(connection, generation)

    def _lost(self, connection: Any) -> None:
        """A connection died: those that were idle beside it are probably dead as well."""
        _discard(connection)
        with self._lock:
            self._generation += 1

    def _give_back(self, connection: Any, generation: int) -> None:
        with self._lock:
            if not self._closed and generation == self._generation and not connection.closed:
                self._idle.append((connection, generation))
                return
        _discard(connection)


_Idle = tuple[Any, int]


def _discard(connection: Any) -> None:
    with suppress(psycopg2.Error):
        connection.close()


def wait_until_ready(url: str, timeout_s: float) -> None:
    """Return once the server answers; raise `es.OperationalError` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            psycopg2.connect(url, connect_timeout=2).close()
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                raise es.OperationalError(str(error).strip()) from error
            time.sleep(0.05)
        else:
            return
