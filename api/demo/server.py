"""The demo's own service: `tidebook run` in a home of its own, in simulated time.

Nothing of the caller's environment reaches it, so a ledger that somebody runs here is never
touched. It ends with us, however we end.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from api.demo.report import Verification
from api.settings import PREFIX
from api.supervisor import Command

HOST: Final = "127.0.0.1"
START_S: Final = 300.0
"""The first start makes a database; a start after a crash replays its log."""
STOP_S: Final = 90.0
POLL_S: Final = 0.1

_PROGRAM: Final = (sys.executable, "-m", "api.cli")
_NO_LIMIT: Final = "0"


class NotStarted(Exception):
    """The service cannot run in the demo's home; the message says why."""


class DemoServer:
    """A running service, from `with DemoServer(home) as server` to the end of the block."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = Command(
            argv=(*_PROGRAM, "run"), env=self._environment(), output=self.home / "demo.log"
        )
        self._process = command.spawn()
        try:
            self._await_ready(command)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def verify(self, *, as_json: bool) -> Verification:
        """Let `tidebook verify` look at the home; the service must have ended."""
        assert self._process is None, "the home has one user at a time"
        argv = (*_PROGRAM, "verify", *(("--json",) if as_json else ()))
        done = subprocess.run(  # noqa: S603 - argv is ours
            argv, env=self._environment(), stdout=subprocess.PIPE if as_json else None, check=False
        )
        findings = json.loads(done.stdout) if as_json and done.stdout else None
        return Verification(done.returncode, findings)

    def _environment(self) -> dict[str, str]:
        own = {
            "HOME": str(self.home),
            "HOST": HOST,
            "PORT": str(self.port),
            "WORKERS": "1",
            "CLOCK": "request",
            "RATE_TOURIST_PER_S": _NO_LIMIT,
            "RATE_STAFF_PER_S": _NO_LIMIT,
            "LOG_LEVEL": "warning",
        }
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(PREFIX)
        }
        return {**inherited, **{PREFIX + name: value for name, value in own.items()}}

    def _await_ready(self, command: Command) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NotStarted(f"the service did not start{command.last_words()}")
            time.sleep(POLL_S)

    def _ready(self) -> bool:
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
