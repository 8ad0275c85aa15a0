"""The server process: settings in, a listening service out.

Granian starts the workers and each one calls `create`. On SIGTERM or SIGINT the server takes no
more connections, the workers finish what is queued, and then it ends.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg2
from eventsourcing import persistence as es
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels

from api.settings import Settings
from ledger.safety import UnsafeDatabase

if TYPE_CHECKING:
    from api.fastpath import Front

BACKLOG: Final = 4_096
"""Connections that may wait to be accepted: a release opens and everybody connects at once."""
BACKPRESSURE: Final = 8_192
"""Calls that one worker works on at once; the queues of the writers say no before that."""
GC_YOUNG_MAX: Final = 50_000
"""New objects between two looks for garbage: some thousand calls' worth."""
KILL_AFTER_S: Final = 40
"""A worker that has not drained by then is ended; the writers' own bound is 30 seconds."""


def create() -> Front:
    """Return the application of one worker, with settings from the environment."""
    # The metrics library decides on import whether processes share their counts, so it is
    # imported only here, after the parent has set where.
    from api import logs
    from api.app import create_app
    from api.service import Service

    _end_with_parent()
    settings = Settings()
    app = create_app(Service(settings, log=logs.configure(settings.log_level, sys.stdout)))
    _calm_the_collector()
    return app


def _calm_the_collector() -> None:
    """Keep the garbage collector off what lives as long as the process.

    Calls leave next to no cycles behind, but they make many objects at once; with the thresholds
    that Python starts with, a third of a rush's time goes into looking through the application.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG_MAX, 10, 100)


def _end_with_parent() -> None:
    """End this worker in good order when the server's main process is gone, however it went.

    The parent is the one that spawned us, even if it was killed before we came to look.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are spawned by the server's main process"

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop; return the exit status for the process.

    A database that is unsafe or not there is found out before anybody listens.
    """
    trouble = asyncio.run(_trouble_with(settings))
    if trouble is not None:
        sys.stderr.write(f"tidebook does not start: {trouble}\n")
        return 1
    port = settings.port or _free_port(settings.host)
    shared = Path(tempfile.mkdtemp(prefix="tidebook-metrics-"))
    try:
        _prepare_workers(settings, shared)
        sys.stdout.write(f"tidebook listens on http://{settings.host}:{port}\n")
        sys.stdout.flush()
        # Workers are born fresh: a fork would share counters, random states and connections.
        multiprocessing.set_start_method("spawn", force=True)
        _server(settings, port).serve()
    finally:
        shutil.rmtree(shared, ignore_errors=True)
    return 0


def _server(settings: Settings, port: int) -> Any:
    return Granian(
        "api.serve:create",
        factory=True,
        address=settings.host,
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        workers=settings.workers,
        backlog=BACKLOG,
        backpressure=BACKPRESSURE,
        workers_kill_timeout=KILL_AFTER_S,
        respawn_failed_workers=True,
        log_access=False,
        log_level=LogLevels.warning,
    )


def _prepare_workers(settings: Settings, shared: Path) -> None:
    """Hand the settings to the workers, which are processes of their own."""
    own = settings.model_copy(update={"metrics_dir": shared})
    os.environ.update(own.as_environment())
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)


async def _trouble_with(settings: Settings) -> str | None:
    """Return why the service cannot be started, or None."""
    from api.service import Misconfigured, Service

    try:
        service = Service(settings)
        try:
            await asyncio.to_thread(service.check_database)
        finally:
            await service.stop()
    except Misconfigured as error:
        return str(error)
    except UnsafeDatabase as error:
        return f"the database is not safe: {error}"
    except (es.PersistenceError, psycopg2.Error) as error:
        return f"the database cannot be used ({type(error).__name__}); was `tidebook migrate` run?"
    return None


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Serve with settings from the environment."""
    raise SystemExit(serve(Settings()))


if __name__ == "__main__":
    main()
