"""Figures of a run, from its recording: what `report.json` says and the page draws.

One pass over the calls, with histograms instead of lists, so that the length of a run costs no
memory. Latency always runs from the moment at which a call was meant; the time from sending is kept
beside it, so that a late load generator can be told from a slow service.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from loadtest.recording import Recording

Json = dict[str, Any]

SCHEMA: Final = 1
GROWTH: Final = 1.02
"""Each bucket of a histogram is 2 % wider than the one before: a percentile is at most 2 % high."""
LEAST_S: Final = 1e-5
QUANTILES: Final = (0.5, 0.9, 0.99, 0.999)
SHAPE: Final = (
    *(n / 100 for n in range(100)),
    *(0.99 + n / 1000 for n in range(10)),
    *(0.999 + n / 10_000 for n in range(10)),
    1.0,
)
"""The shares at which the distribution is drawn."""
BINS: Final = 60
BIN_WIDTHS_S: Final = (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
FIRST_S: Final = 1.0
POINTS_MAX: Final = 600
"""Places of a waiting room that are drawn: more than that a small chart cannot show."""
SLOTS_MAX: Final = 12
"""Campaigns whose first second is shown, the most wanted ones."""

_CALLS: Final = """
SELECT name, kind, about, due, begin, end, status, code, replayed, method FROM call WHERE due >= 0
ORDER BY due
"""


_PLACES: Final = """
SELECT min(begin), max(number) FROM sighting WHERE about = ? GROUP BY who
HAVING max(number) > 0 ORDER BY 1
"""
_WAITS: Final = """
SELECT s.wait, turn.at - s.at FROM sighting AS s
JOIN (SELECT who, min(at) AS at FROM sighting WHERE about = ?1 AND state = 'turn' GROUP BY who)
    AS turn ON turn.who = s.who
WHERE s.about = ?1 AND s.state = 'waiting'
GROUP BY s.who HAVING s.at = min(s.at) ORDER BY s.wait
"""


class Histogram:
    """Durations counted in buckets of growing width."""

    def __init__(self) -> None:
        self.count = 0
        self.longest_s = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)
        self._buckets[math.ceil(math.log(max(seconds, LEAST_S) / LEAST_S, GROWTH))] += 1

    def percentiles_ms(self, shares: Sequence[float]) -> list[float]:
        """For each share, rising, the duration that it did not exceed; at most 2 % too high."""
        found: list[float] = []
        seen, buckets = 0, iter(sorted(self._buckets.items()))
        upper_s = 0.0
        for share in shares:
            while seen < max(1, math.ceil(share * self.count)):
                bucket, count = next(buckets, (None, 0))
                if bucket is None:
                    break
                seen += count
                upper_s = min(LEAST_S * GROWTH**bucket, self.longest_s)
            found.append(round(upper_s * 1e3, 3))
        return found

    def summary(self) -> Json:
        """Count, the percentiles that everybody asks for, and the longest."""
        p50, p90, p99, p999 = self.percentiles_ms(QUANTILES)
        longest = round(self.longest_s * 1e3, 3)
        return {
            "count": self.count,
            "p50": p50,
            "p90": p90,
            "p99": p99,
            "p99_9": p999,
            "max": longest,
        }


class Outcome(NamedTuple):
    """What became of a call: success, replay, refused or unknown; and the code of a refusal."""

    kind: str
    code: str


def outcome_of(status: int, code: str, *, replayed: bool) -> Outcome:
    """Tell what became of a call."""
    if status == 0 or status >= 500:
        return Outcome("unknown", code)
    if status >= 400:
        return Outcome("refused", code)
    return Outcome("replay" if replayed else "success", "")


class _Bin:
    """One stretch of time."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.meant = 0
        self.latency = Histogram()


class _Slot:
    """Claims of one campaign."""

    def __init__(self) -> None:
        self.first_due_s = math.inf
        self.claims: Counter[str] = Counter()
        self.first: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.latency = Histogram()


