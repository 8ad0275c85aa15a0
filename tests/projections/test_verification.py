"""Verification finds what is wrong, says where, and raises nothing."""

from __future__ import annotations

import pytest

from ledger.datastore import Datastore
from projections.projection import CHECK, schema_exists
from projections.rebuild import exclusive
from projections.registry import PROJECTIONS
from projections.runner import Runner
from projections.verification import FINDINGS_MAX, Finding, verify
from projections.wallets import WALLETS
from tests.projections.helpers import catch_up
from tests.projections.histories import History, person, small_history, store


@pytest.fixture
def history(datastore: Datastore) -> History:
    """A small history, stored and applied."""
    made = small_history()
    store(datastore, made)
    catch_up(datastore)
    return made


def damage(datastore: Datastore, statement: str) -> None:
    """Change the live rows behind everybody's back."""
    with datastore.transaction() as curs:
        curs.execute(statement)
        assert curs.rowcount == 1


def test_true_rows_have_no_findings(datastore: Datastore, history: History) -> None:
    """Nothing is found, nothing is left behind, and progress is told."""
    phases: list[str] = []
    assert verify(datastore, lambda phase, _done, _total: phases.append(phase)) == []
    assert set(phases) == {"load", "settle"}
    with datastore.transaction() as curs:
        assert not any(schema_exists(curs, p.schema + CHECK) for p in PROJECTIONS)


WALLET = "rm_wallets.coupon"
MERCHANT = "rm_merchant_balances.merchant"
CAMPAIGN = "rm_campaign_figures.campaign"
ONE = f"ctid = (SELECT min(ctid) FROM {WALLET} WHERE state = 'redeemed')"


@pytest.mark.parametrize(
    ("statement", "code", "where"),
    [
        (f"UPDATE {WALLET} SET state = 'held' WHERE {ONE}", "row_differs", WALLET),
        (
            f"UPDATE {WALLET} SET redeemed_at = redeemed_at + interval '1 us' WHERE {ONE}",
            "row_differs",
            WALLET,
        ),
        (f"DELETE FROM {WALLET} WHERE {ONE}", "row_missing", WALLET),
        (
            f"INSERT INTO {MERCHANT} VALUES ('main', 'ghost', 'CNY')",
            "row_unexpected",
            f"{MERCHANT} (main,ghost,CNY)",
        ),
        (
            f"UPDATE {MERCHANT} SET redeemed_minor = redeemed_minor + 1 WHERE merchant = 'shop-1'",
            "row_differs",
            f"{MERCHANT} (main,shop-1,CNY)",
        ),
        (
            f"UPDATE {CAMPAIGN} SET refunded = refunded + 1 WHERE state = 'open'",
            "row_differs",
            CAMPAIGN,
        ),
        (
            f"UPDATE {CAMPAIGN} SET terms = terms || '{{}}' || '{{\"a\": 1}}' WHERE state = 'open'",
            "row_differs",
            CAMPAIGN,
        ),
    ],
)
def test_damage_is_found_where_it_is(
    datastore: Datastore, history: History, statement: str, code: str, where: str
) -> None:
    """One wrong value, one row too few or too many: one finding, with its table and key."""
    damage(datastore, statement)
    (finding,) = verify(datastore)
    assert finding.code == code
    assert finding.where.startswith(where)
    assert finding.expected != finding.found


def test_findings_of_a_table_are_bounded(datastore: Datastore, history: History) -> None:
    """A table that is all wrong is said to be so without listing it all."""
    with datastore.transaction() as curs:
        curs.execute(
            "INSERT INTO rm_merchant_balances.merchant"
            " SELECT 'main', 'ghost-' || n, 'CNY' FROM generate_series(1, %s) AS n",
            (FINDINGS_MAX * 2,),
        )
    findings = verify(datastore)
    assert len(findings) == FINDINGS_MAX + 1
    assert findings[-1] == Finding("too_many_findings", "rm_merchant_balances.merchant")


