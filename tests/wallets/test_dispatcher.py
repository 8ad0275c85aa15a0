"""The dispatcher, step by step and against an operator that misbehaves.

Goal: each packet event moves its money at the operator once, in order, whatever goes wrong in
between. Method: a real operator over HTTP that is told to fail, and a clock that the test moves.
"""

from __future__ import annotations

from typing import get_args

import pytest

from api.sandbox.faults import FaultKind
from campaigns.packets.packet import PacketWalletClosed
from campaigns.wallets.instructions import NEXT, State
from tests.wallets.harness import FACE, Town

SPOILT: tuple[FaultKind, ...] = get_args(FaultKind)


def test_each_packet_event_becomes_one_instruction(town: Town) -> None:
    """Claim, payment, refund and expiry move money once each, under the event's number."""
    town.claim(1)
    assert town.pay(1, 5_000, "a") == "paid"
    assert town.refund(1, "a", 2_000) == "refunded"
    assert town.expire(1) == "expired"
    dispatcher = town.dispatcher()
    town.quiet(dispatcher)
    rows = town.rows()
    assert [(row.instruction.kind, row.instruction.amount_minor) for row in rows] == [
        ("credit", FACE),
        ("debit", 5_000),
        ("credit", 2_000),
        ("debit", FACE - 3_000),
    ]
    assert town.lines() == [
        (row.instruction.number, row.instruction.kind, row.instruction.amount_minor) for row in rows
    ]
    assert all(row.instruction.number == f"main:{row.position}" for row in rows)
    assert set(town.states()) == {"done"}
    assert town.balance(1) == 0


def test_a_payment_without_packet_money_asks_for_nothing(town: Town) -> None:
    """An empty packet ends without an instruction, and a late refund goes past the wallet."""
    town.claim(1)
    assert town.pay(1, FACE + 500, "a") == "paid"
    assert town.close_wallet(1) == "wallet_closed"
    assert town.refund(1, "a") == "refunded"
    town.quiet(town.dispatcher())
    assert [row.instruction.amount_minor for row in town.rows()] == [FACE, FACE]
    assert town.balance(1) == 0


def test_it_is_written_as_sent_before_it_is_sent(town: Town) -> None:
    """What the store says while the operator is being asked is `sent`, on disk."""
    town.claim(1)
    dispatcher = town.dispatcher()
    dispatcher._hold()
    dispatcher.follow()
    assert town.states() == ["due"]
    [row] = dispatcher.take(town.clock())
    assert row.state == "due"
    assert town.states() == ["sent"]
    assert town.lines() == []


@pytest.mark.parametrize("fault", SPOILT)
def test_a_spoilt_call_is_done_once(town: Town, fault: FaultKind) -> None:
    """However the first call went wrong, the money moves once and the journal says so."""
    town.claim(1)
    town.spoil(fault=fault, seconds=0.4)
    dispatcher = town.dispatcher(timeout_s=0.2 if fault in ("delay", "late") else 5.0)
    dispatcher.run_once()
    assert town.states() == (["done"] if fault == "twice" else ["unknown"])
    town.quiet(dispatcher)
    assert town.states() == ["done"]
    assert town.lines() == [(town.rows()[0].instruction.number, "credit", FACE)]


def test_nonsense_is_never_believed(town: Town) -> None:
    """Whatever is answered that is no answer leaves the outcome unknown, for calls and look-ups."""
    town.claim(1)
    town.spoil(fault="nonsense", calls=1)
    town.spoil(fault="nonsense", calls=12, on="look_up")
    dispatcher = town.dispatcher()
    for failures in range(1, 13):
        dispatcher.run_once()
        [row] = town.rows()
        assert (row.state, row.failures) == ("unknown", failures)
        town.clock.move(61)
    town.quiet(dispatcher)
    assert town.states() == ["done"]
    assert len(town.lines()) == 1


def test_an_unknown_one_is_asked_for_and_not_sent(town: Town) -> None:
    """After an answer that was lost the operator is asked for the number, and nothing is sent."""
    town.claim(1)
    town.spoil(fault="cut_after")
    dispatcher = town.dispatcher()
    dispatcher.run_once()
    town.spoil(fault="fail_before", calls=1_000)  # any sending would be spoilt
    town.clock.move(61)
    dispatcher.run_once()
    assert town.states() == ["done"]
    assert town.rows()[0].attempts == 1


def test_pauses_grow_up_to_a_bound(town: Town) -> None:
    """Each failure doubles the pause, and a try comes not a moment earlier."""
    town.claim(1)
    town.spoil(fault="cut_before", calls=1)
    town.spoil(fault="fail_before", calls=1_000, on="look_up")
    dispatcher = town.dispatcher()
    dispatcher.run_once()
    pauses = []
    for _ in range(8):
        spoilt, waited = town.service.faults.spoilt, 0.0
        while town.service.faults.spoilt == spoilt:
            town.clock.move(1)
            waited += 1
            dispatcher.run_once()
        pauses.append(waited)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_order_of_a_wallet_is_kept(town: Town) -> None:
    """While a credit is unknown the payments behind it wait, and other wallets do not."""
    town.claim(1)
    assert town.pay(1, 700, "a") == "paid"
    assert town.pay(1, 800, "b") == "paid"
    town.claim(2)
    town.spoil(fault="fail_before", wallet=town.wallet(1))
    dispatcher = town.dispatcher()
    dispatcher.run_once()
    assert town.states() == ["unknown", "due", "due", "done"]
    town.quiet(dispatcher)
    numbers = [number for number, _, _ in town.lines()]
    first = [row.instruction.number for row in town.rows()[:3]]
    assert [number for number in numbers if number in first] == first


