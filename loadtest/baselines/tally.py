"""What a run without HTTP says of itself: one line of JSON, the same from each of them."""

from __future__ import annotations

import json
import resource
import threading
from array import array
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Tally:
    """How long each call took and how many claims came of it, within a `with` block."""

    claims: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    started_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0

    def __enter__(self) -> Self:
        self.cpu_s -= _cpu_s()
        self.started_s = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended_s = perf_counter()
        self.cpu_s += _cpu_s()

    def line(self) -> str:
        """The line of JSON."""
        ordered = sorted(self.latencies_s)
        count = len(ordered)
        return json.dumps(
            {
                "claims": self.claims,
                "per_s": self.claims / (self.ended_s - self.started_s),
                "p50_ms": ordered[count // 2] * 1e3,
                "p99_ms": ordered[min(count - 1, int(count * 0.99))] * 1e3,
                "cpu_us": self.cpu_s / self.claims * 1e6,
            }
        )


def by_threads(caller: Callable[[], Callable[[], object]], threads: int, seconds: float) -> Tally:
    """So many threads that each claim, one claim after the other; `caller` makes one's claim()."""
    tally = Tally()
    claims = [caller() for _ in range(threads)]
    errors: list[Exception] = []

    def run(claim: Callable[[], object]) -> None:
        now_s = perf_counter()
        try:
            while now_s < tally.started_s + seconds and not errors:
                claim()
                began_s, now_s = now_s, perf_counter()
                tally.latencies_s.append(now_s - began_s)
        except Exception as error:  # noqa: BLE001 - it is raised where the threads are joined
            errors.append(error)

    workers = [threading.Thread(target=run, args=(claim,)) for claim in claims]
    with tally:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if errors:
        raise errors[0]
    tally.claims = len(tally.latencies_s)
    return tally


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
