"""The contenders without HTTP keep their one rule, and say what they did."""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import umadb
from psycopg.errors import UniqueViolation

from loadtest.baselines import copy_claims
from loadtest.baselines.umadb_claims import Claims
from loadtest.contenders import CommandFailed, output_of
from loadtest.servers import Postgres
from loadtest.stores import GroupCommit, Store, Umadb, plain_copy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory that the server's account can reach, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="tidebook-test-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="module")
def uma(home: Path) -> Iterator[Umadb]:
    """The `umadb` server."""
    with Umadb.started(home) as server:
        yield server


def test_umadb_gives_one_claim_a_person_however_many_ask(uma: Umadb) -> None:
    """Eight threads for one person: one append, seven conflicts; somebody else has one too."""

    def claim(_: int) -> bool:
        try:
            Claims(umadb.Client(uma.url), "spring").claim("ann")
        except umadb.IntegrityError:
            return False
        return True

    with ThreadPoolExecutor(8) as doors:
        assert sorted(doors.map(claim, range(8))) == [False] * 7 + [True]
    claims = Claims(umadb.Client(uma.url), "spring")
    claims.claim("bob")
    assert claims.count() == 2
    assert Claims(umadb.Client(uma.url), "autumn").claim("ann")


def measured(store: Store) -> None:
    """A short run of a store says what it did, and what it cost."""
    outcome = store.run(0.2)
    assert outcome.per_s > 0
    assert 0 < outcome.p50_ms <= outcome.p99_ms
    assert set(outcome.cpu_us) == {*store.roots(), "driver"}
    assert outcome.findings == []


def test_claims_of_umadb_are_measured(uma: Umadb) -> None:
    """The child counts in the store what it was answered."""
    measured(uma.asked_by("umadb_2", 2))


def test_claims_of_our_writer_are_measured_by_threads_and_by_a_loop(home: Path) -> None:
    """Both ways of asking, over one database."""
    with GroupCommit.started(home) as commit:
        measured(commit.asked_by("commit_2", "--threads", 2))
        measured(commit.asked_by("commit_20", "--in-flight", 20))


def test_plain_copy_is_measured_and_keeps_its_key(home: Path) -> None:
    """A second row of the same campaign and person is refused as in any table."""
    with plain_copy("copy", home, 100) as store:
        measured(store)
        postgres = store.trees["postgres"]
        assert isinstance(postgres, Postgres)
        with psycopg.connect(postgres.url) as connection:
            row = copy_claims.batch(b"c" * 16, 1)
            copied(connection, row)
            with pytest.raises(UniqueViolation):
                copied(connection, row)


def copied(connection: psycopg.Connection, rows: bytes) -> None:
    """Copy these rows."""
    with connection.cursor().copy("COPY claim FROM STDIN (FORMAT binary)") as copy:
        copy.write(rows)


def test_a_child_that_fails_says_why() -> None:
    """Its last words are in the error, and its command."""
    with pytest.raises(CommandFailed, match="database-url"):
        output_of([sys.executable, "-m", "loadtest.baselines.copy_claims"])
