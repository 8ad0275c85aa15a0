"""Granting: what the moulds cast is what the plain encoders write, and what is told again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns import accounting
from campaigns.campaign import Campaign, Terms
from campaigns.coupon import COUPON_FOLD, CouponClaimed, CouponRedeemed, coupon_hex, coupon_id
from campaigns.event_types import MAPPER
from campaigns.granting import grant, plain_claim, tell, tells_itself, told_again
from campaigns.replies import coupon_reply, encode
from ledger.books import Book
from ledger.events import Actor, Why
from ledger.moulds import EventMould, Mould
from ledger.postings import Transfer, Unbalanced
from ledger.scene import Checks
from tests.support.desk import NOON, person, terms_of, tourist

BOOK = Book("main")
CAMPAIGN = UUID(int=7)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["%b", '"', "\\", "%%"])
INSTANT = st.datetimes(timezones=st.just(UTC))
WHY = st.builds(Why, TEXT, TEXT, TEXT)


def campaign_of(terms: Terms | None = None, version: int = 4) -> Campaign:
    """Return an open campaign."""
    return Campaign(
        id=CAMPAIGN,
        version=version,
        name="Spring",
        sponsor="hainan",
        terms=terms or terms_of(),
        state="open",
    )


@given(
    who=TEXT,
    n=st.integers(1, 20),
    ats=st.lists(INSTANT, min_size=2, max_size=2),
    by=st.builds(Actor, TEXT, TEXT),
    whys=st.lists(WHY, min_size=2, max_size=2),
    face=st.integers(1, 10**9),
    currency=st.sampled_from(["CNY", "XTS"]),
)
def test_a_cast_claim_is_the_plain_one(
    who: str,
    n: int,
    ats: list[datetime],
    by: Actor,
    whys: list[Why],
    face: int,
    currency: str,
) -> None:
    """Event and reply equal the plain encoders' bytes, for the sample and for every later claim."""
    campaign = campaign_of(terms_of(face_minor=face, threshold_minor=face, currency=currency))
    for at, why in zip(ats, whys, strict=True):
        coupon = coupon_id(CAMPAIGN, who, n)
        event, reply = grant(BOOK, campaign, coupon, n, who, at, by, why)
        plain = plain_claim(campaign, coupon, n, who, at, by, why)
        assert event.state == MAPPER.types.encode(plain)
        assert (event.originator_id, event.originator_version) == (coupon, 1)
        assert event.TOPIC == plain.TOPIC
        told = encode(coupon_reply(BOOK, COUPON_FOLD.evolve(None, plain)))
        assert encode(reply) == told
        stored = MAPPER.decode(event.TOPIC, event.state, coupon, 1)
        assert told_again(BOOK, stored) == ("claimed", told)  # type: ignore[arg-type]


def test_the_bytes_of_a_claims_reply_are_pinned() -> None:
    """A retry is told again from the event for ever: this fails when somebody changes the form."""
    event = plain_claim(
        campaign_of(), UUID(int=9), 1, person(1), NOON, tourist(person(1)), Why("r", "k", "f")
    )
    assert told_again(BOOK, event)[1] == (
        b'{"coupon":"cpn_main_00000000000000000000000000000009",'
        b'"campaign":"cmp_main_00000000000000000000000000000007","n":1,"state":"held",'
        b'"face":{"amount_minor":500,"currency":"CNY"},'
        b'"threshold":{"amount_minor":500,"currency":"CNY"},'
        b'"valid_from":"2026-05-01T11:00:00Z","valid_until":"2026-05-03T12:00:00Z",'
        b'"claimed_at":"2026-05-01T12:00:00Z"}'
    )


def test_two_campaigns_never_share_a_mould() -> None:
    """Not even with one id and one version, as in two databases: a mould is of one object."""
    ordinary = (UUID(int=9), 1, person(1), NOON, tourist(person(1)), Why("r"))
    faces = [
        msgspec.json.decode(grant(BOOK, campaign_of(terms_of(face_minor=face)), *ordinary)[1])
        for face in (100, 200, 100, 300)
    ]
    assert [reply["face"]["amount_minor"] for reply in faces] == [100, 200, 100, 300]


