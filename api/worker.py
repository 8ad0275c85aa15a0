"""One worker: uvicorn with our protocol on connections that it is handed, until it is to drain.

Run as `python -m api.worker CHANNEL LIFELINE VOICE`, each the number of a descriptor (see
`api.workers`), with the settings in the environment. To drain is to take no new caller, to answer
everything that has arrived or is on its way, to tell each caller with the last answer that the
connection ends, and only then to go.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import uvloop
from uvicorn import Config, Server

from api.spreading import Receiver
from api.workers import DRAINING, SERVING

if TYPE_CHECKING:
    from api.fastpath import Front
    from api.logs import Log
    from api.protocol import Traffic
    from api.settings import Settings

GRACE_S: Final = 10.0
"""How long requests may take that were there when the worker was told to drain."""
GC_YOUNG_MAX: Final = 250_000
"""New objects between two looks for garbage: tens of thousands of calls' worth."""
TICKS_PER_S: Final = 10
HANDED_WITHIN_S: Final = 2.0
"""By when the parent has heard that we drain, and has ended the channel."""
_FILES_BESIDE_CONNECTIONS: Final = 512


@dataclass(frozen=True)
class Inherited:
    """What a worker was handed by its parent."""

    channel: socket.socket
    """Where connections come from, see `api.spreading`."""
    lifeline: int
    """A pipe that ends when the parent is gone, however it went."""
    voice: int
    """Where the worker says that it serves, and that it drains."""

    @classmethod
    def from_arguments(cls, arguments: list[str]) -> Inherited:
        """Take over the descriptors that the command line names."""
        channel, lifeline, voice = map(int, arguments)
        for descriptor in (channel, lifeline, voice):
            os.set_inheritable(descriptor, False)
        return cls(socket.socket(fileno=channel), lifeline, voice)

    def say(self, what: bytes) -> None:
        """Tell the parent, if it is there."""
        with suppress(OSError):
            os.write(self.voice, what)


def _without_messages(record: logging.LogRecord) -> bool:
    """Keep out the text of an exception, which may quote anything; the application logs its own."""
    return not str(record.msg).startswith("Traceback")


class WorkerServer(Server):
    """uvicorn's server with our way of starting and ending."""

    def __init__(self, app: Any, traffic: Traffic, inherited: Inherited, drain_s: float) -> None:
        super().__init__(
            Config(
                app,
                http=cast("type[asyncio.Protocol]", traffic.protocol),  # called like a class
                ws="none",
                lifespan="on",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_without_messages)
        self.traffic = traffic
        self.inherited = inherited
        self.drain_s = drain_s
        self._receiver: Receiver | None = None
        self._draining = asyncio.Event()
        """In the `state` of every scope, for answers that would go on for ever."""

    async def run_inherited(self) -> None:
        """Serve what comes by the channel until SIGTERM, or until the parent is gone."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_reader(self.inherited.lifeline, self._end)
        await self.serve([])

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self.inherited.lifeline)
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: the parent hears Ctrl-C for all of us, and SIGTERM has its handler."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then tell the parent."""
        self.lifespan.state["draining"] = self._draining
        await super().startup(sockets)
        calm_the_collector()
        connections = self.traffic.connections
        self._receiver = Receiver(self.inherited.channel, self._protocol, connections).start()
        self.inherited.say(SERVING)

    def _protocol(self) -> asyncio.Protocol:
        return self.traffic.protocol(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Look after the connections once a second."""
        if counter % TICKS_PER_S == 0:
            self.traffic.renew_stamp()
            self.traffic.sweep()
        if self._receiver is not None:
            self._receiver.report()
        return await super().on_tick(counter)

    async def shutdown(
        self,
        sockets: list[socket.socket] | None = None,  # noqa: ARG002 - we listen on none
    ) -> None:
        """Drain, then end the application."""
        self.inherited.say(DRAINING)
        if self._receiver is not None:
            await self._receiver.finish(HANDED_WITHIN_S)
        self._draining.set()
        self.traffic.drain()
        await self._until_empty(time.monotonic() + self.drain_s, end_idle=False)
        await self._until_empty(time.monotonic() + GRACE_S, end_idle=True)
        for connection in list(self.traffic.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        await self.lifespan.shutdown()

    async def _until_empty(self, deadline: float, *, end_idle: bool) -> None:
        """Wait until nobody is connected and nothing is running, or the time is over."""
        while self.traffic.connections or self.server_state.tasks:
            if end_idle:
                self.traffic.end_idle()
            if time.monotonic() >= deadline:
                return
            self.traffic.sweep()
            await asyncio.sleep(1 / TICKS_PER_S / 4)


def work(app: Any, traffic: Traffic, inherited: Inherited, drain_s: float) -> None:
    """Serve an application until the end."""
    _allow_open_files(traffic.limits.connections_max + _FILES_BESIDE_CONNECTIONS)
    # Ctrl-C and a closed terminal reach the whole group; the parent decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(WorkerServer(app, traffic, inherited, drain_s).run_inherited())


def calm_the_collector() -> None:
    """Keep the garbage collector off what lives as long as the process.

    Calls leave next to no cycles behind, but they make many objects at once; with the thresholds
    that Python starts with, a third of a rush's time goes into looking through the application.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_MAX, 10, 100)


def _allow_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _traffic(app: Front, settings: Settings, log: Log) -> Traffic:
    """Return what the service's connections share."""
    from api import metrics
    from api.logs import access_kind
    from api.protocol import Limits, Traffic

    limits = Limits(
        request_timeout_s=settings.request_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        connections_max=settings.connections_max,
    )

    def refused(request_id: str, status: int, code: str) -> None:
        metrics.tally("other", "unmatched", status, code).note(0.0)
        log.access(request_id, access_kind("other", "unmatched", status, code, None), 0.0)

    return Traffic(limits, getattr(app, "lane", None), refused)


def main() -> None:
    """Serve the service with settings from the environment."""
    inherited = Inherited.from_arguments(sys.argv[1:])
    # The metrics library decides on import whether processes share their counts; the parent has
    # said where in the environment.
    from api import logs
    from api.app import create_app
    from api.service import Service
    from api.settings import Settings

    settings = Settings()
    log = logs.configure(settings.log_level, sys.stdout)
    app = create_app(Service(settings, log=log))
    work(app, _traffic(app, settings, log), inherited, settings.drain_s)


if __name__ == "__main__":
    main()
