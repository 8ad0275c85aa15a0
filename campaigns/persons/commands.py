"""The commands on persons, and the pure decision on each.

What is asked for here is recorded and no more: sealing, giving up what is held and destroying the
key are done around it, in this order, see docs/erasure.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from campaigns.commands import Command, Decision, Header
from campaigns.persons.person import (
    INSPECTED_FOR,
    PERSON_FOLD,
    Basis,
    ErasureProposed,
    ErasureRequested,
    Field,
    ParticularsInspected,
    ParticularsKept,
    Person,
    PersonErased,
    Purpose,
    person_id,
)
from campaigns.persons.replies import inspection_reply, person_reply
from campaigns.refusals import Refusal
from ledger.books import Book
from ledger.commit import Read, View
from ledger.events import Event


@dataclass(frozen=True, slots=True)
class PersonCommand(Command):
    """A command on a person, of whom nothing may be known yet."""

    book: Book
    person: str

    def reads(self) -> tuple[Read[Any], ...]:
        """The person."""
        return (person_read(self.person),)

    def known(self, view: View) -> Person | None:
        """Return the person, None where nothing was recorded yet; refuse one who is erased."""
        known = view.state(person_read(self.person))
        if known is not None and known.state == "erased":
            raise Refusal("person_erased")
        if known is not None and known.state == "erasing":
            raise Refusal("erasure_begun")
        return known

    def next(self, view: View, header: Header) -> dict[str, Any]:
        """Return the header fields of the person's next event."""
        stream = person_id(self.person)
        return {**header.of(stream, view.version(stream) + 1), "person": self.person}

    def told(self, code: str, known: Person | None, event: Event) -> Decision:
        """Return the decision that records an event and tells how the person stands."""
        return Decision(code, person_reply(self.book, PERSON_FOLD.evolve(known, event)), [event])


@dataclass(frozen=True, slots=True)
class KeepParticulars(PersonCommand):
    """Keep particulars, each of which is sealed already."""

    name: ClassVar[str] = "keep_particulars"

    sealed: dict[Field, str]

    def decide(self, view: View, header: Header) -> Decision:
        """The last of each counts; nothing is kept of whoever asked for erasure."""
        known = self.known(view)
        event = ParticularsKept(**self.next(view, header), sealed=self.sealed)
        return self.told("particulars_kept", known, event)


@dataclass(frozen=True, slots=True)
class InspectParticulars(PersonCommand):
    """Let an operator read particulars for a purpose, and record it."""

    name: ClassVar[str] = "inspect_particulars"

    fields: tuple[Field, ...]
    purpose: Purpose

    def decide(self, view: View, header: Header) -> Decision:
        """Nothing is shown that is not kept."""
        known = self.known(view)
        if known is None or not set(self.fields) <= set(known.sealed):
            raise Refusal("not_kept")
        event = ParticularsInspected(
            **self.next(view, header),
            fields=list(self.fields),
            purpose=self.purpose,
            until=view.now + INSPECTED_FOR,
        )
        return Decision("particulars_inspected", inspection_reply(self.book, event), [event])


@dataclass(frozen=True, slots=True)
class RequestErasure(PersonCommand):
    """Ask for one's own erasure; there is no way back."""

    name: ClassVar[str] = "request_erasure"

    def decide(self, view: View, header: Header) -> Decision:
        """From here on it is only a matter of time."""
        known = self.known(view)
        return self.told("erasure_requested", known, ErasureRequested(**self.next(view, header)))


@dataclass(frozen=True, slots=True)
class ProposeErasure(PersonCommand):
    """Ask for an erasure on behalf of a person; it replaces what was asked for before."""

    name: ClassVar[str] = "propose_erasure"

    basis: Basis

    def decide(self, view: View, header: Header) -> Decision:
        """A second operator must approve it."""
        known = self.known(view)
        event = ErasureProposed(**self.next(view, header), basis=self.basis)
        return self.told("erasure_proposed", known, event)


@dataclass(frozen=True, slots=True)
class ApproveErasure(PersonCommand):
    """Approve an erasure that is proposed; only somebody else may."""

    name: ClassVar[str] = "approve_erasure"

    basis: Basis

    def decide(self, view: View, header: Header) -> Decision:
        """What is approved is what was proposed."""
        known = self.known(view)
        if known is None or known.proposal is None:
            raise Refusal("no_erasure_proposed")
        proposal = known.proposal
        if proposal.by == header.by.id:
            raise Refusal("self_approval")
        if proposal.basis != self.basis:
            raise Refusal("erasure_changed", basis=proposal.basis)
        event = ErasureRequested(
            **self.next(view, header), proposed_by=proposal.by, basis=proposal.basis
        )
        return self.told("erasure_requested", known, event)


@dataclass(frozen=True, slots=True)
class RecordErasure(PersonCommand):
    """Record that the key is destroyed (the eraser's command, in every book that it knows)."""

    name: ClassVar[str] = "record_erasure"

    def decide(self, view: View, header: Header) -> Decision:
        """Once in each book. Whether it was asked for in this one is not looked at.

        A book that was restored from an older backup may have lost the request; the key is gone all
        the same, and that is what is recorded.
        """
        known = view.state(person_read(self.person))
        if known is not None and known.state == "erased":
            raise Refusal("person_erased")
        return self.told("erased", known, PersonErased(**self.next(view, header)))


def person_read(person: str) -> Read[Person]:
    """Return how a person is read."""
    return Read(person_id(person), PERSON_FOLD)
