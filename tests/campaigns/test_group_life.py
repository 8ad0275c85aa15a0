"""Group packets on real PostgreSQL: filled, sent, taken and returned in any order and at once.

Goal: whoever races or is killed, every share is taken once by somebody whom the group is for, with
the amount that seed, salt and taker decide; what was taken, what came back and what is left are
what was sent; and nobody is told of a share that they do not have (S34, S35, F40).
Method: rushes of takers through two writers, a Hypothesis state machine whose closed groups are
checked by the code of docs/group-packets.md and nothing else of ours, and planted bugs.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg2
import pytest
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
)

from campaigns import accounting
from campaigns import commands as c
from campaigns.event_types import MAPPER
from campaigns.groups import commands as g
from campaigns.groups import group as group_module
from campaigns.groups import sharing
from campaigns.groups.group import GroupClosed, GroupFunded, GroupShareTaken
from campaigns.groups.purse import PurseFilled, PurseReturned, PurseSent
from campaigns.packets.packet import PacketClaimed
from campaigns.refusals import Refusal
from campaigns.seeds import commitment_of
from campaigns.splitting import split_seed
from ledger.appending import Capacity
from ledger.commit import Answer
from ledger.datastore import Datastore
from ledger.events import Event
from ledger.history import History
from ledger.money import Money
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.verification import verify as verify_read_models
from tests.docs.pages import page
from tests.support.desk import ALICE, BOB, DRAW_KEY, NOON, person, tourist
from tests.support.figures import check_figures
from tests.support.groups import SENDER, GroupDesk, packet_terms, problems
from tests.support.machines import given_stores, hunt, run

LAST = NOON + timedelta(days=30)
_books = (f"grp{n}" for n in itertools.count())


@pytest.fixture
def desks(datastore: Datastore) -> Iterator[tuple[GroupDesk, GroupDesk]]:
    """Two processes' writers of one book."""
    desks = GroupDesk(datastore), GroupDesk(datastore)
    yield desks
    for desk in desks:
        desk.close()


def told(answer: Answer) -> Any:
    """What an answer says."""
    return msgspec.json.decode(answer.body)


def check_by_the_page() -> Callable[[Any, str], list[int]]:
    """The function that the page shows."""
    names: dict[str, Any] = {}
    snippet = next(s for s in page("docs/group-packets.md").snippets if "check_group" in s.text)
    exec(compile(snippet.text, "group-packets.md", "exec"), names)
    check: Callable[[Any, str], list[int]] = names["check_group"]
    return check


CHECK = check_by_the_page()


# At once


def test_a_thousand_takers_of_a_hundred_shares(desks: tuple[GroupDesk, GroupDesk]) -> None:
    """Exactly a hundred have a share, whose amounts are all of the sum; the others get nothing."""
    desk = desks[0]
    purse = desk.purse(100_000)
    group = desk.sent(purse, 100, 88_888)
    waiting = [desks[n % 2].submit_take(group, person(n), f"k{n}") for n in range(1_000)]
    answers = [future.result(60) for future in waiting]
    assert Counter(answer.code for answer in answers) == {"share_taken": 100, "group_empty": 900}
    won = [told(answer)["amount"]["amount_minor"] for answer in answers if answer.code[0] == "s"]
    assert sum(won) == 88_888
    assert problems(desk) == []


def test_a_hundred_copies_of_one_taking(desks: tuple[GroupDesk, GroupDesk]) -> None:
    """S34: one person who presses a hundred times, with one key and with many, has one share."""
    purse = desks[0].purse(1_000)
    group = desks[0].sent(purse, 50, 1_000)
    keys = ["same"] * 50 + [f"k{n}" for n in range(50)]
    waiting = [desks[n % 2].submit_take(group, person(1), key) for n, key in enumerate(keys)]
    answers = [future.result(60) for future in waiting]
    codes = Counter(answer.code for answer in answers)
    assert codes["already_taken"] + codes["share_taken"] == 100
    shares = [event for event in desks[0].events() if isinstance(event, GroupShareTaken)]
    assert len(shares) == 1
    assert len({answer.body for answer in answers if answer.code == "share_taken"}) == 1


