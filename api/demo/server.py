"""The demo's own service: every part of Tidebook, in a home of its own, in simulated time.

It is what `tidebook run` starts, with one difference: the sweeper is asked at each mailing's end
instead of looking at a real clock. Nothing of the caller's environment reaches it, so a ledger that
somebody runs on this machine is never touched. It ends with us, however we end.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from api.demo.ledger_side import BOOK
from api.demo.report import Verification
from api.embedded import EmbeddedError, EmbeddedPostgres, EmbeddedValkey
from api.settings import PREFIX
from api.supervisor import Command, Keeper, StartFailed
from api.sweeper import Sweeper
from campaigns.accounting import check_postings
from campaigns.event_types import MAPPER
from ledger import migrations as ledger_migrations
from ledger.commit import GroupCommit
from ledger.datastore import Datastore
from projections import migrations as projection_migrations

HOST: Final = "127.0.0.1"

REBUILD_S: Final = 300.0
"""A home that an older version made has its read models rebuilt: a quarter million events."""

_PROGRAM: Final = (sys.executable, "-P", "-m", "api.cli")
_NO_LIMIT: Final = "0"


class NotStarted(Exception):
    """The service cannot run in the demo's home; the message says why."""


class DemoService:
    """A running service, from `with DemoService(home) as service` to the end of the block."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = _free_port()
        self._running = ExitStack()
        self._environment: dict[str, str] = {}
        self._sweeper: Sweeper | None = None

    def __enter__(self) -> Self:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._start()
        except (EmbeddedError, StartFailed, OSError) as error:
            self._running.close()
            raise NotStarted(str(error)) from error
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def expire(self, at: datetime) -> None:
        """Expire every coupon whose validity has ended at `at`."""
        assert self._sweeper is not None, "the service runs"
        while self._sweeper.sweep(at).behind:
            pass

    def verify(self, *, as_json: bool) -> Verification:
        """Let `tidebook verify` look at the ledger that was made."""
        argv = (*_PROGRAM, "verify", *(("--json",) if as_json else ()))
        done = subprocess.run(  # noqa: S603 - argv is ours
            argv, env=self._environment, stdout=subprocess.PIPE if as_json else None, check=False
        )
        report = json.loads(done.stdout) if as_json and done.stdout else {}
        # A child's peak memory counts that of the process it was forked from, which is ours.
        report.pop("peak_memory_bytes", None)
        return Verification(done.returncode, report)

    def _start(self) -> None:
        postgres = self._running.enter_context(EmbeddedPostgres(self.home))
        valkey = self._running.enter_context(EmbeddedValkey(self.home))
        self._environment = self._settings(postgres.url, valkey.url)
        ledger_migrations.migrate(postgres.url)
        projection_migrations.migrate(postgres.url)
        ledger_migrations.migrate(postgres.url, "api")
        ledger_migrations.migrate(postgres.url, "api.wallets")
        outdated = projection_migrations.outdated(postgres.url)
        if outdated:
            self._command("project", "--rebuild", *outdated).run(REBUILD_S)
        self._keep("project", None)
        self._keep("serve", self._answers)
        self._start_sweeper(postgres.url)

    def _keep(self, name: str, ready: Callable[[], bool] | None) -> None:
        keeper = Keeper(name=name, command=self._command(name), ready=ready)
        keeper.start()
        self._running.callback(keeper.stop)

    def _command(self, name: str, *arguments: str) -> Command:
        """A command of `tidebook` as a child of ours, with a log in the home."""
        return Command(
            argv=(*_PROGRAM, name, *arguments),
            env=self._environment,
            output=self.home / f"{name}.log",
        )

    def _start_sweeper(self, url: str) -> None:
        datastore = Datastore(url, pool_size=2)
        self._running.callback(datastore.close)
        writer = GroupCommit(datastore, BOOK, MAPPER, check=check_postings).start()
        self._running.callback(writer.close)
        self._sweeper = Sweeper(datastore, writer)

    def _settings(self, database_url: str, redis_url: str) -> dict[str, str]:
        own = {
            "HOME": str(self.home),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "HOST": HOST,
            "PORT": str(self.port),
            "WORKERS": "1",
            "BOOKS": BOOK,
            "CLOCK": "request",
            "DEV_ISSUER": "1",
            "RATE_TOURIST_PER_S": _NO_LIMIT,
            "RATE_STAFF_PER_S": _NO_LIMIT,
            "LOG_LEVEL": "warning",
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        }
        return {**inherited, **{PREFIX + name: value for name, value in own.items()}}

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
