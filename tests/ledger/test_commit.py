"""Group commit: every request on its own, answered once committed, exactly once by its key."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from msgspec.structs import replace

from campaigns.commands import ClaimCoupon, PauseCampaign, RedeemCoupon, RefundCoupon, VoidCoupon
from campaigns.coupon import coupon_id
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
from ledger.events import Actor
from ledger.money import Money
from tests.conftest import wait_until
from tests.support.damage import damaged
from tests.support.desk import ALICE, NOON, Desk, person, terms_of, tourist
from tests.support.proxy import END_OF_COPY, Proxy

MALL = Actor("merchant", "mall")


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


@pytest.mark.parametrize("word", [b"COPY idempotency", b"COPY event", END_OF_COPY])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_write_with_a_kept_reply_is_resolved_too(
    datastore: Datastore, database_url: str, word: bytes, when: str
) -> None:
    """Where reply and events go by two copies, a cut at either leaves one effect and one answer."""
    proxy = Proxy(database_url)
    desk = Desk(Datastore(proxy.url))
    campaign = desk.opened(quota=5)
    proxy.cut_once(word, when)
    pause = PauseCampaign(desk.book, campaign, "rain")
    answer = desk.send(pause, ALICE, "key")
    desk.close()
    proxy.close()
    assert (answer.code, answer.replayed) == ("paused", False)
    direct = Desk(datastore)
    assert direct.send(pause, ALICE, "key") == answer._replace(replayed=True)
    assert [event.TOPIC for event in direct.events()].count("campaign.paused") == 1
    direct.close()


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


def test_a_writer_comes_back_within_a_bounded_pause() -> None:
    """It tries again soon and then less often, so that a store that recovers can do that."""
    pauses = list(islice(Limits().pauses_s(), 20))
    assert pauses[:4] == [0.05, 0.1, 0.2, 0.2]
    assert max(pauses) == 0.2
    assert sum(pauses) > Limits().retry_for_s


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


# The event as the record of its request


def rows_of(desk: Desk, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return what a query on the store finds."""
    with desk.datastore.transaction() as cursor:
        cursor.execute(query, parameters)
        return list(cursor.fetchall())


def test_a_claim_keeps_no_reply_and_is_told_again(desk: Desk, datastore: Datastore) -> None:
    """A retry, in this process or another, gets code, bytes and position of the first answer."""
    campaign = desk.opened(quota=5)
    first = desk.claim(campaign, person(1), "key")
    kept = rows_of(desk, "SELECT code FROM idempotency WHERE scope LIKE 'tourist:%%'")
    assert kept == []
    other = Desk(datastore)
    for writer in (desk, other):
        assert writer.claim(campaign, person(1), "key") == first._replace(replayed=True)
    other.close()
    assert desk.capacity(campaign)[0] == 1
    stored = rows_of(desk, "SELECT position, request FROM event WHERE request IS NOT NULL")
    mark = appending.request_id(f"tourist:{person(1)}", "key")
    assert stored == [(first.position, UUID(bytes=mark))]


def test_a_redemption_keeps_no_reply_and_is_told_again(desk: Desk) -> None:
    """Its event is its record, whatever became of the coupon since; its key is good for no more."""
    campaign = desk.opened(quota=5)
    coupon, other = (desk.claimed(campaign, person(n)) for n in (1, 2))
    desk.claim(campaign, person(4), "claim")
    total = Money(9_000, "CNY")
    redeem = RedeemCoupon(desk.book, coupon, "mall", None, "order", total)
    first = desk.send(redeem, MALL, "key")
    assert (first.code, first.replayed) == ("redeemed", False)
    assert rows_of(desk, "SELECT code FROM idempotency WHERE scope LIKE 'merchant:%%'") == []
    refund = RefundCoupon(desk.book, coupon, "mall", "order", "returned")
    assert desk.send(refund, MALL).code == "refunded"
    assert desk.send(redeem, MALL, "key") == first._replace(replayed=True)
    with pytest.raises(KeyReused):
        desk.send(
            RedeemCoupon(desk.book, other, "mall", None, "order", total),
            MALL,
            "key",
            fingerprint=b"other",
        )
    with pytest.raises(KeyReused):
        desk.send(ClaimCoupon(desk.book, campaign, person(3)), MALL, "key")
    with pytest.raises(KeyReused):
        desk.send(redeem, tourist(person(4)), "claim")


def test_a_retry_tells_what_was_true_then(desk: Desk) -> None:
    """Whatever became of the coupon since, the first reply does not change."""
    campaign = desk.opened(quota=5)
    first = desk.claim(campaign, person(1), "key")
    coupon = coupon_id(campaign, person(1), 1)
    assert desk.send(VoidCoupon(desk.book, coupon, "lost"), ALICE).code == "voided"
    assert desk.claim(campaign, person(1), "key") == first._replace(replayed=True)