class Fold:
    """All calls of a run, one by one."""

    def __init__(self, bin_s: float) -> None:
        self.bin_s = bin_s
        self.bins: defaultdict[int, _Bin] = defaultdict(_Bin)
        self.slots: defaultdict[str, _Slot] = defaultdict(_Slot)
        self.names: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.codes: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.latency, self.service, self.lateness = Histogram(), Histogram(), Histogram()

    def add(self, call: Sequence[Any]) -> None:
        """Count one call."""
        name, kind, about, due, begin, end, status, code, replayed, method = call
        outcome = outcome_of(status, code, replayed=bool(replayed))
        latency_s = end - due
        self.latency.add(latency_s)
        self.service.add(end - begin)
        self.lateness.add(begin - due)
        self.names[name].add(latency_s)
        self.outcomes[name][outcome.kind] += 1
        self.statuses[status] += 1
        meant, answered = self.bins[int(due / self.bin_s)], self.bins[int(end / self.bin_s)]
        meant.meant += 1
        meant.latency.add(latency_s)
        answered.answered[outcome.kind] += 1
        if outcome.code:
            self.codes[outcome.code] += 1
            answered.refusals[outcome.code] += 1
        if method == "POST" and name.startswith("claim"):
            self._claim(self.slots[about], outcome, due, latency_s, kind)

    @staticmethod
    def _claim(slot: _Slot, outcome: Outcome, due: float, latency_s: float, kind: str) -> None:
        slot.first_due_s = min(slot.first_due_s, due)  # calls come in the order of due moments
        slot.latency.add(latency_s)
        if outcome.kind == "success":
            slot.claims[kind] += 1
            if due < slot.first_due_s + FIRST_S:
                slot.first[kind] += 1
        elif outcome.kind == "refused":
            slot.refusals[outcome.code] += 1


def summarize(recording: Recording) -> Json:
    """Everything that the report says, as JSON."""
    notes = recording.notes()
    seconds = float(notes["size"]["seconds"])
    last_s = recording.shelf.execute("SELECT coalesce(max(end), 0) FROM call").fetchone()[0]
    fold = Fold(bin_width(max(seconds, last_s)))
    for call in recording.shelf.execute(_CALLS):
        fold.add(call)
    system = list(_system(recording.samples()))
    return {
        "schema": SCHEMA,
        **{name: notes.get(name) for name in _NOTES},
        "ended_s": notes.get("ended_s", last_s),
        "bin_s": fold.bin_s,
        "totals": _totals(fold),
        "latency_ms": {
            "from intended": fold.latency.summary(),
            "from sending": fold.service.summary(),
            "late sending": fold.lateness.summary(),
        },
        "distribution": {
            "share": list(SHAPE),
            "from intended": fold.latency.percentiles_ms(SHAPE),
            "from sending": fold.service.percentiles_ms(SHAPE),
        },
        "calls": [
            {"name": name, **fold.outcomes[name], "latency_ms": histogram.summary()}
            for name, histogram in sorted(fold.names.items())
        ],
        "over_time": [_moment(fold, number) for number in range(max(fold.bins, default=-1) + 1)],
        "system": system,
        "lag": _worst_lag(system),
        "slots": _slots(fold, {*notes.get("rooms", {}), *notes.get("draws", {})}),
        "rooms": [_room(recording, name, room) for name, room in notes.get("rooms", {}).items()],
        "draws": [
            {"campaign": name, "by_arrival": parts}
            for name, parts in notes.get("draws", {}).items()
        ],
        "verdicts": [
            {"rule": rule, "checked": checked, "broken": broken}
            for rule, checked, broken in notes.get("verdicts", [])
        ],
    }


_NOTES: Final = (
    "scenario",
    "summary",
    "size",
    "machine",
    "release_utc",
    "url",
    "driver",
    "campaigns",
    "arrivals",
    "sessions",
    "curve",
    "events",
    "coupons",
    "findings",
)


def bin_width(seconds: float) -> float:
    """A round width that gives about sixty bins."""
    wanted = seconds / BINS
    return next(
        (float(width) for width in BIN_WIDTHS_S if width >= wanted), float(math.ceil(wanted))
    )


