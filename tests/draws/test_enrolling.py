"""Registering many at once: each person by the rules of a single registration, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from campaigns.draws.draw import LIST_POOL
from campaigns.draws.enrolling import ENROLLED_MAX, EnterMany, Registration
from campaigns.draws.entry import DrawEntered, entry_id
from campaigns.draws.registering import EnterDraw, VoidEntry, WithdrawEntry
from campaigns.event_types import MAPPER
from campaigns.packets.terms import Tier
from campaigns.verification import CODES, Audit
from ledger.appending import Capacity
from ledger.commit import Limits
from ledger.datastore import Datastore
from ledger.events import Event
from ledger.history import History
from ledger.moulds import EncodedEvent
from ledger.reply_verification import verify_replies
from tests.campaigns.test_decisions import BOOK, CAMPAIGN
from tests.draws.stories import (
    CLOSES,
    DrawStory,
    enter,
    packets,
    phone,
    public_draw,
    signed,
    withdraw,
)
from tests.support.desk import ALICE, Desk, person, terms_of, tourist


def many(*pairs: tuple[int, int], **told: Any) -> EnterMany:
    """Register people with their telephones."""
    rows = [Registration(person(who), phone(number), **told) for who, number in pairs]
    return EnterMany(BOOK, CAMPAIGN, rows, signed)


def test_places_go_on_from_whoever_registered_before() -> None:
    """A batch and single registrations share one list without a gap."""
    story = DrawStory().entered([1, 2])
    decision = story.when(many((3, 3), (4, 4)))
    assert (decision.reply.registered, decision.reply.first_index) == (2, 2)
    assert story.when(enter(5), tourist(person(5))).reply.index == 4
    assert story.pools[CAMPAIGN, LIST_POOL] == Capacity(issued=5, quota=5)


def test_the_bytes_are_those_of_a_single_registration() -> None:
    """Whatever a platform says of somebody; only caller and key are those of the batch."""
    draw = public_draw(regions=("luohu",), operators=("icbc",))
    for told in ({}, {"region": "luohu", "operator": "icbc"}):
        terms = terms_of(public_draw=draw if told else public_draw())
        one, batch = DrawStory(terms).opened(), DrawStory(terms).opened()
        single = one.when(enter(7, 8, **told), ALICE).events
        several = batch.when(many((7, 8), **told), ALICE).events
        assert [_bytes(event) for event in single] == [_bytes(event) for event in several]


def _bytes(event: Event | EncodedEvent) -> tuple[str, bytes]:
    if isinstance(event, EncodedEvent):
        return event.mould.topic, event.state
    return event.TOPIC, MAPPER.types.encode(event)


def test_who_is_void_is_named_and_the_others_are_registered() -> None:
    """By what was before the batch and by what comes before in it, the first reason that applies.

    Each is told under a signature, in the same words as by a registration of one's own.
    """
    story = DrawStory().entered([1, 2])
    story.when(VoidEntry(BOOK, CAMPAIGN, entry_id(CAMPAIGN, person(2)), "fraud"))
    reply = story.when(many((1, 9), (2, 9), (3, 1), (4, 4), (4, 5), (5, 4), (6, 6))).reply
    assert reply.registered == 2
    assert [(one.person, one.reason) for one in reply.void] == [
        (person(1), "same_person"),
        (person(2), "voided"),
        (person(3), "same_phone"),
        (person(4), "same_person"),
        (person(5), "same_phone"),
    ]
    alone = story.refused(enter(1, 9), tourist(person(1)))
    assert reply.void[0].statement == alone.facts["statement"]
    assert reply.void[0].signature == signed(reply.void[0].statement.encode()).hex()
    assert json.loads(reply.void[3].statement)["reason"] == "same_person"


def test_who_withdrew_may_come_in_again() -> None:
    """At the end of the list, with the telephone that is free again."""
    story = DrawStory().entered([1])
    story.when(withdraw(1), tourist(person(1)))
    decision = story.when(many((1, 1)))
    assert (decision.reply.registered, decision.reply.first_index) == (1, 1)
    assert [event.originator_version for event in decision.events] == [3, 3]


def test_a_batch_of_which_nobody_is_left_is_refused() -> None:
    """With everybody's reason; it writes nothing."""
    story = DrawStory().entered([1])
    refusal = story.refused(many((1, 2), (3, 1)))
    assert refusal.code == "entry_void"
    assert [one.reason for one in refusal.facts["void"]] == ["same_person", "same_phone"]


def test_a_batch_after_the_registration_is_refused() -> None:
    """As a single registration is, and one that is too large is a mistake of the program."""
    story = DrawStory().opened()
    assert story.refused(many((1, 1)), at=CLOSES).code == "registration_over"
    with pytest.raises(AssertionError, match="at once"):
        many(*((n, n) for n in range(ENROLLED_MAX + 1)))


class TestInABook:
    """Against the real store."""

    @pytest.fixture
    def desk(self, datastore: Datastore) -> Any:
        """A desk whose writer decides one batch at a time."""
        desk = Desk(datastore, limits=Limits(batch_max=1))
        yield desk
        desk.close()

    @staticmethod
    def _send(desk: Desk, campaign: Any, key: str, pairs: Sequence[tuple[int, int]]) -> Any:
        rows = [Registration(person(who), phone(number)) for who, number in pairs]
        return desk.send(EnterMany(desk.book, campaign, rows, signed), ALICE, key)

    def test_a_batch_happens_once_and_verifies(self, desk: Desk, datastore: Datastore) -> None:
        """The same key tells the same answer; events, replies and capacity are in order."""
        terms = packets(Tier(20_000, 2))
        draw = terms.public_draw
        campaign = desk.opened(draw.winners, terms, draw.worth_minor)
        first = self._send(desk, campaign, "batch-0", [(1, 1), (2, 2), (2, 3)])
        again = self._send(desk, campaign, "batch-0", [(1, 1), (2, 2), (2, 3)])
        assert (first.code, again.replayed, again.body) == ("registered", True, first.body)
        left = WithdrawEntry(desk.book, campaign, entry_id(campaign, person(1)))
        assert desk.send(left, tourist(person(1))).code == "withdrawn"
        second = self._send(desk, campaign, "batch-1", [(1, 4), (3, 1), (4, 2)])
        assert json.loads(second.body)["registered"] == 2
        alone = EnterDraw(desk.book, campaign, person(5), phone(5), None, None, sign=signed)
        assert desk.send(alone, tourist(person(5))).code == "registered"
        indices = [event.index for event in desk.events() if isinstance(event, DrawEntered)]
        assert indices == [0, 1, 2, 3, 4]
        history = History(datastore, desk.book, MAPPER)
        audit = Audit(desk.book)
        for entry in history.entries():
            audit.feed(entry)
        audit.finish(history.standing())
        assert audit.take_findings() == []
        assert verify_replies(history, audit.book, MAPPER, CODES) == []