def test_the_last_share_or_the_return(desks: tuple[GroupDesk, GroupDesk]) -> None:
    """Takers and two sweepers in the same moment: each share goes one way, and so does the rest."""
    desk = desks[0]
    purse = desk.purse(5_000)
    group = desk.sent(purse, 5, 500)
    end = desk.group(group).until
    just_before = end - timedelta(seconds=1)

    def give_back(one: GroupDesk) -> Answer:
        return one.give_back(group, end)

    with ThreadPoolExecutor(4) as threads:
        taking = [
            threads.submit(desks[n % 2].take, group, person(n), at=just_before) for n in range(3)
        ]
        returning = [threads.submit(give_back, one) for one in desks]
    codes = Counter(future.result().code for future in (*taking, *returning))
    assert codes["group_returned"] == 1
    assert codes["group_closed"] == 1
    assert problems(desk) == []


def test_sending_more_than_there_is_at_once(desks: tuple[GroupDesk, GroupDesk]) -> None:
    """Ten sendings of a purse that covers three: three groups, and nothing below zero."""
    desk = desks[0]
    purse = desk.purse(1_000)
    waiting = [
        desks[n % 2].submit(desk.sending(purse, 2, 300, f"s{n}"), tourist(SENDER), f"s{n}")
        for n in range(10)
    ]
    codes = Counter(future.result(20).code for future in waiting)
    assert codes == {"group_funded": 3, "purse_short": 7}
    assert desk.purse_now(purse).balance_minor == 100
    assert problems(desk) == []


# In any order


class Sent:
    """A group as the machine knows it."""

    def __init__(self, event: GroupFunded) -> None:
        self.event = event
        self.takers: set[str] = set()
        self.takings: list[GroupShareTaken] = []
        self.closed: GroupClosed | None = None

    @property
    def view(self) -> dict[str, Any]:
        """What `GET /v1/groups/{group}` shows of it."""
        assert self.closed is not None
        return {
            "group": f"grp_main_{self.event.originator_id.hex}",
            "kind": self.event.kind,
            "shares": self.event.shares,
            "total": {"amount_minor": self.event.total_minor},
            "salt": self.event.salt,
            "seed": self.closed.seed,
            "takings": [
                {
                    "nth": nth,
                    "share": f"pkt_main_{one.share.hex}",
                    "index": one.index,
                    "amount": {"amount_minor": one.amount_minor},
                }
                for nth, one in enumerate(self.takings, 1)
            ],
            "returned_amount": {"amount_minor": self.closed.returned_minor},
        }