def test_the_key_of_a_claim_is_good_for_nothing_else(desk: Desk) -> None:
    """Not even with the same fingerprint; and a key of anything else not for a claim."""
    campaign = desk.opened(quota=5)
    who = tourist(person(1))
    desk.claim(campaign, person(1), "claim")
    coupon = coupon_id(campaign, person(1), 1)
    with pytest.raises(KeyReused):
        desk.send(VoidCoupon(desk.book, coupon, "lost"), who, "claim")
    with pytest.raises(KeyReused):
        desk.claim(campaign, person(1), "claim", fingerprint=b"another")
    void = desk.send(VoidCoupon(desk.book, coupon, "lost"), who, "void", fingerprint=b"void")
    assert void.code == "voided"
    with pytest.raises(KeyReused):
        desk.claim(campaign, person(1), "void")


def test_a_request_of_somebody_elses_is_never_told(
    desk: Desk, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a damaged store a retry gets an error, and not the reply to another request."""
    campaign = desk.opened(quota=5)
    desk.claim(campaign, person(1), "key")
    mark = appending.request_id(f"tourist:{person(2)}", "key").hex()
    with damaged(database_url) as damage:
        damage.run("UPDATE event SET request = %s WHERE topic = 'coupon.claimed'", mark)
    with pytest.raises(AssertionError, match="another request"):
        desk.claim(campaign, person(2), "key")
    assert "a decision of main failed" in caplog.text


def test_a_claim_of_before_is_answered_with_what_was_kept(desk: Desk, database_url: str) -> None:
    """A store from before has claims with kept replies and no request; their keys still answer."""
    campaign = desk.opened(quota=5)
    first = desk.claim(campaign, person(1), "key")
    as_before(database_url, f"tourist:{person(1)}", "key", first)
    assert desk.claim(campaign, person(1), "key") == first._replace(replayed=True)
    with pytest.raises(KeyReused):
        desk.claim(campaign, person(1), "key", fingerprint=b"other")
    assert desk.capacity(campaign)[0] == 1


def as_before(database_url: str, scope: str, key: str, answer: Answer) -> None:
    """Make the one claim of a book one of before events were records: its reply is kept instead."""
    with damaged(database_url) as damage:
        damage.run("UPDATE event SET request = NULL")
        damage.run(
            "INSERT INTO idempotency (book, scope, key, fingerprint, code, body, position)"
            " VALUES ({book}, %s, %s, %s, %s, %s, %s)",
            *(scope, key, b"same", answer.code, answer.body, answer.position),
        )


def test_a_request_is_recorded_once(desk: Desk, database_url: str) -> None:
    """Were the lock to fail, the index would not let a second event have the same request."""
    assert add_twice(desk, database_url) == "event_request"


def test_without_the_index_a_request_is_recorded_twice(desk: Desk, database_url: str) -> None:
    """Control: nothing else in the store refuses the second event of a request."""
    with damaged(database_url) as damage:
        damage.run("DROP INDEX event_request")
    assert add_twice(desk, database_url) is None


def add_twice(desk: Desk, database_url: str) -> str | None:
    """Copy a claim to the end of the book; return the name of the constraint that forbids it."""
    campaign = desk.opened(quota=5)
    desk.claim(campaign, person(1), "key")
    with damaged(database_url) as damage:
        try:
            damage.run(
                "INSERT INTO event SELECT book, position + 1, gen_random_uuid(),"
                " originator_version, topic, state, request FROM event WHERE request IS NOT NULL"
            )
        except psycopg2.errors.UniqueViolation as refused:
            damage.cursor.connection.rollback()
            return refused.diag.constraint_name
    return None


def test_what_cannot_be_told_again_is_not_its_own_record(desk: Desk) -> None:
    """A decision that says so without a way to tell it, or with no event, is a bug."""
    forgetful = Request(
        lambda _: Verdict("claimed", b"", own_record=True), scope="x", key="k", fingerprint=b"f"
    )
    with pytest.raises(AssertionError, match="can be told again"):
        desk.writer.submit(forgetful).result(20)


# What a batch costs


def test_a_batch_is_two_round_trips(datastore: Datastore, database_url: str) -> None:
    """Lock and read, then write and commit: nobody waits for the network more often than that."""
    proxy = Proxy(database_url)
    desk = Desk(Datastore(proxy.url))
    campaign = desk.opened(quota=50)
    with head_held(database_url):
        taken = [
            desk.submit(ClaimCoupon(desk.book, campaign, person(n)), tourist(person(n)))
            for n in range(30)
        ]
        seen: list[bytes] = []
        proxy.cut = seen.append
    assert {future.result(20).code for future in taken} == {"claimed"}
    desk.close()
    proxy.close()
    asked = [data for data in seen if data[:1] == b"Q"]
    assert len([data for data in asked if b"BEGIN" in data]) <= 2, "one batch, or two"
    assert all(b"tidebook_look" in data or b"COMMIT" in data for data in asked)
    assert not any(b"BEGIN" in data and b"COMMIT" in data for data in asked)


def batches_of_a_rush(desk: Desk, database_url: str) -> int:
    """Somebody waits for the lock, twenty others come: return how many batches that makes."""
    campaign = desk.opened(quota=50)
    other = Desk(Datastore(database_url))
    other.claim(campaign, person(98))
    desk.claim(campaign, person(99))  # sees that somebody else writes to the book
    before = desk.writer.committed_batches

    def press(n: int) -> Future[Answer]:
        return desk.submit(ClaimCoupon(desk.book, campaign, person(n)), tourist(person(n)))

    with head_held(database_url):
        first = press(0)
        wait_until(lambda: waiting_for_a_lock(database_url) == 1)
        taken = [first, *map(press, range(1, 21))]
    assert {future.result(20).code for future in taken} == {"claimed"}
    other.close()
    desk.close()
    return desk.writer.committed_batches - before


def waiting_for_a_lock(database_url: str) -> int:
    """How many connections of this database wait for a lock."""
    connection = psycopg2.connect(database_url)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        [(count,)] = cursor.fetchall()
    connection.close()
    return int(count)


def test_who_comes_while_the_lock_is_waited_for_is_in_the_batch(
    desk: Desk, database_url: str
) -> None:
    """Where others write to the book, the batch is taken once the lock was got."""
    assert batches_of_a_rush(desk, database_url) == 1


def test_a_batch_taken_before_the_lock_leaves_them_behind(
    desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a writer that takes nobody after the lock needs a second batch."""
    monkeypatch.setattr(desk.writer, "_more", lambda _: [])
    assert batches_of_a_rush(desk, database_url) == 2


def test_what_streams_tell_is_read_at_once(
    desk: Desk, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redemptions of coupons of many campaigns read all these campaigns in one further look."""
    campaigns = [desk.opened(quota=5, key=f"campaign-{n}") for n in range(5)]
    coupons = [desk.claimed(campaign, person(1)) for campaign in campaigns]
    looks: list[int] = []
    look = session.Session.look

    def counted(self: session.Session, book: str, wanted: session.Wanted) -> Any:
        looks.append(len(wanted.streams))
        return look(self, book, wanted)

    monkeypatch.setattr(session.Session, "look", counted)
    total = Money(9_000, "CNY")
    with head_held(database_url):
        first = desk.writer.submit(Request(lambda _: Verdict("ok", b"")))
        taken = [
            desk.submit(RedeemCoupon(desk.book, coupon, "mall", None, "o", total), MALL)
            for coupon in coupons
        ]
    assert first.result(20).code == "ok"
    assert {future.result(20).code for future in taken} == {"redeemed"}
    assert sum(looks) == 5
    assert len(looks) <= 2, "one batch, or two"


def test_what_a_failed_decision_wrote_is_taken_back(desk: Desk, database_url: str) -> None:
    """Neither its event nor its stock is seen by the next decision of the same batch."""
    campaign = desk.opened(quota=1)
    pool = (campaign, "all")
    claim = ClaimCoupon(desk.book, campaign, person(1))
    request = claim.request(desk.call(tourist(person(1)), "bad"))

    def greedy(view: View) -> Verdict:
        granted = request.decide(view)
        twice = [*granted.capacity, (pool, appending.Capacity(issued=1))]
        return replace(granted, capacity=twice)

    with head_held(database_url):
        bad = desk.writer.submit(replace(request, decide=greedy))
        good = desk.submit(claim, tourist(person(1)), "good")
    with pytest.raises(AssertionError, match="out of bounds"):
        bad.result(20)
    assert good.result(20).code == "claimed"
    assert desk.capacity(campaign)[:3] == (1, 1, 500)


# Room in pools


class Listener:
    """Hears of room in pools, and looks what everybody else sees of the book then."""

    def __init__(self, database_url: str) -> None:
        self.heard: list[tuple[str, int, list[appending.PoolKey]]] = []
        self.positions: list[int] = []
        self._url = database_url

    def freeing(self, book: str, position: int, pools: Sequence[appending.PoolKey]) -> None:
        self.heard.append((book, position, list(pools)))
        connection = psycopg2.connect(self._url)
        with connection.cursor() as cursor:
            cursor.execute("SELECT position FROM tidebook.book_head")
            self.positions.append((cursor.fetchone() or (0,))[0])
        connection.close()
        raise ZeroDivisionError


def test_room_is_told_before_it_is_committed(datastore: Datastore, database_url: str) -> None:
    """More quota and ended coupons are told, claims are not; and an observer that fails is let."""
    listener = Listener(database_url)
    desk = Desk(datastore, observer=listener)
    campaign = desk.opened(quota=2, terms=terms_of(restock=True))
    pool = (campaign, "all")
    funded = desk.events()[-2].originator_version
    assert [pools for _, _, pools in listener.heard] == [[pool]], "the funding, which makes room"
    assert funded == 3
    desk.claimed(campaign, person(1))
    desk.claimed(campaign, person(2))
    assert len(listener.heard) == 1, "a claim takes room"
    before = len(desk.events())
    void = VoidCoupon(desk.book, coupon_id(campaign, person(1), 1), "lost")
    assert desk.send(void, ALICE).code == "voided"
    assert listener.heard[1] == ("main", before, [pool])
    assert listener.positions[1] == before, "nobody could see it yet"
    desk.close()
