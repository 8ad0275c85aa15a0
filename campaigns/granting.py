"""Granting a coupon: the event and the reply of a claim; and replies told again from events.

In a rush every claim is the same but for the person. So what stays the same is encoded once for
each version of a campaign, as a pair of moulds, and never in a way of its own: the plain encoders
make the moulds. Whether a coupon may be granted is not decided here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from msgspec import Raw
from msgspec.structs import asdict

from campaigns.campaign import Campaign
from campaigns.coupon import COUPON_FOLD, CouponClaimed, CouponRedeemed
from campaigns.packets.packet import PACKET_FOLD, PacketClaimed
from campaigns.packets.replies import packet_reply
from campaigns.replies import COUPON_PREFIX, coupon_reply, encode, redemption_reply
from ledger.books import Book
from ledger.events import Actor, Event, Why
from ledger.moulds import EncodedEvent, EventMould, Mould

FORMS_MAX: Final = 1_000
"""Campaigns whose moulds are kept; a rush is about few of them."""

EVENT_VARIES: Final = ("at", "by", "why", "person", "n")
REPLY_VARIES: Final = ("coupon", "n", "claimed_at")


class Forms(NamedTuple):
    """The moulds of one campaign at one version. They are of this very object and no other."""

    campaign: Campaign
    book: Book
    event: EventMould
    reply: Mould
    prefix: str
    """How the public ids of what is granted begin."""


_forms: dict[int, Forms] = {}


def known_forms(book: Book, campaign: Campaign) -> Forms | None:
    """Return the moulds of a campaign, where they were made before."""
    forms = _forms.get(id(campaign))
    if forms is None or forms.campaign is not campaign or forms.book != book:
        return None
    return forms


def keep_forms(forms: Forms) -> Forms:
    """Keep the moulds of a campaign; return them."""
    if len(_forms) >= FORMS_MAX:
        _forms.clear()
    _forms[id(forms.campaign)] = forms
    return forms


def grant(
    book: Book,
    campaign: Campaign,
    coupon: UUID,
    n: int,
    person: str,
    at: datetime,
    by: Actor,
    why: Why,
) -> tuple[EncodedEvent, Raw]:
    """Return the grant of a person's n-th coupon: its stream's first event, and the reply."""
    forms = known_forms(book, campaign)
    if forms is None:
        forms = _make_forms(book, campaign, plain_claim(campaign, coupon, n, person, at, by, why))
    event = forms.event.cast(coupon, 1, at, by, why, person, n)
    return event, Raw(forms.reply.cast(forms.prefix + coupon.hex, n, at))


def plain_claim(
    campaign: Campaign, coupon: UUID, n: int, person: str, at: datetime, by: Actor, why: Why
) -> CouponClaimed:
    """Return the event of a grant, made without a mould."""
    terms = campaign.terms
    return CouponClaimed(
        originator_id=coupon,
        originator_version=1,
        at=at,
        by=by,
        why=why,
        campaign=campaign.id,
        campaign_version=campaign.version,
        person=person,
        n=n,
        face_minor=terms.face_minor,
        threshold_minor=terms.threshold_minor,
        currency=terms.currency,
        valid_from=terms.valid_from,
        valid_until=terms.valid_until,
    )


def _make_forms(book: Book, campaign: Campaign, sample: CouponClaimed) -> Forms:
    reply = coupon_reply(book, COUPON_FOLD.evolve(None, sample))
    forms = Forms(
        campaign,
        book,
        EventMould(sample, EVENT_VARIES),
        Mould(asdict(reply), REPLY_VARIES),
        f"{COUPON_PREFIX}_{book}_",
    )
    assert forms.reply.cast(reply.coupon, reply.n, reply.claimed_at) == encode(reply)
    return keep_forms(forms)


TOLD: Final = frozenset({"claimed", "redeemed"})
"""The codes of what events tell."""


def tells_itself(event: Event) -> bool:
    """Whether an event tells its reply: a redemption, a claim that was not entered for before."""
    if isinstance(event, CouponRedeemed):
        return True
    return isinstance(event, CouponClaimed | PacketClaimed) and event.originator_version == 1


def tell(book: str, event: Event) -> tuple[str, bytes] | None:
    """Return the code and the reply that an event tells, None when it tells none."""
    if isinstance(event, CouponRedeemed):
        return redeemed_again(Book(book), event)
    if isinstance(event, CouponClaimed | PacketClaimed) and tells_itself(event):
        return told_again(Book(book), event)
    return None


def redeemed_again(book: Book, event: CouponRedeemed) -> tuple[str, bytes]:
    """Return the code and the reply of a redemption from its event."""
    return "redeemed", encode(redemption_reply(book, event))


def told_again(book: Book, event: CouponClaimed | PacketClaimed) -> tuple[str, bytes]:
    """Return the code and the reply of a claim from its event: the first of its stream."""
    if isinstance(event, PacketClaimed):
        return "claimed", encode(packet_reply(book, PACKET_FOLD.evolve(None, event)))
    return "claimed", encode(coupon_reply(book, COUPON_FOLD.evolve(None, event)))