class Groups(RuleBasedStateMachine):
    """Operators fill, people send and take, sweepers return; campaigns pause and close."""

    datastore: Datastore
    owner: Datastore
    read_models_are_checked = True
    groups = Bundle("groups")

    def __init__(self) -> None:
        super().__init__()
        book = next(_books)
        self.desks = [GroupDesk(self.datastore, book), GroupDesk(self.datastore, book)]
        self.desk = self.desks[0]
        self.now = NOON
        self.numbers = itertools.count()
        self.seen = 0
        self.sent: dict[UUID, Sent] = {}
        self.commitments: dict[int, str] = {}
        self.last_commitment: str | None = None
        self.packets: dict[UUID, PacketClaimed] = {}
        self.balance_minor = 0
        terms = packet_terms(claim_until=NOON + timedelta(days=20), valid_until=LAST)
        self.campaign = self.desk.opened(90, terms, 9_000)
        self.purse = self.desk.filled(self.campaign, 5_000)
        self.catch_up()

    def teardown(self) -> None:
        """In the end the verification and the read models agree with what is stored."""
        assert problems(self.desk) == []
        check_figures(History(self.datastore, self.desk.book, MAPPER).entries())
        for desk in self.desks:
            desk.close()
        if not self.read_models_are_checked:
            return
        for one in PROJECTIONS:
            runner = Runner(self.datastore, one, self.desk.book, "machine")
            while runner.run_once():
                pass
        assert verify_read_models(self.owner, books=[self.desk.book]) == []

    @rule(
        target=groups,
        shares=st.integers(1, 6),
        more=st.integers(0, 300),
        kind=st.sampled_from(["equal", "random"]),
        members=st.none() | st.sets(st.integers(0, 7), min_size=1),
        sender_may_take=st.booleans(),
        salt=st.binary(max_size=4),
    )
    def send(
        self,
        shares: int,
        more: int,
        kind: Any,
        members: set[int] | None,
        sender_may_take: bool,
        salt: bytes,
    ) -> UUID:
        """Send a group, as long as there is something to send."""
        return self._send(shares, more, kind, members, sender_may_take, salt)

    def _send(
        self,
        shares: int,
        more: int,
        kind: Any,
        members: set[int] | None,
        sender_may_take: bool,
        salt: bytes,
    ) -> UUID:
        name = f"send{next(self.numbers)}"
        command = self.desk.sending(
            self.purse,
            shares,
            shares + more,
            name,
            kind=kind,
            members=None if members is None else tuple(person(n) for n in sorted(members)),
            sender_may_take=sender_may_take,
            salt=salt.hex(),
        )
        answer = self.desk.send(command, tourist(SENDER), name, at=self.now)
        if answer.code == "group_funded":
            again = self.desks[1].send(command, tourist(SENDER), name, at=self.now)
            assert again == answer._replace(replayed=True), "a repeated sending is the same one"
        return command.group

    @rule(
        target=groups,
        shares=st.integers(2, 6),
        more=st.integers(0, 300),
        kind=st.sampled_from(["equal", "random"]),
        takers=st.lists(st.integers(0, 8), min_size=1, max_size=8, unique=True),
        a_day=st.booleans(),
    )
    def hour(self, shares: int, more: int, kind: Any, takers: list[int], a_day: bool) -> UUID:
        """A group as most are: sent and taken, by all at once; then a day may go by."""
        group = self._send(shares, more, kind, None, False, b"salt")
        self.press(group=group, takers=takers)
        if a_day:
            self.wait(24)
            self.give_back(group=group, at_once=False)
        return group

    @rule(group=groups, takers=st.lists(st.integers(0, 9), min_size=1, max_size=8))
    def press(self, group: UUID, takers: list[int]) -> None:
        """Everybody takes at once, through two writers, some twice; nine is the sender."""
        self.catch_up()
        waiting = []
        for i, n in enumerate(takers):
            who = SENDER if n == 9 else person(n)
            key = f"k{next(self.numbers)}"
            waiting.append((who, self.desks[i % 2].submit_take(group, who, key, at=self.now)))
        answers = [(who, future.result(20)) for who, future in waiting]
        self.catch_up()
        for who, answer in answers:
            self._check_answer(group, who, answer)

    def _check_answer(self, group: UUID, who: str, answer: Answer) -> None:
        """Whoever is told of a share has it, with this amount; nobody else has one more."""
        if answer.code != "share_taken":
            return
        reply = told(answer)
        packet = self.packets.get(UUID(reply["share"][-32:]))
        assert packet is not None, "never grabbed but empty"
        assert (packet.person, packet.group) == (who, group)
        assert packet.amount_minor == reply["amount"]["amount_minor"] > 0

    @rule(group=groups, n=st.integers(0, 7))
    def guess(self, group: UUID, n: int) -> None:
        """Somebody tries a code of their own."""
        self.catch_up()
        before = self.seen
        answer = self.desk.take(group, person(n), code="a" * 20, at=self.now)
        known = self.sent.get(group)
        if known is None or known.event.members is msgspec.UNSET:
            assert answer.code == "not_found"
            self.catch_up()
            assert self.seen == before

    @rule(hours=st.sampled_from([1, 1, 11, 24]))
    def wait(self, hours: int) -> None:
        """Let the time go on: to the last hour of a group, and past it."""
        if self.now < NOON + timedelta(days=25):
            self.now += timedelta(hours=hours)

    @rule(group=groups, at_once=st.booleans())
    def give_back(self, group: UUID, at_once: bool) -> None:
        """One sweeper, or two in the same moment."""
        with ThreadPoolExecutor(2) as threads:
            desks = self.desks if at_once else self.desks[:1]
            codes = Counter(threads.map(lambda desk: desk.give_back(group, self.now).code, desks))
        assert codes["group_returned"] <= 1
        self.catch_up()

    @rule(amount=st.integers(1, 100), serious=st.integers(0, 5))
    def fill(self, amount: int, serious: int) -> None:
        """Put more into the purse now and then, if the pot has it."""
        if serious:
            return
        money = Money(amount, "CNY")
        self.desk.send(
            g.ProposeFilling(self.desk.book, self.campaign, SENDER, money), ALICE, at=self.now
        )
        approve = g.ApproveFilling(self.desk.book, self.purse, money, lambda: DRAW_KEY)
        self.desk.send(approve, BOB, at=self.now)

    @rule(which=st.sampled_from(["pause", "resume", "resume", "empty", "sweep", *4 * ["nothing"]]))
    def disturb(self, which: str) -> None:
        """Pause, resume, or take the purse's money away, now and then."""
        book = self.desk.book
        if which == "empty":
            self.desk.empty(self.purse, self.now)
        elif which == "sweep":
            self.desk.sweep_purse(self.purse, self.now)
        elif which == "pause":
            self.desk.send(c.PauseCampaign(book, self.campaign, "why"), ALICE, at=self.now)
        elif which == "resume":
            self.desk.send(c.ResumeCampaign(book, self.campaign), ALICE, at=self.now)

    @rule()
    def close(self) -> None:
        """End the campaign, not too soon."""
        if self.now >= NOON + timedelta(days=9):
            closing = c.CloseCampaign(self.desk.book, self.campaign, "over")
            self.desk.send(closing, ALICE, at=self.now)

    @invariant()
    def catch_up(self) -> None:
        """Look at what was stored since the last time, and check all that must hold of it."""
        for event in self.desk.events_after(self.seen):
            self.seen += 1
            self._add(event)

    def _add(self, event: Event) -> None:
        match event:
            case PurseFilled() | PurseSent():
                self._purse(event)
            case PurseReturned():
                self.balance_minor += event.amount_minor
                closed = self.sent[event.group].closed
                assert closed is not None
                assert closed.returned_minor == event.amount_minor
            case GroupFunded():
                assert event.seed_commitment == self.last_commitment, "older than the sending"
                self.sent[event.originator_id] = Sent(event)
            case PacketClaimed():
                self.packets[event.originator_id] = event
            case GroupShareTaken():
                self._taken(event)
            case GroupClosed():
                self._closed(event)
            case _ if event.TOPIC == "purse.emptied":
                self.balance_minor = 0
            case _:
                pass
        assert self.balance_minor >= 0, "nothing is sent that is not there"

    def _purse(self, event: PurseFilled | PurseSent) -> None:
        self.balance_minor += event.amount_minor * (1 if isinstance(event, PurseFilled) else -1)
        known = self.commitments.values()
        assert event.seed_commitment not in known, "no seed is used twice"
        version = event.originator_version
        self.last_commitment = self.commitments.get(version - 1) or self._last(version)
        self.commitments[version] = event.seed_commitment

    def _last(self, version: int) -> str | None:
        earlier = [one for one in self.commitments if one < version]
        return self.commitments[max(earlier)] if earlier else None

    def _taken(self, event: GroupShareTaken) -> None:
        sent = self.sent[event.originator_id]
        funded = sent.event
        assert sent.closed is None, "nothing is taken after the close"
        assert event.at < funded.at + timedelta(hours=24), "nothing is taken after a day"
        assert event.person not in sent.takers, "one share a person"
        if event.person == SENDER:
            assert funded.sender_may_take is True, "not the sender's own"
        elif funded.members is not msgspec.UNSET:
            assert event.person in funded.members, "members only"
        assert event.share in self.packets, "a share is a packet at once"
        assert self.packets[event.share].amount_minor == event.amount_minor
        sent.takers.add(event.person)
        sent.takings.append(event)
        assert sum(one.amount_minor for one in sent.takings) <= funded.total_minor

    def _closed(self, event: GroupClosed) -> None:
        sent = self.sent[event.originator_id]
        assert sent.closed is None, "closed once"
        sent.closed = event
        is_empty = len(sent.takings) == sent.event.shares
        assert is_empty or event.at >= sent.event.until, "not before its time"
        taken_minor = sum(one.amount_minor for one in sent.takings)
        assert taken_minor + event.returned_minor == sent.event.total_minor
        CHECK(sent.view, sent.event.seed_commitment)


