"""The journal: balanced at every position, and equal to every other read model at any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns import accounting
from campaigns.coupon import CouponClaimed, CouponRedeemed
from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.events import Event
from ledger.history import History as Stored
from ledger.money import in_major_units
from ledger.postings import TrialBalance, transfer
from projections import journal
from projections import journal_reading as reading
from projections.journal import JOURNAL, JournalLoader
from projections.journal_export import (
    beancount_name,
    from_beancount_name,
    from_hledger_name,
    hledger_name,
)
from projections.rebuild import rebuild
from projections.registry import PROJECTIONS
from projections.runner import BatchSize, Runner
from tests.projections.conftest import FreshDatastore
from tests.projections.helpers import catch_up, rows_of
from tests.projections.histories import History, histories, small_history, store
from tests.support.desk import person
from tests.support.groups import NEXT_NOON, GroupDesk, packet_terms

QUICKLY = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def balances(curs: Any, book: str, at: int) -> dict[tuple[str, str], int]:
    """Every account's balance at a position, as the journal looks it up."""
    found = reading.accounts(curs, book, at, limit=10_000)
    return {(one.account, one.currency): one.balance_minor for one in found}


def by_kind(accounts: dict[tuple[str, str], int], kind: str) -> int:
    """What all accounts of a kind have."""
    return sum(amount for (name, _), amount in accounts.items() if name.startswith(f"{kind}:"))


# Every other read model's figure of a kind of account, or of single accounts of it.
_KINDS = {
    "holder": "SELECT coalesce(sum(face_minor), 0) FROM rm_wallets.coupon WHERE state = 'held'",
    "packet": "SELECT coalesce(sum(balance_minor), 0) FROM rm_packets.packet",
    "merchant": "SELECT coalesce(sum(balance_minor), 0) FROM rm_merchant_balances.merchant",
}
_MERCHANTS = (
    "SELECT 'merchant:' || merchant, currency, balance_minor FROM rm_merchant_balances.merchant"
)


def differences(curs: Any, at: int) -> list[str]:
    """Where the other read models, all at position `at`, do not say what the journal says."""
    accounts = balances(curs, "main", at)
    found = []
    for kind, query in _KINDS.items():
        curs.execute(query)
        (theirs,) = curs.fetchone()
        if theirs != by_kind(accounts, kind):
            found.append(f"{kind}: {theirs} and {by_kind(accounts, kind)}")
    curs.execute(_MERCHANTS)
    found += [
        f"{name}: {amount}"
        for name, currency, amount in curs.fetchall()
        if accounts.get((name, currency), 0) != amount
    ]
    return found


def stop_at(datastore: Datastore, at: int) -> None:
    """Run every read model to a position and no further."""
    for projection in PROJECTIONS if at else ():
        runner = Runner(datastore, projection, "main", "test")
        runner.batch_size = BatchSize(at, at)
        assert runner.run_once() == at
        with datastore.transaction() as curs:
            runner.lease.release(curs)


@QUICKLY
@given(history=histories(), data=st.data())
def test_it_agrees_with_every_read_model_anywhere(
    fresh_datastore: FreshDatastore, history: History, data: st.DataObject
) -> None:
    """Stopped at any position, all of them have the same money in the same places."""
    at = data.draw(st.integers(0, min(len(history.events), 40)), label="position")
    with fresh_datastore() as datastore:
        store(datastore, history)
        stop_at(datastore, at)
        with datastore.transaction() as curs:
            assert reading.shown_position(curs, "main") == at
            assert differences(curs, at) == []


@QUICKLY
@given(history=histories())
def test_it_is_balanced_at_every_position(
    fresh_datastore: FreshDatastore, history: History
) -> None:
    """Balances looked up are those folded; they sum to zero; the totals of kinds are theirs."""
    with fresh_datastore() as datastore:
        store(datastore, history)
        catch_up(datastore, JOURNAL)
        ledger = TrialBalance()
        with datastore.transaction() as curs:
            for at, event in enumerate(history.events, 1):
                ledger.post(accounting.postings_of(event))
                accounts = balances(curs, "main", at)
                assert accounts == dict(ledger.balances)
                assert sum(accounts.values()) == 0
                for one in reading.trial_balance(curs, "main", at):
                    assert one.balance_minor == by_kind(accounts, one.kind)


