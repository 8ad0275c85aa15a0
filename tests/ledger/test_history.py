"""Reading a book: in order, whole, by stream, up to an instant; and stopping where it must."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from campaigns.event_types import MAPPER
from ledger.appending import request_id
from ledger.datastore import Datastore
from ledger.events import UnknownEventType, UnreadableEvent, scope_of
from ledger.history import History, PositionGap, Standing, dense
from tests.support.damage import damaged
from tests.support.desk import NOON, Desk
from tests.support.story import AFTER_VALIDITY, Story, tell


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


@pytest.fixture
def story(desk: Desk) -> Story:
    """A book in which everything happened."""
    return tell(desk)


@pytest.fixture
def history(datastore: Datastore, story: Story) -> History:
    """The book, read in pages so small that most reads need several."""
    return History(datastore, "main", MAPPER, page_events=7)


def test_reads_every_event_in_order_over_many_pages(history: History, desk: Desk) -> None:
    """Pages join without a seam: the same events as one query gives."""
    read = list(history.events())
    assert [event for _, event in read] == desk.events()
    assert [position for position, _ in read] == list(range(1, history.head() + 1))


def test_stops_at_the_position_asked_for(history: History) -> None:
    """Reading up to a position yields exactly the events up to it."""
    for until in (0, 1, 7, 8, 14, 20):
        assert len(list(history.events(until))) == until
        assert len(list(history.entries(0, until))) == until
    assert [entry.position for entry in history.entries(6, 9)] == [7, 8, 9]


def test_entries_carry_the_stored_bytes(history: History, datastore: Datastore) -> None:
    """The bytes are those of the column, untouched."""
    with datastore.transaction() as cursor:
        cursor.execute("SELECT state FROM event WHERE book = 'main' ORDER BY position")
        stored = [bytes(state) for (state,) in cursor.fetchall()]
    assert [entry.state for entry in history.entries()] == stored


def test_reads_one_stream_up_to_a_position(history: History, story: Story) -> None:
    """A stream's events come in order of version, none after the position."""
    life = history.stream(story.used, history.head())
    assert [event.TOPIC for _, event in life] == [
        "coupon.claimed",
        "coupon.redeemed",
        "coupon.refunded",
        "coupon.redeemed",
    ]
    assert history.stream(story.used, life[2].position) == life[:3]
    assert history.stream(story.used, life[0].position - 1) == []


def test_finds_the_last_position_of_an_instant(history: History, desk: Desk) -> None:
    """For every instant around every event: the number of events at or before it."""
    instants = [event.at for event in desk.events()]
    for moment in {*instants, NOON - timedelta(days=1), AFTER_VALIDITY + timedelta(days=1)}:
        for shift in (-1, 0, 1):
            instant = moment + timedelta(microseconds=shift)
            assert history.position_at(instant) == sum(at <= instant for at in instants)


def test_an_unknown_book_is_empty(datastore: Datastore) -> None:
    """It has head 0, no events, no capacity and no replies."""
    history = History(datastore, "nobody", MAPPER)
    assert history.standing() == Standing()
    assert list(history.events()) == []
    assert list(history.replies()) == []
    assert history.position_at(NOON) == 0


def test_every_reply_comes_with_the_event_at_its_position(history: History) -> None:
    """Successes and refusals, in pages, each once."""
    joined = list(history.replies())
    replies = [reply for reply, _ in joined]
    assert len({(reply.scope, reply.key) for reply in replies}) == len(replies) > 12
    assert all(reply.head == history.head() for reply in replies)
    assert {reply.code for reply in replies} >= {"refunded", "limit_reached", "closed", "funded"}
    assert not {"claimed", "redeemed"} & {reply.code for reply in replies}, "their own records"
    assert all(entry is not None and entry.position == reply.position for reply, entry in joined)
    voided, event = next(pair for pair in joined if pair[0].code == "voided")
    assert event is not None
    assert event.topic == "coupon.voided"
    assert voided.body is not None
    assert history.reply_positions([(voided.scope, voided.key), ("no", "body")]) == {
        (voided.scope, voided.key): voided.position
    }
    some = list(history.replies({"closed"}))
    assert [reply[:6] for reply, _ in some] == [reply[:6] for reply in replies]
    assert {reply.code for reply, entry in some if entry is not None} == {"closed"}


def test_claims_and_redemptions_carry_the_ids_of_their_requests(history: History) -> None:
    """An event that is the record of its request says so, and no other event does."""
    for entry in history.entries():
        event = MAPPER.decode(entry.topic, entry.state, entry.stream, entry.version)
        if entry.topic in {"coupon.claimed", "coupon.redeemed"}:
            assert event.why.key is not None
            assert entry.request == request_id(scope_of(event), event.why.key)
        else:
            assert entry.request is None


@pytest.mark.parametrize("position", [1, 7, 8, -1])
def test_a_missing_position_stops_the_reader(
    history: History, database_url: str, position: int
) -> None:
    """At the start, at a page's edge or at the end: `PositionGap` names the position."""
    missing = position if position > 0 else history.head()
    with damaged(database_url) as damage:
        damage.run("DELETE FROM event WHERE book = {book} AND position = %s", missing)
    with pytest.raises(PositionGap, match=f"no position {missing}") as stopped:
        list(history.events())
    assert stopped.value.expected == missing


def test_positions_that_repeat_are_a_gap(history: History) -> None:
    """An export that holds an event twice is not dense."""
    first = next(history.entries())
    with pytest.raises(PositionGap, match="goes on with 1"):
        list(dense("main", [first, first], last=2))


def test_an_unknown_type_stops_the_reader(history: History, database_url: str) -> None:
    """Events before it are yielded, it is not skipped."""
    with damaged(database_url) as damage:
        damage.run("UPDATE event SET topic = 'coupon.eaten' WHERE book = {book} AND position = 9")
    reader = history.events()
    assert [next(reader).position for _ in range(8)] == list(range(1, 9))
    with pytest.raises(UnknownEventType, match=r"coupon\.eaten"):
        next(reader)


def test_bytes_that_do_not_decode_stop_the_reader(history: History, database_url: str) -> None:
    """Cut bytes are an error that names the stream."""
    with damaged(database_url) as damage:
        damage.run(
            "UPDATE event SET state = substr(state, 1, 40) WHERE book = {book} AND position = 9"
        )
    with pytest.raises(UnreadableEvent):
        list(history.events())
