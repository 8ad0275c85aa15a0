"""Watching a system during a run: CPU time and memory of each tree of processes, and its lag.

One pass over the process table a sample, and one GET of `/readyz`. Where the system does not show
that page to us, or runs on another machine, what cannot be seen is left out; nothing is made up.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from loadtest.client import PROXIED
from loadtest.sampling import Sampler
from loadtest.servers import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from loadtest.recording import Recording

SAMPLE_S: Final = 0.5
GENERATOR: Final = "load generator"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One line of the process table: parent, and CPU time so far."""

    parent: int
    cpu_s: float


class Watcher(Sampler):
    """Samples into a recording until its `with` block ends."""

    def __init__(
        self, recording: Recording, url: str, roots: Mapping[str, int], release_s: float
    ) -> None:
        """`release_s` is the moment 0 on `perf_counter`."""
        self._recording = recording
        self._roots = dict(roots)
        self._release_s = release_s
        self._http = httpx.Client(base_url=url, timeout=2.0, headers=PROXIED)
        super().__init__()

    def __exit__(self, *_: object) -> None:
        super().__exit__(*_)
        self._http.close()

    def watch(self) -> None:
        """Look, wait, look again."""
        while True:
            at_s = perf_counter() - self._release_s
            self._recording.sample(at_s, {**self._processes(), **readiness(self._http)})
            if self.stop.wait(SAMPLE_S):
                return

    def _processes(self) -> dict[str, Any]:
        table = process_table()
        trees = {name: tree(table, root) for name, root in self._roots.items()}
        trees[GENERATOR] = [os.getpid()]
        return {
            "cpu_s": {
                name: sum(table[pid].cpu_s for pid in pids if pid in table)
                for name, pids in trees.items()
            },
            "memory_bytes": {
                name: sum(memory_bytes(pid) for pid in pids) for name, pids in trees.items()
            },
        }


def readiness(http: httpx.Client) -> dict[str, Any]:
    """Where the books end, how far the projections are behind and how many requests wait."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        reply = http.get("/readyz")
        if reply.status_code in (200, 503):
            page = reply.json()
            return {
                "status": page.get("status"),
                "head": sum(book["position"] for book in page["books"]),
                "queued": sum(book.get("queued", 0) for book in page["books"]),
                "behind": _by_name(sum, (book.get("behind", {}) for book in page["books"])),
                "lag_s": _by_name(max, (book.get("lag_s", {}) for book in page["books"])),
            }
    return {}


def process_table() -> dict[int, Process]:
    """Every process of this machine."""
    table = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                ticks = int(fields[11]) + int(fields[12])
                table[int(entry.name)] = Process(int(fields[1]), ticks / _TICKS_PER_S)
    return table


def tree(table: Mapping[int, Process], root: int) -> list[int]:
    """A process and all that descend from it."""
    found = [root] if root in table else []
    for pid in found:
        found += [child for child, process in table.items() if process.parent == pid]
    return found


def _by_name(
    combine: Callable[[Iterable[float]], float], books: Iterable[Mapping[str, float]]
) -> dict[str, float]:
    """One figure for each projection, from those of all books."""
    found = list(books)
    names = {name for book in found for name in book}
    return {name: combine(book.get(name, 0) for book in found) for name in sorted(names)}