def _totals(fold: Fold) -> Json:
    kinds: Counter[str] = Counter()
    for outcomes in fold.outcomes.values():
        kinds.update(outcomes)
    most = max((sum(one.answered.values()) for one in fold.bins.values()), default=0)
    return {
        "calls": fold.latency.count,
        **{kind: kinds[kind] for kind in ("success", "replay", "refused", "unknown")},
        "peak_per_s": round(most / fold.bin_s, 1),
        "by_code": dict(fold.codes.most_common()),
        "by_status": {str(status): count for status, count in sorted(fold.statuses.items())},
    }


def _moment(fold: Fold, number: int) -> Json:
    one = fold.bins[number]
    return {
        "at_s": round(number * fold.bin_s, 3),
        "meant": one.meant,
        "answered": dict(one.answered),
        "refusals": dict(one.refusals),
        "latency_ms": one.latency.summary() if one.latency.count else None,
    }


def _slots(fold: Fold, others: AbstractSet[str]) -> list[Json]:
    """The first second of each campaign but those in which it does not count, most claims first."""
    slots = [one for one in fold.slots.items() if one[0] not in others]
    ranked = sorted(slots, key=lambda one: (-one[1].claims.total(), one[0]))
    return [
        {
            "campaign": about,
            "claims": slot.claims.total(),
            "by_kind": dict(slot.claims),
            "in_first_second": slot.first.total(),
            "first_by_kind": dict(slot.first),
            "refusals": dict(slot.refusals.most_common()),
            "latency_ms": slot.latency.summary(),
        }
        for about, slot in ranked[:SLOTS_MAX]
    ]


def _room(recording: Recording, name: str, room: Json) -> Json:
    """A waiting room: who came when and got which place, and what the first estimate was worth."""
    places = recording.shelf.execute(_PLACES, (name,)).fetchall()
    waits = recording.shelf.execute(_WAITS, (name,)).fetchall()
    errors = Histogram()
    for told, real in waits:
        errors.add(abs(real - told))
    return {
        "campaign": name,
        **room,
        "places": [[round(came, 3), number] for came, number in _some(places)],
        "waits": [[told, round(real, 3)] for told, real in _some(waits)],
        "estimate_off_ms": errors.summary(),
    }


def _some(points: Sequence[Any]) -> Sequence[Any]:
    """So many of the points, evenly chosen."""
    return points[:: math.ceil(len(points) / POINTS_MAX) or 1]


def _system(samples: Iterable[tuple[float, Json]]) -> Iterable[Json]:
    """The samples, with cores in use; a service that does not tell its lag has it estimated."""
    heads: list[tuple[float, int]] = []
    before: tuple[float, dict[str, float]] | None = None
    for at_s, facts in samples:
        cpu = facts.get("cpu_s", {})
        cores: dict[str, float] = {}
        if before is not None and at_s > before[0]:
            for name, used in cpu.items():
                rate = (used - before[1].get(name, used)) / (at_s - before[0])
                cores[name] = round(max(0.0, rate), 3)
        before = (at_s, cpu)
        row = {"at_s": round(at_s, 3), "cores": cores, "memory_bytes": facts["memory_bytes"]}
        if "head" in facts:
            heads.append((at_s, facts["head"]))
            row["head"], row["queued"] = facts["head"], facts["queued"]
            row["behind"] = facts["behind"]
            row["lag_s"] = facts.get("lag_s") or {
                name: round(behind_s(heads, facts["head"] - behind), 3)
                for name, behind in facts["behind"].items()
            }
        yield row


def behind_s(heads: Sequence[tuple[float, int]], reached: int) -> float:
    """How long ago the book ended where a projection is now; straight lines between samples."""
    now_s, head = heads[-1]
    if reached >= head:
        return 0.0
    later_s, later = now_s, head
    for at_s, position in reversed(heads):
        if position <= reached:
            share = (reached - position) / (later - position) if later > position else 1.0
            return now_s - (at_s + share * (later_s - at_s))
        later_s, later = at_s, position
    return now_s - later_s


def _worst_lag(system: Sequence[Json]) -> Json:
    worst: dict[str, Json] = {}
    for row in system:
        for name, lag_s in row.get("lag_s", {}).items():
            one = worst.setdefault(name, {"seconds": 0.0, "positions": 0})
            one["seconds"] = max(one["seconds"], lag_s)
            one["positions"] = max(one["positions"], row["behind"][name])
    return worst
