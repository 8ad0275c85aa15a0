"""Registering for a public draw, withdrawing, and voiding an entry.

An identity and a telephone are in the list once: the first valid entry counts, and any other is
refused as void, with its reason and under a signature that its holder can show to anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from campaigns.campaign import Campaign
from campaigns.commands import Command, Decision, Header, campaign_read
from campaigns.draws.announcing import canonical_json, instant_text
from campaigns.draws.draw import LIST_POOL, WITHDRAWN_POOL, PublicDraw
from campaigns.draws.entry import (
    ENTRY_FOLD,
    REGISTRATIONS_MAX,
    TELEPHONE_FOLD,
    DrawEntered,
    DrawEntry,
    DrawEntryVoided,
    DrawPhoneFreed,
    DrawPhoneTaken,
    DrawWithdrawn,
    Telephone,
    entry_id,
    telephone_id,
)
from campaigns.draws.opening import draw_read
from campaigns.draws.replies import registration_reply
from campaigns.draws.terms import PublicDrawTerms
from campaigns.refusals import Refusal
from campaigns.replies import CAMPAIGN_PREFIX
from ledger.appending import Capacity
from ledger.books import Book, PublicId
from ledger.commit import Further, Read, View
from ledger.events import Event

REFUSAL_FORMAT = "tidebook-refusal/1"

Sign = Callable[[bytes], bytes]
"""Signs a statement; the same statement always in the same way."""


@dataclass(frozen=True, slots=True)
class DrawCommand(Command):
    """A command on the public draw of a campaign."""

    book: Book
    campaign: UUID

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign and its draw."""
        return (campaign_read(self.campaign), draw_read(self.campaign))

    def known(self, view: View) -> tuple[Campaign, PublicDrawTerms, PublicDraw | None]:
        """Return the campaign, the terms of its draw and the draw, once it was opened."""
        campaign = view.state(campaign_read(self.campaign))
        if campaign is None or campaign.state == "draft":
            raise Refusal("not_found")
        terms = campaign.terms.public_draw
        if terms is None:
            raise Refusal("no_public_draw")
        return campaign, terms, view.state(draw_read(self.campaign))

    def registering(self, view: View, *states: str) -> tuple[Campaign, PublicDrawTerms, PublicDraw]:
        """Return campaign, terms and draw while entries may be made and taken back."""
        campaign, terms, draw = self.known(view)
        if draw is None or campaign.state not in states:
            raise Refusal("not_open", state=campaign.state)
        if view.now < terms.register_from:
            raise Refusal("not_open", state="open", opens_at=terms.register_from)
        if view.now >= terms.register_until or draw.state != "registering":
            raise Refusal("registration_over", ended_at=terms.register_until)
        return campaign, terms, draw


