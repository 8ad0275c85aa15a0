"""Work without an end: each piece in a thread of its own, until a signal, with JSON logs."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from api.settings import Settings

RETRY_S: Final = 30.0
"""A reader that stopped at something it cannot read looks again after this; it never skips."""

_log = logging.getLogger("tidebook.cli")


def this_process() -> str:
    """Return the name under which this process holds leases."""
    return f"{socket.gethostname()}-{os.getpid()}"


@contextmanager
def running(settings: Settings) -> Iterator[threading.Event]:
    """Log as JSON lines, and lend the event that SIGINT or SIGTERM sets."""
    from api import logs

    logs.configure(settings.log_level, sys.stdout)
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_threads(work: list[tuple[str, Any]], stop: threading.Event) -> None:
    """Do all work at once until stopped; what fails is logged and tried again, beside the rest."""

    def keep_doing(name: str, one: Any) -> None:
        while not stop.is_set():
            try:
                one()
            except Exception:  # noqa: BLE001 - it is logged, and the other work goes on
                _log.exception("%s stopped; it is tried again in %g s", name, RETRY_S)
                stop.wait(RETRY_S)

    threads = [
        threading.Thread(target=keep_doing, args=one, name=one[0], daemon=True) for one in work
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(0.5):
        pass
    deadline = time.monotonic() + RETRY_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