@pytest.fixture
def machine(datastore: Datastore, database_url: str) -> Iterator[type[Groups]]:
    """The machine on a fresh database; every run has a book of its own."""
    with given_stores(Groups, datastore, database_url):
        yield Groups


@pytest.mark.slow
def test_group_packets_are_right_whatever_happens(machine: type[Groups]) -> None:
    """In any order and at once: every share to whom it belongs, every fen accounted for."""
    run(machine, 10, 25)


def _plant_one_person_takes_many(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(g, "share_id", lambda *_: uuid4())


def _plant_anybody_may_take(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(g.TakeShare, "_require_invited", lambda *_: None)


def _plant_a_day_without_end(patch: pytest.MonkeyPatch) -> None:
    def require_left(group: Any, _now: datetime) -> None:
        if len(group.taken) == group.shares or group.state == "closed":
            raise Refusal("group_empty", shares=group.shares)

    patch.setattr(g, "_require_left", require_left)


def _plant_returned_without_looking(patch: pytest.MonkeyPatch) -> None:
    class Open(g.ReturnGroup):
        """Believes that every group is open."""

        def decide(self, view: Any, header: Any) -> Any:
            group = view.state(g.group_read(self.group))
            if group is not None:
                msgspec.structs.force_setattr(group, "state", "open")
                msgspec.structs.force_setattr(group, "left_minor", max(1, group.left_minor))
            return super().decide(view, header)

    patch.setattr("tests.support.groups.ReturnGroup", Open)


def _plant_grabbed_but_empty(patch: pytest.MonkeyPatch) -> None:
    class Empty(g.TakeShare):
        """Tells of the share and forgets the packet."""

        def decide(self, view: Any, header: Any) -> Any:
            decision = super().decide(view, header)
            return msgspec.structs.replace(decision, events=decision.events[1:])

    patch.setattr("tests.support.groups.TakeShare", Empty)


def _plant_shares_in_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sharing, "index_for", lambda _mixed, _share, _nth, left: left[0])


def _plant_a_share_for_a_friend(patch: pytest.MonkeyPatch) -> None:
    def best(group: Any, seed: bytes, share: UUID) -> tuple[int, int]:
        mixed = sharing.mixed_seed(seed, group.id, group.salt)
        amounts = sharing.amounts_of(group.kind, mixed, group.total_minor, group.shares)
        friend = sharing.share_id(group.id, person(1))
        if share != friend:
            return sharing.next_share(group, seed, share)
        return max(((i, amounts[i - 1]) for i in group.left), key=lambda one: one[1])

    patch.setattr(g, "next_share", best)


def _plant_a_seed_after_the_salt(patch: pytest.MonkeyPatch) -> None:
    def funded(**fields: Any) -> GroupFunded:
        fields["committed_by"] += 1
        seed = split_seed(DRAW_KEY, fields["purse"], fields["committed_by"])
        return GroupFunded(**fields | {"seed_commitment": commitment_of(seed)})

    patch.setattr(g, "GroupFunded", funded)


def _plant_the_same_share_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        group_module.Group, "left", property(lambda self: list(range(1, self.shares + 1)))
    )


