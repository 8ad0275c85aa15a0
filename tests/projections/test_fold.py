"""Read models are the fold of the events, however they were applied.

Goal: live rows in any batches, rebuilt rows, and what the aggregates and postings say agree.
Method: Hypothesis makes histories of a book; the same history is run, rebuilt and folded.
"""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.datastore import Datastore
from projections import campaign_figures as figures
from projections import journal_reading, wallets
from projections import merchant_balances as merchants
from projections.erasures import ERASURES
from projections.groups import GROUPS
from projections.packets import PACKETS
from projections.projection import Projection
from projections.rebuild import rebuild
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.verification import verify
from tests.projections.conftest import FreshDatastore
from tests.projections.helpers import catch_up, rows_of
from tests.projections.histories import History, histories, person, small_history, store


def run_in_batches(datastore: Datastore, projection: Projection, sizes: list[int]) -> None:
    """Run a read model to the head in batches of the given sizes, over and over."""
    runner = Runner(datastore, projection, "main", "test")
    applied = turn = 0
    while turn == 0 or applied:
        runner.batch_size.events = sizes[turn % len(sizes)]
        applied = runner.run_once()
        turn += 1


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=histories(), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_rebuilt_rows_equal_live_rows_and_both_are_the_fold(
    fresh_datastore: FreshDatastore, history: History, sizes: list[int]
) -> None:
    """Any history in any batches gives the rows that the events say, as a rebuild does."""
    with fresh_datastore() as datastore:
        store(datastore, history)
        for projection in PROJECTIONS:
            run_in_batches(datastore, projection, sizes)
            live = rows_of(datastore, projection)
            check_fold(datastore, projection, history)
            report = rebuild(datastore, projection)
            assert report.events == len(history.events)
            assert rows_of(datastore, projection) == live
        assert verify(datastore) == []


def test_a_history_with_coupons_in_every_state_is_folded(datastore: Datastore) -> None:
    """What random histories may miss: refunds, late ones, and ends before and after a close."""
    history = small_history(coupons=40)
    assert {coupon.state for coupon in history.coupons.values()} == set(wallets.STATES)
    store(datastore, history)
    for projection in PROJECTIONS:
        run_in_batches(datastore, projection, [7])
        check_fold(datastore, projection, history)
        live = rows_of(datastore, projection)
        rebuild(datastore, projection)
        assert rows_of(datastore, projection) == live


def check_fold(datastore: Datastore, projection: Projection, history: History) -> None:
    """Compare a read model with what aggregates and postings say."""
    check = {
        "wallets": check_wallets,
        "campaign_figures": check_figures,
        "merchant_balances": check_merchants,
        "groups": check_no_groups,
        "packets": check_no_packets,
        "erasures": check_no_erasures,
        "journal": check_journal,
    }
    check[projection.name](datastore, history)


def check_journal(datastore: Datastore, history: History) -> None:
    """Every account has what the postings put there."""
    with datastore.transaction() as curs:
        accounts = journal_reading.accounts(curs, "main", len(history.events), limit=1000)
    found = {(one.account, one.currency): one.balance_minor for one in accounts}
    assert found == dict(history.ledger.balances)


def check_no_groups(datastore: Datastore, _history: History) -> None:
    """Coupons have neither purses nor groups; those of packets are in `test_groups.py`."""
    rows = rows_of(datastore, GROUPS)
    assert not any(rows[table] for table in rows if table != "tracking")


def check_no_erasures(datastore: Datastore, _history: History) -> None:
    """Nobody asked to be erased; erasures are in `tests/persons`."""
    rows = rows_of(datastore, ERASURES)
    assert not any(rows[table] for table in rows if table != "tracking")


def check_no_packets(datastore: Datastore, _history: History) -> None:
    """Coupons have no balance; packets are in `test_packets.py`."""
    assert not any(rows for name, rows in rows_of(datastore, PACKETS).items() if name != "tracking")


def check_wallets(datastore: Datastore, history: History) -> None:
    """Every coupon is as its aggregate is, and each person's worth is what the postings say."""
    with datastore.transaction() as curs:
        curs.execute(
            "SELECT book, coupon, campaign, person, n, state, face_minor, claimed_at, valid_until,"
            " merchant, order_no FROM rm_wallets.coupon"
        )
        assert set(curs.fetchall()) == history.wallet_rows()
        for who in {coupon.person for coupon in history.coupons.values()}:
            worth = sum(one.minor for one in wallets.worth_of(curs, who))
            assert worth == history.held_minor(who)


def check_figures(datastore: Datastore, history: History) -> None:
    """Every campaign is as its aggregate is, and its money is where the postings put it."""
    with datastore.transaction() as curs:
        rows = {row.campaign: row for row in figures.campaigns(curs, limit=1000)}
    assert set(rows) == set(history.campaigns)
    for campaign, row in rows.items():
        aggregate = history.campaigns[campaign]
        assert (row.state, row.version, row.quota) == (
            aggregate.state,
            aggregate.version,
            aggregate.quota,
        )
        proposal = aggregate.proposal
        assert (row.proposed_quota, row.proposed_by) == (
            (proposal.quota, proposal.by) if proposal else (None, None)
        )
        check_coupons(row, history)
        check_money(row, history)


def check_coupons(row: figures.CampaignFigures, history: History) -> None:
    """Each coupon ever claimed is counted in its state; what ever happened is counted as such."""
    states = history.states_of(row.campaign)
    assert row.claimed == sum(states.values())
    for state in wallets.STATES:
        assert getattr(row, state) == states[state]
    ended = {"claimed": "face_minor", "refunded": "amount_minor"} | dict.fromkeys(
        ("expired", "voided"), "amount_minor"
    )
    for what, amount in ended.items():
        minors = [
            getattr(event, amount)
            for event in history.events
            if f"coupon.{what}" == event.TOPIC and getattr(event, "campaign", None) == row.campaign
        ]
        assert (getattr(row, what), getattr(row, f"{what}_minor")) == (len(minors), sum(minors))


