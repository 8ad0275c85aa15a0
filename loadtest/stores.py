"""The contenders without HTTP: our group commit, the `umadb` server, plain COPY.

Each run is a child that claims straight from its store, times itself and says in one line what came
of it. The rule is the same for the first two: one claim a person. It must never give a store less
memory or less of a flush than another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtest.contenders import Outcome, output_of
from loadtest.servers import POSTGRES_SETTINGS, Child, CpuTime, Postgres, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE_CACHE_MB: Final = int(POSTGRES_SETTINGS["shared_buffers"].removesuffix("MB"))
"""As much as PostgreSQL's shared buffers."""


class Store:
    """A store that is claimed from by a child which talks to it directly."""

    def __init__(
        self, name: str, connections: int, claimer: Sequence[str], trees: dict[str, Child]
    ) -> None:
        self.name = name
        self.connections = connections
        self._claimer = [sys.executable, "-m", *claimer]
        self.trees = trees

    def run(self, seconds: float) -> Outcome:
        """One child claims for so long."""
        with CpuTime(self.roots()) as cpu:
            said = json.loads(output_of([*self._claimer, "--seconds", str(seconds)]))
        # The child's own preparation is in its store's time too; the claims outweigh it.
        cpu_us = {name: used / said["claims"] * 1e6 for name, used in cpu.used_s.items()}
        return Outcome(
            per_s=said["per_s"],
            p50_ms=said["p50_ms"],
            p99_ms=said["p99_ms"],
            cpu_us={**cpu_us, "driver": said["cpu_us"]},
        )

    def roots(self) -> dict[str, int]:
        """The store."""
        return {name: child.pid for name, child in self.trees.items()}


class GroupCommit:
    """Our writer over a PostgreSQL of its own, asked by threads or from one event loop."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    @classmethod
    @contextlib.contextmanager
    def started(cls, home: Path) -> Iterator[GroupCommit]:
        """A migrated database."""
        with Postgres(home / "commit") as postgres:
            env = {
                **os.environ,
                "TIDEBOOK_HOME": str(home / "commit-home"),
                "TIDEBOOK_DATABASE_URL": postgres.url,
            }
            output_of([str(Path(sys.executable).with_name("tidebook")), "migrate"], env)
            yield cls(postgres)

    def asked_by(self, name: str, how: str, count: int) -> Store:
        """The contender that claims by so many `--threads`, or with so many `--in-flight`."""
        claimer = ["campaigns.stress", "--database-url", self._postgres.url, how, str(count)]
        return Store(name, count, claimer, {"postgres": self._postgres})


class Umadb:
    """The `umadb` server from its wheel, with a store of its own."""

    def __init__(self, url: str, server: Child) -> None:
        self.url = url
        self._server = server

    @classmethod
    @contextlib.contextmanager
    def started(cls, home: Path) -> Iterator[Umadb]:
        """Serve an empty store."""
        port = free_port()
        binary = str(Path(sys.executable).with_name("umadb"))
        argv = [binary, "--listen", f"127.0.0.1:{port}", "--db-path", str(home / "umadb")]
        argv += ["--page-cache-max-mb", str(PAGE_CACHE_MB)]
        log = home / "umadb.log"
        with Child("umadb", argv, log=log, ready=lambda: _listens(port)) as server:
            yield cls(f"http://127.0.0.1:{port}", server)

    def asked_by(self, name: str, threads: int) -> Store:
        """The contender that claims by so many threads, each with a client of its own."""
        claimer = ["loadtest.baselines.umadb_claims", "--url", self.url]
        claimer += ["--threads", str(threads)]
        return Store(name, threads, claimer, {"umadb": self._server})


@contextlib.contextmanager
def plain_copy(name: str, home: Path, rows: int) -> Iterator[Store]:
    """COPY of so many rows at once into a table of its own."""
    with Postgres(home / name) as postgres:
        claimer = ["loadtest.baselines.copy_claims", "--database-url", postgres.url]
        yield Store(name, 1, [*claimer, "--rows", str(rows)], {"postgres": postgres})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
