"""Servers for the tests: real PostgreSQL and Valkey of their own, fresh databases in milliseconds.

Every test process starts its own servers in a directory that is removed afterwards. The schema is
migrated once into a template, and each test works on a copy. No test ever reaches a server that
happens to run on this machine.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import psycopg2
import pytest
import redis

from api.embedded import EmbeddedPostgres, EmbeddedValkey
from ledger.datastore import Datastore
from ledger.migrations import migrate as migrate_ledger
from tests.support.valkeys import Cluster, running_cluster

TEMPLATE = "tidebook_template"

# A shell that runs us in the background lets us ignore Ctrl-C, and our children would inherit
# that: tests that send it to them would wait in vain.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _name_in(url: str) -> str:
    """The name of a database in its URL."""
    return url.partition("@/")[2].partition("?")[0]


class Databases:
    """Makes databases with the migrated schema, as many as a test wants, and drops them."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)

    def create(self) -> str:
        """A fresh migrated database; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.server.url_of(name)

    def copy_of(self, url: str) -> str:
        """A copy of a database that nobody is connected to, as from a backup; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {_name_in(url)}")
        return self.server.url_of(name)

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._execute(f"DROP DATABASE IF EXISTS {_name_in(url)} WITH (FORCE)")

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """A database for the length of a block, for example for one run of a state machine."""
        url = self.create()
        try:
            yield url
        finally:
            self.drop(url)

    def make_template(self) -> None:
        """Migrate the database that all others are copies of."""
        self._execute(f"CREATE DATABASE {TEMPLATE}")
        url = self.server.url_of(TEMPLATE)
        migrate_ledger(url)
        if find_spec("projections") and find_spec("projections.migrations"):
            import_module("projections.migrations").migrate(url)
        migrate_ledger(url, "api")
        migrate_ledger(url, "api.wallets")

    def _execute(self, statement: str) -> None:
        connection = psycopg2.connect(self.server.url_of("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


@pytest.fixture(scope="session")
def server_home() -> Iterator[Path]:
    """A directory for this process's servers, short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="tidebook-test-"))
    yield home
    with suppress(OSError):
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def postgres_server(server_home: Path) -> Iterator[EmbeddedPostgres]:
    """PostgreSQL with the settings of service: fsync and full pages stay on."""
    settings = {"shared_buffers": "64MB", "max_connections": "200"}
    with EmbeddedPostgres(server_home, settings=settings) as server:
        yield server


@pytest.fixture(scope="session")
def databases(postgres_server: EmbeddedPostgres) -> Databases:
    """Fresh databases on demand: `with databases.fresh() as url`."""
    made = Databases(postgres_server)
    made.make_template()
    return made


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A fresh migrated database for one test."""
    with databases.fresh() as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A database without any schema, for tests about migrations."""
    made = Databases(postgres_server)
    made._execute("CREATE DATABASE empty_database")
    url = postgres_server.url_of("empty_database")
    yield url
    made.drop(url)


@pytest.fixture
def datastore(database_url: str) -> Iterator[Datastore]:
    """A pool of connections to this test's database, in the application's role."""
    store = Datastore(database_url)
    yield store
    store.close()


@pytest.fixture(scope="session")
def valkey_server(server_home: Path) -> Iterator[EmbeddedValkey]:
    """Valkey with the settings of service."""
    with EmbeddedValkey(server_home) as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: EmbeddedValkey) -> str:
    """The URL of an empty Valkey."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture(scope="session")
def valkey_cluster(server_home: Path) -> Iterator[Cluster]:
    """Three primaries that share the slots, on loopback ports."""
    with running_cluster(server_home) as cluster:
        yield cluster


def wait_until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Wait until `condition` holds; fail the test when it does not within the bound."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not so within {within_s} s")
        time.sleep(0.02)