def check_money(row: figures.CampaignFigures, history: History) -> None:
    """Funded = pot + held + spent + reclaimed, and each of them is what the postings say."""
    money = history.money_of(row.campaign)
    assert row.funded_minor == (
        row.pot_minor + row.held_minor + row.spent_minor + row.reclaimed_minor
    )
    assert row.budget_minor == row.funded_minor - row.reclaimed_minor
    assert row.pot_minor == money["campaign"] == history.pot_minor(row.campaign)
    assert row.held_minor == money["holder"]
    assert row.spent_minor == money["merchant"]
    assert row.funded_minor - row.reclaimed_minor == -money["sponsor"]


def check_merchants(datastore: Datastore, history: History) -> None:
    """Every merchant's balance is what the postings say, and its redemptions add up to it."""
    with datastore.transaction() as curs:
        for name in (f"shop-{n}" for n in range(3)):
            balance = sum(one.balance_minor for one in merchants.balances(curs, name))
            assert balance == history.merchant_minor(name)
            open_minor = sum(
                one.discount_minor
                for one in merchants.redemptions(curs, name, limit=1000)
                if one.refunded_at is None
            )
            assert open_minor == balance


def test_a_funding_cut_lowers_what_was_funded(datastore: Datastore) -> None:
    """An approved lower target takes money out of the pot; funded follows, reclaimed does not."""
    history = History()
    campaign = history.opened(quota=10)
    history.propose(campaign, 4)
    history.approve(campaign)
    store(datastore, history)
    catch_up(datastore)
    with datastore.transaction() as curs:
        row = figures.campaign(curs, "main", campaign)
    assert row is not None
    assert (row.state, row.quota) == ("open", 4)
    assert (row.funded_minor, row.pot_minor, row.reclaimed_minor) == (2000, 2000, 0)


def test_a_coupon_that_comes_back_after_the_close_goes_to_the_sponsor(
    datastore: Datastore,
) -> None:
    """Its money is reclaimed and leaves the budget."""
    history = History()
    campaign = history.opened(quota=3)
    first, second = history.claim(campaign, person(1)), history.claim(campaign, person(2))
    history.close(campaign)
    assert first is not None
    history.void(first)
    store(datastore, history)
    catch_up(datastore)
    with datastore.transaction() as curs:
        row = figures.campaign(curs, "main", campaign)
        assert second is not None
        held = wallets.coupon(curs, "main", second)
    assert row is not None
    assert held is not None
    assert (row.funded_minor, row.pot_minor) == (1500, 0)
    assert (row.held_minor, row.reclaimed_minor, row.budget_minor) == (500, 1000, 500)
    assert held.state == "held"


def test_a_coupon_redeemed_again_after_a_refund_is_two_redemptions(datastore: Datastore) -> None:
    """The merchant's list keeps the refunded one beside the new one."""
    history = History()
    coupon = history.claim(history.opened(), person(1))
    assert coupon is not None
    history.redeem(coupon, "tea-house", "A-1")
    history.refund(coupon)
    history.redeem(coupon, "tea-house", "A-2")
    store(datastore, history)
    catch_up(datastore)
    with datastore.transaction() as curs:
        listed = merchants.redemptions(curs, "tea-house", limit=10)
        (balance,) = merchants.balances(curs, "tea-house")
    assert [(one.order_no, one.refunded_at is None) for one in listed] == [
        ("A-2", True),
        ("A-1", False),
    ]
    assert (balance.redeemed_count, balance.refunded_count, balance.balance_minor) == (2, 1, 500)


def test_books_do_not_mix(datastore: Datastore) -> None:
    """A read model of two books holds the rows of each under its own position."""
    for book in ("main", "north"):
        history = small_history(book)
        store(datastore, history)
        catch_up(datastore, book=book)
    assert verify(datastore) == []
    for projection in PROJECTIONS:
        live = rows_of(datastore, projection)
        rebuild(datastore, projection)
        assert rows_of(datastore, projection) == live


@pytest.mark.parametrize(
    ("projection", "orphaned"),
    [
        (wallets.WALLETS, "coupon.claimed"),
        (figures.CAMPAIGN_FIGURES, "campaign.drafted"),
        (merchants.MERCHANT_BALANCES, "coupon.redeemed"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_a_change_of_what_was_never_made_stops_the_fold(
    datastore: Datastore, projection: Projection, orphaned: str
) -> None:
    """A store in which a claim or a draft is missing is refused, live and on rebuild."""
    history = small_history()
    history.events = [e for e in history.events if orphaned != e.TOPIC]
    store(datastore, history)
    with pytest.raises(Exception, match=r"was never|never claimed|never redeemed|to change|check"):
        catch_up(datastore, projection)
    with pytest.raises(Exception, match=r"was never|never claimed|never redeemed|to change|check"):
        rebuild(datastore, projection)


def test_the_figures_table_refuses_money_that_does_not_add_up(datastore: Datastore) -> None:
    """The identity funded = pot + held + spent + reclaimed is a check of the table itself."""
    history = History()
    campaign: UUID = history.opened()
    store(datastore, history)
    catch_up(datastore)
    with pytest.raises(Exception, match="campaign_money"), datastore.transaction() as curs:
        curs.execute(
            "UPDATE rm_campaign_figures.campaign SET held_minor = 1 WHERE campaign = %s",
            (campaign,),
        )