@dataclass(frozen=True, slots=True)
class EnterDraw(DrawCommand):
    """Register a person for the draw. `phone` is the pseudonym of the telephone in this draw."""

    name: ClassVar[str] = "enter_draw"

    person: str
    phone: str
    region: str | None
    operator: str | None
    sign: Sign = field(repr=False)

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign, its draw, the person's entry and the telephone."""
        return (
            campaign_read(self.campaign),
            draw_read(self.campaign),
            entry_read(entry_id(self.campaign, self.person)),
            telephone_read(telephone_id(self.campaign, self.phone)),
        )

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The places in the list."""
        return ((self.campaign, LIST_POOL),)

    def decide(self, view: View, header: Header) -> Decision:
        """The next place in the list, for whoever is eligible now and is not in it yet."""
        campaign, terms, draw = self.registering(view, "open")
        stream = entry_id(self.campaign, self.person)
        entry = view.state(entry_read(stream))
        telephone = view.state(telephone_read(telephone_id(self.campaign, self.phone)))
        reason = void_reason(terms, self.region, self.operator, entry, telephone)
        if reason is not None:
            raise self._void(view, reason)
        version = 0 if entry is None else entry.version
        if version >= 2 * REGISTRATIONS_MAX:
            raise Refusal("withdrawn_too_often", most=REGISTRATIONS_MAX)
        entered = DrawEntered(
            **header.of(stream, version + 1),
            campaign=self.campaign,
            campaign_version=campaign.version,
            person=self.person,
            index=view.capacity((self.campaign, LIST_POOL)).issued,
            phone=self.phone,
            **self._snapshot(),
        )
        taken = DrawPhoneTaken(
            **header.of(
                telephone_id(self.campaign, self.phone),
                1 if telephone is None else telephone.version + 1,
            ),
            campaign=self.campaign,
            entry=stream,
        )
        reply = registration_reply(self.book, campaign, draw, ENTRY_FOLD.evolve(None, entered))
        place = [((self.campaign, LIST_POOL), Capacity(issued=1, quota=1))]
        return Decision("registered", reply, [entered, taken], place)

    def _snapshot(self) -> dict[str, Any]:
        told = {"region": self.region, "operator": self.operator}
        return {name: value for name, value in told.items() if value is not None}

    def _void(self, view: View, reason: str) -> Refusal:
        statement = void_statement(self.book, self.campaign, self.person, reason, view.now)
        return Refusal(
            "entry_void",
            reason=reason,
            statement=statement.decode(),
            signature=self.sign(statement).hex(),
        )


@dataclass(frozen=True, slots=True)
class _EmptyPlace(DrawCommand):
    """Takes an entry out of the list; its place stays empty."""

    states: ClassVar[tuple[str, ...]] = ("open", "paused")

    entry: UUID

    def reads(self) -> tuple[Read[Any], ...]:
        """The campaign, its draw and the entry."""
        own = entry_read(self.entry)
        return (campaign_read(self.campaign), draw_read(self.campaign), own)

    def pools(self) -> tuple[tuple[UUID, str], ...]:
        """The empty places."""
        return ((self.campaign, WITHDRAWN_POOL),)

    def further(self, view: View) -> Further:
        """The telephone, as the entry says."""
        entry = view.state(entry_read(self.entry))
        if entry is None:
            return Further()
        return Further((telephone_read(telephone_id(self.campaign, entry.phone)),))

    def registered(self, view: View) -> tuple[Campaign, PublicDraw, DrawEntry]:
        """Return the campaign, the draw and the entry, which is in the list."""
        campaign, _, draw = self.registering(view, *self.states)
        entry = view.state(entry_read(self.entry))
        if entry is None or entry.campaign != self.campaign:
            raise Refusal("not_found")
        if entry.state != "registered":
            raise Refusal("not_registered", state=entry.state)
        return campaign, draw, entry

    def emptied(
        self, code: str, found: tuple[Campaign, PublicDraw, DrawEntry], events: list[Event]
    ) -> Decision:
        """Return the decision that leaves the place of what is `registered` empty."""
        campaign, draw, entry = found
        reply = registration_reply(self.book, campaign, draw, ENTRY_FOLD.evolve(entry, events[0]))
        place = [((self.campaign, WITHDRAWN_POOL), Capacity(issued=1, quota=1))]
        return Decision(code, reply, events, place)


@dataclass(frozen=True, slots=True)
class WithdrawEntry(_EmptyPlace):
    """Take one's own entry back; one may register again while the registration lasts."""

    name: ClassVar[str] = "withdraw_entry"

    def decide(self, view: View, header: Header) -> Decision:
        """The telephone is free again."""
        found = self.registered(view)
        entry = found[2]
        phone = telephone_id(self.campaign, entry.phone)
        taken = view.state(telephone_read(phone))
        assert taken is not None, "an entry has taken its telephone"
        events: list[Event] = [
            DrawWithdrawn(
                **header.of(entry.id, entry.version + 1),
                campaign=self.campaign,
                person=entry.person,
                index=entry.index,
            ),
            DrawPhoneFreed(
                **header.of(phone, taken.version + 1), campaign=self.campaign, entry=entry.id
            ),
        ]
        return self.emptied("withdrawn", found, events)


@dataclass(frozen=True, slots=True)
class VoidEntry(_EmptyPlace):
    """Find an entry void, for a reason that is recorded, before the list is frozen."""

    name: ClassVar[str] = "void_entry"

    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """Neither the person nor the telephone can come in again."""
        found = self.registered(view)
        entry = found[2]
        event = DrawEntryVoided(
            **header.of(entry.id, entry.version + 1),
            campaign=self.campaign,
            person=entry.person,
            index=entry.index,
            reason=self.reason,
        )
        return self.emptied("entry_voided", found, [event])


def void_reason(
    terms: PublicDrawTerms,
    region: str | None,
    operator: str | None,
    entry: DrawEntry | None,
    telephone: Telephone | None,
) -> str | None:
    """Return why an entry would be void, the first that applies; None for a valid one."""
    if terms.regions is not None and region not in terms.regions:
        return "region"
    if terms.operators is not None and operator not in terms.operators:
        return "operator"
    if entry is not None and entry.state == "voided":
        return "voided"
    if entry is not None and entry.state != "withdrawn":
        return "same_person"
    if telephone is not None and telephone.entry is not None:
        return "same_phone"
    return None


def void_statement(book: Book, campaign: UUID, person: str, reason: str, at: datetime) -> bytes:
    """Return the words of a refusal that are signed."""
    return canonical_json(
        {
            "format": REFUSAL_FORMAT,
            "campaign": str(PublicId(CAMPAIGN_PREFIX, book, campaign)),
            "person": person,
            "reason": reason,
            "at": instant_text(at),
        }
    ).rstrip()


def entry_read(entry: UUID) -> Read[DrawEntry]:
    """Return how an entry is read."""
    return Read(entry, ENTRY_FOLD)


def telephone_read(telephone: UUID) -> Read[Telephone]:
    """Return how a telephone is read."""
    return Read(telephone, TELEPHONE_FOLD)
