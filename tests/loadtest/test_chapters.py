"""Packets, purses, groups and public draws: the second fold is green on books of the service.

And it is red, rule by rule, on the same books with one thing bent. The books are written by the
commands of the service; the fold has never seen these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from campaigns.commands import Command, Decision
from campaigns.draws.announcing import instant_text as text
from campaigns.event_types import EVENT_TYPES
from ledger.datastore import Datastore
from ledger.events import Actor, Event
from ledger.history import Entry
from loadtest.books import Books, fold
from tests.campaigns import test_draw_verification as draws
from tests.campaigns import test_group_verification as groups
from tests.campaigns.test_decisions import CAMPAIGN
from tests.campaigns.test_group_verification import edited, more, place_of, with_
from tests.campaigns.test_packet_verification import entries, handed_out, rolled, week
from tests.conftest import Databases
from tests.draws.stories import COUPONS, DEADLINE, DRAWN_AT, DrawStory, claim_win
from tests.support.desk import ALICE, NOON, person, tourist
from tests.support.packets import ENDS, NEXT, SWEEPER

Book = list[Entry]
Damage = Callable[[Book], Book]


def feed(book: Iterable[Entry]) -> list[dict[str, Any]]:
    """A book as the events feed gives it."""
    return [
        {
            "position": one.position,
            "topic": one.topic,
            "stream": str(one.stream),
            "version": one.version,
            "state": msgspec.json.decode(one.state),
        }
        for one in book
    ]


def broken(book: Iterable[Entry]) -> set[str]:
    """The rules that do not hold in a book."""
    return {finding.rule for finding in fold(feed(book)).findings}


def of(topic: str, edit: groups.Edit, nth: int = 0) -> Damage:
    """A damage that edits the n-th event of a topic."""
    return lambda book: edited(book, topic, edit, nth)


def moved(topic: str, nth: int = 0) -> Damage:
    """A damage that puts an event into a new stream."""

    def damage(book: Book) -> Book:
        at = place_of(book, topic, nth)
        other = book[at]._replace(stream=uuid4(), version=1)
        return [*book[:at], other, *book[at + 1 :]]

    return damage


def renamed(topic: str, other: str) -> Damage:
    """A damage that makes the first event of a topic one of another."""

    def damage(book: Book) -> Book:
        at = place_of(book, topic, 0)
        return [*book[:at], book[at]._replace(topic=other), *book[at + 1 :]]

    return damage


def again(topic: str, nth: int = 0, **changes: Any) -> Damage:
    """A damage that writes an event once more, right behind itself."""

    def damage(book: Book) -> Book:
        at = place_of(book, topic, nth)
        state = msgspec.json.decode(book[at].state) | changes
        second = book[at]._replace(state=msgspec.json.encode(state), version=book[at].version + 1)
        return renumbered([*book[: at + 1], second, *book[at + 1 :]])

    return damage


def without(topic: str, nth: int = 0) -> Damage:
    """A damage that loses an event, as if it had never been written."""
    return lambda book: groups.without(book, topic, nth)


def swapped(topic: str, nth: int = 0) -> Damage:
    """A damage that exchanges an event with the next one."""

    def damage(book: Book) -> Book:
        at = place_of(book, topic, nth)
        return renumbered([*book[:at], book[at + 1], book[at], *book[at + 2 :]])

    return damage


def renumbered(book: Book) -> Book:
    """The book with dense positions."""
    return [one._replace(position=position) for position, one in enumerate(book, 1)]


def both(*damages: Damage) -> Damage:
    """One damage after the other."""

    def damage(book: Book) -> Book:
        for one in damages:
            book = one(book)
        return book

    return damage


# --- packets --------------------------------------------------------------------------------------


def of_packets() -> dict[str, Book]:
    """A week of two people; leftovers in the next round; a sum that was given out."""
    return {
        "week": entries(week().book),
        "rolled": entries(rolled().book),
        "split": entries(handed_out().book),
    }


def test_true_books_of_packets_have_no_findings() -> None:
    """Claims, payments, refunds, ends, a closed wallet, a next round, shares of a sum."""
    for book in of_packets().values():
        assert fold(feed(book)).findings == []


OF_PACKETS: list[tuple[str, str, Damage]] = [
    ("a packet is claimed once", "week", again("packet.claimed")),
    ("packets are claimed first", "week", moved("packet.paid")),
    ("a packet keeps its holder and campaign", "week", of("packet.paid", with_(person="x"))),
    ("claims only while open", "week", swapped("campaign.opened")),
    ("the limit per person", "week", of("packet.claimed", with_(n=2))),
    ("packets hold what was promised", "week", of("packet.claimed", more(amount_minor=1))),
    ("packets hold what was promised", "split", of("packet.claimed", more(amount_minor=1))),
    (
        "payments are no more than a packet holds",
        "week",
        of("packet.paid", more(amount_minor=9**9)),
    ),
    ("a packet is spent first", "week", of("packet.paid", more(amount_minor=-1, own_minor=1))),
    ("a packet is spent first", "week", of("packet.paid", more(total_minor=1))),
    ("packets are spent while they are valid", "week", of("packet.paid", with_(at=text(ENDS)))),
    ("an order is paid once from a packet", "week", of("packet.paid", with_(order="o-1"), 1)),
    ("a refund is of a payment for its order", "week", of("packet.refunded", with_(order="o-9"))),
    ("a refund is of a payment for its order", "week", of("packet.refunded", with_(merchant="x"))),
    ("refunds are no more than was paid", "week", of("packet.refunded", more(to_own_minor=9**9))),
    ("refunds are no more than was paid", "week", of("packet.refunded", with_(to_packet_minor=-1))),
    ("refunds are no more than was paid", "week", again("packet.refunded", to_own_minor=9**9)),
    (
        "a refund fills a packet that can be spent, and no other",
        "week",
        of("packet.refunded", with_(to_packet_minor=3_000, reclaimed_minor=0), 1),
    ),
    ("all of a packet returns", "week", of("packet.expired", more(amount_minor=-1))),
    ("a packet ends once", "week", again("packet.expired", amount_minor=0)),
    (
        "packets expire when their time is over",
        "week",
        of("packet.expired", with_(at=text(ENDS - timedelta(seconds=1)))),
    ),
    (
        "packets, purses and groups hold their money",
        "week",
        of("packet.paid", with_(currency="USD")),
    ),
    ("issued ≤ quota", "split", both(again("packet.claimed"), moved("packet.claimed", nth=1))),
    ("granted ≤ budget", "split", of("packet.claimed", more(amount_minor=1))),
    ("all that is left rolls over", "rolled", of("campaign.rolled_over", more(amount_minor=-1))),
    ("what rolls over comes in", "rolled", of("campaign.rolled_in", more(amount_minor=-1))),
    ("what rolls over comes in", "rolled", without("campaign.rolled_over")),
    ("no decision is cut short", "rolled", without("campaign.rolled_in")),
    (
        "a split shows the seed that it committed to",
        "split",
        of("campaign.split_shown", with_(seed="00" * 32)),
    ),
]


@pytest.mark.parametrize(("rule", "name", "damage"), OF_PACKETS)
def test_a_forged_book_of_packets_is_found(rule: str, name: str, damage: Damage) -> None:
    """Each forged history breaks the rule that it was forged against."""
    assert rule in broken(damage(of_packets()[name]))


def test_figures_of_packets_that_differ_from_the_fold_are_found() -> None:
    """Counts of packets and payments, and money in pots, packets and purses."""
    books = fold(feed(of_packets()["rolled"]))
    name = CAMPAIGN.hex
    money = {"pot": 0, "held": 8_000, "purses": 0}
    said: dict[str, Any] = {
        "quota": 3,
        "packets": {"claimed": 1, "held": 1, "expired": 0, "wallets_closed": 0, "payments": 1},
        "money": {one: {"amount_minor": minor} for one, minor in money.items()},
    }
    books.check_figures(name, said)
    assert books.findings == []
    said["packets"]["payments"] = 2
    said["money"]["held"]["amount_minor"] = 7_999
    books.check_figures(name, said)
    assert [finding.rule for finding in books.findings] == ["figures equal the fold"] * 2
    assert books.campaigns[NEXT.hex].budget_minor == 40_000


# --- purses and groups ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parties(databases: Databases) -> Book:
    """One group is taken by everybody, another one by one member; what is left is emptied."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        book = groups.written(datastore)
        datastore.close()
    return book


