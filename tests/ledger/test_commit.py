"""Group commit: every request on its own, answered once committed, exactly once by its key."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from campaigns.commands import ClaimCoupon
from ledger import appending, session
from ledger.commit import (
    Answer,
    Closed,
    KeyReused,
    Limits,
    OutcomeUnknown,
    QueueFull,
    Request,
    StoreUnavailable,
    Ticket,
    Verdict,
    View,
)
from ledger.datastore import Datastore
from tests.support.desk import NOON, Desk, person, tourist
from tests.support.proxy import END_OF_COPY, Proxy


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


@contextmanager
def head_held(database_url: str, book: str = "main") -> Iterator[Any]:
    """Hold the book's lock, so that requests pile up behind it."""
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        cursor.execute("SET search_path TO tidebook")
        appending.lock_head(cursor, book)
        yield
    connection.rollback()
    connection.close()


def broken(_: View) -> Verdict:
    """Decide with a bug."""
    raise ZeroDivisionError


def test_a_bug_in_one_decision_leaves_its_neighbours_alone(desk: Desk, database_url: str) -> None:
    """A request whose decision raises gets the error; those in the same batch get answers."""
    campaign = desk.opened(quota=3)
    with head_held(database_url):
        first = desk.submit(ClaimCoupon(desk.book, campaign, person(1)), tourist(person(1)))
        bad = desk.writer.submit(Request(broken, scope="x", key="bad"))
        last = desk.submit(ClaimCoupon(desk.book, campaign, person(2)), tourist(person(2)))
    assert first.result(20).code == last.result(20).code == "claimed"
    with pytest.raises(ZeroDivisionError):
        bad.result(20)
    assert desk.capacity(campaign)[0] == 2


def test_a_request_that_breaks_the_whole_batch_is_served_apart(
    desk: Desk, database_url: str
) -> None:
    """A key that PostgreSQL cannot hold fails its own request; its neighbours are committed."""
    campaign = desk.opened(quota=3)
    with head_held(database_url):
        first = desk.submit(ClaimCoupon(desk.book, campaign, person(1)), tourist(person(1)))
        bad = desk.writer.submit(Request(lambda _: Verdict("x", b""), scope="x", key="nul\0"))
        last = desk.submit(ClaimCoupon(desk.book, campaign, person(2)), tourist(person(2)))
    assert first.result(20).code == last.result(20).code == "claimed"
    with pytest.raises(ValueError, match="NUL"):
        bad.result(20)


def test_a_decision_out_of_bounds_is_refused_and_taken_back(desk: Desk) -> None:
    """A decision that over-issues is a bug: it fails before it is written, and leaves no trace."""
    campaign = desk.opened(quota=1)
    pool = (campaign, "all")

    def greedy(_: View) -> Verdict:
        return Verdict("claimed", b"", (), [(pool, appending.Capacity(issued=2))])

    with pytest.raises(AssertionError, match="out of bounds"):
        desk.writer.submit(Request(greedy, pools=(pool,), scope="x", key="k")).result(20)
    assert desk.claim(campaign, person(1)).code == "claimed"
    assert desk.capacity(campaign)[0] == 1


def test_twenty_copies_have_one_effect_and_equal_bytes(desk: Desk) -> None:
    """Copies of a request that arrive while it runs get its answer, marked as replays."""
    campaign = desk.opened(quota=5)
    claim = ClaimCoupon(desk.book, campaign, person(1))
    copies = [desk.submit(claim, tourist(person(1)), "one-key") for _ in range(20)]
    answers = [copy.result(20) for copy in copies]
    assert len({(answer.code, answer.body, answer.position) for answer in answers}) == 1
    assert [answer.replayed for answer in answers].count(False) == 1
    assert desk.capacity(campaign)[0] == 1


