"""Faults on demand: how the sandbox operator misbehaves, toward whom, and how often.

A fault is planned by whoever tries the dispatcher, and used up by the calls that it spoils. None
of them touches the store: what is done is done properly, only its answer is spoilt.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

FaultKind = Literal[
    "fail_before", "fail_after", "cut_before", "cut_after", "delay", "late", "twice", "nonsense"
]
FAULTS: Final[dict[FaultKind, str]] = {
    "fail_before": "answers 500 and does nothing",
    "fail_after": "does it and answers 500",
    "cut_before": "hangs up and does nothing",
    "cut_after": "does it and hangs up",
    "delay": "does it at once and answers after so many seconds",
    "late": "does it only after so many seconds, whether or not somebody still waits",
    "twice": "does it once and sends the answer twice",
    "nonsense": "does it and answers something that is no answer, each time another",
}
assert set(FAULTS) == set(get_args(FaultKind))

Calls = Literal["instruct", "look_up", "any"]

PLANNED_MAX: Final = 1_000


class Fault(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A plan: the next `calls` calls, of one wallet or of all, go wrong like this."""

    fault: FaultKind
    calls: int = 1
    on: Calls = "instruct"
    wallet: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Bound what is asked for; msgspec makes a `ValidationError` of it."""
        if not 1 <= self.calls <= 1_000_000:
            raise ValueError("calls: 1 to 1,000,000")
        if not 0 <= self.seconds <= 3_600:
            raise ValueError("seconds: 0 to 3,600")


class Faults:
    """The plans that are not used up."""

    def __init__(self) -> None:
        self.planned: list[Fault] = []
        self.spoilt = 0

    def plan(self, faults: list[Fault]) -> None:
        """Add plans; the earliest that fits a call is taken."""
        if len(self.planned) + len(faults) > PLANNED_MAX:
            raise ValueError(f"at most {PLANNED_MAX} plans")
        self.planned += faults

    def clear(self) -> None:
        """Behave."""
        self.planned.clear()

    def take(self, call: Calls, wallet: str | None) -> Fault | None:
        """Return how this call goes wrong, and count it; None when it goes well."""
        for fault in self.planned:
            if fault.on not in (call, "any") or fault.wallet not in (None, wallet):
                continue
            fault.calls -= 1
            self.spoilt += 1
            if fault.calls == 0:
                self.planned.remove(fault)
            return fault
        return None
