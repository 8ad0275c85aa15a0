"""Traffic: what became of every call for a coupon, counted by campaign and by when it came.

A call costs a look-up and three additions here; once a second the counts go to the database. Only
counts are kept, never who called. Nothing may be decided by them, and losing them loses a report.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg2.extras import execute_values

LATENCY_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
"""Upper bounds of the classes of latency; the last class has none."""

FINE_S: Final = 600
"""Seconds from a campaign's first call for which calls are counted by the second."""
COARSE_S: Final = 60
CAMPAIGNS_MAX: Final = 4_096
"""Campaigns whose first call is remembered here; a forgotten one is counted by the second anew."""
HELD_MAX: Final = 100_000
"""Counts that wait for a database that is away; beyond it the newer ones are lost."""

GRANTED: Final = frozenset({"claimed", "entered"})
"""Codes of calls that got what they came for."""
USED_UP: Final = frozenset({"sold_out", "budget_exhausted"})
"""Codes of calls that found nothing left."""

_EDGES: Final = GRANTED | USED_UP
_BOUNDS_S: Final = tuple(bound / 1_000 for bound in LATENCY_MS)
_CLASSES: Final = len(LATENCY_MS) + 1

_ADD_COUNTS: Final = """
INSERT INTO traffic AS t (campaign, at, span_s, code, calls, seconds, latency) VALUES %s
ON CONFLICT (campaign, at, span_s, code) DO UPDATE SET calls = t.calls + excluded.calls,
    seconds = t.seconds + excluded.seconds, latency = plus(t.latency, excluded.latency)
"""
_MOVE_EDGES: Final = """
INSERT INTO traffic_edge AS t (campaign, first_call, last_granted, first_sold_out) VALUES %s
ON CONFLICT (campaign) DO UPDATE SET first_call = least(t.first_call, excluded.first_call),
    last_granted = greatest(t.last_granted, excluded.last_granted),
    first_sold_out = least(t.first_sold_out, excluded.first_sold_out)
"""


class Count:
    """Calls that came in one span and were answered alike."""

    __slots__ = ("calls", "latency", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.latency = [0] * _CLASSES


class Edge:
    """The instants of a campaign's traffic that counts do not tell, in seconds since 1970."""

    __slots__ = ("first_call", "first_sold_out", "last_granted")

    def __init__(self, first_call: float) -> None:
        self.first_call = first_call
        self.last_granted: float | None = None
        self.first_sold_out: float | None = None


Key = tuple[int, int, int, str]
"""Campaign as a number, beginning of the span in seconds since 1970, its length, code."""


class Held(NamedTuple):
    """What was counted and is not in the database yet."""

    counts: dict[Key, Count]
    edges: dict[int, Edge]


class CampaignTraffic:
    """Counts the calls that one server process answers. Belongs to one event loop.

    `instant` turns a reading of the performance counter into seconds since 1970.
    """

    def __init__(self, instant: Callable[[float], float] | None = None) -> None:
        self._offset_s = time.time() - perf_counter()
        self._instant = instant
        self._counts: dict[Key, Count] = {}
        self._edges: dict[int, Edge] = {}
        self._fine_until: OrderedDict[int, float] = OrderedDict()
        self._latest: tuple[int, int, str] | None = None
        """Campaign, second and code of the latest call that was counted by the second."""
        self._count = Count()
        """Where that call was counted."""

    def note(self, campaign: UUID, started: float, seconds: float, code: str) -> None:
        """Count a call that came at `started`, by the performance counter."""
        came = started + self._offset_s if self._instant is None else self._instant(started)
        number = campaign.int
        second = int(came)
        latest = (number, second, code)
        if latest == self._latest and came < self._fine_until[number]:
            count = self._count
        else:
            fine_until = self._fine_until.get(number)
            if fine_until is None:
                fine_until = self._begin(number, came)
            if came < fine_until:
                key = (number, second, 1, code)
                self._latest = latest
            else:
                key = (number, second - second % COARSE_S, COARSE_S, code)
                self._latest = None
            found = self._counts.get(key)
            if found is None:
                if len(self._counts) >= HELD_MAX:
                    self._latest = None
                    return
                found = self._counts[key] = Count()
            count = self._count = found
        count.calls += 1
        count.seconds += seconds
        count.latency[bisect_left(_BOUNDS_S, seconds)] += 1
        if code in _EDGES:
            self._move_edge(number, came, code)

    def take(self) -> Held:
        """Return what was counted since the last time, and begin anew."""
        held = Held(self._counts, self._edges)
        self._counts, self._edges, self._latest = {}, {}, None
        return held

    def give_back(self, held: Held) -> None:
        """Keep what could not be written, together with what was counted since."""
        newer = self.take()
        self._counts, self._edges = held
        for key, count in newer.counts.items():
            _add(self._counts.setdefault(key, Count()), count)
        for campaign, edge in newer.edges.items():
            _join(self._edges.setdefault(campaign, Edge(edge.first_call)), edge)

    def _begin(self, campaign: int, came: float) -> float:
        self._fine_until[campaign] = came + FINE_S
        if len(self._fine_until) > CAMPAIGNS_MAX:
            self._fine_until.popitem(last=False)
        self._edges.setdefault(campaign, Edge(came))
        return came + FINE_S

    def _move_edge(self, campaign: int, came: float, code: str) -> None:
        edge = self._edges.get(campaign)
        if edge is None:
            edge = self._edges[campaign] = Edge(came)
        if code in GRANTED:
            if edge.last_granted is None or came > edge.last_granted:
                edge.last_granted = came
        elif edge.first_sold_out is None or came < edge.first_sold_out:
            edge.first_sold_out = came


def store(cursor: Any, held: Held) -> None:
    """Add what was counted to what the database has, of all servers together."""
    # A report is not worth waiting for the disk.
    cursor.execute("SET LOCAL synchronous_commit = off")
    # In one order everywhere, so that two servers never wait for each other in a circle.
    rows = [
        (_hex(campaign), _utc(at), span_s, code, count.calls, count.seconds, count.latency)
        for (campaign, at, span_s, code), count in sorted(
            held.counts.items(), key=lambda item: item[0]
        )
    ]
    if rows:
        execute_values(cursor, _ADD_COUNTS, rows, "(%s::uuid, %s, %s, %s, %s, %s, %s::bigint[])")
    edges = [
        (_hex(campaign), _utc(edge.first_call), _utc(edge.last_granted), _utc(edge.first_sold_out))
        for campaign, edge in sorted(held.edges.items(), key=lambda item: item[0])
    ]
    if edges:
        shape = "(%s::uuid, %s, %s::timestamptz, %s::timestamptz)"
        execute_values(cursor, _MOVE_EDGES, edges, shape)


def _hex(campaign: int) -> str:
    return f"{campaign:032x}"


def _utc(instant: float | None) -> datetime | None:
    return None if instant is None else datetime.fromtimestamp(instant, UTC)


def _add(to: Count, count: Count) -> None:
    to.calls += count.calls
    to.seconds += count.seconds
    to.latency = [a + b for a, b in zip(to.latency, count.latency, strict=True)]


def _join(to: Edge, edge: Edge) -> None:
    to.first_call = min(to.first_call, edge.first_call)
    granted = [at for at in (to.last_granted, edge.last_granted) if at is not None]
    sold_out = [at for at in (to.first_sold_out, edge.first_sold_out) if at is not None]
    to.last_granted = max(granted, default=None)
    to.first_sold_out = min(sold_out, default=None)