def test_a_refusal_is_final_for_its_key(desk: Desk) -> None:
    """A late copy of a refused request does not take effect when stock has come back."""
    campaign = desk.opened(quota=1)
    desk.claimed(campaign, person(1))
    refused = desk.claim(campaign, person(2), "late")
    desk.fund(campaign, 2, 1000, seen=(1, 500))
    again = desk.claim(campaign, person(2), "late")
    assert (refused.code, again.code) == ("sold_out", "sold_out")
    assert again.body == refused.body
    assert again.replayed
    assert desk.claim(campaign, person(2), "new").code == "claimed"


def test_a_key_with_another_request_is_refused(desk: Desk, database_url: str) -> None:
    """The same key with another fingerprint is refused, in flight and afterwards."""
    campaign = desk.opened()
    claim = ClaimCoupon(desk.book, campaign, person(1))
    with head_held(database_url):
        first = desk.submit(claim, tourist(person(1)), "key", fingerprint=b"one")
        with pytest.raises(KeyReused):
            desk.submit(claim, tourist(person(1)), "key", fingerprint=b"two")
    assert first.result(20).code == "claimed"
    with pytest.raises(KeyReused):
        desk.send(claim, tourist(person(1)), "key", fingerprint=b"two")


def test_keys_of_different_callers_do_not_meet(desk: Desk) -> None:
    """Two callers may use the same key for different requests."""
    campaign = desk.opened()
    assert desk.claim(campaign, person(1), "key", fingerprint=b"one").code == "claimed"
    assert desk.claim(campaign, person(2), "key", fingerprint=b"two").code == "claimed"


@pytest.mark.parametrize("word", [b"BEGIN", b"COPY event", END_OF_COPY])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_connection_is_resolved_by_reading_back(
    datastore: Datastore, database_url: str, word: bytes, when: str
) -> None:
    """Whether the cut falls before or after COMMIT arrives, the caller gets one true answer."""
    proxy = Proxy(database_url)
    desk = Desk(Datastore(proxy.url))
    campaign = desk.opened(quota=5)
    proxy.cut_once(word, when)
    answer = desk.claim(campaign, person(1), "key")
    desk.close()
    assert proxy.cuts == 1
    assert (answer.code, answer.replayed) == ("claimed", False)
    direct = Desk(datastore)
    assert direct.capacity(campaign)[0] == 1
    again = direct.claim(campaign, person(1), "key")
    assert again.body == answer.body
    direct.close()
    proxy.close()


def test_without_reading_back_a_lost_commit_is_answered_as_unknown(
    datastore: Datastore, database_url: str
) -> None:
    """Control: a writer that may not retry cannot tell, says so, and the key tells later."""
    proxy = Proxy(database_url)
    desk = Desk(Datastore(proxy.url), limits=Limits(retry_for_s=-1.0))
    campaign = desk.opened(quota=5)
    proxy.cut_once(END_OF_COPY, "after")
    with pytest.raises(OutcomeUnknown):
        desk.claim(campaign, person(1), "key")
    desk.close()
    direct = Desk(datastore)
    assert direct.capacity(campaign)[0] == 1, "it was committed although nobody heard of it"
    assert direct.claim(campaign, person(1), "key").replayed
    direct.close()
    proxy.close()


def test_a_store_that_is_away_is_said_to_be_away(database_url: str) -> None:
    """When no connection can be had, nothing was committed and the answer says so."""
    proxy = Proxy(database_url)
    desk = Desk(Datastore(proxy.url), limits=Limits(retry_for_s=0.2))
    campaign = desk.opened()
    proxy.cut = lambda _: "before"
    with pytest.raises(StoreUnavailable):
        desk.claim(campaign, person(1))
    proxy.cut = lambda _: None
    assert desk.claim(campaign, person(1)).code == "claimed"
    desk.close()
    proxy.close()


def test_a_full_queue_refuses_at_once(datastore: Datastore, database_url: str) -> None:
    """Beyond the bound a request is not taken on; those taken on are all answered."""
    desk = Desk(datastore, limits=Limits(queue_max=5, batch_max=1))
    campaign = desk.opened(quota=50)
    taken: list[Future[Answer]] = []

    def press(n: int) -> None:
        taken.append(desk.submit(ClaimCoupon(desk.book, campaign, person(n)), tourist(person(n))))

    with head_held(database_url), pytest.raises(QueueFull):
        deque(map(press, range(20)))
    assert 5 <= len(taken) <= 6
    assert {future.result(20).code for future in taken} == {"claimed"}
    desk.close()


