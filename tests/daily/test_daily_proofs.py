"""Daily proofs: each day once, from the events alone, in a chain that breaks where it is touched.

Goal: what is published of a day is what the events add up to, whoever makes it and whenever.
Method: a book in simulated time whose days we end by what happens next; every meddling is named.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from eventsourcing.persistence import IntegrityError
from hypothesis import given
from hypothesis import strategies as st

from api.daily import store
from api.daily.checking import DAILY_CODES, check, check_notes
from api.daily.figures import DailyProof, Fold, is_midnight, midnight_after
from api.daily.making import Days, Maker
from api.daily.store import Held, Lost
from campaigns import commands as c
from campaigns.coupon import coupon_id
from ledger.appending import Capacity
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.money import Money
from ledger.transparency.follower import Follower
from ledger.transparency.keys import SignerFiles
from ledger.transparency.notes import parse_note, signed_note
from ledger.transparency.statements import Statement, statement_signer
from projections.campaign_figures import CAMPAIGN_FIGURES
from projections.campaign_figures import campaign as campaign_figures
from projections.runner import Runner
from tests.ledger.test_transparency_log import KEY, ORIGIN, as_owner
from tests.support.desk import ALICE, BOB, NOON, Desk, person, terms_of
from tests.support.story import tell

BOOK = "main"
DAY = timedelta(days=1)
CAFE = Actor("merchant", "cafe")
SWEEPER = Actor("sweeper", "system")
SIGNER = statement_signer(ORIGIN, bytes(32))
KEYS = [SIGNER.verifier]
WIDE = {
    "claim_until": NOON + 30 * DAY,
    "valid_until": NOON + 30 * DAY,
    "per_person_limit": 9,
    "merchants": ["cafe"],
}


def signer_of(origin: str) -> Any:
    """The key of statements."""
    assert origin == ORIGIN
    return SIGNER


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on the book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


@pytest.fixture
def follow(datastore: Datastore, tmp_path: Path) -> Callable[[], object]:
    """Bring the log up to the book."""
    memory = SignerFiles(tmp_path / "log", BOOK)
    memory.keys.make(KEY)
    return Follower(datastore, BOOK, "log", memory, ttl_s=0).run_once


def maker(datastore: Datastore, holder: str = "a", **how: Any) -> Maker:
    """Somebody who makes the proofs."""
    return Maker(datastore, BOOK, holder, signer_of, **{"simulated": True, **how})


def claim(desk: Desk, campaign: UUID, who: int, at: datetime, n: int = 1) -> UUID:
    """Claim a coupon at an instant."""
    command = c.ClaimCoupon(desk.book, campaign, person(who))
    answer = desk.send(command, Actor("tourist", person(who)), at=at)
    assert answer.code == "claimed", answer
    return coupon_id(campaign, person(who), n)


def redeem(desk: Desk, coupon: UUID, order: str, at: datetime) -> None:
    """Redeem a coupon at the café."""
    command = c.RedeemCoupon(desk.book, coupon, "cafe", None, order, Money(9_000, "CNY"))
    assert desk.send(command, CAFE, at=at).code == "redeemed"


def three_days(desk: Desk) -> UUID:
    """A campaign that lives three days and a little: claims, redemptions, a refund, a close."""
    campaign = desk.opened(quota=8, budget_minor=4_000, terms=terms_of(**WIDE), key="one")
    first = claim(desk, campaign, 1, NOON)
    claim(desk, campaign, 2, NOON)
    redeem(desk, first, "o-1", NOON + DAY)
    claim(desk, campaign, 3, NOON + DAY)
    refund = c.RefundCoupon(desk.book, first, "cafe", "o-1", "cold")
    assert desk.send(refund, CAFE, at=NOON + 2 * DAY).code == "refunded"
    close = c.CloseCampaign(desk.book, campaign, "over")
    assert desk.send(close, BOB, at=NOON + 2 * DAY).code == "closed"
    redeem(desk, first, "o-2", NOON + 5 * DAY)
    later = desk.opened(quota=1, budget_minor=500, terms=terms_of(**WIDE), key="later")
    claim(desk, later, 1, NOON + 7 * DAY)
    return campaign


def opened_days_ago(desk: Desk, days: int) -> None:
    """A campaign that was opened some days ago, by the clock, with one claim."""
    begun = datetime.now(UTC) - days * DAY
    month = dict.fromkeys(("claim_until", "valid_until"), begun + 30 * DAY)
    day_before = dict.fromkeys(("claim_from", "valid_from"), begun - DAY)
    campaign = c.campaign_id(desk.book, ALICE, "ago")
    budget = Money(5_000, "CNY")
    draft = c.DraftCampaign(desk.book, campaign, "Now", "hainan", terms_of(**month, **day_before))
    for command, by, key in (
        (draft, ALICE, "ago"),
        (c.ProposeFunding(desk.book, campaign, 10, budget, 0, 0), ALICE, None),
        (c.ApproveFunding(desk.book, campaign, 10, budget), BOB, None),
        (c.OpenCampaign(desk.book, campaign), ALICE, None),
    ):
        desk.send(command, by, key, at=begun)
    claim(desk, campaign, 1, begun)


def stored(datastore: Datastore) -> list[store.Stored]:
    """What is kept."""
    with datastore.transaction() as curs:
        return store.proofs(curs, BOOK)


def lines_of(one: store.Stored | DailyProof) -> dict[str, str]:
    """What a proof says."""
    if isinstance(one, DailyProof):
        return dict(one.statement.lines)
    return dict(Statement.parse(parse_note(one.note).text).lines)


def findings(datastore: Datastore) -> list[tuple[str, str]]:
    """Codes and places of what is wrong."""
    return [(one.code, one.where) for one in check(datastore, BOOK, KEYS)]


# --- what is proved -----------------------------------------------------------------------------


def test_each_day_says_what_happened_by_its_end(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """From the opening to the close, and the day on which something happened afterwards."""
    campaign = three_days(desk)
    follow()
    made = [one for one in maker(datastore).make() if one.campaign == campaign]
    told = [
        [lines_of(one)[name] for name in ("day", "issued", "outstanding", "redeemed", "refunded")]
        for one in made
    ]
    assert told == [
        ["2026-05-01", "2", "2", "0", "0"],
        ["2026-05-02", "3", "2", "1", "0"],
        ["2026-05-03", "3", "3", "0", "1"],
        ["2026-05-06", "3", "2", "1", "1"],
    ]
    last = lines_of(made[-1])
    assert (last["state"], last["over_issued"], last["quota"]) == ("closed", "no", "8")
    assert int(last["reclaimed_minor"]) == 4_000 - 3 * 500
    assert last["until"] == "2026-05-06T16:00:00Z"
    assert findings(datastore) == []


def test_proofs_are_a_chain(desk: Desk, datastore: Datastore, follow: Callable[[], object]) -> None:
    """Each names the hash of the one before; anybody sees that without the events."""
    campaign = three_days(desk)
    follow()
    list(maker(datastore).make())
    notes = [one.note for one in stored(datastore) if one.campaign == campaign]
    previous = "none"
    for note in notes:
        text = parse_note(note).text
        assert Statement.parse(text).lines["previous"] == previous
        previous = sha256(text.encode()).hexdigest()
    assert list(check_notes(notes, KEYS)) == []
    assert [one.code for one in check_notes(notes[::-1], KEYS)] == ["daily_chain_broken"] * 3
    assert {one.code for one in check_notes(notes, [KEY.verifier])} == {"daily_signature_broken"}


def test_a_day_is_proved_when_it_is_over_and_under_a_served_head(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """Not before an event of a later time, and not beyond what the log serves."""
    campaign = desk.opened(terms=terms_of(**WIDE))
    claim(desk, campaign, 1, NOON)
    follow()
    assert list(maker(datastore).make()) == []
    claim(desk, campaign, 2, NOON + 2 * DAY)
    assert [one.day for one in maker(datastore).make()] == [date(2026, 5, 1), date(2026, 5, 2)]
    claim(desk, campaign, 3, NOON + 3 * DAY)
    claim(desk, campaign, 4, NOON + 4 * DAY)
    assert list(maker(datastore).make()) == []
    follow()
    assert [one.day for one in maker(datastore).make()] == [date(2026, 5, 3), date(2026, 5, 4)]


def test_by_the_databases_clock_a_day_ends_without_an_event(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """The clock is past it and no commit is under way: so many days as have gone by."""
    opened_days_ago(desk, 2)
    follow()
    made = list(maker(datastore, simulated=False).make())
    assert made[-1].end.until <= datetime.now(UTC) < made[-1].end.until + DAY
    assert lines_of(made[-1])["issued"] == "1"
    assert findings(datastore) == []


def test_a_commit_that_is_under_way_is_waited_for(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """Whoever holds the book's head may still write an event of the day."""
    opened_days_ago(desk, 2)
    follow()
    made: list[DailyProof] = []
    work = threading.Thread(
        target=lambda: made.extend(maker(datastore, simulated=False).make()), daemon=True
    )
    with datastore.transaction() as curs:
        curs.execute("SELECT FROM book_head WHERE book = 'main' FOR UPDATE")
        work.start()
        work.join(0.3)
        assert made == []
    work.join(20)
    assert made


