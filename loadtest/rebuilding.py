"""Rebuilds of the read models, one after the other, and what each takes of the machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from loadtest.ours import Tidebook


class Rebuilt(msgspec.Struct, frozen=True):
    """A read model that was made anew from position 0, with its indexes, and swapped in."""

    projection: str
    events: int
    seconds: float
    events_per_s: float
    cpu_us: dict[str, float]
    """Processor time of an event in each process tree, the database's included."""
    peak_memory_bytes: int

    @property
    def events_per_core_s(self) -> float:
        """What one core does that is busy with nothing else."""
        return 1e6 / sum(self.cpu_us.values())


def rebuild_each(tidebook: Tidebook) -> list[Rebuilt]:
    """Rebuild every read model over the events that are there."""
    known = json.loads(tidebook.command("project", "--lag", "--json"))
    return [_rebuilt(tidebook, name) for name in dict.fromkeys(one["projection"] for one in known)]


def _rebuilt(tidebook: Tidebook, name: str) -> Rebuilt:
    used = tidebook.measured("project", "--rebuild", name, "--json")
    (done,) = json.loads(used.output)
    cpu_s = {"projections": done["cpu_s"], "postgres": used.postgres_cpu_s}
    return Rebuilt(
        name,
        done["events"],
        done["seconds"],
        done["events_per_s"],
        {tree: round(one * 1e6 / done["events"], 2) for tree, one in cpu_s.items()},
        done["peak_memory_bytes"],
    )
