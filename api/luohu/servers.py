"""The replay's own servers: a PostgreSQL and a projector in a home of its own.

It is handed none of the caller's `TIDEBOOK_…` settings, so that a ledger that somebody runs on this
machine is never touched. Everything ends with us, however we end. There is no HTTP here and no
gate: nobody waits in line, and a simulated clock is nobody's business but the replay's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, Self

from api.embedded import EmbeddedPostgres
from api.luohu.usage import Meter
from api.settings import PREFIX
from api.supervisor import Command, Keeper
from ledger import migrations as ledger_migrations
from ledger.datastore import Datastore
from projections import migrations as projection_migrations

REBUILD_S: Final = 600.0
"""A home that an older version made has its read models rebuilt."""

_PROGRAM: Final = (sys.executable, "-P", "-m", "api.cli")


class Done(NamedTuple):
    """What a program of another process came to."""

    status: int
    output: str


class LuohuServers:
    """The servers, from `with LuohuServers(home) as servers` to the end of the block."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.meter = Meter()
        self._running = ExitStack()
        self._projector: Keeper | None = None
        self._environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._start()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def tidebook(self, *arguments: str) -> Done:
        """Run a command of `tidebook` on this home to its end."""
        return self.run(*_PROGRAM, *arguments)

    def run(self, *argv: str) -> Done:
        """Run a program to its end."""
        done = subprocess.run(  # noqa: S603 - argv is ours
            argv,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout)

    def stop_projector(self) -> None:
        """Let go of the read models: they stand where the book ends."""
        if self._projector is not None:
            self._projector.stop()
            self._projector = None

    def _start(self) -> None:
        postgres = self._running.enter_context(EmbeddedPostgres(self.home))
        self._environment = self._settings(postgres.url)
        ledger_migrations.migrate(postgres.url)
        projection_migrations.migrate(postgres.url)
        ledger_migrations.migrate(postgres.url, "api")
        ledger_migrations.migrate(postgres.url, "api.wallets")
        outdated = projection_migrations.outdated(postgres.url)
        if outdated:
            self._command("project", "--rebuild", *outdated).run(REBUILD_S)
        self.datastore = Datastore(postgres.url, pool_size=4)
        self._running.callback(self.datastore.close)
        self._running.enter_context(self.meter)
        self._projector = Keeper(name="project", command=self._command("project"))
        self._projector.start()
        self._running.callback(self.stop_projector)

    def _command(self, name: str, *arguments: str) -> Command:
        return Command(
            argv=(*_PROGRAM, name, *arguments),
            env=self._environment,
            output=self.home / f"{name}.log",
        )

    def _settings(self, database_url: str) -> dict[str, str]:
        own = {"HOME": str(self.home), "DATABASE_URL": database_url, "LOG_LEVEL": "warning"}
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        }
        return {**inherited, **{PREFIX + name: value for name, value in own.items()}}
