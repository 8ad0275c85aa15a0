"""Pace: how long the rest will take, from how long each kind of request took so far.

Claims travel by the dozen and redemptions one after the other, so one average would promise too
much at the start and too little at the end.
"""

from __future__ import annotations

from collections.abc import Mapping

from api.demo.plan import Kind


class Pace:
    """Counts what is done of each kind and what it cost."""

    def __init__(self, planned: Mapping[Kind, int]) -> None:
        self._left = dict(planned)
        self._done: dict[Kind, int] = {}
        self._spent_s: dict[Kind, float] = {}

    def record(self, kind: Kind, count: int, seconds: float) -> None:
        """Note that `count` requests of a kind were done within `seconds`."""
        self._left[kind] -= count
        self._done[kind] = self._done.get(kind, 0) + count
        self._spent_s[kind] = self._spent_s.get(kind, 0.0) + seconds

    def left_s(self) -> float | None:
        """The seconds that the rest should take; None before anything is known."""
        done, spent_s = sum(self._done.values()), sum(self._spent_s.values())
        if done == 0:
            return None
        average_s = spent_s / done
        return sum(count * self._cost_s(kind, average_s) for kind, count in self._left.items())

    def _cost_s(self, kind: Kind, average_s: float) -> float:
        done = self._done.get(kind, 0)
        return self._spent_s[kind] / done if done else average_s