def test_a_true_book_of_groups_has_no_findings(parties: Book) -> None:
    """Filled, sent, taken, returned, emptied."""
    assert fold(feed(parties)).findings == []


OF_GROUPS: list[tuple[str, Damage]] = [
    ("a purse is one person's", of("purse.filled", with_(person="x"))),
    ("a purse is never negative", of("purse.sent", more(amount_minor=9**9))),
    ("a purse is never negative", without("purse.filled")),
    ("purses are filled as another proposed", of("purse.filled", more(amount_minor=1))),
    (
        "purses are filled as another proposed",
        of("purse.filled", with_(by={"id": ALICE.id, "role": "operator"})),
    ),
    ("groups are sent while open", renamed("campaign.opened", "campaign.paused")),
    ("a group has what was sent", of("group.funded", more(total_minor=1))),
    ("a group has what was sent", without("purse.sent")),
    ("a share has a minor unit or more", of("group.funded", with_(shares=1_001))),
    ("groups are sent first", moved("group.share_taken")),
    ("a share is a packet of its amount", of("group.share_taken", more(amount_minor=1))),
    ("a share is a packet of its amount", without("packet.claimed")),
    ("a share is taken once", of("group.share_taken", more(index=99))),
    ("a share is taken once", again("group.share_taken", person="x")),
    ("a person takes one share of a group", again("group.share_taken")),
    ("shares are taken in time", of("group.share_taken", with_(at=text(NOON + timedelta(days=2))))),
    ("shares come to no more than was sent", of("group.share_taken", more(amount_minor=1_000))),
    ("shares sum up to what was sent, with nothing over", without("group.share_taken")),
    (
        "shares sum up to what was sent, with nothing over",
        both(
            of("group.share_taken", more(amount_minor=-1)),
            of("packet.claimed", more(amount_minor=-1)),
        ),
    ),
    (
        "shares sum up to what was sent, with nothing over",
        of("group.closed", more(returned_minor=-1), 1),
    ),
    ("a group closes once, at its end", of("group.closed", with_(at=text(NOON)), 1)),
    ("a group closes once, at its end", again("group.closed")),
    ("a group shows the seed that it committed to", of("group.closed", with_(seed="00" * 32))),
    ("what nobody took is in the purse again", of("purse.returned", more(amount_minor=-1))),
    ("no decision is cut short", without("purse.returned")),
    ("no decision is cut short", without("group.funded")),
    ("all of a purse returns", of("purse.emptied", more(amount_minor=-1))),
    ("issued ≤ quota", of("group.funded", with_(shares=99))),
    ("granted ≤ budget", of("purse.filled", more(amount_minor=1))),
    ("packets, purses and groups hold their money", without("group.share_taken")),
    ("nothing is negative", of("purse.sent", more(amount_minor=9**9))),
]


