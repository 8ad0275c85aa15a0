"""The reconciliation of operator, journal and ledger, with every difference planted once.

Goal: agreement is said only where all three agree to the fen, and each way of not agreeing has its
name. Method: a real history, then one thing changed behind everybody's back.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from api.wallets.reconciling import Reconciled, reconcile
from campaigns.wallets.reconciliation import RECONCILIATION_CODES
from ledger.verification import Finding
from tests.wallets.harness import FACE, Town


def compared(town: Town) -> tuple[Reconciled, list[Finding]]:
    """Compare all sides."""

    async def main() -> Reconciled:
        operator = town.operator()
        try:
            return await reconcile(town.datastore, ["main"], operator, town.names)
        finally:
            await operator.hang_up()

    found = asyncio.run(main())
    return found, list(found.findings)


def codes(town: Town) -> Counter[str]:
    """The codes of all differences."""
    return Counter(one.code for one in compared(town)[1])


@pytest.fixture
def told(town: Town) -> Town:
    """Two people, payments and a refund, all done; a wallet that was closed; nothing open."""
    for n in (1, 2, 3):
        town.claim(n)
    assert town.pay(1, 5_000, "a") == "paid"
    assert town.refund(1, "a", 2_000) == "refunded"
    assert town.pay(2, 300, "b") == "paid"
    dispatcher = town.dispatcher()
    town.quiet(dispatcher)
    town.holder_closes(3)
    assert town.pay(3, 400, "c") == "paid"
    town.quiet(dispatcher)
    return town


def at_the_operator(town: Town, statement: str) -> None:
    """Change the operator's store behind its back."""
    path = Path(town.service.store._path)
    with sqlite3.connect(path, timeout=10) as db:
        db.executescript(f"DROP INDEX IF EXISTS entry_once; {statement};")
    db.close()


def in_the_journal(town: Town, statement: str) -> None:
    """Change the journal as only the database's owner could."""
    import psycopg2

    connection = psycopg2.connect(town.datastore.url)
    with connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE wallet_journal.instruction DISABLE TRIGGER keep_final")
        cursor.execute(statement)
    connection.close()


def number(town: Town, index: int) -> str:
    """The number of a row of the journal."""
    return town.rows()[index].instruction.number


def position(town: Town, index: int) -> int:
    """The position of a row of the journal."""
    return town.rows()[index].position


def test_all_sides_agree_after_quiet(told: Town) -> None:
    """Balances, sums and every line agree, a closed wallet included."""
    found, differences = compared(told)
    assert differences == []
    here, there = found.sums.ledger, found.sums.operator
    assert here.balance_minor == there.balance_minor == 2 * FACE - 3_000 - 300
    assert (found.sums.journal.credits, there.credits, there.closings) == (4, 4, 1)
    assert (found.sums.open, found.sums.refused) == (0, 2)


def test_work_under_way_is_no_difference(told: Town) -> None:
    """What is due, sent or unknown is counted, and said to be neither missing nor wrong."""
    told.claim(4)
    told.claim(5)
    told.spoil(fault="cut_after", calls=2)
    dispatcher = told.dispatcher()
    dispatcher.run_once()
    assert told.pay(4, 100, "d") == "paid"
    dispatcher.follow()
    found, differences = compared(told)
    assert differences == []
    assert found.sums.open == 3


def test_what_the_dispatcher_has_not_read_is_no_difference(told: Town) -> None:
    """The ledger is read as far as the journal stands for it."""
    told.claim(4)
    assert codes(told) == Counter()


Plant = Callable[[Town], object]