def test_without_the_order_a_payment_is_refused(town: Town) -> None:
    """Planted bug: the order of a wallet is not kept. A payment comes before its credit."""
    from api.wallets import journal

    town.claim(1)
    assert town.pay(1, 700, "a") == "paid"
    town.spoil(fault="fail_before", wallet=town.wallet(1))
    start = journal._READY.index("    AND NOT EXISTS")
    end = journal._READY.index("ORDER BY")
    kept, journal._READY = journal._READY, journal._READY[:start] + journal._READY[end:]  # type: ignore[misc]
    try:
        town.quiet(town.dispatcher(batch=1))
    finally:
        journal._READY = kept  # type: ignore[misc]
    assert town.states() == ["done", "refused"]
    assert town.rows()[1].code == "insufficient_funds"


def test_an_operator_that_is_away_is_left_alone(town: Town) -> None:
    """A long absence costs few calls, loses nothing, and ends by itself."""
    for n in range(1, 9):
        town.claim(n)
    dispatcher = town.dispatcher(url="http://127.0.0.1:9", batch=2)
    for _ in range(30):
        dispatcher.run_once()
        town.clock.move(61)
    assert set(town.states()) == {"due"}
    dispatcher.release()
    town.quiet(town.dispatcher())
    assert set(town.states()) == {"done"}
    assert len(town.lines()) == 8


def test_one_wallet_without_answers_does_not_hold_up_others(town: Town) -> None:
    """An operator that chokes on one wallet goes on serving the rest."""
    town.claim(1)
    town.spoil(fault="fail_before", calls=100, wallet=town.wallet(1))
    town.spoil(fault="fail_before", calls=100, on="look_up")
    dispatcher = town.dispatcher()
    for _ in range(10):
        dispatcher.run_once()
        town.clock.move(61)
    town.claim(2)
    dispatcher.run_once()
    assert town.states() == ["unknown", "done"]


def test_a_closed_wallet_sends_the_money_back(town: Town) -> None:
    """A refused credit ends the packets of that wallet, and both sides stand at nothing."""
    town.claim(1)
    dispatcher = town.dispatcher()
    town.quiet(dispatcher)
    town.holder_closes(1)
    assert town.pay(1, 300, "a") == "paid"
    town.quiet(dispatcher)
    assert [event.TOPIC for event in town.desk.events()][-1] == "packet.wallet_closed"
    assert town.states() == ["done", "refused", "refused"]
    assert town.balance(1) == 0
    assert town.pay(1, 300, "b") == "packet_closed"


def test_a_credit_of_a_closed_wallet_is_never_spent(town: Town) -> None:
    """A person whose wallet is closed claims: the money goes back at once."""
    town.ask(lambda operator: operator.open(town.wallet(1), "CNY"))
    town.holder_closes(1)
    town.claim(1)
    town.quiet(town.dispatcher())
    event = town.desk.events()[-1]
    assert isinstance(event, PacketWalletClosed)
    assert event.amount_minor == FACE
    assert event.by.role == "dispatcher"
    assert town.balance(1) == 0


def test_a_refusal_is_told_even_after_a_crash(town: Town) -> None:
    """Between the refusal and the ledger's answer nothing is forgotten, and twice is once."""
    town.ask(lambda operator: operator.open(town.wallet(1), "CNY"))
    town.holder_closes(1)
    town.claim(1)
    first = town.dispatcher()
    first._hold()
    first.follow()
    first.dispatch()
    assert town.states() == ["refused"]
    first._desk.wallet_closed(town.packet(1), "main:1")  # told, and then killed before the mark
    first.release()
    town.quiet(town.dispatcher("two"))
    closings = [e for e in town.desk.events() if e.TOPIC == "packet.wallet_closed"]
    assert len(closings) == 1


def test_what_is_final_stays(town: Town) -> None:
    """The journal itself refuses to change a done or refused row, and the content of any."""
    from eventsourcing.persistence import IntegrityError

    town.claim(1)
    town.quiet(town.dispatcher())
    for change in ("state = 'due'", "amount_minor = 1", "wallet = 'other'"):
        with pytest.raises(IntegrityError), town.datastore.transaction() as curs:
            curs.execute(f"UPDATE wallet_journal.instruction SET {change}")


def test_every_state_is_left_or_final() -> None:
    """The table of states names each, and only the final ones have no way out."""
    assert set(NEXT) == set(get_args(State))
    assert {state for state, after in NEXT.items() if not after} == {"done", "refused"}
