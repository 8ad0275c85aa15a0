"""Verification of group packets: whatever was bent, the share, sum or step that is wrong is named.

Goal: each rule of purses and groups has a damage that shows it red. Method: the events of a sound
book are edited one by one, as somebody with the database's owner's rights could.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from campaigns import commands as c
from campaigns.event_types import MAPPER
from campaigns.groups.purse import purse_id
from campaigns.groups.resharing import equal
from campaigns.groups.sharing import amounts_of
from campaigns.packets.terms import PacketTerms, Split
from campaigns.resplitting import random_shares
from campaigns.verification import verify
from ledger.datastore import Datastore
from ledger.history import Entry, History
from tests.conftest import Databases
from tests.support.desk import ALICE, BOB, NOON, person
from tests.support.groups import NEXT_NOON, SENDER, GroupDesk, packet_terms

Edit = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def book(databases: Databases) -> list[Entry]:
    """One group is taken by everybody, another one by one member, and what is left is emptied."""
    with databases.fresh() as url:
        datastore = Datastore(url)
        entries = written(datastore)
        datastore.close()
    return entries


def written(datastore: Datastore) -> list[Entry]:
    """Write the book, and read it."""
    desk = GroupDesk(datastore)
    purse = desk.purse(5_000, quota=20)
    group = desk.sent(purse, 3, 1_000)
    for n in range(1, 4):
        desk.take(group, person(n))
    second = desk.sent(purse, 4, 2_001, "two", kind="equal", members=(person(1), person(2)))
    desk.take(second, person(2))
    desk.give_back(second)
    desk.empty(purse, NEXT_NOON)
    closing = c.CloseCampaign(desk.book, desk.purse_now(purse).campaign, "over")
    assert desk.send(closing, ALICE, at=NEXT_NOON).code == "closed"
    desk.close()
    return list(History(datastore, "main", MAPPER).entries())


def found_in(entries: list[Entry]) -> list[str]:
    """The codes of what is found."""
    return [finding.code for finding in verify("main", entries)]


def place_of(entries: list[Entry], topic: str, nth: int) -> int:
    """Where the n-th event of a topic is, from 0."""
    return [place for place, entry in enumerate(entries) if entry.topic == topic][nth]


def edited(entries: list[Entry], topic: str, edit: Edit, nth: int = 0) -> list[Entry]:
    """The book in which the state of an event is another one."""
    at = place_of(entries, topic, nth)
    state = msgspec.json.encode(edit(msgspec.json.decode(entries[at].state)))
    return [*entries[:at], entries[at]._replace(state=state), *entries[at + 1 :]]


def with_(**changes: Any) -> Edit:
    """An edit that changes fields."""
    return lambda state: state | changes


def more(**changes: int) -> Edit:
    """An edit that adds to fields."""
    return lambda state: state | {name: state[name] + by for name, by in changes.items()}


def without(entries: list[Entry], topic: str, nth: int = 0) -> list[Entry]:
    """The book without an event, as if it had never been written."""
    at = place_of(entries, topic, nth)
    gone = entries[at]
    rest = [
        one._replace(version=one.version - 1) if one.stream == gone.stream else one
        for one in entries[at + 1 :]
    ]
    return [*entries[:at], *(one._replace(position=one.position - 1) for one in rest)]


def swapped(entries: list[Entry]) -> list[Entry]:
    """The first two takers have each other's shares, everywhere."""
    states = {
        nth: msgspec.json.decode(entries[place_of(entries, "group.share_taken", nth)].state)
        for nth in (0, 1)
    }
    for nth, other in ((0, 1), (1, 0)):
        share = {name: states[other][name] for name in ("index", "amount_minor")}
        entries = edited(entries, "group.share_taken", with_(**share), nth)
        amount = {"amount_minor": share["amount_minor"]}
        entries = edited(entries, "packet.claimed", with_(**amount), nth)
    return entries


def a_fen_more(entries: list[Entry]) -> list[Entry]:
    """The first taker has a fen more, and the second one less."""
    for nth, by in ((0, 1), (1, -1)):
        for topic in ("group.share_taken", "packet.claimed"):
            entries = edited(entries, topic, more(amount_minor=by), nth)
    return entries


LATE = {"at": "2026-05-02T12:00:00Z"}

