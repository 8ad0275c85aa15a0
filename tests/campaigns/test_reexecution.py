"""Re-execution: every recorded request is decided again as it was, and every planted bug is seen.

Goal: what the program would decide today of each request of the past is what it decided then.
Method: real books of every kind of decision are decided again; then a rule is changed or a byte
is, and the finding must name the position, the stream and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import msgspec
import pytest

from api.drawer import Drawer
from campaigns import commands as c
from campaigns.campaign import Intake
from campaigns.coupon import coupon_id
from campaigns.draws.enrolling import EnterMany, Registration
from campaigns.event_types import EVENT_TYPES, MAPPER
from campaigns.packets import commands as p
from campaigns.packets.terms import PacketTerms, Tier
from campaigns.persons.commands import (
    ApproveErasure,
    InspectParticulars,
    KeepParticulars,
    ProposeErasure,
    RecordErasure,
)
from campaigns.refusals import Refusal
from campaigns.replaying import asking, reexecution
from campaigns.replaying.asking import no_draw_key
from campaigns.replaying.decisions import FOLLOWS
from campaigns.replaying.reexecution import Reexecution, Tally
from ledger.datastore import Datastore
from ledger.events import Actor, Event
from ledger.history import History
from ledger.money import Money
from ledger.verification import Finding
from tests.draws import stories as draws
from tests.support.damage import damaged
from tests.support.desk import ALICE, DRAW_KEY, NOON, Desk, person, render, terms_of, tourist
from tests.support.groups import GroupDesk
from tests.support.groups import packet_terms as group_terms
from tests.support.story import tell


def mark_of(campaign: UUID) -> bytes:
    """The fingerprint of a claim of a campaign, as these tests make it."""
    return sha256(b"claim" + campaign.bytes).digest()


def recognise(campaign: UUID) -> dict[bytes, str]:
    """Know claims by their fingerprints."""
    return {mark_of(campaign): "claim"}


def again(
    datastore: Datastore, book: str = "main", key: Callable[[], bytes] = lambda: DRAW_KEY
) -> tuple[list[Finding], Tally]:
    """Decide a book again."""
    history = History(datastore, book, MAPPER)
    work = Reexecution(history, datastore, render, recognise, key)
    return list(work.findings(history.head())), work.tally


def test_every_decision_of_the_story_is_decided_again_as_it_was(datastore: Datastore) -> None:
    """Two campaigns, six outcomes of a coupon, funding by two people: byte for byte."""
    desk = Desk(datastore)
    tell(desk)
    desk.close()
    findings, tally = again(datastore)
    assert findings == []
    assert tally.decided == {
        "drafted": 2,
        "funding_proposed": 3,
        "funded": 3,
        "opened": 2,
        "claimed": 8,
        "redeemed": 4,
        "refunded": 2,
        "voided": 1,
        "paused": 1,
        "resumed": 1,
        "closed": 1,
        "expired": 2,
    }
    assert tally.skipped == {"unrecorded": 3}


def mirrored(story: Any, desk: Desk) -> Any:
    """Let a book in memory send all that it decides to a real one as well."""
    decide = story.when

    def when(command: c.Command, by: Actor = ALICE, at: Any = NOON) -> Any:
        decision = decide(command, by, at)
        assert desk.send(command, by, at=story.now).code == decision.code
        return decision

    story.when = when
    return story


def test_public_draws_are_held_again_from_their_list(datastore: Datastore) -> None:
    """Registered, withdrawn, frozen, drawn, moved up, claimed: list, ranks and proofs anew."""
    desk = Desk(datastore)
    story = mirrored(draws.DrawStory(), desk).entered(range(1, 8))
    story.when(draws.withdraw(2), tourist(person(2)))
    story.given()
    winner = story.of_rank(0)
    story.when(draws.claim_win(winner), tourist(person(winner)), draws.DRAWN_AT)
    story.moved_up()
    desk.close()
    findings, tally = again(datastore)
    assert findings == []
    assert tally.decided["list_frozen"] == tally.decided["draw_recorded"] == 1
    assert tally.decided["seat_given"] == 3
    assert tally.decided["moved_up"] == tally.decided["claimed"] == 1


def test_a_lottery_is_drawn_again_among_who_had_entered(datastore: Datastore) -> None:
    """Entries, the end of the intake, the draw and each gift, and a claim after all that."""
    desk = Desk(datastore)
    terms = terms_of(claim_from=NOON, intake=Intake(kind="lottery", seconds=30))
    campaign = desk.opened(3, terms)
    for n in range(1, 6):
        assert desk.claim(campaign, person(n)).code == "entered"
    evening = NOON + timedelta(hours=1)
    list(Drawer(datastore, desk.writer, lambda: DRAW_KEY).steps(evening))
    desk.close()
    findings, tally = again(datastore)
    assert findings == []
    assert (tally.decided["entered"], tally.decided["claimed"], tally.decided["drawn"]) == (5, 3, 1)


def packets_and_groups(datastore: Datastore) -> UUID:
    """A book of packets: tiers, payments and refunds, a purse, groups of both kinds; the tiers."""
    desk = GroupDesk(datastore)
    purse = desk.purse(1_000)
    named = desk.sent(purse, 2, 300, "named", members=(person(1), person(2)))
    assert desk.take(named, person(1)).code == "share_taken"
    coded = desk.sent(purse, 2, 200, "coded")
    for n in (3, 4):
        assert desk.take(coded, person(n)).code == "share_taken"
    tiers = PacketTerms(tiers=(Tier(500, 1), Tier(100, 2)))
    campaign = desk.opened(3, group_terms(packet=tiers), 700, "tiers")
    for n in (1, 2, 3):
        asked = c.ClaimCoupon(desk.book, campaign, person(n), lambda: DRAW_KEY)
        assert desk.send(asked, tourist(person(n)), fingerprint=mark_of(campaign)).code == "claimed"
    more = c.ClaimCoupon(desk.book, campaign, person(4), lambda: DRAW_KEY)
    refused = desk.send(more, tourist(person(4)), fingerprint=mark_of(campaign))
    assert refused.code == "sold_out"
    cafe, packet = Actor("merchant", "cafe"), coupon_id(campaign, person(1), 1)
    paid = p.PayFromPacket(desk.book, packet, "cafe", None, "o-1", Money(150, "CNY"))
    assert desk.send(paid, cafe).code == "paid"
    back = p.RefundPayment(desk.book, packet, "cafe", "o-1", None, "cold")
    assert desk.send(back, cafe).code == "refunded"
    assert desk.give_back(named).code == "group_returned"
    assert desk.empty(purse, NOON + timedelta(days=1)).code == "purse_emptied"
    desk.close()
    return campaign


def test_packets_and_groups_are_decided_again_with_the_draw_key(datastore: Datastore) -> None:
    """Amounts by tier, shares by seed, salt and taker, codes that nobody keeps: all the same."""
    packets_and_groups(datastore)
    findings, tally = again(datastore)
    assert findings == []
    assert tally.decided["share_taken"] == 3
    assert tally.decided["claimed"] == 3
    assert tally.refused == {"sold_out": 1}
    assert not tally.skipped


def test_without_the_draw_key_the_rest_is_decided_again(datastore: Datastore) -> None:
    """What needs the key is counted and not blamed; pools stay right for all that follows."""
    packets_and_groups(datastore)
    findings, tally = again(datastore, key=no_draw_key)
    assert findings == []
    assert tally.skipped["draw_key"] == 11
    assert (tally.decided["paid"], tally.decided["refunded"]) == (1, 1)
    assert tally.refused == {"sold_out": 1}


# What is found


def refused_book(datastore: Datastore) -> UUID:
    """A campaign of one coupon with a refusal of every time: early, twice, sold out, late."""
    desk = Desk(datastore)
    campaign = desk.opened(1, terms_of(claim_from=NOON + timedelta(minutes=10)))

    def claim(n: int, minutes: int) -> str:
        at = NOON + timedelta(minutes=minutes)
        return desk.claim(campaign, person(n), fingerprint=mark_of(campaign), at=at).code

    assert claim(1, 5) == "not_open"
    assert [claim(1, 10), claim(1, 11), claim(2, 12), claim(2, 60 * 13)] == [
        "claimed",
        "already_claimed",
        "sold_out",
        "not_open",
    ]
    desk.close()
    return campaign


def test_refusals_are_refused_again_at_an_instant_of_their_time(datastore: Datastore) -> None:
    """Their instant is not kept: what they can have been answered between two events is tried."""
    refused_book(datastore)
    findings, tally = again(datastore)
    assert findings == []
    assert tally.refused == {"not_open": 2, "already_claimed": 1, "sold_out": 1}


@pytest.mark.parametrize(
    ("field", "change"),
    [("code", "code = 'sold_out'"), ("limit", 'body = \'{"code":"already_claimed","limit":1}\'')],
)
def test_a_refusal_that_was_never_due_is_found(
    datastore: Datastore, database_url: str, field: str, change: str
) -> None:
    """Somebody was told what the rules did not say."""
    refused_book(datastore)
    with damaged(database_url) as damage:
        damage.run(
            f"UPDATE idempotency SET {change} WHERE book = {{book}} AND code = 'already_claimed'"
        )
    [*found] = again(datastore)[0]
    assert {one.code for one in found} == {"refusal_otherwise"}
    assert any(one.where.endswith(f"field {field}") for one in found)


def test_a_changed_event_is_named_with_position_stream_and_field(
    datastore: Datastore, database_url: str
) -> None:
    """A coupon of another value: its field, the reply that a retry would be told, the pools."""
    desk = Desk(datastore)
    told = tell(desk)
    desk.close()
    with damaged(database_url) as damage:
        position = damage.position("coupon.claimed", 3)
        damage.rewrite(position, face_minor=501)
    found = again(datastore)[0]
    where = f"main:{position} coupon.claimed {told.reclaimed.hex}"
    assert found[0] == Finding("event_otherwise", f"{where} field face_minor", "500", "501")
    assert (
        Finding("reply_otherwise", f"{where} reply field face.amount_minor", "500", "501") in found
    )


def test_a_changed_reply_is_named(datastore: Datastore, database_url: str) -> None:
    """The bytes that a retry gets are those that are decided again."""
    desk = Desk(datastore)
    told = tell(desk)
    desk.close()
    with damaged(database_url) as damage:
        damage.run(
            "UPDATE idempotency SET body = replace(convert_from(body, 'UTF8'), '\"voided\"',"
            " '\"voided!\"')::bytea WHERE book = {book} AND code = 'voided'"
        )
        position = damage.position("coupon.voided")
    assert again(datastore)[0] == [
        Finding(
            "reply_otherwise",
            f"main:{position} coupon.voided {told.voided.hex} reply field state",
            '"voided"',
            '"voided!"',
        )
    ]


def test_an_event_that_cannot_be_read_is_named_and_the_rest_goes_on(
    datastore: Datastore, database_url: str
) -> None:
    """What looks at its stream is not decided again, and nothing else is blamed."""
    desk = Desk(datastore)
    tell(desk)
    desk.close()
    with damaged(database_url) as damage:
        position = damage.position("coupon.claimed")
        damage.reword(position, b'"face_minor":500', b'"face_minor":"a"')
    found, tally = again(datastore)
    assert [one.code for one in found if f"main:{position} " in one.where] == ["not_readable"]
    assert tally.skipped["unreadable"] == 5
    assert tally.decided["claimed"] == 6


def _any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever orders for less gets the discount as well."""
    decide = c.RedeemCoupon.decide

    def generous(self: Any, view: Any, header: Any) -> Any:
        decision = decide(self, view, header)
        [event] = decision.events
        return msgspec.structs.replace(
            decision, events=[msgspec.structs.replace(event, discount_minor=1)]
        )

    monkeypatch.setattr(c.RedeemCoupon, "decide", generous)


