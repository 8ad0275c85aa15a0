"""Registering many people for a public draw at once, as a platform hands them over.

One command and one answer for a batch, and for each person in it an entry of their own, decided by
the rules of a single registration and in the order of the batch. Whoever is void in it is named in
the answer with the reason, under a signature; the others are registered all the same. Nothing here
may be judged more leniently than in `campaigns.draws.registering`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple
from uuid import UUID

from campaigns.campaign import Campaign
from campaigns.commands import Decision, Header, campaign_read
from campaigns.draws.draw import LIST_POOL
from campaigns.draws.entry import (
    REGISTRATIONS_MAX,
    DrawEntered,
    DrawPhoneTaken,
    entry_id,
    telephone_id,
)
from campaigns.draws.opening import draw_read
from campaigns.draws.registering import (
    DrawCommand,
    Sign,
    entry_read,
    telephone_read,
    void_reason,
    void_statement,
)
from campaigns.draws.replies import EnrolmentReply, VoidEntryReply
from campaigns.draws.terms import PublicDrawTerms
from campaigns.refusals import Refusal
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.appending import Capacity
from ledger.books import PublicId
from ledger.commit import Read, View
from ledger.moulds import EncodedEvent, EventMould

ENROLLED_MAX: Final = 2_000
"""Most people in one batch: what a transaction reads and writes well within its time."""


class Registration(NamedTuple):
    """Somebody who registers. `phone` is the pseudonym of the telephone in this draw."""

    person: str
    phone: str
    region: str | None = None
    operator: str | None = None


class _Place(NamedTuple):
    """The streams of a registration: the entry's and the telephone's."""

    entry: UUID
    telephone: UUID


@dataclass(frozen=True, slots=True)
class EnterMany(DrawCommand):
    """Register people for the draw, each by the rules and in the order of the batch."""

    name: ClassVar[str] = "enter_many"

    registrations: Sequence[Registration]
    sign: Sign = field(repr=False)
    places: Sequence[_Place] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        assert 0 < len(self.registrations) <= ENROLLED_MAX, f"1 to {ENROLLED_MAX} at once"
        places = [
            _Place(entry_id(self.campaign, one.person), telephone_id(self.campaign, one.phone))
            for one in self.registrations
        ]
        object.__setattr__(self, "places", places)

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign, its draw, and each person's entry and telephone."""
        own = (campaign_read(self.campaign), draw_read(self.campaign))
        entries = (entry_read(place.entry) for place in self.places)
        return (*own, *entries, *(telephone_read(place.telephone) for place in self.places))

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The places in the list."""
        return ((self.campaign, LIST_POOL),)

    def decide(self, view: View, header: Header) -> Decision:
        """The next places in the list, for whoever is eligible now and is not in it yet."""
        campaign, terms, _ = self.registering(view, "open")
        first = view.capacity((self.campaign, LIST_POOL)).issued
        cast = _Cast(campaign, header)
        taken: set[int] = set()
        events: list[EncodedEvent] = []
        void: list[VoidEntryReply] = []
        for one, place in zip(self.registrations, self.places, strict=True):
            reason = self._reason(view, terms, one, place, taken)
            if reason is not None:
                void.append(self._void(view, one.person, reason))
                continue
            versions = (view.version(place.entry) + 1, view.version(place.telephone) + 1)
            events += cast.events(one, place, versions, first + len(events) // 2)
            taken.update((place.entry.int, place.telephone.int))
        registered = len(events) // 2
        if not registered:
            raise Refusal("entry_void", void=void)
        reply = EnrolmentReply(
            campaign=str(PublicId(CAMPAIGN_PREFIX, self.book, campaign.id)),
            registered=registered,
            first_index=first,
            void=tuple(void),
        )
        changed = [((self.campaign, LIST_POOL), Capacity(issued=registered, quota=registered))]
        return Decision("registered", reply, events, changed)

    @staticmethod
    def _reason(
        view: View, terms: PublicDrawTerms, one: Registration, place: _Place, taken: set[int]
    ) -> str | None:
        """Return why somebody is void; the batch itself counts as well as what was before it."""
        known = view.version(place.entry)
        entry = view.state(entry_read(place.entry)) if known else None
        held = view.version(place.telephone)
        telephone = view.state(telephone_read(place.telephone)) if held else None
        reason = void_reason(terms, one.region, one.operator, entry, telephone)
        if reason not in {None, "same_phone"}:
            return reason
        if place.entry.int in taken:
            return "same_person"
        if reason is not None or place.telephone.int in taken:
            return "same_phone"
        return "withdrawn_too_often" if known >= 2 * REGISTRATIONS_MAX else None

    def _void(self, view: View, person: str, reason: str) -> VoidEntryReply:
        statement = void_statement(self.book, self.campaign, person, reason, view.now)
        return VoidEntryReply(person, reason, statement.decode(), self.sign(statement).hex())


class _Cast:
    """Casts the events of a batch, which differ in a few fields only."""

    def __init__(self, campaign: Campaign, header: Header) -> None:
        self._campaign = campaign
        self._header = header
        self._entered: dict[tuple[str, ...], EventMould] = {}
        self._taken: EventMould | None = None

    def events(
        self, one: Registration, place: _Place, versions: tuple[int, int], index: int
    ) -> tuple[EncodedEvent, EncodedEvent]:
        """Return the two events of a registration."""
        told = {"region": one.region, "operator": one.operator}
        snapshot = {name: value for name, value in told.items() if value is not None}
        names = tuple(snapshot)
        entered = self._entered.get(names)
        if entered is None:
            entered = self._entered[names] = self._entry_mould(one, place, snapshot)
        if self._taken is None:
            self._taken = self._telephone_mould(place)
        values = (one.person, index, one.phone, *snapshot.values())
        return (
            entered.cast(place.entry, versions[0], *values),
            self._taken.cast(place.telephone, versions[1], place.entry),
        )

    def _entry_mould(
        self, one: Registration, place: _Place, snapshot: dict[str, Any]
    ) -> EventMould:
        sample = DrawEntered(
            **self._header.of(place.entry, 1),
            campaign=self._campaign.id,
            campaign_version=self._campaign.version,
            person=one.person,
            index=0,
            phone=one.phone,
            **snapshot,
        )
        return EventMould(sample, ("person", "index", "phone", *snapshot))

    def _telephone_mould(self, place: _Place) -> EventMould:
        sample = DrawPhoneTaken(
            **self._header.of(place.telephone, 1), campaign=self._campaign.id, entry=place.entry
        )
        return EventMould(sample, ("entry",))