def test_closing_finishes_what_has_queued(datastore: Datastore, database_url: str) -> None:
    """A shutdown answers everybody who was taken on, and takes on nobody else."""
    desk = Desk(datastore, limits=Limits(batch_max=7))
    campaign = desk.opened(quota=50)
    with head_held(database_url):
        taken = [
            desk.submit(ClaimCoupon(desk.book, campaign, person(n)), tourist(person(n)))
            for n in range(40)
        ]
    desk.close()
    assert Counter(future.result(0).code for future in taken) == {"claimed": 40}
    with pytest.raises(Closed):
        desk.claim(campaign, person(99))


def test_everybody_of_a_batch_is_told_in_one_turn_of_the_loop(
    desk: Desk, database_url: str
) -> None:
    """Callbacks run in the loop, a follower's too, and one that fails does not silence the next."""
    campaign = desk.opened(quota=9)
    told: list[tuple[str, bool, int]] = []
    turns: list[list[Ticket]] = []

    async def press() -> list[Ticket]:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def done(ticket: Ticket) -> None:
            answer = ticket.result()
            told.append((answer.code, answer.replayed, threading.get_ident()))
            if len(told) == 1:
                raise ZeroDivisionError
            if len(told) == 4:
                over.set()

        def queue(n: int) -> Ticket:
            who = person(n)
            call = desk.call(tourist(who), f"press-{n}")
            return desk.writer.queue(
                ClaimCoupon(desk.book, campaign, who).request(call), loop, done
            )

        once = loop.call_soon_threadsafe

        def call_soon_threadsafe(callback: Any, *arguments: Any) -> Any:
            if arguments and isinstance(arguments[0], list):
                turns.append(arguments[0])
            return once(callback, *arguments)

        loop.call_soon_threadsafe = call_soon_threadsafe  # type: ignore[assignment]
        with head_held(database_url):
            held = [queue(0)]  # whether alone in its batch or not
            await asyncio.sleep(0)
            queued = [queue(1), queue(2), queue(1)]
        await asyncio.wait_for(over.wait(), 20)
        return held + queued

    tickets = asyncio.run(press())
    assert [ticket.follows for ticket in tickets] == [False, False, False, True]
    assert [code for code, *_ in told] == ["claimed"] * 4
    assert sorted(replayed for _, replayed, _ in told) == [False, False, False, True]
    assert {thread for *_, thread in told} == {threading.get_ident()}
    assert len(turns) <= 2
    assert tickets[3].result()[:3] == tickets[1].result()[:3]


def test_two_writers_share_a_book(datastore: Datastore, database_url: str) -> None:
    """Writers of two processes take turns: positions stay dense and stock is never exceeded."""
    desks = [Desk(datastore, limits=Limits(batch_max=3)), Desk(Datastore(database_url))]
    campaign = desks[0].opened(quota=60)
    futures = [
        desks[n % 2].submit(ClaimCoupon(desks[0].book, campaign, person(n)), tourist(person(n)))
        for n in range(100)
    ]
    codes = Counter(future.result(20).code for future in futures)
    for desk in desks:
        desk.close()
    assert codes == {"claimed": 60, "sold_out": 40}
    assert sum(event.TOPIC == "coupon.claimed" for event in desks[0].events()) == 60
    assert desks[0].capacity(campaign)[0] == 60


def test_a_hundred_claims_for_the_last_coupon(datastore: Datastore, database_url: str) -> None:
    """Of a hundred people who press at once for one coupon, one gets it."""
    desks = [Desk(datastore), Desk(Datastore(database_url))]
    campaign = desks[0].opened(quota=1)
    with ThreadPoolExecutor(100) as pool:
        start = threading.Barrier(100)

        def press(n: int) -> str:
            start.wait(20)
            return desks[n % 2].claim(campaign, person(n), f"press-{n}").code

        codes = Counter(pool.map(press, range(100)))
    for desk in desks:
        desk.close()
    assert codes == {"claimed": 1, "sold_out": 99}