def _plant_stock_that_leaks(patch: pytest.MonkeyPatch) -> None:
    def forget(**change: int) -> Capacity:
        return Capacity(**{k: v for k, v in change.items() if k != "issued" or v > 0})

    patch.setattr(g, "Capacity", forget)


def _plant_money_that_vanishes(patch: pytest.MonkeyPatch) -> None:
    rules = {k: v for k, v in accounting._RULES.items() if k is not PurseReturned}
    patch.setattr(accounting, "_RULES", rules)


def _plant_more_than_is_there(patch: pytest.MonkeyPatch) -> None:
    class Generous(g.SendGroup):
        """Does not look into the purse."""

        def decide(self, view: Any, header: Any) -> Any:
            purse = view.state(g.purse_read(self.purse))
            if purse is not None:
                msgspec.structs.force_setattr(purse, "balance_minor", 10**6)
            return super().decide(view, header)

    patch.setattr("tests.support.groups.SendGroup", Generous)


RED = (AssertionError, psycopg2.Error, Flaky)

PLANTED = [
    _plant_one_person_takes_many,
    _plant_anybody_may_take,
    _plant_a_day_without_end,
    _plant_returned_without_looking,
    _plant_grabbed_but_empty,
    _plant_shares_in_order,
    _plant_a_share_for_a_friend,
    _plant_a_seed_after_the_salt,
    _plant_the_same_share_again,
    _plant_stock_that_leaks,
    _plant_money_that_vanishes,
    _plant_more_than_is_there,
]


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("_plant_"))
def test_a_planted_bug_of_group_packets_is_found(
    machine: type[Groups],
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """Control: the machine goes red on each rule of group packets that somebody forgot."""
    plant(monkeypatch)
    monkeypatch.setattr(Groups, "read_models_are_checked", False)  # most of a run's time
    with pytest.raises(RED):
        hunt(machine, 60, 25)


def test_every_planted_bug_is_described() -> None:
    """The page lists the bugs that are planted here and among the counts, and no others."""
    rows = page("docs/group-packets.md").table("planted bug", "the rule that is missing")
    planted = {plant.__name__.removeprefix("_plant_") for plant in PLANTED}
    counted = {"in_order", "a_little_late"}
    assert {row[0].strip("`") for row in rows} == planted | counted