def test_rows_that_lag_behind_are_not_wrong(datastore: Datastore, history: History) -> None:
    """Rows are compared at the position that they stand for."""
    later = History("main", seed=1)
    later.claim(later.opened(), person(1))
    store(datastore, later)
    assert verify(datastore) == []


def test_rows_that_move_on_meanwhile_are_not_wrong(datastore: Datastore, history: History) -> None:
    """The fold follows the live rows to where they are when both are compared."""
    seeds = iter(range(1, 100))

    def move(_phase: str, _done: int, _total: int) -> None:
        later = History("main", seed=next(seeds))
        later.claim(later.opened(), person(1))
        store(datastore, later)
        catch_up(datastore)

    assert verify(datastore, move) == []


def test_only_the_books_asked_for_are_compared(datastore: Datastore, history: History) -> None:
    """Damage in another book is somebody else's business."""
    other = small_history("north")
    store(datastore, other)
    catch_up(datastore, book="north")
    damage(
        datastore,
        "UPDATE rm_campaign_figures.campaign SET name = '' WHERE book = 'north' AND state = 'open'",
    )
    assert verify(datastore, books=["main"]) == []
    assert [one.code for one in verify(datastore, books=["north"])] == ["row_differs"]


def test_a_book_that_lost_events_is_found(datastore: Datastore, history: History) -> None:
    """Rows beyond their book are a finding for each read model."""
    damage(datastore, "UPDATE tidebook.book_head SET position = position - 1")
    assert [one.code for one in verify(datastore)] == ["ahead_of_book"] * len(PROJECTIONS)


def test_a_gap_and_an_unknown_event_are_found(datastore: Datastore, history: History) -> None:
    """What stops a runner is a finding with its place."""
    last = len(history.events)
    with datastore.transaction() as curs:
        curs.execute("UPDATE tidebook.book_head SET position = position + 1")
        curs.execute("UPDATE rm_wallets.tracking SET position = position + 1")
    (gap,) = verify(datastore, projections=[WALLETS])
    assert gap == Finding("position_gap", f"book main position {last + 1}", "an event", "none")
    with datastore.transaction() as curs:
        curs.execute(
            "INSERT INTO tidebook.event"
            " VALUES ('main', %s, gen_random_uuid(), 1, 'coupon.teleported', '{}')",
            (last + 1,),
        )
    (unknown,) = verify(datastore, projections=[WALLETS])
    assert unknown.code == "unreadable_event"
    assert unknown.where == f"book main position {last + 1}"
    assert "coupon.teleported" in str(unknown.found)


def test_a_history_that_does_not_fold_is_found(datastore: Datastore) -> None:
    """A redemption without its claim is a finding, not a crash."""
    broken = small_history()
    broken.events = [e for e in broken.events if e.TOPIC != "coupon.claimed"]
    store(datastore, broken)
    with datastore.transaction() as curs:
        curs.execute("INSERT INTO rm_wallets.tracking VALUES ('main', %s)", (len(broken.events),))
    (finding,) = verify(datastore, projections=[WALLETS])
    assert finding.code == "fold_failed"


def test_tables_of_another_shape_are_found(datastore: Datastore, history: History) -> None:
    """Rows that this program would write differently are not compared."""
    damage(datastore, "UPDATE rm_wallets.shape SET checksum = 'older'")
    (finding,) = verify(datastore)
    assert finding == Finding("outdated_read_model", "rm_wallets", WALLETS.shape, "older")


def test_a_read_model_that_is_being_rebuilt_is_said_to_be_busy(
    datastore: Datastore, history: History
) -> None:
    """Verification does not disturb a rebuild."""
    with exclusive(datastore, WALLETS, "rebuilder", seize=True):
        (finding,) = verify(datastore, holder="auditor")
    assert (finding.code, finding.where) == ("read_model_busy", "rm_wallets")


def test_runners_go_on_while_rows_are_verified(datastore: Datastore, history: History) -> None:
    """Verification holds no lease that a runner wants."""
    runner = Runner(datastore, WALLETS, "main", "a")
    assert runner.run_once() == 0
    assert verify(datastore) == []
    assert runner.run_once() == 0