def test_books_never_share_a_mould() -> None:
    """The coupon's public id names the book that was asked."""
    ordinary = (campaign_of(), UUID(int=9), 1, person(1), NOON, tourist(person(1)), Why("r"))
    names = [
        msgspec.json.decode(grant(Book(book), *ordinary)[1])["coupon"]
        for book in ("main", "other", "main")
    ]
    assert [name.split("_")[1] for name in names] == ["main", "other", "main"]


def test_a_mould_of_broken_postings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the sample of a mould is checked as any event is, before its first use."""
    rules: dict[Any, Any] = accounting._RULES
    joined = Transfer("holder:x", "holder:x", 500, "CNY")
    monkeypatch.setitem(rules, CouponClaimed, lambda _: (joined,))
    checks = Checks(accounting.check_postings)
    ordinary = (UUID(int=9), 1, person(1), NOON, tourist(person(1)), Why("r"))
    event, _ = grant(BOOK, campaign_of(), *ordinary)
    for _ in range(2):
        with pytest.raises(Unbalanced):
            checks.event(event)


def test_a_mould_is_checked_once() -> None:
    """Thousands of claims of one campaign cost one check."""
    checked: list[Any] = []
    checks = Checks(checked.append)
    campaign = campaign_of()
    for n in range(1, 5):
        ordinary = (UUID(int=n), 1, person(n), NOON, tourist(person(n)), Why("r"))
        checks.event(grant(BOOK, campaign, *ordinary)[0])
    assert len(checked) == 1
    assert isinstance(checked[0], CouponClaimed)


def test_the_bytes_of_a_redemptions_reply_are_pinned() -> None:
    """They are told from the event for ever as well: this fails when somebody changes the form."""
    event = CouponRedeemed(
        originator_id=UUID(int=9),
        originator_version=2,
        at=NOON,
        by=tourist("mall"),
        why=Why("r", "k", "f"),
        campaign=UUID(int=7),
        person=person(1),
        merchant="mall",
        shop=None,
        order="a 1",
        order_total_minor=2_000,
        discount_minor=500,
        currency="CNY",
    )
    assert tells_itself(event)
    code, body = tell("main", event) or ("", b"")
    assert code == "redeemed"
    assert body == (
        b'{"coupon":"cpn_main_00000000000000000000000000000009",'
        b'"campaign":"cmp_main_00000000000000000000000000000007","state":"redeemed",'
        b'"merchant":"mall","order":"a 1","discount":{"amount_minor":500,"currency":"CNY"},'
        b'"payable":{"amount_minor":1500,"currency":"CNY"},"redeemed_at":"2026-05-01T12:00:00Z"}'
    )


def test_only_a_streams_first_claim_tells_itself() -> None:
    """A claim after an entry has a reply that tells of the entry as well, so it is kept."""
    event = plain_claim(
        campaign_of(), UUID(int=9), 1, person(1), NOON, tourist(person(1)), Why("r")
    )
    later = msgspec.structs.replace(event, originator_version=2)
    assert tells_itself(event)
    assert not tells_itself(later)
    assert tell("main", later) is None


def test_a_mould_refuses_what_it_cannot_cast() -> None:
    """Control: names out of order would put values where they do not belong."""
    with pytest.raises(AssertionError, match="in order"):
        Mould({"a": 1, "b": 2}, ("b", "a"))
    event = plain_claim(
        campaign_of(), UUID(int=9), 1, person(1), NOON, tourist(person(1)), Why("r")
    )
    with pytest.raises(AssertionError, match="in order"):
        EventMould(event, ("person", "at"))


@given(who=TEXT, n=st.integers(1, 20))
def test_a_coupons_id_is_the_standard_one(who: str, n: int) -> None:
    """It is version 5 of RFC 9562 in the campaign's namespace, so that anybody can recompute it."""
    assert coupon_id(CAMPAIGN, who, n) == uuid5(CAMPAIGN, f"{who}:{n}")
    assert coupon_hex(CAMPAIGN.bytes, who, n) == coupon_id(CAMPAIGN, who, n).hex
