"""Upkeep: asks in the system's name, in whatever time counts, and waits while the store is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest

from api.upkeep import PAUSE_S, Troubled, Upkeep, again_and_again
from campaigns.commands import ExpireCoupon
from ledger.datastore import Datastore
from ledger.events import Actor
from ledger.history import Standing
from ledger.requests import CommitError
from tests.support.desk import NOON, Desk, person
from tests.support.story import AFTER_VALIDITY

LOG = logging.getLogger("tidebook.test")
ACTOR = Actor("sweeper", "system")


@pytest.fixture
def desk(datastore: Datastore) -> Iterator[Desk]:
    """A desk on a fresh book."""
    desk = Desk(datastore)
    yield desk
    desk.close()


class Patience(threading.Event):
    """An event that remembers for how long it was waited for, and is set after so many waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self._waits = waits
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Remember the pause instead of making it."""
        self.waited.append(timeout or 0.0)
        if len(self.waited) == self._waits:
            self.set()
        return self.is_set()


def waits_after(*outcomes: Exception | None) -> list[float]:
    """The pauses of somebody whose looks end like this, one after the other; polls take 7 s."""
    left = list(outcomes)
    extra = sum(isinstance(one, Troubled) for one in outcomes)
    stop = Patience(len(outcomes) + extra)

    def look() -> None:
        outcome = left.pop(0)
        if outcome is not None:
            raise outcome

    again_and_again(look, stop, 7.0, "it is put off", LOG)
    assert left == []
    return stop.waited


def test_a_store_that_is_away_is_waited_out_longer_and_longer() -> None:
    """Up to the longest pause, and from the first one again once it was there."""
    away = [CommitError()] * 8
    pauses = [min(PAUSE_S[0] * 2**n, PAUSE_S[1]) for n in range(8)]
    assert waits_after(*away, None, CommitError()) == [*pauses, 7.0, PAUSE_S[0]]


def test_who_is_in_trouble_says_so_and_looks_again_later(caplog: pytest.LogCaptureFixture) -> None:
    """Its words are in the log, without where they came from."""
    assert waits_after(Troubled("the key is another"), None) == [PAUSE_S[1], 7.0, 7.0]
    [record] = caplog.records
    assert (record.message, record.levelname, record.exc_info) == (
        "the key is another",
        "ERROR",
        None,
    )


def test_what_nobody_foresaw_ends_it() -> None:
    """It is not for upkeep to say that it does not matter."""
    with pytest.raises(ZeroDivisionError):
        waits_after(ZeroDivisionError())


def test_in_simulated_time_it_is_the_time_of_the_last_event(datastore: Datastore) -> None:
    """Unless an instant is given; the database's clock counts in no ledger of simulated time."""
    desk = Desk(datastore)
    later = NOON + timedelta(hours=1)
    simulated = Upkeep(datastore, desk.writer, ACTOR, "look", by_the_book=True)
    real = Upkeep(datastore, desk.writer, ACTOR, "look")
    told = Standing(1, NOON, 1)
    desk.close()
    assert (simulated.instant(None, told), simulated.instant(later, told)) == (NOON, later)
    assert (real.instant(None, told), real.instant(later, told)) == (None, later)
    assert real.now(later) == later
    assert real.now(None) <= real.now(None)


def test_answers_come_in_order_under_one_id(desk: Desk, datastore: Datastore) -> None:
    """The events name the system, and the request by its errand."""
    campaign = desk.opened(quota=2)
    coupons = [desk.claimed(campaign, person(n)) for n in range(2)]
    upkeep = Upkeep(datastore, desk.writer, ACTOR, "look", new_id=lambda: "7")
    commands = [ExpireCoupon(desk.book, one) for one in (*coupons, coupons[0])]
    answers = upkeep.ask(commands, AFTER_VALIDITY)
    assert [answer.code for answer in answers] == ["expired", "expired", "not_held"]
    told = [(event.by, event.why.request) for event in desk.events()][-2:]
    assert told == [(ACTOR, "look-7")] * 2