def test_blocks_add_up(datastore: Datastore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of three positions the totals are the same as with one block."""
    history = small_history()
    store(datastore, history)
    rebuild(datastore, JOURNAL)
    with datastore.transaction() as curs:
        whole = [reading.trial_balance(curs, "main", n) for n in range(len(history.events) + 1)]
    for module in (journal, reading):
        monkeypatch.setattr(module, "BLOCK_POSITIONS", 3)
    rebuild(datastore, JOURNAL)
    with datastore.transaction() as curs:
        assert whole == [
            reading.trial_balance(curs, "main", n) for n in range(len(history.events) + 1)
        ]


def test_each_events_lines_sum_to_zero_and_statements_end_with_the_balance(
    datastore: Datastore,
) -> None:
    """By event, by account, and line by line."""
    store(datastore, small_history())
    catch_up(datastore, JOURNAL)
    with datastore.transaction() as curs:
        curs.execute(
            "SELECT position FROM rm_journal.line GROUP BY 1 HAVING sum(amount_minor) <> 0"
        )
        assert curs.fetchall() == []
        for (account, currency), amount in balances(curs, "main", 10**9).items():
            lines = reading.statement(
                curs, "main", account, currency, after=(0, 0), until=10**9, limit=1_000
            )
            assert lines[-1].balance_minor == amount
            assert sum(one.amount_minor for one in lines) == amount


def test_accounts_put_aside_come_back(
    datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild that remembers two accounts makes the rows of one that remembers all."""
    store(datastore, small_history(coupons=30))
    catch_up(datastore, JOURNAL)
    right = rows_of(datastore, JOURNAL)
    monkeypatch.setattr("projections.rebuild.PAGE_EVENTS", 2)
    forgetful = JOURNAL.__class__(
        JOURNAL.name, JOURNAL.reads, JOURNAL.statements, JOURNAL.apply_rows,
        lambda: JournalLoader(accounts_max=2),
    )  # fmt: skip
    rebuild(datastore, forgetful)
    assert rows_of(datastore, JOURNAL) == right


@pytest.fixture
def groups(datastore: Datastore) -> Iterator[GroupDesk]:
    """A desk for group packets, on the same database."""
    desk = GroupDesk(datastore)
    yield desk
    desk.close()


def test_packets_purses_and_groups(datastore: Datastore, groups: GroupDesk) -> None:
    """What is read of events for the journal moves the money that the events move."""
    campaign = groups.opened(quota=50, budget_minor=5_000, terms=packet_terms())
    purse = groups.filled(campaign, 1_000)
    group = groups.sent(purse, 3, 300)
    for n in (1, 2):
        groups.take(group, person(n))
    groups.give_back(group, NEXT_NOON)
    catch_up(datastore)
    ledger = TrialBalance()
    for positioned in Stored(datastore, "main", MAPPER).events():
        ledger.post(accounting.postings_of(positioned.event))
    with datastore.transaction() as curs:
        accounts = balances(curs, "main", 10**9)
        assert accounts == dict(ledger.balances)
        assert {"purse", "group", "packet"} <= {name.split(":")[0] for name, _ in accounts}
        assert differences(curs, 10**9) == []


def _doubled(event: Any) -> accounting.Postings:
    source, target = accounting.holder_account(event.person), f"merchant:{event.merchant}"
    return transfer(source, target, 2 * event.discount_minor, event.currency)


def _kept(_event: Any) -> accounting.Postings:
    return ()


@pytest.mark.parametrize(("kind", "rule"), [(CouponRedeemed, _doubled), (CouponClaimed, _kept)])
def test_control_wrong_accounting_is_seen(
    datastore: Datastore,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Event],
    rule: Callable[[Any], accounting.Postings],
) -> None:
    """With a rule that posts the wrong amount, or nothing, the comparison is red."""
    store(datastore, small_history())
    monkeypatch.setitem(accounting._RULES, kind, rule)
    catch_up(datastore)
    with datastore.transaction() as curs:
        assert differences(curs, 10**9)


@given(
    st.sampled_from(reading.KINDS),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_names_come_back_from_other_tools(kind: str, name: str) -> None:
    """Any account's name is one of beancount and of hledger, and can be read back."""
    account = f"{kind}:{name}"
    assert from_beancount_name(beancount_name(account)) == account
    assert from_hledger_name(hledger_name(account)) == account


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (-123_450, "CNY", "-1,234.50"),
        (5, "CNY", "0.05"),
        (1_234, "JPY", "1,234"),
        (1, "KWD", "0.001"),
    ],
)
def test_amounts_as_people_write_them(amount_minor: int, currency: str, text: str) -> None:
    """The point is where the currency has it."""
    assert in_major_units(amount_minor, currency, ",") == text


def test_every_rule_finds_its_fields() -> None:
    """Nothing that money depends on is left out of what is read of an event."""
    totals: defaultdict[str, int] = defaultdict(int)
    for kind, view in journal._VIEWS.items():
        money = {name for name in kind.__struct_fields__ if name.endswith("_minor")}
        totals[kind.TOPIC] += len(money & set(view.__struct_fields__))
    assert all(totals.values())