DAMAGE: list[tuple[str, Callable[[list[Entry]], list[Entry]], list[str]]] = [
    ("swapped", swapped, ["wrong_share", "wrong_share"]),
    ("a fen more", a_fen_more, ["wrong_share", "wrong_share"]),
    (
        "another seed",
        lambda book: edited(book, "group.closed", with_(seed="00" * 32)),
        ["seed_differs"],
    ),
    (
        "no seed",
        lambda book: edited(book, "group.closed", with_(seed="nonsense")),
        ["seed_differs"],
    ),
    (
        "another salt",
        lambda book: edited(book, "group.funded", with_(salt="11" * 32)),
        ["wrong_share"],
    ),
    (
        "a commitment of later",
        lambda book: edited(book, "group.funded", with_(seed_commitment="00" * 32)),
        ["group_commitment", "seed_differs"],
    ),
    (
        "a commitment that the purse did not make",
        lambda book: edited(book, "purse.filled", with_(seed_commitment="00" * 32)),
        ["group_commitment"],
    ),
    (
        "a day longer",
        lambda book: edited(book, "group.funded", with_(until="2026-05-03T12:00:00Z")),
        ["group_time"],
    ),
    (
        "taken in time that was over",
        lambda book: edited(book, "group.funded", with_(until="2026-05-01T12:00:00Z"), 1),
        ["group_time", "group_time"],
    ),
    (
        "returned too early",
        lambda book: edited(book, "group.funded", with_(until="2026-05-02T12:00:01Z"), 1),
        ["group_time", "group_time"],
    ),
    (
        "not among the members",
        lambda book: edited(book, "group.funded", with_(members=[person(7)]), 1),
        ["not_invited"],
    ),
    (
        "the sender's own",
        lambda book: edited(book, "group.funded", with_(members=[person(1), SENDER]), 1),
        ["not_invited"],
    ),
    (
        "members and a code",
        lambda book: edited(book, "group.funded", with_(code_sha256="00" * 32), 1),
        ["illegal_step"],
    ),
    (
        "more shares than fen",
        lambda book: edited(book, "group.funded", with_(shares=3_000), 1),
        ["over_issued", "shares_differ", "other_amount", "wrong_share"],
    ),
    (
        "more than was sent",
        lambda book: edited(book, "group.funded", more(total_minor=1)),
        ["other_amount", "other_amount", "wrong_share"],
    ),
    (
        "the same share twice",
        lambda book: edited(book, "group.share_taken", with_(index=1), -1),
        ["wrong_share"],
    ),
    (
        "a share of another amount than its packet",
        lambda book: edited(book, "group.share_taken", more(amount_minor=1)),
        ["other_amount", "other_amount", "wrong_share"],
    ),
    (
        "a packet of another group",
        lambda book: edited(book, "packet.claimed", with_(group=str(UUID(int=5)))),
        ["account_overdrawn", "coupon_id", "decision_cut_short", "illegal_step"],
    ),
    (
        "a packet of other terms",
        lambda book: edited(book, "packet.claimed", with_(valid_until="2027-01-01T00:00:00Z")),
        ["claim_other_terms"],
    ),
    (
        "a packet of another version",
        lambda book: edited(book, "packet.claimed", with_(campaign_version=1)),
        ["claim_other_version"],
    ),
    (
        "fewer returned",
        lambda book: edited(book, "group.closed", more(returned=-1), 1),
        ["other_amount"],
    ),
    (
        "less returned",
        lambda book: edited(book, "purse.returned", more(amount_minor=-1)),
        ["other_amount", "account_overdrawn", "other_amount"],
    ),
    (
        "closed, and the money kept",
        lambda book: without(book, "purse.returned"),
        ["account_overdrawn", "decision_cut_short", "other_amount"],
    ),
    (
        "returned twice",
        lambda book: [
            *book,
            book[place_of(book, "purse.returned", 0)]._replace(
                position=book[-1].position + 1, version=book[-3].version + 1
            ),
        ],
        ["account_overdrawn", "illegal_step"],
    ),
    (
        "sent, and no group",
        lambda book: edited(book, "purse.sent", with_(group=str(UUID(int=9)))),
        ["decision_cut_short", "illegal_step", "account_overdrawn"],
    ),
    (
        "filled with more than was proposed",
        lambda book: edited(book, "purse.filled", more(amount_minor=-1)),
        ["not_as_proposed", "account_overdrawn", "other_amount"],
    ),
    (
        "filled alone",
        lambda book: edited(book, "purse.filled", with_(by=msgspec.to_builtins(ALICE))),
        ["self_approval"],
    ),
    (
        "filled for oneself",
        lambda book: edited(book, "purse.filled", with_(by={"role": "operator", "id": SENDER})),
        ["own_purse"],
    ),
    (
        "proposed for oneself",
        lambda book: edited(
            edited(book, "purse.filling_proposed", with_(by={"role": "operator", "id": SENDER})),
            "purse.filled",
            with_(proposed_by=SENDER),
        ),
        ["own_purse"],
    ),
    (
        "sent more than there is",
        lambda book: edited(
            edited(book, "purse.filled", with_(amount_minor=100)),
            "purse.filling_proposed",
            with_(amount_minor=100),
        ),
        ["account_overdrawn", "over_sent"],
    ),
    (
        "emptied of less",
        lambda book: edited(book, "purse.emptied", more(amount_minor=-1)),
        ["other_amount"],
    ),
    (
        "emptied to the sponsor",
        lambda book: edited(book, "purse.emptied", with_(to="sponsor")),
        ["other_destination"],
    ),
    (
        "swept too early",
        lambda book: edited(
            book, "purse.emptied", lambda state: {k: v for k, v in state.items() if k != "reason"}
        ),
        ["illegal_step"],
    ),
]