AT_THE_OPERATOR: dict[str, tuple[str, Counter[str]]] = {
    "a line is lost": (
        "DELETE FROM entry WHERE number = '{one}'",
        Counter(missing_there=1, statement_sum=1, balance=1),
    ),
    "a line of nobody's": (
        (
            "INSERT INTO entry SELECT NULL, 'main:99999', wallet, 'credit', 0, balance_minor,"
            " currency, at FROM entry WHERE number = '{two}' "
        ),
        Counter(missing_here=1),
    ),
    "a line twice": (
        (
            "INSERT INTO entry SELECT NULL, number, wallet, kind, amount_minor,"
            " balance_minor - amount_minor, currency, at FROM entry WHERE number = '{two}';"
            "UPDATE wallet SET balance_minor = balance_minor - 300"
            " WHERE wallet = (SELECT wallet FROM entry WHERE number = '{two}')"
        ),
        Counter(doubled=1, balance=1),
    ),
    "another amount": (
        (
            "UPDATE entry SET amount_minor = amount_minor + 1, balance_minor = balance_minor - 1"
            " WHERE number = '{two}';"
            "UPDATE wallet SET balance_minor = balance_minor - 1"
            " WHERE wallet = (SELECT wallet FROM entry WHERE number = '{two}')"
        ),
        Counter(other_amount=1, balance=1),
    ),
    "another balance": (
        (
            "UPDATE wallet SET balance_minor = balance_minor + 1"
            " WHERE wallet = (SELECT wallet FROM entry WHERE number = '{two}')"
        ),
        Counter(balance=2),
    ),
    "a line that does not add up": (
        "UPDATE entry SET balance_minor = balance_minor + 1 WHERE number = '{two}'",
        Counter(statement_sum=1),
    ),
}


@pytest.mark.parametrize("name", AT_THE_OPERATOR)
def test_a_difference_at_the_operator_is_named(told: Town, name: str) -> None:
    """Whatever the operator lost, added, doubled or changed has its own name."""
    statement, expected = AT_THE_OPERATOR[name]
    at_the_operator(told, statement.format(one=number(told, 0), two=number(told, 5)))
    assert codes(told) == expected


IN_THE_JOURNAL: dict[str, tuple[str, Counter[str]]] = {
    "a row is lost": (
        "DELETE FROM {table} WHERE position = {two}",
        Counter(missing_here=1, not_ordered=1),
    ),
    "a row of no event": (
        (
            "INSERT INTO {table} SELECT book, 1, operator, wallet, packet, kind, amount_minor,"
            " currency, 'done', NULL, 1, 0, ordered_at, due_at FROM {table} WHERE position = {two}"
        ),
        Counter(ordered_for_nothing=1, missing_there=1),
    ),
    "another amount": (
        "UPDATE {table} SET amount_minor = 1 WHERE position = {two}",
        Counter(other_order=1, other_amount=1),
    ),
    "done, but never sent": (
        "UPDATE {table} SET attempts = 0 WHERE position = {two}",
        Counter(done_there=1),
    ),
    "refused, but done": (
        "UPDATE {table} SET state = 'refused', code = 'wallet_closed' WHERE position = {two}",
        Counter(done_there=1),
    ),
    "refused for another reason": (
        "UPDATE {table} SET state = 'refused', code = 'over_limit' WHERE position = {two}",
        Counter(done_there=1, refused=1),
    ),
    "due at somebody else": (
        "UPDATE {table} SET state = 'due', operator = 'gone' WHERE position = {two}",
        Counter(other_operator=1),
    ),
}


@pytest.mark.parametrize("name", IN_THE_JOURNAL)
def test_a_difference_in_the_journal_is_named(told: Town, name: str) -> None:
    """Whatever the journal lost, made up or changed has its own name."""
    statement, expected = IN_THE_JOURNAL[name]
    table = "wallet_journal.instruction"
    in_the_journal(told, statement.format(table=table, two=position(told, 5)))
    assert codes(told) == expected


def test_a_wallet_that_was_closed_there_is_named(told: Town) -> None:
    """A holder who closed the wallet, of which the ledger has not heard."""
    told.holder_closes(1)
    [difference] = compared(told)[1]
    assert difference.code == "closed_there"
    assert difference.found == str(FACE - 3_000)


def test_every_code_is_shown_here() -> None:
    """No difference has a name that nothing was ever seen to cause."""
    shown = {code for _, expected in AT_THE_OPERATOR.values() for code in expected}
    shown |= {code for _, expected in IN_THE_JOURNAL.values() for code in expected}
    assert shown | {"closed_there"} == set(RECONCILIATION_CODES)
