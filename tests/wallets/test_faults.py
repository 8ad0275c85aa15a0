"""Kills, doubles and absences between ledger and operator (F30, F33, F35, F40).

Goal: after quiet both sides agree to the fen, whoever was killed at whatever step. Method: real
processes that get SIGKILL, real HTTP; each guard is taken away once, and then they do not agree.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from eventsourcing.persistence import IntegrityError
from msgspec.structs import replace

from api.sandbox.store import Order, Reply, Store
from api.wallets import journal
from api.wallets.dispatcher import Dispatcher
from api.wallets.journal import Ordered, Row
from campaigns.wallets.instructions import Step, after_sending
from campaigns.wallets.port import Instruction
from ledger.datastore import Datastore
from projections.lease import LeaseHeld, LeaseLost
from projections.reading import Page
from tests.conftest import free_port, wait_until
from tests.projections.helpers import UnfencedLease
from tests.wallets.harness import FACE, KEY, Town
from tests.wallets.harness import town as make_town
from tests.wallets.killed import STEPS
from tests.wallets.test_reconciliation import codes, compared, in_the_journal


def assert_agreed(town: Town, *credited: int) -> None:
    """Everything is final, each credit is there once, and no difference is found."""
    assert set(town.states()) == {"done"}
    assert [amount for _, kind, amount in town.lines() if kind == "credit"] == list(credited)
    assert compared(town)[1] == []


def kill_at(town: Town, step: str) -> None:
    """Let a dispatcher run in a process of its own until it kills itself at a step."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.wallets.killed", town.datastore.url, town.url, step],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.fault
@pytest.mark.parametrize("step", STEPS)
def test_a_dispatcher_is_killed_at_a_step_of_a_credit(town: Town, step: str) -> None:
    """Its successor finds what was under way, and the packet is credited once."""
    town.claim(1)
    kill_at(town, step)
    left = {"before the order is committed": [], "before it is written as sent": ["due"]}
    assert town.states() == left.get(step, ["sent"])
    with pytest.raises(LeaseHeld):
        town.dispatcher("too early").run_once()
    town.expire_lease()
    town.quiet(town.dispatcher("successor"))
    assert_agreed(town, FACE)


@pytest.mark.fault
@pytest.mark.parametrize("step", STEPS)
def test_a_dispatcher_is_killed_at_a_step_of_a_debit(town: Town, step: str) -> None:
    """A payment takes from the wallet once, a refund gives back once, whoever died in between."""
    town.claim(1)
    first = town.dispatcher("first")
    town.quiet(first)
    first.release()
    assert town.pay(1, 500, "a") == "paid"
    kill_at(town, step)
    town.expire_lease()
    assert town.refund(1, "a", 300) == "refunded"
    kill_at(town, step)
    town.expire_lease()
    town.quiet(town.dispatcher("successor"))
    moved = [(kind, amount) for _, kind, amount in town.lines() if kind != "open"]
    assert moved == [("credit", FACE), ("debit", 500), ("credit", 300)]
    assert set(town.states()) == {"done"}
    assert compared(town)[1] == []


class Blind(Dispatcher):
    """Planted bug: what has no answer is sent again under a number of its own."""

    async def carry_out(self, row: Row) -> Step:
        """Send, whatever the state."""
        number = f"{row.instruction.number}.{row.attempts + row.failures}"
        renamed = row._replace(instruction=_renumbered(row, number), state="due")
        return after_sending(await self._send(renamed))


def _renumbered(row: Row, number: str) -> Instruction:
    return replace(row.instruction, number=number)


@pytest.mark.fault
def test_without_asking_by_number_a_credit_is_doubled(town: Town) -> None:
    """Planted bug: a killed dispatcher's credit is repeated blindly. The reconciliation is red."""
    town.claim(1)
    kill_at(town, "after sending")
    town.expire_lease()
    town.quiet(town.dispatcher("blind", kind=Blind))
    assert [amount for _, _, amount in town.lines()] == [FACE, FACE]
    assert codes(town)["missing_here"] == 1
    assert codes(town)["balance"] == 1


class TwoCommits(Dispatcher):
    """Planted bug: the tracking is committed by itself, before the rows."""

    def write(self, page: Page, found: Sequence[Ordered]) -> None:
        """Die between the two."""
        super().write(page, [])
        raise InterruptedError


def test_tracking_and_rows_in_two_transactions_lose_an_instruction(town: Town) -> None:
    """Planted bug: a kill between the two. The packet is never credited, and it is noticed."""
    town.claim(1)
    with pytest.raises(InterruptedError):
        town.dispatcher("planted", kind=TwoCommits).run_once()
    town.expire_lease()
    town.quiet(town.dispatcher("successor"))
    assert town.lines() == []
    assert codes(town) == {"not_ordered": 1, "balance": 1}


class ForgetfulStore(Store):
    """Planted bug: an operator that keeps no numbers."""

    def instruct(self, db: sqlite3.Connection, number: str, order: Order) -> Reply:
        """Carry out an order as often as it comes."""
        db.execute("DROP INDEX IF EXISTS entry_once")
        return self._carry_out(db, number, order)


