"""A random history of packets, faults, crashes and takeovers, then quiet (Hypothesis).

Goal: after quiet ledger, journal and operator agree to the fen, whatever happened in between.
Method: the real operator over HTTP, the real database, two dispatchers that lose their lease and
crash between any two steps; with one rule taken away the same search finds a difference.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from api.sandbox.store import Order, Reply, Store
from api.wallets.dispatcher import Dispatcher
from api.wallets.journal import Result, Row
from campaigns.wallets.instructions import Step
from ledger.datastore import Datastore
from projections.lease import LeaseHeld, LeaseLost
from projections.migrations import migrate
from tests.conftest import Databases
from tests.wallets.harness import Town
from tests.wallets.harness import town as make_town
from tests.wallets.test_reconciliation import compared

PEOPLE = (1, 2, 3)
WHO = st.sampled_from(PEOPLE)
CRASHES = ("sending", "answered", "recorded")


class Crashed(Exception):
    """A dispatcher ended here."""


class Crashing(Dispatcher):
    """Ends where it is told to, once."""

    crash: str | None = None

    async def carry_out(self, row: Row) -> Step:
        """Crash before or after the call."""
        self._crash("sending")
        step = await super().carry_out(row)
        self._crash("answered")
        return step

    def record(self, results: Any) -> None:
        """Crash after the commit."""
        super().record(results)
        self._crash("recorded")

    def _crash(self, where: str) -> None:
        if self.crash == where:
            self.crash = None
            raise Crashed


class Forgetful(Store):
    """Planted bug: the operator keeps no numbers."""

    def instruct(self, db: sqlite3.Connection, number: str, order: Order) -> Reply:
        """Carry it out again."""
        db.execute("DROP INDEX IF EXISTS entry_once")
        return self._carry_out(db, number, order)


class Hasty(Crashing):
    """Planted bug: what has no answer is taken for refused."""

    def record(self, results: Any) -> None:
        """Call the unknown refused."""
        super().record(
            [
                Result(row, Step("refused", "no_answer") if step.state == "unknown" else step, due)
                for row, step, due in results
            ]
        )


class Histories(RuleBasedStateMachine):
    """Steps that people, the operator and fate take."""

    databases: Databases
    kind: type[Crashing] = Crashing
    store: type[Store] = Store

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    @initialize()
    def begin(self) -> None:
        """A fresh ledger and a fresh operator."""
        url = self.stack.enter_context(self.databases.fresh())
        migrate(url)
        datastore = Datastore(url)
        self.stack.callback(datastore.close)
        folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.town: Town = self.stack.enter_context(make_town(datastore, Path(folder), self.store))
        self.dispatchers = [self._dispatcher("a"), self._dispatcher("b")]
        self.claimed: set[int] = set()
        self.orders = 0
        self.paid: list[tuple[int, str]] = []

    def _dispatcher(self, holder: str) -> Crashing:
        made = self.town.dispatcher(holder, kind=self.kind, timeout_s=0.5, batch=4)
        assert isinstance(made, Crashing)
        return made

    @precondition(lambda self: len(self.claimed) < len(PEOPLE))
    @rule()
    def claim(self) -> None:
        """Somebody new has a packet."""
        n = PEOPLE[len(self.claimed)]
        self.town.claim(n)
        self.claimed.add(n)

    @precondition(lambda self: self.claimed)
    @rule(who=WHO, amount=st.integers(1, 9_000))
    def pay(self, who: int, amount: int) -> None:
        """A payment, from a packet that may have ended."""
        if who in self.claimed:
            self.orders += 1
            order = f"o{self.orders}"
            if self.town.pay(who, amount, order) == "paid":
                self.paid.append((who, order))

    @precondition(lambda self: self.paid)
    @rule(data=st.data())
    def refund(self, data: st.DataObject) -> None:
        """A payment is given back."""
        who, order = self.paid.pop(data.draw(st.integers(0, len(self.paid) - 1)))
        assert self.town.refund(who, order) == "refunded"

    @precondition(lambda self: self.claimed)
    @rule(who=WHO, where=st.sampled_from(["ledger", "operator"]))
    def end(self, who: int, where: str) -> None:
        """A wallet is closed, and one side hears of it."""
        if where == "ledger" and who in self.claimed:
            self.town.close_wallet(who)
        elif where == "operator" and self.town.balance(who) is not None:
            self.town.holder_closes(who)

    @rule(
        fault=st.sampled_from(
            ["fail_before", "fail_after", "cut_before", "cut_after", "twice", "nonsense"]
        ),
        on=st.sampled_from(["instruct", "look_up"]),
        calls=st.integers(1, 3),
    )
    def spoil(self, fault: str, on: str, calls: int) -> None:
        """The operator is going to misbehave."""
        self.town.spoil(fault=fault, on=on, calls=calls)

    @rule(which=st.integers(0, 1), crash=st.sampled_from([None, None, *CRASHES]))
    def dispatch(self, which: int, crash: str | None) -> None:
        """One of the two works, and may end in the middle; somebody else begins in its place."""
        dispatcher = self.dispatchers[which]
        dispatcher.crash = crash
        try:
            with suppress(LeaseHeld, LeaseLost):
                dispatcher.run_once()
        except Crashed:
            self.dispatchers[which] = self._dispatcher(f"{which}-{len(self.town.started)}")
        dispatcher.crash = None

    @rule()
    def lose_lease(self) -> None:
        """Whoever worked was silent for too long."""
        self.town.expire_lease()

    @rule()
    def wait(self) -> None:
        """Pauses are over."""
        self.town.clock.move(61)

    def teardown(self) -> None:
        """Let it be quiet, and compare."""
        try:
            if hasattr(self, "town"):
                self.town.service.faults.clear()
                self.town.quiet(self._dispatcher("last"))
                left = [one for one in compared(self.town)[1] if one.code != "closed_there"]
                assert left == []
        finally:
            self.stack.close()


def run(databases: Databases, examples: int, **changes: Any) -> None:
    """Run histories."""
    machine = type("Histories", (Histories,), {"databases": databases, **changes})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


def test_both_sides_agree_after_any_history(databases: Databases) -> None:
    """Whatever people, operator and fate did, nothing is missing, doubled or open."""
    run(databases, 6)


@pytest.mark.parametrize(
    "planted", [{"store": Forgetful}, {"kind": Hasty}], ids=["forgetful", "hasty"]
)
def test_a_planted_bug_is_found(databases: Databases, planted: dict[str, Any]) -> None:
    """Control: the same search goes red when the operator keeps no numbers, or we guess."""
    with pytest.raises(AssertionError):
        run(databases, 12, **planted)