@pytest.mark.parametrize(
    ("damage", "codes"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE]
)
def test_a_wrong_group_is_found(
    book: list[Entry], damage: Callable[[list[Entry]], list[Entry]], codes: list[str]
) -> None:
    """The first findings say what is wrong; what follows from it may be found as well."""
    assert found_in(book) == []
    found = found_in(damage(book))
    assert found[: len(codes)] == codes


def test_a_wrong_share_is_named(book: list[Entry]) -> None:
    """By the position of its taking, with the share that it should be and the one that it is."""
    found = list(verify("main", swapped(book)))
    places = [place_of(book, "group.share_taken", nth) + 1 for nth in (0, 1)]
    assert [one.where for one in found] == [f"main:{place}" for place in places]
    first, second = (msgspec.json.decode(book[place - 1].state) for place in places)
    assert found[0].expected == f"share {first['index']} of {first['amount_minor']} CNY"
    share = f"share {second['index']} of {second['amount_minor']} to {first['share']}"
    assert found[0].found == share.replace("-", "")


@pytest.mark.parametrize("topic", ["purse.filling_proposed", "group.funded"])
def test_what_hangs_on_a_lost_event_is_not_accused(book: list[Entry], topic: str) -> None:
    """With an event unreadable, nothing that follows from it is blamed for anything else."""
    at = place_of(book, topic, 0)
    broken = [*book[:at], book[at]._replace(topic="x"), *book[at + 1 :]]
    assert found_in(broken)[:1] == ["unknown_event_type"]
    assert not {"wrong_share", "purse_unknown", "group_unknown"} & set(found_in(broken))


@pytest.mark.parametrize(
    ("topic", "code"),
    [("purse.filling_proposed", "purse_unknown"), ("group.funded", "group_unknown")],
)
def test_a_thing_without_its_beginning_is_found(book: list[Entry], topic: str, code: str) -> None:
    """A purse or a group that nobody began is nobody's."""
    assert code in found_in(without(book, topic))


def test_a_purse_of_promised_money_is_found(book: list[Entry], datastore: Datastore) -> None:
    """What a split may need belongs into no purse, though two operators agree."""
    desk = GroupDesk(datastore)
    terms = packet_terms(face_minor=1, packet=PacketTerms(split=Split(1_000, 10)))
    campaign = desk.opened(10, terms, 1_000)
    desk.close()
    split = list(History(datastore, "main", MAPPER).entries())
    state = msgspec.json.decode(book[place_of(book, "purse.filling_proposed", 0)].state)
    state |= {"campaign": str(campaign), "amount_minor": 500}
    forged = Entry(
        split[-1].position + 1,
        purse_id(campaign, SENDER),
        1,
        "purse.filling_proposed",
        msgspec.json.encode(state),
    )
    assert found_in([*split, forged]) == ["purse_not_due"]


def test_a_purse_of_somebody_else_is_found(book: list[Entry]) -> None:
    """The id of a purse is made of its person."""
    other = edited(book, "purse.filling_proposed", with_(person=person(77)))
    assert "purse_id" in found_in(other)


def test_a_book_is_sound_after_every_decision(book: list[Entry]) -> None:
    """A group that is half taken is not a wrong one; a decision that is cut in two is."""
    ends = [
        at + 1
        for at, entry in enumerate(book)
        if at + 1 == len(book)
        or msgspec.json.decode(entry.state)["why"]["request"]
        != msgspec.json.decode(book[at + 1].state)["why"]["request"]
    ]
    for end in range(len(book)):
        assert (found_in(book[:end]) == []) == (end in {0, *ends}), end


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("total", [100, 101, 99_999])
def test_shares_are_recomputed_as_they_are_made(count: int, total: int) -> None:
    """The verification's own way to the amounts ends at the same amounts as the decision's."""
    for number in range(20):
        mixed = bytes([number]) * 32
        assert tuple(random_shares(mixed, total, count)) == amounts_of(
            "random", mixed, total, count
        )
    assert tuple(equal(total, count)) == amounts_of("equal", b"", total, count)


def test_who_approves_is_another_operator(book: list[Entry]) -> None:
    """Alice proposed and Bob approved: exchanged, it is as good."""
    swapped_roles = edited(
        edited(book, "purse.filling_proposed", with_(by=msgspec.to_builtins(BOB))),
        "purse.filled",
        with_(by=msgspec.to_builtins(ALICE), proposed_by=BOB.id),
    )
    assert found_in(swapped_roles) == []


def test_a_sweep_after_the_window_is_sound(datastore: Datastore) -> None:
    """From the end of the claim window on a purse is emptied without a reason."""
    desk = GroupDesk(datastore)
    purse = desk.purse(500)
    assert desk.sweep_purse(purse, NOON + timedelta(days=3)).code == "purse_emptied"
    desk.close()
    assert found_in(list(History(datastore, "main", MAPPER).entries())) == []