def _nobody_redeems(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule of today refuses what was granted in its time."""

    def refuse(*_: Any) -> Any:
        raise Refusal("not_yet_valid")

    monkeypatch.setattr(c.RedeemCoupon, "decide", refuse)


def _takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back is not given back to the pool."""
    monkeypatch.setattr(c, "_return_to_capacity", lambda *_: ())


@pytest.mark.parametrize(
    ("plant", "code", "what"),
    [
        (_any_order, "event_otherwise", "field discount_minor"),
        (_nobody_redeems, "decided_otherwise", "coupon.redeemed"),
        (_takes_nothing, "capacity_otherwise", "pool all"),
    ],
)
def test_a_rule_that_was_changed_is_seen(
    datastore: Datastore,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    code: str,
    what: str,
) -> None:
    """Control: with a bug in a rule, decisions of the past come out otherwise, and it is said."""
    desk = Desk(datastore)
    tell(desk)
    desk.close()
    plant(monkeypatch)
    found = again(datastore)[0]
    assert found
    assert all(what in one.where for one in found if one.code == code)
    assert code in {one.code for one in found}


def test_pages_are_no_edges(datastore: Datastore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that were forgotten are read again, whatever the length of a page."""
    packets_and_groups(datastore)
    whole = again(datastore)
    monkeypatch.setattr(reexecution, "PAGE_DECISIONS", 1)
    assert again(datastore) == whole


def test_every_type_of_event_is_known() -> None:
    """Each begins a decision that can be asked for again, or follows in one."""
    known = {*asking.ASKED, *(after for _, after in FOLLOWS)}
    assert {one for one in _event_types(Event) if one.TOPIC in EVENT_TYPES.topics} <= known


def _event_types(kind: type[Event]) -> Iterator[type[Event]]:
    for one in kind.__subclasses__():
        if "TOPIC" in vars(one):
            yield one
        yield from _event_types(one)


def test_a_batch_of_registrations_is_decided_again(datastore: Datastore) -> None:
    """All of a batch is one decision; who was void in it is only named in the reply."""
    desk = Desk(datastore)
    campaign = desk.opened(2, draws.COUPONS)
    platform = Actor("platform", "luohu")
    for name, people in (("first", (1, 2, 3)), ("second", (3, 4))):
        rows = [Registration(person(n), draws.phone(n)) for n in people]
        command = EnterMany(desk.book, campaign, rows, draws.signed)
        assert desk.send(command, platform, name).code == "registered"
    desk.close()
    findings, tally = again(datastore)
    assert findings == []
    assert tally.decided["registered"] == 2
    assert tally.skipped == {"void": 1}


def test_what_was_sealed_and_erased_is_decided_again_unopened(datastore: Datastore) -> None:
    """Sealed particulars are bytes like any others; no person's key is needed."""
    desk = Desk(datastore)
    who, eraser = person(1), Actor("eraser", "system")
    bob = Actor("operator", "b" * 32)
    asked: list[tuple[c.Command, Actor, str]] = [
        (KeepParticulars(desk.book, who, {"telephone": "c2VhbGVk"}), tourist(who), "kept"),
        (InspectParticulars(desk.book, who, ("telephone",), "contact"), ALICE, "inspected"),
        (ProposeErasure(desk.book, who, "guardian"), ALICE, "proposed"),
        (ApproveErasure(desk.book, who, "guardian"), bob, "requested"),
        (RecordErasure(desk.book, who), eraser, "erased"),
    ]
    for command, by, code in asked:
        assert desk.send(command, by).code.endswith(code)
    desk.close()
    findings, tally = again(datastore)
    assert findings == []
    assert (tally.decided.total(), tally.skipped.total()) == (5, 0)
