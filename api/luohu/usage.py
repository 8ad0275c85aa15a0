"""What the replay costs: CPU time and memory of our processes, and of PostgreSQL by itself.

Memory is looked at now and then, so that a peak between two looks goes unseen. Of our processes it
is the sum of what each has resident; of PostgreSQL, whose processes share most of it, the sum of
their proportional shares.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Final, NamedTuple, Self

import psutil

LOOK_S: Final = 1.0
_POSTGRES: Final = "postgres"


class Usage(NamedTuple):
    """What was used from start to now. `load` is the machine's, others included."""

    seconds: float
    cpu_s: float
    postgres_cpu_s: float
    peak_bytes: int
    postgres_peak_bytes: int
    load: float


class Meter:
    """Measures from the beginning of a block to its end."""

    def __init__(self, look_s: float = LOOK_S) -> None:
        self._look_s = look_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)
        self._started = 0.0
        self._cpu_before = 0.0
        self._peak = self._postgres_peak = 0
        self._postgres_cpu: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._started, self._cpu_before = time.monotonic(), _own_cpu_s()
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def usage(self) -> Usage:
        """Return what was used up to now."""
        self._look()
        running = sum(_cpu_s(one) for one in _tree() if not _is_postgres(one))
        return Usage(
            seconds=time.monotonic() - self._started,
            cpu_s=_own_cpu_s() - self._cpu_before + running,
            postgres_cpu_s=sum(self._postgres_cpu.values()),
            peak_bytes=self._peak,
            postgres_peak_bytes=self._postgres_peak,
            load=os.getloadavg()[1],
        )

    def _watch(self) -> None:
        while not self._stop.wait(self._look_s):
            self._look()

    def _look(self) -> None:
        ours, postgres = psutil.Process().memory_info().rss, 0
        for process in _tree():
            with suppress(psutil.Error):
                if _is_postgres(process):
                    postgres += process.memory_full_info().pss
                    self._postgres_cpu[process.pid] = _cpu_s(process)
                else:
                    ours += process.memory_info().rss
        self._peak = max(self._peak, ours)
        self._postgres_peak = max(self._postgres_peak, postgres)


def _tree() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _is_postgres(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() == _POSTGRES
    return False


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _own_cpu_s() -> float:
    """CPU time of this process, and of children that have ended; PostgreSQL has not."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
