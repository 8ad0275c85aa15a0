"""The server: settings in, a listening service out.

What makes a start impossible is found out here, before anybody listens. The calls themselves are
answered by workers (`api.worker`), which `api.workers` keeps running; this process never sees one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import ExitStack
from typing import Final

import psycopg2
from eventsourcing import persistence as es

from api import logs
from api.rundir import RunDirectory
from api.settings import Settings
from api.workers import BACKLOG, Workers
from ledger.safety import UnsafeDatabase

WORKER: Final = (sys.executable, "-P", "-m", "api.worker")


class _NoStart(Exception):
    """The service cannot be started; the message says why."""


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop; return the exit status for the process.

    A database that is unsafe or not there is found out before anybody listens.
    """
    try:
        asyncio.run(_check(settings))
        with ExitStack() as held:
            listener = held.enter_context(_listener(settings))
            directory = _run_directory(settings, held)
            logs.configure(settings.log_level, sys.stdout)
            return _workers(settings, listener, directory).run()
    except _NoStart as reason:
        sys.stderr.write(f"tidebook does not start: {reason}\n")
        return 1


def _workers(settings: Settings, listener: socket.socket, directory: RunDirectory) -> Workers:
    """Return the workers, who get the settings in their environment."""
    port = listener.getsockname()[1]
    own = settings.model_copy(update={"metrics_dir": directory.metrics, "port": port})

    def announce() -> None:
        sys.stdout.write(f"tidebook listens on http://{settings.host}:{port}\n")
        sys.stdout.flush()

    return Workers(
        argv=WORKER,
        count=settings.workers,
        listener=listener,
        env={
            **os.environ,
            **own.as_environment(),
            "PROMETHEUS_MULTIPROC_DIR": str(directory.metrics),
        },
        on_serving=announce,
        on_ended=directory.forget,
        keep_open=(directory.lock,),
    )


def _listener(settings: Settings) -> socket.socket:
    """Return the socket that all workers accept from."""
    try:
        [(family, *_), *_] = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(
            (settings.host, settings.port),
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=settings.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        raise _NoStart(f"nobody can listen on {where} ({error.strerror})") from None


def _run_directory(settings: Settings, held: ExitStack) -> RunDirectory:
    try:
        return held.enter_context(RunDirectory.opened(settings.home))
    except OSError as error:
        raise _NoStart(f"the home cannot be written ({error.strerror})") from None


async def _check(settings: Settings) -> None:
    """Raise `_NoStart` when the service cannot be started."""
    from api.service import Misconfigured, Service

    try:
        service = Service(settings)
        try:
            await asyncio.to_thread(service.check_database)
        finally:
            await service.stop()
    except Misconfigured as error:
        raise _NoStart(str(error)) from None
    except UnsafeDatabase as error:
        raise _NoStart(f"the database is not safe: {error}") from None
    except (es.PersistenceError, psycopg2.Error) as error:
        kind = type(error).__name__
        raise _NoStart(
            f"the database cannot be used ({kind}); was `tidebook migrate` run?"
        ) from None


def main() -> None:
    """Serve with settings from the environment."""
    raise SystemExit(serve(Settings()))


if __name__ == "__main__":
    main()
