"""Public draws on real PostgreSQL: kept, frozen, drawn, given and moved up, killed and doubled.

Goal: whoever is killed, races or lies, a draw is held once, from the list that was frozen, by the
seed and the round that were committed to, and waits when the beacon does not say one clear thing.
Method: holders are cut off after every step and run twice at once, a stopped one comes back late,
the list on disk is lost and forged, the beacon is late, silent and doubled. Every book is verified
and every bundle is checked by the stand-alone verifier. Guards are taken away to see it red.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api.beacons import Beacons
from api.publicdraws import DrawHolder, Step
from api.upkeep import Troubled
from campaigns import commands as c
from campaigns.draws import holding, listing
from campaigns.draws.announcing import announced, facts_of
from campaigns.draws.beacon import Beacon
from campaigns.draws.bundle import write_bundle
from campaigns.draws.draw import DrawDrawn, DrawFrozen, DrawMovedUp, DrawVoided
from campaigns.draws.entry import DrawWon, entry_id
from campaigns.draws.method import ranked as real
from campaigns.draws.registering import EnterDraw, WithdrawEntry
from campaigns.draws.terms import Chain
from campaigns.draws.verify_draw import Refused, check_bundle
from campaigns.draws.winning import ClaimWin
from campaigns.event_types import MAPPER
from campaigns.packets.terms import Tier
from campaigns.verification import verify
from ledger.commit import Answer
from ledger.datastore import Datastore
from ledger.history import History
from tests.draws.stories import (
    CLOSES,
    DEADLINE,
    DRAWN_AT,
    LATER,
    SIGNATURE,
    packets,
    phone,
    signed,
)
from tests.support.desk import ALICE, DRAW_KEY, Desk, person, tourist

TERMS = packets(Tier(80_000, 1), Tier(20_000, 3), runners_up=3)
_books = (f"pub{n}" for n in itertools.count())


class Fixed:
    """A beacon of these tests: what it says is set, and may change."""

    def __init__(self, signature: bytes | None = SIGNATURE) -> None:
        self.signature = signature
        self.asked: list[int] = []

    def value(self, _chain: Chain, number: int) -> Beacon | None:
        """The value that was set."""
        self.asked.append(number)
        return None if self.signature is None else Beacon(number, self.signature)


class Fair:
    """A desk with a campaign that has a public draw, and the folder of its lists."""

    def __init__(self, desk: Desk, lists: Path, people: int = 9, terms: Any = TERMS) -> None:
        self.desk, self.lists = desk, lists
        self.beacon = Fixed()
        draw = terms.public_draw
        self.campaign = desk.opened(draw.winners, terms, draw.worth_minor)
        for n in range(1, people + 1):
            assert self.enter(n).code == "registered"

    def enter(self, n: int, at: datetime | None = None) -> Answer:
        """Register the n-th person."""
        entering = self.entering(n)
        return self.desk.send(entering, tourist(person(n)), at=at or CLOSES - timedelta(hours=1))

    def entering(self, n: int) -> Any:
        return EnterDraw(
            self.desk.book, self.campaign, person(n), phone(n), None, None, sign=signed
        )

    def withdraw(self, n: int) -> Answer:
        """Take the n-th person's entry back."""
        entry = entry_id(self.campaign, person(n))
        return self.desk.send(WithdrawEntry(self.desk.book, self.campaign, entry), ALICE)

    def claim(self, n: int, at: datetime) -> Answer:
        """Claim what the n-th person won."""
        win = ClaimWin(self.desk.book, self.campaign, person(n))
        return self.desk.send(win, tourist(person(n)), at=at)

    def holder(self, key: bytes = DRAW_KEY, batch: int = 2) -> DrawHolder:
        """A fresh holder, as after a start; it works in tiny steps."""
        return DrawHolder(
            self.desk.datastore, self.desk.writer, lambda: key, self.beacon, self.lists, batch=batch
        )

    def hold(self, at: datetime = DRAWN_AT) -> list[Step]:
        """Do everything that is due at an instant."""
        return list(self.holder().steps(at))

    def held(self) -> Fair:
        """Freeze in time and draw."""
        self.hold(CLOSES)
        self.hold()
        return self

    def events(self, *kinds: type[Any]) -> list[Any]:
        """The events of some kinds, in order."""
        return [event for event in self.desk.events() if isinstance(event, kinds)]

    def winners(self) -> list[str]:
        """Who has a seat, in order of rank."""
        return [one.person for one in sorted(self.events(DrawWon), key=lambda won: won.rank)]

    def problems(self) -> list[str]:
        """What the verification of the book finds."""
        history = History(self.desk.datastore, self.desk.book, MAPPER)
        standing = history.standing()
        found = verify(self.desk.book, history.entries(0, standing.last), standing)
        return [str(one) for one in found]

    def bundle(self, folder: Path) -> Path:
        """Publish the draw."""
        holder = self.holder()
        known = holder.lists.known(self.campaign)
        assert known is not None
        assert known.draw.held is not None
        assert known.draw.frozen is not None
        told = announced(self.desk.book, known.campaign, known.draw, facts_of(known.draw.frozen))
        turns = [turn.seats for turn in known.draw.turns]
        held = known.draw.held
        seed, signature = bytes.fromhex(held.seed), bytes.fromhex(held.signature)
        with holder.lists.frozen(known) as listed:
            write_bundle(folder, told, seed, signature, listed, turns)
        return folder

    def check(self, folder: Path) -> None:
        """The book is right, and so is the bundle; what both say of the winners is the same."""
        assert not self.problems()
        found = check_bundle(self.bundle(folder))
        rows = [row.split(",") for row in (folder / "results.csv").read_text().splitlines()[1:]]
        seated = [row for row in rows if row[4]]
        entries = [entry_id(self.campaign, one).hex for one in self.winners()]
        assert [row[2][:32] for row in seated] == entries
        frozen = self.events(DrawFrozen)[0]
        assert found["announcement"] == frozen.announcement


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a book of its own."""
    desk = Desk(datastore, next(_books))
    yield desk
    desk.close()


@pytest.fixture
def fair(desk: Desk, tmp_path: Path) -> Fair:
    """A draw with nine people in its list, of whom two have left it."""
    fair = Fair(desk, tmp_path / "lists")
    for n in (3, 8):
        fair.withdraw(n)
    return fair


def test_a_draw_from_registration_to_claim(fair: Fair, tmp_path: Path) -> None:
    """Frozen, drawn, given, claimed, moved up: the book verifies and the bundle is accepted."""
    assert [step.code for step in fair.hold(CLOSES)] == ["list_frozen"]
    assert [step.code for step in fair.hold()] == ["draw_recorded", *["seats_given"] * 2]
    numbers = {person(n): n for n in range(1, 10)}
    first = fair.winners()
    assert len(first) == 4
    assert fair.claim(numbers[first[0]], DRAWN_AT).code == "claimed"
    assert fair.claim(numbers[first[3]], DRAWN_AT).code == "claimed"
    assert [step.code for step in fair.hold(DEADLINE)] == ["moved_up", "seats_given"]
    assert [won.tier for won in fair.events(DrawWon)] == [1, 2, 2, 2, 2, 2]
    assert fair.claim(numbers[fair.winners()[4]], LATER - timedelta(minutes=1)).code == "claimed"
    assert fair.hold(LATER)[0].code == "moved_up"
    assert len(fair.winners()) == 7
    fair.check(tmp_path / "bundle")


def test_the_list_is_kept_while_people_register(fair: Fair) -> None:
    """Its root is there at the freeze; what was taken in is never read again."""
    assert not fair.hold(CLOSES - timedelta(minutes=5))
    folder = next((fair.lists / fair.desk.book).glob("*-0"))
    mark = json.loads((folder / "mark.json").read_bytes())
    assert (mark["entries"], mark["withdrawn"]) == (9, 2)
    fair.enter(20, CLOSES - timedelta(minutes=1))
    fair.hold(CLOSES)
    assert fair.events(DrawFrozen)[0].entries == 10


# --- killed, doubled, late ------------------------------------------------------------------------


def test_a_holder_killed_after_any_step(desk: Desk, tmp_path: Path) -> None:
    """Each next one begins where the last was cut off; the end is the same as without any kill."""
    fair = Fair(desk, tmp_path / "lists")
    instants = itertools.chain([CLOSES] * 2, [DRAWN_AT] * 5, [DEADLINE] * 4)
    for at in instants:
        steps = fair.holder(batch=1).steps(at)
        next(steps, None)
        steps.close()
    assert len(fair.events(DrawFrozen)) == len(fair.events(DrawDrawn)) == 1
    fair.hold(DEADLINE)
    assert len(fair.winners()) == 7
    assert len(set(fair.winners())) == 7
    fair.check(tmp_path / "bundle")


def test_an_answer_that_is_lost_is_no_step_twice(fair: Fair, tmp_path: Path) -> None:
    """A holder that dies after each commit, before it hears of it, repeats nothing."""

    def deaf(holder: DrawHolder, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(commands: Any, at: Any) -> Any:
            ask(commands, at)
            raise KeyboardInterrupt

        return asked

    for at in [CLOSES, *[DRAWN_AT] * 4, *[DEADLINE] * 3]:
        holder = fair.holder()
        upkeep = holder._upkeep
        upkeep.ask = deaf(holder, upkeep.ask)  # type: ignore[method-assign]
        try:
            list(holder.steps(at))
        except KeyboardInterrupt:
            continue
    fair.hold(DEADLINE)
    assert len(fair.winners()) == len(set(fair.winners())) == 7
    fair.check(tmp_path / "bundle")


def test_two_holders_at_once(fair: Fair, tmp_path: Path) -> None:
    """They interleave as they like: one list, one draw, a seat each."""
    for at in (CLOSES, DRAWN_AT, DEADLINE):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _, at=at: fair.hold(at), range(3)))
    assert len(fair.events(DrawFrozen)) == len(fair.events(DrawDrawn)) == 1
    assert len(fair.events(DrawMovedUp)) == 1
    fair.check(tmp_path / "bundle")


def test_who_finds_a_list_taken_leaves_its_folder_alone(fair: Fair) -> None:
    """Whoever has the lock may be making the folder anew: nobody else makes it meanwhile."""
    lists = fair.holder().lists
    with lists.lend(fair.campaign) as mine:
        shutil.rmtree(mine.folder)
        with lists.lend(fair.campaign) as other:
            assert other.folder != mine.folder
        assert not mine.folder.exists()


def test_a_holder_that_was_stopped_comes_back_late(fair: Fair, tmp_path: Path) -> None:
    """What it wanted to record was recorded meanwhile; it is refused and changes nothing."""
    fair.hold(CLOSES)
    late = fair.holder()
    known = late.lists.known(fair.campaign)
    assert known is not None
    fair.hold()
    before = len(fair.desk.events())
    fair.beacon.signature = b"another" * 9
    assert list(late._record(known, DRAWN_AT)) == []
    assert len(fair.desk.events()) == before
    fair.check(tmp_path / "bundle")


@pytest.mark.parametrize("damage", ["lost", "cut", "forged", "longer", "marked"])
def test_a_list_on_disk_that_is_damaged(fair: Fair, tmp_path: Path, damage: str) -> None:
    """It is a copy: whatever is wrong with it, the draw is that of the book."""
    fair.hold(CLOSES - timedelta(minutes=1))
    folder = next((fair.lists / fair.desk.book).glob("*-0"))
    tree, listed = folder / "tree-00.bin", folder / "list.bin"
    match damage:
        case "lost":
            listed.unlink()
        case "cut":
            tree.write_bytes(tree.read_bytes()[:-1])
        case "forged":
            tree.write_bytes(bytes(len(tree.read_bytes())))
        case "longer":
            listed.write_bytes(listed.read_bytes() + b"x" * 13)
        case _:
            (folder / "mark.json").write_bytes(b"{")
    fair.held()
    fair.check(tmp_path / "bundle")


def test_a_list_that_was_lost_after_the_freeze_is_made_again(fair: Fair, tmp_path: Path) -> None:
    """All of it follows from the book, on any machine."""
    fair.hold(CLOSES)
    fair.lists = tmp_path / "another machine"
    fair.hold()
    fair.check(tmp_path / "bundle")


# --- the beacon -----------------------------------------------------------------------------------


def test_a_silent_beacon_is_waited_for(fair: Fair, tmp_path: Path) -> None:
    """Nothing is drawn without it, however long it takes; then it is drawn by it."""
    fair.beacon.signature = None
    fair.hold(CLOSES)
    for hours in range(3):
        assert not fair.hold(DRAWN_AT + timedelta(hours=hours))
    assert not fair.events(DrawDrawn)
    fair.beacon.signature = SIGNATURE
    fair.hold(DRAWN_AT + timedelta(hours=3))
    assert fair.events(DrawDrawn)[0].signature == SIGNATURE.hex()
    fair.check(tmp_path / "bundle")


def test_the_beacon_is_not_asked_before_its_time(fair: Fair) -> None:
    """Nor for any round but the one that was announced."""
    fair.hold(CLOSES)
    fair.hold(DRAWN_AT - timedelta(seconds=1))
    assert fair.beacon.asked == []
    fair.hold()
    assert set(fair.beacon.asked) == {TERMS.public_draw.round}


def test_a_doubled_beacon_is_waited_out(fair: Fair, tmp_path: Path) -> None:
    """Two values for one round: nobody knows which one is public, so nothing is drawn."""
    round_ = TERMS.public_draw.round
    lines = [json.dumps({"round": round_, "signature": one * 48}) for one in ("ab", "cd")]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text(lines[0])
    two.write_text(lines[1])
    fair.beacon = Beacons([str(one), str(two)])  # type: ignore[assignment]
    fair.hold(CLOSES)
    with pytest.raises(Troubled, match="two values for round"):
        fair.hold()
    assert not fair.events(DrawDrawn)
    two.write_text(lines[0])
    fair.hold()
    assert fair.events(DrawDrawn)[0].signature == "ab" * 48
    fair.check(tmp_path / "bundle")


def test_a_list_that_misses_its_time_is_never_drawn(fair: Fair) -> None:
    """A holder that was away until the beacon spoke voids the draw, and money goes back."""
    assert [step.code for step in fair.hold()] == ["draw_voided"]
    assert fair.events(DrawVoided)[0].reason == "frozen_too_late"
    assert not fair.hold(DRAWN_AT + timedelta(hours=1))
    close = c.CloseCampaign(fair.desk.book, fair.campaign, "void")
    assert fair.desk.send(close, ALICE, at=DRAWN_AT).code == "closed"
    assert not fair.problems()


def test_another_draw_key_draws_nothing(fair: Fair) -> None:
    """The seed that was committed to is another one, and nothing replaces it."""
    fair.hold(CLOSES)
    with pytest.raises(Troubled, match="draw key"):
        list(fair.holder(key=b"x" * 32).steps(DRAWN_AT))
    assert not fair.events(DrawDrawn)


# --- planted bugs ---------------------------------------------------------------------------------


def _plant_own_randomness(patch: pytest.MonkeyPatch, fair: Fair) -> None:
    fair.beacon.signature = None
    patch.setattr(Fixed, "value", lambda _, __, number: Beacon(number, b"local" * 10))


def _plant_an_overlooked_entry(patch: pytest.MonkeyPatch, fair: Fair) -> None:
    def overlook(*args: Any) -> list[int]:
        first, *others = real(*args)
        return [*others, first]

    patch.setattr("api.publicdraws.ranked", overlook)


def _plant_any_list(patch: pytest.MonkeyPatch, fair: Fair) -> None:
    patch.setattr(listing, "leaf_hash", lambda leaf: b"\0" * 32)
    patch.setattr(listing, "node_hash", lambda *_: b"\0" * 32)


def _plant_seats_without_proof(patch: pytest.MonkeyPatch, fair: Fair) -> None:
    patch.setattr(holding, "verify_inclusion", lambda *_: True)
    friends = [entry_id(fair.campaign, person(n)) for n in (1, 2)]

    def give(book: Any, campaign: UUID, entry: UUID, rank: int, proof: Any) -> holding.GiveSeat:
        friend = next(one for one in friends if one != entry)
        return holding.GiveSeat(book, campaign, friend if rank == 1 else entry, rank, proof)

    patch.setattr("api.publicdraws.GiveSeat", give)


def _plant_withdrawn_entries_win(patch: pytest.MonkeyPatch, fair: Fair) -> None:
    patch.setattr(listing.EntryList, "withdrawn", lambda _: [])


PLANTED = [
    _plant_an_overlooked_entry,
    _plant_any_list,
    _plant_seats_without_proof,
    _plant_withdrawn_entries_win,
]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__.removeprefix("_plant_"))
def test_a_planted_bug_of_a_draw_is_found(
    fair: Fair,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    plant: Callable[[pytest.MonkeyPatch, Fair], None],
) -> None:
    """Control: the book's verification, the verifier or the holder itself goes red."""
    plant(monkeypatch, fair)

    def goes_on() -> None:
        fair.held()
        monkeypatch.undo()
        fair.check(tmp_path / "bundle")

    with pytest.raises((AssertionError, Refused, Troubled)):
        goes_on()


def test_local_randomness_would_be_seen(
    fair: Fair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Control: a draw that helps itself while the beacon is silent is one too many."""
    _plant_own_randomness(monkeypatch, fair)
    fair.held()
    with pytest.raises(AssertionError):
        assert not fair.events(DrawDrawn)


def test_a_doubled_beacon_that_nobody_compares_is_seen(
    fair: Fair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Control: without the comparison the draw is held by whichever value came first."""
    monkeypatch.setattr("api.beacons.agreed", lambda values, number: next(iter(list(values)), None))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_doubled_beacon_is_waited_out(fair, tmp_path)