def test_without_the_guard_the_last_coupon_is_issued_twice(
    datastore: Datastore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with neither the head's lock nor the capacity row, two writers over-issue."""
    both_have_read = threading.Barrier(2)
    event_rows, capacity_statement = appending.event_rows, appending.capacity_statement

    def rows_anywhere(book: str, after: int, events: list[appending.NewEvent]) -> bytes:
        if events[0].topic == "coupon.claimed":
            both_have_read.wait(20)
            after = 1_000_000 + threading.get_ident() % 1_000_000_000
        return event_rows(book, after, events)

    def forgotten(cursor: Any, book: str, pools: dict[Any, appending.Capacity]) -> bytes:
        taken = any(capacity.issued for capacity in pools.values())
        return b"SELECT 1" if taken else capacity_statement(cursor, book, pools)

    monkeypatch.setattr(session, "LOCK", session.LOCK.removesuffix(" FOR UPDATE"))
    monkeypatch.setattr(appending, "event_rows", rows_anywhere)
    monkeypatch.setattr(appending, "capacity_statement", forgotten)
    desks = [Desk(datastore), Desk(Datastore(database_url))]
    campaign = desks[0].opened(quota=1)
    pressed = [
        desk.submit(ClaimCoupon(desk.book, campaign, person(n)), tourist(person(n)))
        for n, desk in enumerate(desks)
    ]
    codes = [future.result(20).code for future in pressed]
    for desk in desks:
        desk.close()
    assert codes == ["claimed", "claimed"], "the guard is what keeps this from happening"


def test_instants_never_run_backwards(desk: Desk) -> None:
    """An event is never stamped before the one in front of it, whatever the clock says."""
    campaign = desk.opened(quota=5)
    desk.claim(campaign, person(1), at=NOON + timedelta(hours=2))
    desk.claim(campaign, person(2), at=NOON)
    instants = [event.at for event in desk.events()]
    assert instants == sorted(instants)
    assert instants[-1] == NOON + timedelta(hours=2)


def test_events_say_who_and_why(desk: Desk) -> None:
    """Every event carries actor, request, idempotency key and fingerprint."""
    campaign = desk.opened()
    desk.claim(campaign, person(1), "my-key", fingerprint=b"\x01\x02")
    event = desk.events()[-1]
    assert event.by == tourist(person(1))
    assert event.why.request == "request-my-key"
    assert (event.why.key, event.why.fingerprint) == ("my-key", "0102")


@pytest.mark.parametrize("table", ["event", "idempotency"])
@pytest.mark.parametrize("change", ["UPDATE {} SET book = 'x'", "DELETE FROM {}", "TRUNCATE {}"])
def test_nobody_changes_what_is_stored(
    desk: Desk, database_url: str, table: str, change: str
) -> None:
    """The application's role may not, and the trigger stops the owner."""
    desk.opened()
    statement = change.format(f"tidebook.{table}")
    owner = psycopg2.connect(database_url)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append only"):
        owner.cursor().execute(statement)
    owner.close()
    application = desk.datastore.connect()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="permission denied"):
        application.cursor().execute(statement)
    application.close()


def test_a_campaign_that_nobody_knows_is_not_found(desk: Desk) -> None:
    """A claim for a campaign that does not exist is refused and writes nothing."""
    assert desk.claim(uuid4(), person(1)).code == "not_found"
    assert desk.events() == []


def test_a_keyless_request_leaves_no_reply(desk: Desk) -> None:
    """A request without a key is decided each time and has no idempotency row."""
    desk.drafted()
    asked = [desk.writer.submit(Request(lambda _: Verdict("ok", b""))).result(20) for _ in "ab"]
    assert [answer.replayed for answer in asked] == [False, False]
    with desk.datastore.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM idempotency WHERE scope = ''")
        assert cursor.fetchone() == (0,)