def test_days_are_those_of_the_campaigns_zone(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """Two campaigns of one book, whose days end at other instants."""
    there = desk.opened(terms=terms_of(**WIDE, zone="America/New_York"), key="there")
    here = desk.opened(terms=terms_of(**WIDE), key="here")
    for campaign in (here, there):
        claim(desk, campaign, 1, NOON)
        claim(desk, campaign, 2, NOON + 2 * DAY)
    follow()
    made = {(one.campaign, one.day): lines_of(one)["until"] for one in maker(datastore).make()}
    assert made[here, date(2026, 5, 1)] == "2026-05-01T16:00:00Z"
    assert made[there, date(2026, 5, 1)] == "2026-05-02T04:00:00Z"
    assert findings(datastore) == []


def test_restocked_coupons_do_not_count_as_over_issued(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """More were claimed than the quota, and never more at once."""
    campaign = desk.opened(quota=1, terms=terms_of(**WIDE, restock=True))
    coupon = claim(desk, campaign, 1, NOON)
    void = c.VoidCoupon(desk.book, coupon, "lost")
    assert desk.send(void, ALICE, at=NOON).code == "voided"
    claim(desk, campaign, 2, NOON)
    claim_later = desk.opened(terms=terms_of(**WIDE), key="later")
    claim(desk, claim_later, 1, NOON + DAY)
    follow()
    told = lines_of(next(maker(datastore).make()))
    assert (told["issued"], told["restocked"], told["quota"]) == ("2", "1", "1")
    assert told["over_issued"] == "no"


@given(
    st.integers(0, 10 * 365 * 24 * 60).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    st.sampled_from(
        ["Asia/Shanghai", "America/New_York", "America/Sao_Paulo", "Pacific/Apia", "UTC"]
    ),
)
def test_days_follow_each_other_in_every_zone(instant: datetime, zone: str) -> None:
    """Each ends after 22 to 26 hours, where clocks change as well, and at no other instant."""
    first = midnight_after(instant, zone)
    second = midnight_after(first, zone)
    assert timedelta(hours=22) <= second - first <= timedelta(hours=26)
    assert is_midnight(first, zone)
    assert not is_midnight(first + timedelta(hours=1), zone)


def test_the_sums_are_those_of_the_campaign_figures(desk: Desk, datastore: Datastore) -> None:
    """At the end of a book in which everything happens to coupons: figure by figure."""
    tell(desk)
    runner = Runner(datastore, CAMPAIGN_FIGURES, BOOK, "test")
    while runner.run_once():
        pass
    days, fold = Days(datastore, BOOK, simulated=True), Fold(BOOK)
    end = days.position_at(NOON + DAY)
    assert end
    with datastore.transaction() as curs:
        book = store.book_end(curs, BOOK)
        assert book is not None
        days.feed(fold, 0, book.position)
        for name, sums in fold.campaigns.items():
            row = campaign_figures(curs, BOOK, UUID(name))
            assert row is not None
            shown = row._asdict()
            assert sums.sums == {figure: shown[figure] for figure in sums.sums}
            assert (sums.state, sums.quota) == (row.state, row.quota)
            assert sums.budget_minor == row.budget_minor
    assert len(fold.campaigns) == 2


# --- made once ----------------------------------------------------------------------------------


def test_whoever_makes_them_and_whenever_the_bytes_are_the_same(
    desk: Desk, datastore: Datastore, follow: Callable[[], object], database_url: str
) -> None:
    """Day by day by two makers in turn, or all at once later: equal to the byte."""
    campaign = desk.opened(terms=terms_of(**WIDE))
    for number in range(1, 5):
        claim(desk, campaign, number, NOON + number * DAY)
        follow()
        list(maker(datastore, f"maker {number % 2}").make())
    before = stored(datastore)
    with as_owner(database_url) as curs:
        curs.execute("DELETE FROM daily_proof; DELETE FROM daily_head")
    assert list(maker(datastore).make())
    assert stored(datastore) == before
    assert list(maker(datastore).make()) == []


def test_one_maker_at_a_time(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """A second one is kept away; one that slept is refused, and a day has one proof for ever."""
    three_days(desk)
    follow()
    slow = maker(datastore, "slow").make()
    next(slow)
    with pytest.raises(Held):
        next(maker(datastore, "other").make())
    expired = maker(datastore, "sleeper", ttl_s=0)
    with suppress(Held):
        next(expired.make())
    list(slow)
    sleeper = maker(datastore, "sleeper", ttl_s=0).make()
    list(maker(datastore, "late", ttl_s=0).make())
    assert list(sleeper) == []
    one = stored(datastore)[0]
    with pytest.raises(IntegrityError), datastore.transaction() as curs:
        store.insert(curs, BOOK, [(one, parse_note(one.note))])
    with pytest.raises(psycopg2.errors.InsufficientPrivilege), as_app(datastore) as curs:
        curs.execute("DELETE FROM daily_proof")


def test_a_maker_that_lost_the_fence_keeps_nothing(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """What it had under way is rolled back."""
    three_days(desk)
    follow()
    first = maker(datastore, "first", ttl_s=0).make()
    next(first)
    list(maker(datastore, "second", ttl_s=0).make())
    count = len(stored(datastore))
    with pytest.raises(Lost):
        list(first)
    assert len(stored(datastore)) == count


def test_without_fence_and_key_a_day_has_two_proofs(
    desk: Desk,
    datastore: Datastore,
    follow: Callable[[], object],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: without the fence the key keeps the second out, and without both it comes in."""
    three_days(desk)
    follow()
    monkeypatch.setattr(store, "advance", lambda *_: None)
    first = maker(datastore, "first", ttl_s=0).make()
    one = next(first)
    with pytest.raises(IntegrityError):
        next(maker(datastore, "second", ttl_s=0).make())
    with as_owner(database_url) as curs:
        curs.execute("ALTER TABLE daily_proof DROP CONSTRAINT daily_proof_pkey")
    next(maker(datastore, "third", ttl_s=0).make())
    again = [each for each in stored(datastore) if (each.campaign, each.day) == one[:2]]
    assert len(again) == 2


def as_app(datastore: Datastore) -> Any:
    """A transaction in the application's role, with the driver's own errors."""
    from contextlib import closing, contextmanager

    @contextmanager
    def begun() -> Iterator[Any]:
        with closing(datastore.connect()) as connection, connection.cursor() as curs:
            yield curs

    return begun()


# --- what is meddled with -----------------------------------------------------------------------


def resign(url: str, campaign: UUID, day: str, old: str, new: str, *, sign: bool = True) -> None:
    """Write another proof in place of one, signed with the same key if the forger has it."""
    with as_owner(url) as curs:
        place = (campaign.hex, day)
        curs.execute("SELECT note FROM daily_proof WHERE campaign = %s AND day = %s", place)
        note = parse_note(bytes(curs.fetchone()[0]))
        assert old in note.text, note.text
        text = note.text.replace(old, new)
        forged = signed_note(text, [SIGNER]) if sign else note._replace(text=text)
        curs.execute(
            "UPDATE daily_proof SET note = %s, sha256 = %s WHERE campaign = %s AND day = %s",
            (forged.encode(), sha256(text.encode()).digest(), *place),
        )


def test_every_meddling_is_named(
    desk: Desk, datastore: Datastore, follow: Callable[[], object], database_url: str
) -> None:
    """A figure, a checkpoint, a chain, a signature, a day that is gone: by campaign, day, line."""
    campaign = three_days(desk)
    follow()
    list(maker(datastore).make())
    days = [lines_of(one)["day"] for one in stored(datastore) if one.campaign == campaign]
    where = f"{campaign.hex} {days[0]}"
    root = lines_of(next(one for one in stored(datastore) if one.campaign == campaign))["root"]
    shown = set()
    for old, new, signed, expected in (
        ("issued 2\n", "issued 1\n", True, [("daily_figure_differs", f"{where} issued")]),
        (root, "A" * 43 + "=", True, [("daily_checkpoint_differs", f"{where} root")]),
        ("previous none", "previous 00", True, [("daily_chain_broken", f"{where} previous")]),
        (
            "outstanding 2\n", "outstanding 1\n", False,
            [("daily_signature_broken", where), ("daily_figure_differs", f"{where} outstanding")],
        ),
    ):  # fmt: skip
        resign(database_url, campaign, days[0], old, new, sign=signed)
        assert findings(datastore) == expected
        resign(database_url, campaign, days[0], new, old)
        shown |= {code for code, _ in expected}
    assert findings(datastore) == []
    with as_owner(database_url) as curs:
        curs.execute("DELETE FROM daily_proof WHERE day = %s", (days[1],))
        curs.execute("UPDATE daily_proof SET day = '2020-01-01' WHERE day = %s", (days[2],))
    left = findings(datastore)
    assert left == [
        ("daily_missing", f"{campaign.hex} {days[1]}"),
        ("daily_missing", f"{campaign.hex} {days[2]}"),
        ("daily_unexpected", f"{campaign.hex} 2020-01-01"),
    ]
    shown |= {code for code, _ in left}
    assert shown | {"daily_over_issued"} == set(DAILY_CODES)


def test_over_issue_is_shown_by_the_proof_of_the_day(
    desk: Desk, datastore: Datastore, follow: Callable[[], object]
) -> None:
    """With the guards of the store taken away more is issued, and the proof says so itself."""
    campaign = desk.opened(quota=1, terms=terms_of(**WIDE))
    claim(desk, campaign, 1, NOON)
    events = "INSERT INTO event SELECT book, position + 1, gen_random_uuid(), 1, topic, state FROM"
    with datastore.transaction() as curs:
        curs.execute(f"{events} event WHERE topic = 'coupon.claimed'")
        curs.execute("UPDATE book_head SET position = position + 1")
    later = desk.opened(terms=terms_of(**WIDE), key="later")
    claim(desk, later, 1, NOON + DAY)
    follow()
    told = lines_of(next(maker(datastore).make()))
    assert (told["issued"], told["quota"], told["over_issued"]) == ("2", "1", "yes")
    assert [code for code, _ in findings(datastore)] == ["daily_over_issued"]
    assert not Capacity(issued=2, quota=1).within_bounds
    note = stored(datastore)[0].note
    assert [one.code for one in check_notes([note], KEYS)] == ["daily_over_issued"]
