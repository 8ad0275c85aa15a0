"""Judging what is recorded of persons again: what was asked for by whom, and nothing afterwards.

It shares no code with the decisions. What is found is a value; nothing is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from msgspec import UNSET

from campaigns.coupon import CouponClaimed
from campaigns.packets.packet import PacketClaimed
from campaigns.persons.person import (
    PERSON_EVENTS,
    Basis,
    ErasureProposed,
    ErasureRequested,
    ParticularsInspected,
    ParticularsKept,
    PersonErased,
    person_id,
)
from ledger.events import Event

RULES: Final[dict[str, str]] = {
    "person_id": "a person's stream is made of the person",
    "not_kept": "only particulars that are kept are shown, for a time",
    "after_erasure": "nothing is kept, shown or granted of a person after the erasure, which "
    "is recorded once",
    "while_erasing": "between request and erasure nothing is kept, shown or asked for again",
}
"""Finding → the rule that it breaks."""

GRANTS: Final = (CouponClaimed, PacketClaimed)
"""Events that give something to a person: they are judged by their own rules as well."""


@dataclass(slots=True)
class _Person:
    kept: frozenset[str] = frozenset()
    proposal: tuple[Basis, str] | None = None
    erasing: bool = False


class PersonAudit:
    """Judges the events of persons; `here` reports a broken rule at this position."""

    def __init__(self, here: Callable[[str, object, object], bool]) -> None:
        self._here = here
        self._persons: dict[UUID, _Person] = {}
        self._lost: set[UUID] = set()
        self.erased: set[str] = set()
        self._rules: dict[type[Event], Callable[[Any, _Person], None]] = {
            ParticularsKept: self._kept,
            ParticularsInspected: self._inspected,
            ErasureProposed: self._proposed,
            ErasureRequested: self._requested,
            PersonErased: self._recorded,
        }
        assert set(self._rules) == set(PERSON_EVENTS), "every event of a person has its rule"

    def feed(self, event: Any) -> None:
        """Judge one event of a person."""
        stream = event.originator_id
        if stream in self._lost:
            return
        if stream != person_id(event.person):
            self._here("person_id", person_id(event.person).hex, stream.hex)
        if event.person in self.erased:
            self._here("after_erasure", "nothing more", event.TOPIC)
            return
        person = self._persons.setdefault(stream, _Person())
        if person.erasing and not isinstance(event, PersonErased):
            self._here("while_erasing", PersonErased.TOPIC, event.TOPIC)
        self._rules[type(event)](event, person)

    def granted(self, event: Any) -> None:
        """Judge an event that gives something to a person."""
        if event.person in self.erased:
            self._here("after_erasure", "nothing more", event.TOPIC)

    def skip(self, stream: UUID) -> None:
        """Judge nothing of a person any more whose stream is broken."""
        self._persons.pop(stream, None)
        self._lost.add(stream)

    def _kept(self, event: ParticularsKept, person: _Person) -> None:
        person.kept |= set(event.sealed)

    def _inspected(self, event: ParticularsInspected, person: _Person) -> None:
        if not set(event.fields) <= person.kept or event.until <= event.at:
            self._here("not_kept", sorted(person.kept), sorted(event.fields))

    def _proposed(self, event: ErasureProposed, person: _Person) -> None:
        person.proposal = (event.basis, event.by.id)

    def _requested(self, event: ErasureRequested, person: _Person) -> None:
        person.erasing = True
        if event.proposed_by is UNSET:
            if event.by.id != event.person:
                self._here("not_as_proposed", event.person, event.by.id)
        elif (event.basis, event.proposed_by) != person.proposal:
            self._here("not_as_proposed", person.proposal, (event.basis, event.proposed_by))
        elif event.by.id == event.proposed_by:
            self._here("self_approval", "another operator", event.by.id)

    def _recorded(self, event: PersonErased, _person: _Person) -> None:
        self.erased.add(event.person)
        self._persons.pop(event.originator_id, None)
