"""No gate: every claim goes to the store, which alone decides.

This is how a service works that has no Valkey, and how little a gate may matter: with it, answers
come sooner, and never others.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from campaigns.gate import ADMITTED, Facts, Heard, Knock


class AnyGate(Protocol):
    """What passages ask of a gate, and what they tell it of the store's answers."""

    def ask(self, knock: Knock, heard: Heard) -> None:
        """Knock; `heard` is told the word once, now or later."""
        ...

    def claimed(
        self, campaign: UUID, pool: str, person: str, request: bytes, n: int, limit: int
    ) -> None:
        """Hear that the store granted a person's n-th coupon."""
        ...

    def claimed_before(
        self, campaign: UUID, pool: str, person: str, request: bytes, limit: int
    ) -> None:
        """Hear that a person has all that one may have."""
        ...

    def released(self, campaign: UUID, pool: str, person: str, request: bytes) -> None:
        """Hear that a request surely had no effect."""
        ...

    def sold_out(
        self, campaign: UUID, pool: str, code: str, position: int, facts: Facts = ()
    ) -> None:
        """Hear that the store had nothing left at a position."""
        ...


class AnyForesight(Protocol):
    """What passages ask before they ask the gate."""

    def takes(self, knock: Knock, heard: Heard) -> bool:
        """Whether a refusal is clear beforehand; then `heard` is told the word, once, later."""
        ...


class NoForesight:
    """Foresees nothing."""

    def takes(self, knock: Knock, heard: Heard) -> bool:  # noqa: ARG002 - it knows nobody
        return False


class NoGate:
    """Admits everybody, remembers nobody."""

    def ask(self, knock: Knock, heard: Heard) -> None:  # noqa: ARG002 - it knows nobody
        heard(ADMITTED)

    def claimed(
        self, campaign: UUID, pool: str, person: str, request: bytes, n: int, limit: int
    ) -> None: ...

    def claimed_before(
        self, campaign: UUID, pool: str, person: str, request: bytes, limit: int
    ) -> None: ...

    def released(self, campaign: UUID, pool: str, person: str, request: bytes) -> None: ...

    def sold_out(
        self, campaign: UUID, pool: str, code: str, position: int, facts: Facts = ()
    ) -> None: ...
