"""The journal: balanced at every position, and equal to every other read model at any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaigns import accounting
from campaigns import commands as c
from campaigns.coupon import CouponClaimed, CouponRedeemed
from campaigns.event_types import MAPPER
from ledger.datastore import Datastore
from ledger.events import Event
from ledger.history import History as Stored
from ledger.money import Money, in_major_units
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
from tests.projections.test_packets import MALL, SWEEPER, Week
from tests.support.desk import ALICE, person
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
_SUMS = {
    ("holder", "packet"): "SELECT sum(held_minor) FROM rm_campaign_figures.campaign",
    ("merchant",): "SELECT sum(spent_minor) FROM rm_campaign_figures.campaign",
    ("purse", "group"): "SELECT sum(purses_minor) FROM rm_campaign_figures.campaign",
    ("campaign",): "SELECT sum(pot_minor) FROM rm_campaign_figures.campaign",
    ("sponsor",): """SELECT sum(rolled_in_minor + reclaimed_minor - funded_minor)
                     FROM rm_campaign_figures.campaign""",
    ("purse",): "SELECT sum(purses_minor) FROM rm_groups.campaign",
    ("group",): "SELECT sum(outstanding_minor) FROM rm_groups.campaign",
}
"""Kinds of accounts → what the figures say that they have together."""
_SINGLE = """
SELECT 'merchant:' || merchant, currency, balance_minor FROM rm_merchant_balances.merchant
UNION ALL SELECT 'campaign:' || replace(campaign::text, '-', ''), currency, pot_minor
    FROM rm_campaign_figures.campaign
UNION ALL SELECT 'purse:' || replace(purse::text, '-', ''), currency, balance_minor
    FROM rm_groups.purse
UNION ALL SELECT 'group:' || replace(group_id::text, '-', ''), currency, outstanding_minor
    FROM rm_groups.group_packet
UNION ALL SELECT 'packet:' || replace(packet::text, '-', ''), currency, balance_minor
    FROM rm_packets.packet
"""


def differences(curs: Any, at: int) -> list[str]:
    """Where the other read models, all at position `at`, do not say what the journal says."""
    accounts = balances(curs, "main", at)
    found = []
    for kind, query in _KINDS.items():
        curs.execute(query)
        (theirs,) = curs.fetchone()
        if theirs != by_kind(accounts, kind):
            found.append(f"{kind}: {theirs} and {by_kind(accounts, kind)}")
    for kinds, query in _SUMS.items():
        curs.execute(query)
        theirs, ours = curs.fetchone()[0] or 0, sum(by_kind(accounts, kind) for kind in kinds)
        if theirs != ours:
            found.append(f"{kinds}: {theirs} and {ours}")
    curs.execute(_SINGLE)
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


def test_a_book_of_everything_agrees_at_every_position(
    datastore: Datastore, groups: GroupDesk
) -> None:
    """Coupons, packets, purses, groups and rounds: after each decision all say the same.

    Some decisions are two events, for example a packet's claim and its place in a group; between
    these the money has left one stream and not reached the other.
    """
    everything(groups)
    events = groups.events()
    kinds, halfway = set(), 0
    for at, (event, following) in enumerate(zip(events, [*events[1:], None], strict=True), 1):
        step(datastore)
        with datastore.transaction() as curs:
            assert reading.shown_position(curs, "main") == at
            if following is not None and following.why == event.why:
                halfway += 1
            else:
                assert differences(curs, at) == []
            kinds |= {name.split(":")[0] for name, _ in balances(curs, "main", at)}
    assert kinds == set(reading.KINDS)
    assert 0 < halfway < at / 4


def everything(desk: GroupDesk) -> None:
    """Let everything happen that moves money."""
    coupons = desk.opened(quota=10, key="coupons")
    used, refunded, voided, expired = (desk.claimed(coupons, person(n)) for n in range(4, 8))
    for coupon, order in ((used, "a"), (refunded, "b")):
        redeem = c.RedeemCoupon(desk.book, coupon, MALL.id, None, order, Money(900, "CNY"))
        assert desk.send(redeem, MALL).code == "redeemed"
    back = c.RefundCoupon(desk.book, refunded, MALL.id, "b", "cold")
    assert desk.send(back, MALL).code == "refunded"
    assert desk.send(c.VoidCoupon(desk.book, voided, "lost"), ALICE).code == "voided"
    campaign = desk.opened(quota=50, budget_minor=5_000, terms=packet_terms(), key="groups")
    purse = desk.filled(campaign, 1_000)
    group = desk.sent(purse, 3, 300)
    for n in (1, 2):
        assert desk.take(group, person(n)).code == "share_taken"
    Week(desk)  # which ends when coupons do
    assert desk.send(c.ExpireCoupon(desk.book, expired), SWEEPER).code == "expired"
    late = c.RefundCoupon(desk.book, used, MALL.id, "a", "late")
    assert desk.send(late, MALL).code == "refunded"
    desk.give_back(group, NEXT_NOON)
    desk.empty(purse, NEXT_NOON)


def step(datastore: Datastore) -> None:
    """Let every read model take the next event."""
    for projection in PROJECTIONS:
        runner = Runner(datastore, projection, "main", "test")
        runner.batch_size = BatchSize(1, 1)
        assert runner.run_once() == 1
        with datastore.transaction() as curs:
            runner.lease.release(curs)


FIGURES_BENT = [
    ("campaign_figures.campaign", "held_minor = held_minor + 1, pot_minor = pot_minor - 1"),
    ("campaign_figures.campaign", "spent_minor = spent_minor + 1, funded_minor = funded_minor + 1"),
    ("campaign_figures.campaign", "purses_minor = purses_minor + 1, pot_minor = pot_minor - 1"),
    ("campaign_figures.campaign", "pot_minor = pot_minor - 1, rolled_minor = rolled_minor + 1"),
    ("groups.campaign", "purses_minor = purses_minor + 1, filled_minor = filled_minor + 1"),
    ("groups.group_packet", "outstanding_minor = 1, total_minor = total_minor + 1"),
    ("groups.purse", "balance_minor = balance_minor + 1, filled_minor = filled_minor + 1"),
]
"""A table, and two of its figures that are bent so that the table's own rules still hold."""


@pytest.mark.parametrize(("table", "bent"), FIGURES_BENT)
def test_control_a_figure_that_was_bent_is_seen(
    datastore: Datastore, groups: GroupDesk, table: str, bent: str
) -> None:
    """A fen in the wrong place."""
    everything(groups)
    catch_up(datastore)
    where = "pot_minor > 0" if "pot_minor" in bent else "true"
    with datastore.transaction() as curs:
        assert differences(curs, 10**9) == []
        curs.execute(f"UPDATE rm_{table} SET {bent} WHERE {where}")
        assert curs.rowcount
        assert differences(curs, 10**9)


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
