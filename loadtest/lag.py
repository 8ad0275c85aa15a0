"""How far the projections are behind the writers, in seconds, watched from outside.

The service says where its book ends and how many events each read model is behind. An event that a
read model has not seen yet was written at some moment before: that moment, taken from where the
book ended when, is how long the read model lags. It must never ask so often that it is in the way.
"""

from __future__ import annotations

import http.client
import json
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

from loadtest.sampling import Sampler
from loadtest.stage import address_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVERY_S: Final = 0.2
"""A look costs the service a few milliseconds."""

TIMEOUT_S: Final = 10.0


class Look(NamedTuple):
    """What the service said at one moment."""

    at_s: float
    head: int
    behind: Mapping[str, int]


def largest_s(looks: Sequence[Look]) -> dict[str, float]:
    """The longest that each read model was behind at any of these looks, which are in order."""
    largest: dict[str, float] = {}
    for place, look in enumerate(looks):
        for name, behind in look.behind.items():
            lag_s = _lag_s(looks[: place + 1], look.head - behind) if behind > 0 else 0.0
            largest[name] = max(largest.get(name, 0.0), lag_s)
    return largest


def _lag_s(looks: Sequence[Look], seen: int) -> float:
    """How long before the last look the event after `seen` was written."""
    now_s = later_s = looks[-1].at_s
    later = looks[-1].head
    for look in reversed(looks):
        if look.head <= seen:
            share = (seen - look.head) / (later - look.head) if later > look.head else 0.0
            return now_s - (look.at_s + share * (later_s - look.at_s))
        later, later_s = look.head, look.at_s
    return now_s - looks[0].at_s


class LagWatch(Sampler):
    """Looks at a service within a `with` block."""

    def __init__(self, url: str, book: str, *, every_s: float = EVERY_S) -> None:
        self._address = address_of(url)
        self._book = book
        self._every_s = every_s
        super().__init__()
        self.looks: list[Look] = []

    def watch(self) -> None:
        """Look, wait, look again."""
        host, port = self._address
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        while not self.stop.wait(self._every_s):
            try:
                self._look(connection)
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()  # it is opened again by the next look
        connection.close()

    def _look(self, connection: http.client.HTTPConnection) -> None:
        connection.request("GET", "/readyz")
        said = json.loads(connection.getresponse().read())
        at_s = perf_counter()
        for one in said["books"]:
            if one["book"] == self._book:
                self.looks.append(Look(at_s, one["position"], one["behind"]))
