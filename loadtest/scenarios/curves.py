"""Arrival curves: when people come, as shares of all who come, laid down before the run.

A curve says which share has arrived `at` a moment and, the other way round, `when` a share has.
Arrivals are drawn from it before the clock starts, so the service's answers cannot move them: who
is served slowly still meets the next one on time. It must never look at what the service does.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

HALVINGS: Final = 60
"""Steps of the search for the moment of a share: more than a double can tell apart."""


class Curve(Protocol):
    """How the arrivals of a run are spread over its time."""

    @property
    def seconds(self) -> float:
        """The length of the run."""
        ...

    def at(self, moment_s: float) -> float:
        """The share of all that has arrived by a moment: 0 at the start, 1 at the end."""
        ...


@dataclass(frozen=True)
class Release:
    """A release at 10:00:00: everybody presses at once, and the late ones trickle in for long.

    The front is that of a Pareto (Lomax) distribution cut off at the end of the run: the rate falls
    like (1 + t / scale) ** -(tail + 1).
    """

    seconds: float
    scale_s: float = 1.0
    """The smaller, the steeper the front."""
    tail: float = 1.2
    """The smaller, the longer the tail."""

    def at(self, moment_s: float) -> float:
        return self._uncut(moment_s) / self._uncut(self.seconds)

    def _uncut(self, moment_s: float) -> float:
        return -math.expm1(-self.tail * math.log1p(_inside(moment_s, self) / self.scale_s))


@dataclass(frozen=True)
class Plateau:
    """A rate that rises, stays and falls: so many shares of the time for rise and fall each."""

    seconds: float
    ramp: float = 0.1

    def at(self, moment_s: float) -> float:
        x, ramp = _inside(moment_s, self) / self.seconds, self.ramp
        if x < ramp:
            area = x * x / (2 * ramp)
        elif x > 1 - ramp:
            area = (1 - ramp) - (1 - x) ** 2 / (2 * ramp)
        else:
            area = x - ramp / 2
        return area / (1 - ramp)


@dataclass(frozen=True)
class Peak:
    """A rush at the tills: a bell around one moment, on top of a few who come all the time."""

    seconds: float
    middle: float = 0.45
    """Where the top is, as a share of the time."""
    width: float = 0.14
    """The standard deviation, as a share of the time."""
    steady: float = 0.15
    """The share of people who come all the time, evenly."""

    def at(self, moment_s: float) -> float:
        x = _inside(moment_s, self) / self.seconds
        low, high = self._bell(0.0), self._bell(1.0)
        return self.steady * x + (1 - self.steady) * (self._bell(x) - low) / (high - low)

    def _bell(self, x: float) -> float:
        return 0.5 * math.erf((x - self.middle) / (self.width * math.sqrt(2)))


@dataclass(frozen=True)
class Mixture:
    """Several curves at once, each for its share of the people; a later one may start later."""

    seconds: float
    parts: tuple[tuple[float, float, Curve], ...]
    """Share of the people, start in seconds, and the curve from there on."""

    def at(self, moment_s: float) -> float:
        return sum(share * self._part(moment_s, start, curve) for share, start, curve in self.parts)

    @staticmethod
    def _part(moment_s: float, start_s: float, curve: Curve) -> float:
        return curve.at(moment_s - start_s) if moment_s > start_s else 0.0


def rate(curve: Curve, moment_s: float, step_s: float) -> float:
    """The share of all that arrives per second around a moment."""
    before, after = max(0.0, moment_s - step_s / 2), min(curve.seconds, moment_s + step_s / 2)
    return (curve.at(after) - curve.at(before)) / (after - before)


def when(curve: Curve, share: float) -> float:
    """The moment by which a share of all has arrived."""
    low, high = 0.0, curve.seconds
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if curve.at(middle) < share else (low, middle)
    return high


def arrivals(curve: Curve, count: int, rng: random.Random) -> Sequence[float]:
    """The moments of exactly `count` arrivals, in order: one in each of as many equal shares."""
    return [when(curve, (number + rng.random()) / count) for number in range(count)]


def zipf(count: int, exponent: float) -> list[float]:
    """The weights of the 1st, 2nd, … of so many things of falling popularity, summing to 1."""
    weights = [rank**-exponent for rank in range(1, count + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def _inside(moment_s: float, curve: Curve) -> float:
    return min(max(moment_s, 0.0), curve.seconds)