def test_an_operator_without_numbers_is_found_out(datastore: Datastore, tmp_path: Path) -> None:
    """Planted bug: the operator forgets what it did. The doubled credit has a name."""
    with make_town(datastore, tmp_path, ForgetfulStore) as town:
        town.claim(1)
        town.spoil(fault="cut_after")
        town.quiet(town.dispatcher())
        assert [amount for _, _, amount in town.lines()] == [FACE, FACE]
        assert codes(town) == {"doubled": 1, "balance": 1}


def frozen_with_a_credit(town: Town) -> tuple[Dispatcher, Row]:
    """A dispatcher that has written a credit as sent, and then sleeps beyond its lease."""
    first = town.dispatcher("first")
    first._hold()
    first.follow()
    [row] = first.take(town.clock())
    town.expire_lease()
    return first, row


def test_a_frozen_dispatcher_wakes_too_late(town: Town) -> None:
    """Its copy arrives after everything was done by another; it cannot write down anything."""
    town.claim(1)
    first, row = frozen_with_a_credit(town)
    town.quiet(town.dispatcher("second"))
    assert town.pay(1, 500, "a") == "paid"
    town.quiet(town.dispatcher("second"))
    results = first._loop.run(first._carry_out_all([row]))
    assert results[0].step.state == "done"
    with pytest.raises(LeaseLost):
        first.record(results)
    assert_agreed(town, FACE)


def test_without_the_fence_the_journal_still_refuses(town: Town) -> None:
    """Planted bug: the lease is not fenced. A late «unknown» meets a final row, twice guarded."""
    town.claim(1)
    first, row = frozen_with_a_credit(town)
    town.quiet(town.dispatcher("second"))
    first.lease = UnfencedLease("wallet_dispatcher", "main", "first")
    late = [journal.Result(row, Step("unknown"), town.clock())]
    with pytest.raises(AssertionError, match="nothing final is changed"):
        first.record(late)
    kept = journal._BECOMES
    journal._BECOMES = kept.replace(" AND i.state IN ('sent', 'unknown')", "")  # type: ignore[misc]
    try:
        with pytest.raises(IntegrityError, match="is final"):
            first.record(late)
        in_the_journal(town, "SELECT")
        first.record(late)
    finally:
        journal._BECOMES = kept  # type: ignore[misc]
    assert town.states() == ["unknown"], "without all three what was done is open again"


def test_two_dispatchers_take_turns(town: Town) -> None:
    """One works and the other stands by; when the first lets go the second goes on."""
    first, second = town.dispatcher("first"), town.dispatcher("second")
    town.claim(1)
    assert first.run_once()
    with pytest.raises(LeaseHeld):
        second.run_once()
    town.claim(2)
    first.release()
    town.quiet(second)
    assert_agreed(town, FACE, FACE)


def test_a_late_first_copy_changes_nothing(town: Town) -> None:
    """A call that the operator carries out long after it was said to know nothing of it."""
    town.claim(1)
    town.spoil(fault="late", seconds=0.6)
    dispatcher = town.dispatcher(timeout_s=0.2)
    dispatcher.run_once()
    assert town.states() == ["unknown"]
    town.clock.move(61)
    dispatcher.run_once()
    assert town.states() == ["due"], "the operator had nothing of this number"
    dispatcher.run_once()
    assert town.states() == ["done"]
    wait_until(lambda: not town.service.under_way)  # the late copy has been carried out as well
    assert_agreed(town, FACE)


class Sandbox:
    """The sandbox operator as its own process, on one port and one file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file = home / "sandbox-operator" / "store.sqlite"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEBOOK_")}
        environment |= {
            "TIDEBOOK_HOME": str(self.home),
            "TIDEBOOK_WALLET_OPERATOR_KEY": KEY.hex(),
        }
        argv = [sys.executable, "-m", "api.cli", "sandbox", "--port", str(self.port)]
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"The sandbox operator listens")
        return process

    def kill(self) -> None:
        """Kill it at once."""
        self.process.kill()
        self.process.communicate()

    def restart(self) -> None:
        """Start it again on what it had."""
        self.process = self._start()

    def lines(self) -> int:
        """How many lines its file has."""
        with sqlite3.connect(self.file, timeout=10) as db:
            (count,) = db.execute("SELECT count(*) FROM entry").fetchone()
        db.close()
        return int(count)


@pytest.mark.fault
def test_the_operator_is_killed_between_doing_and_answering(town: Town, tmp_path: Path) -> None:
    """The credit is on its disk and nobody was told; asked by number, it says so."""
    import threading

    sandbox = Sandbox(tmp_path)
    try:
        town.url = sandbox.url
        town.claim(1)
        plan = b'[{"fault": "delay", "seconds": 60}]'
        town.ask(lambda operator: operator.control("POST", "faults", plan))
        dispatcher = town.dispatcher(timeout_s=30)
        sending = threading.Thread(target=dispatcher.run_once)
        sending.start()
        wait_until(lambda: sandbox.lines() == 1)
        assert town.states() == ["sent"]
        sandbox.kill()
        sending.join(30)
        assert town.states() == ["unknown"]
        for _ in range(5):  # it is away for long
            town.clock.move(61)
            dispatcher.run_once()
        assert town.states() == ["unknown"]
        sandbox.restart()
        town.quiet(dispatcher)
        assert_agreed(town, FACE)
        assert town.rows()[0].attempts == 1
        sandbox.process.send_signal(signal.SIGTERM)
        assert sandbox.process.wait(30) == 0
        assert not (tmp_path / "sandbox-operator" / "address").exists()
    finally:
        sandbox.kill()
