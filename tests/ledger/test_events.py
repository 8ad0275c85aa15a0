"""Events as bytes: canonical, final, upcast on reading, never skipped."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from campaigns.campaign import CAMPAIGN_EVENTS
from campaigns.coupon import COUPON_EVENTS, CouponClaimed
from campaigns.event_types import EVENT_TYPES, MAPPER
from ledger.events import Actor, Event, EventTypes, UnknownEventType, UnreadableEvent, Why

STREAM = UUID(int=7)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)

TOPICS = [
    "campaign.budget_reclaimed",
    "campaign.closed",
    "campaign.drafted",
    "campaign.drawn",
    "campaign.funded",
    "campaign.funding_proposed",
    "campaign.intake_closed",
    "campaign.opened",
    "campaign.paused",
    "campaign.resumed",
    "campaign.rolled_in",
    "campaign.rolled_over",
    "campaign.split_shown",
    "correction.approved",
    "correction.proposed",
    "coupon.claimed",
    "coupon.entered",
    "coupon.expired",
    "coupon.reclaimed",
    "coupon.redeemed",
    "coupon.refunded",
    "coupon.voided",
    "draw.drawn",
    "draw.entered",
    "draw.entry_voided",
    "draw.frozen",
    "draw.moved_up",
    "draw.opened",
    "draw.phone_freed",
    "draw.phone_taken",
    "draw.voided",
    "draw.withdrawn",
    "draw.won",
    "group.closed",
    "group.funded",
    "group.given_up",
    "group.giving_up_proposed",
    "group.share_taken",
    "packet.claimed",
    "packet.expired",
    "packet.paid",
    "packet.refunded",
    "packet.wallet_closed",
    "person.erased",
    "person.erasure_proposed",
    "person.erasure_requested",
    "person.particulars_inspected",
    "person.particulars_kept",
    "purse.emptied",
    "purse.filled",
    "purse.filling_proposed",
    "purse.returned",
    "purse.sent",
]


class Painted(Event, frozen=True, kw_only=True):
    """A wall was painted: the form of today."""

    TOPIC: ClassVar[str] = "wall.painted:2"
    colour: str
    coats: int


def paint_with_coats(state: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Upcast the first form, which did not count coats."""
    return "wall.painted:2", {**state, "coats": 1}


def claim_of(**changes: Any) -> CouponClaimed:
    """Return a claim whose bytes are pinned below."""
    fields: dict[str, Any] = {
        "originator_id": STREAM,
        "originator_version": 1,
        "at": NOON,
        "by": Actor("tourist", "ab" * 16),
        "why": Why("r-1", "k-1", "00ff"),
        "campaign": UUID(int=9),
        "campaign_version": 4,
        "person": "ab" * 16,
        "n": 1,
        "face_minor": 500,
        "threshold_minor": 2000,
        "currency": "CNY",
        "valid_from": NOON,
        "valid_until": NOON,
    }
    return CouponClaimed(**{**fields, **changes})


PINNED = (
    b'{"at":"2026-05-01T12:00:00Z",'
    b'"by":{"role":"tourist","id":"abababababababababababababababab"},'
    b'"why":{"request":"r-1","key":"k-1","fingerprint":"00ff"},'
    b'"campaign":"00000000-0000-0000-0000-000000000009","campaign_version":4,'
    b'"person":"abababababababababababababababab","n":1,"face_minor":500,'
    b'"threshold_minor":2000,"currency":"CNY",'
    b'"valid_from":"2026-05-01T12:00:00Z","valid_until":"2026-05-01T12:00:00Z"}'
)


def test_the_bytes_of_a_claim_are_pinned() -> None:
    """Stored bytes are final: this test fails when somebody changes their form."""
    assert MAPPER.to_stored_event(claim_of()).state == PINNED


def test_an_absent_field_is_not_written() -> None:
    """A field that came later is left out where it says nothing, and read back as absent."""
    given = claim_of(drawn=True)
    assert MAPPER.to_stored_event(given).state == PINNED[:-1] + b',"drawn":true}'
    assert MAPPER.to_domain_event(MAPPER.to_stored_event(given)) == given
    assert MAPPER.to_domain_event(MAPPER.to_stored_event(claim_of())).drawn is UNSET


def test_topics_are_stable_names() -> None:
    """The set of topics grows; a topic is never renamed with its class."""
    assert sorted(EVENT_TYPES.topics) == TOPICS
    assert {cls.TOPIC for cls in (*CAMPAIGN_EVENTS, *COUPON_EVENTS)} < set(TOPICS)


@given(
    st.integers(0, 10**15),
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.text(max_size=20),
)
def test_an_event_comes_back_from_its_bytes(face: int, at: datetime, request: str) -> None:
    """Decoding and encoding again gives the same event and the same bytes."""
    event = claim_of(face_minor=face, at=at, why=Why(request))
    stored = MAPPER.to_stored_event(event)
    again = MAPPER.to_domain_event(stored)
    assert again == event
    assert MAPPER.to_stored_event(again) == stored


def test_an_old_form_is_upcast_on_reading() -> None:
    """The stored bytes stay; the reader sees today's form."""
    types = EventTypes([Painted], {"wall.painted": paint_with_coats})
    old = (
        b'{"at":"2026-05-01T12:00:00Z","by":{"role":"r","id":"i"},'
        b'"why":{"request":"q"},"colour":"red"}'
    )
    event = types.decode("wall.painted", old, STREAM, 3)
    assert isinstance(event, Painted)
    assert (event.colour, event.coats, event.originator_version) == ("red", 1, 3)


def test_an_unknown_topic_is_not_skipped() -> None:
    """A reader that is older than the store stops with the topic's name."""
    with pytest.raises(UnknownEventType, match=r"coupon\.melted"):
        MAPPER.decode("coupon.melted", b"{}", STREAM, 1)
    with pytest.raises(UnknownEventType, match="wall"):
        EVENT_TYPES.encode(
            Painted(
                originator_id=STREAM,
                originator_version=1,
                at=NOON,
                by=Actor("r", "i"),
                why=Why("q"),
                colour="red",
                coats=1,
            )
        )


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        PINNED[:-1],
        PINNED.replace(b'"n":1', b'"n":"one"'),
        PINNED.replace(b'"n":1,', b""),
        PINNED.replace(b'"n":1', b'"n":1,"extra":2'),
        PINNED.replace(b'"n":1', b'"n":1,"originator_version":5'),
        PINNED.replace(b'"n":1', b'"n":1,"originator_id":"00000000-0000-0000-0000-000000000008"'),
    ],
)
def test_damaged_bytes_are_said_to_be_damaged(state: bytes) -> None:
    """Bytes that do not fit their topic name the stream and version, and are never guessed at."""
    with pytest.raises(UnreadableEvent, match="version 4 of 00000000-0000-0000-0000-000000000007"):
        MAPPER.decode("coupon.claimed", state, STREAM, 4)