@pytest.mark.parametrize(("rule", "damage"), OF_GROUPS)
def test_a_forged_book_of_groups_is_found(parties: Book, rule: str, damage: Damage) -> None:
    """Each forged history breaks the rule that it was forged against."""
    assert rule in broken(damage(parties))


def given_up(book: Book, proposed_by: str = "another operator") -> Book:
    """The group that was returned was given up instead, without its seed."""
    at = place_of(book, "group.closed", 1)
    state = msgspec.json.decode(book[at].state) | {"reason": "lost", "proposed_by": proposed_by}
    del state["seed"]
    other = book[at]._replace(topic="group.given_up", state=msgspec.json.encode(state))
    return [*book[:at], other, *book[at + 1 :]]


def test_a_group_that_was_given_up_is_returned_without_its_seed(parties: Book) -> None:
    """Two people must have agreed; the money is held to the same rules."""
    assert broken(given_up(parties)) == set()
    assert broken(given_up(parties, SWEEPER.id)) == {"two people give a group up"}
    less = edited(given_up(parties), "group.given_up", more(returned_minor=-1))
    assert "shares sum up to what was sent, with nothing over" in broken(less)


def test_the_fold_knows_every_event_of_the_service() -> None:
    """An event that it does not know would be a finding after every run."""
    assert set(EVENT_TYPES.topics) - Books().topics == set()


