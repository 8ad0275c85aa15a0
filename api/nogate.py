"""No gate: every claim goes to the store, which alone decides.

This is how a service works that has no Valkey, and how little a gate may matter: with it, answers
come sooner, and never others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple
from uuid import UUID


class Verdict(Enum):
    """What a gate knows of a claim."""

    ADMITTED = auto()
    UNSURE = auto()
    CLAIMED = auto()
    SOLD_OUT = auto()
    TOO_FAST = auto()
    WAIT = auto()


class Knock(NamedTuple):
    """Who wants what at the gate."""

    campaign: UUID
    pool: str
    person: str
    request: bytes
    device: str | None
    address: str | None


class Word(NamedTuple):
    """What the gate says."""

    verdict: Verdict
    wait_s: float = 0.0
    code: str | None = None
    position: int = 0
    facts: tuple[Any, ...] = ()


_COME_IN: Final = Word(Verdict.ADMITTED)


class NoGate:
    """Admits everybody, remembers nobody."""

    paces = False
    """Whether this gate also says who is too fast."""

    def ask(self, knock: Knock, heard: Callable[[Word], None]) -> None:  # noqa: ARG002 - no gate
        """Say yes."""
        heard(_COME_IN)

    def claimed(
        self, campaign: UUID, pool: str, person: str, request: bytes, n: int, limit: int
    ) -> None:
        """Hear that a person has a coupon."""

    def released(self, campaign: UUID, pool: str, person: str) -> None:
        """Hear that somebody who was admitted took nothing."""

    def sold_out(
        self, campaign: UUID, pool: str, code: str, position: int, facts: tuple[Any, ...]
    ) -> None:
        """Hear that the store had nothing left at a position."""

    def freeing(self, book: str, position: int, pools: Sequence[tuple[UUID, str]]) -> None:
        """Hear that there will be more room."""