# --- public draws ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fair(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Book:
    """Nine registered and one withdrew; a draw, a claim of the first winner, and moving up."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        book = draws.written(datastore, tmp_path_factory.mktemp("lists"))
        datastore.close()
    return book


class Told(DrawStory):
    """A draw of coupons whose events are kept in order."""

    def __init__(self) -> None:
        super().__init__(COUPONS)
        self.book: list[Event] = []

    def when(self, command: Command, by: Actor = ALICE, at: datetime = NOON) -> Decision:
        decision = super().when(command, by, at)
        for event in decision.events:
            self.book.append(self.streams[event.originator_id][event.originator_version - 1])
        return decision


def of_coupons() -> Book:
    """Two win a coupon each and one of them claims it."""
    story = Told()
    story.given()
    winner = story.of_rank(0)
    assert story.when(claim_win(winner), tourist(person(winner)), DRAWN_AT).code == "claimed"
    return entries(story.book)


def test_true_books_of_draws_have_no_findings(fair: Book) -> None:
    """Registered, withdrawn, frozen, drawn, claimed, moved up: packets and coupons."""
    assert fold(feed(fair)).findings == []
    assert fold(feed(of_coupons())).findings == []


def to_nobody(book: Book) -> Book:
    """The winner's packet is another person's."""
    return edited(book, "packet.claimed", with_(person="x"))


OF_DRAWS: list[tuple[str, Damage]] = [
    ("draws are drafted first", of("draw.opened", with_(campaign=str(uuid4())))),
    ("places in a draw's list are dense", of("draw.entered", more(index=1))),
    ("a person is in a draw's list once", again("draw.entered", index=1)),
    ("a list takes entries until its end", of("draw.entered", with_(at=text(DRAWN_AT)))),
    ("only what is in a list leaves it, before its end", of("draw.withdrawn", more(index=1))),
    ("only what is in a list leaves it, before its end", again("draw.withdrawn")),
    ("a telephone stands for one entry", draws.one_telephone),
    ("a telephone is freed by its entry", of("draw.phone_freed", with_(entry=str(uuid4())))),
    ("a frozen list has all who registered", of("draw.frozen", more(entries=1))),
    ("a frozen list has all who registered", of("draw.frozen", more(withdrawn=1))),
    ("a draw shows the seed that it committed to", of("draw.drawn", with_(seed="00" * 32))),
    ("as many win as there are places for", of("draw.drawn", more(winners=1))),
    ("as many win as there are places for", of("draw.drawn", more(winners=-1))),
    ("no more have a rank than registered", of("draw.drawn", more(runners_up=9))),
    ("no tier has more seats than places", of("draw.drawn", with_(seats=[2, 1]))),
    ("no tier has more seats than places", of("draw.moved_up", with_(seats=[1, 2]))),
    ("seats move up when their time is over", of("draw.moved_up", with_(at=text(DRAWN_AT)))),
    ("seats move up when their time is over", of("draw.moved_up", more(first_rank=1))),
    ("a seat is that of its rank", of("draw.won", more(amount_minor=1))),
    ("a seat is that of its rank", of("draw.won", with_(rank=99))),
    ("a seat is given once, to who is in the list", of("draw.won", more(index=1))),
    ("a seat is given once, to who is in the list", again("draw.won")),
    ("no more seats are given than there are", again("draw.won", 4)),
    ("who claims from a draw has won, and claims once", without("draw.won")),
    ("who claims from a draw has won, and claims once", to_nobody),
    ("winners claim in time", of("packet.claimed", with_(at=text(DEADLINE)))),
    ("winners get what they won", of("packet.claimed", more(amount_minor=-1))),
]


@pytest.mark.parametrize(("rule", "damage"), OF_DRAWS)
def test_a_forged_book_of_draws_is_found(fair: Book, rule: str, damage: Damage) -> None:
    """Each forged history breaks the rule that it was forged against."""
    assert rule in broken(damage(fair))


def test_winners_are_no_more_than_a_tiers_places(fair: Book) -> None:
    """Seats that are given twice let more people claim than there are places."""
    books = Books()
    books.shelf.execute("BEGIN")
    for event in feed(fair):
        books.add({**event["state"], **event})
    draw = next(iter(books.draws.draws.values()))
    for tier, (_, most) in enumerate(draw.tiers, 1):
        draw.claims[tier] = most
    claim = feed(fair)[place_of(fair, "packet.claimed", 0)]
    entry = {**claim["state"], **claim}
    books.put("UPDATE entry SET state = 'won' WHERE person = ?", entry["person"])
    assert books.findings == []
    books.draws.claimed(entry, entry["amount_minor"])
    assert [finding.rule for finding in books.findings] == [
        "winners are no more than a tier's places"
    ]


def test_a_claim_of_a_coupon_that_was_not_won_is_found() -> None:
    """A draw of coupons is held to the same rules."""
    forged = edited(of_coupons(), "coupon.claimed", with_(person="x"))
    assert "who claims from a draw has won, and claims once" in broken(forged)
