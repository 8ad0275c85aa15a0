"""`tidebook trial-balance`, `statement` and `journal export`, as accountants call them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from beancount import loader
from beancount.core.data import Balance, Open, Transaction
from pyarrow import compute, parquet

from ledger.datastore import Datastore
from projections.journal_reading import all_accounts, all_postings
from tests.cli.conftest import Tidebook
from tests.projections.helpers import catch_up
from tests.support.desk import NOON
from tests.support.ledgertools import (
    bean_check,
    beancount_balances,
    hledger_balances,
    hledger_check,
    needs_hledger,
)
from tests.support.story import Story


@pytest.fixture
def told(story: Story, datastore: Datastore) -> Story:
    """The story, shown by the journal."""
    catch_up(datastore)
    return story


def balances_of(datastore: Datastore) -> dict[str, int]:
    """Every account's balance in the journal."""
    return {one.account: one.balance_minor for one in all_accounts(datastore, "main", 10**9)}


def test_the_totals_are_equal(tidebook: Tidebook, told: Story) -> None:
    """The trial balance has a table for people with equal totals, and a document for programs."""
    said = tidebook("trial-balance", "--accounts")
    assert said.status == 0
    assert "Trial balance, CNY" in said.out
    assert "merchant:cafe" in said.out
    (unit,) = tidebook("trial-balance", "--json").document["currencies"]
    assert unit["is_balanced"]
    assert unit["debited_minor"] == sum(one["debited_minor"] for one in unit["kinds"])
    assert sum(one["balance_minor"] for one in unit["kinds"]) == 0


def test_a_kind_of_accounts(tidebook: Tidebook, told: Story) -> None:
    """Only accounts of the kind asked for are listed; there are no others than there are."""
    document = tidebook("trial-balance", "--kind", "merchant", "--json").document
    assert {one["account"] for one in document["accounts"]} == {"merchant:cafe", "merchant:bar"}
    said = tidebook("trial-balance", "--kind", "customer")
    assert said.status == 2
    assert "--kind: one of sponsor" in said.err


def test_the_past_as_replay_tells_it(tidebook: Tidebook, told: Story) -> None:
    """At a position and at an instant the kinds of accounts have what replay folds."""
    for moment in ("0", "9", "15", NOON.isoformat(), "2026-01-01T00:00:00Z"):
        document = tidebook("trial-balance", "--at", moment, "--json").document
        replayed = tidebook("replay", "--until", moment, "--json").document
        assert (document["position"], document["at"]) == (replayed["position"], replayed["at"])
        for unit, money in zip(document["currencies"], replayed["money"], strict=True):
            assert {one["kind"]: one["balance_minor"] for one in unit["kinds"]} == {
                kind["kind"]: money[f"{kind['kind']}_minor"] for kind in unit["kinds"]
            }


def test_a_statement_ends_with_the_balance(tidebook: Tidebook, told: Story) -> None:
    """Its lines lead from the opening to the closing balance, in one piece or in several."""
    (whole,) = tidebook("statement", "merchant:cafe", "--json").document["currencies"]
    assert whole["opening_minor"] == 0
    balance = 0
    for line in whole["lines"]:
        balance += line["amount_minor"]
        assert line["balance_minor"] == balance
    assert whole["closing_minor"] == balance
    pieces: list[dict[str, Any]] = []
    after = 0
    while True:
        said = tidebook("statement", "merchant:cafe", "--after", after, "--limit", 1, "--json")
        (part,) = said.document["currencies"]
        assert part["opening_minor"] == (pieces[-1]["balance_minor"] if pieces else 0)
        pieces += part["lines"]
        if not part["more"]:
            break
        after = pieces[-1]["position"]
    assert pieces == whole["lines"]
    printed = tidebook("statement", "merchant:cafe").out
    assert "opening balance" in printed
    assert "closing balance" in printed


@pytest.mark.parametrize(
    ("arguments", "trouble"),
    [
        (("statement", "merchant:nobody"), "ACCOUNT: book main has no account 'merchant:nobody'"),
        (("statement", "merchant:cafe", "--limit", "0"), "--limit"),
        (("statement", "merchant:cafe", "--after", "then"), "--after: a position or a time"),
        (("trial-balance", "--at", "9999999"), "--at: book main ends at position"),
        (("trial-balance", "--at", "-1"), "--at: a position is a whole number"),
        (("trial-balance", "--book", "other"), "--book: there is no book 'other'"),
        (("journal", "export", "--format", "parquet"), "--to: Parquet is written to a file"),
        (("journal", "export", "--format", "hledger", "--at", "1"), "--at: no money had moved"),
        (("journal", "burn", "--format", "hledger"), "'burn' is not one of 'export'"),
    ],
)
def test_bad_input_names_what_to_change(
    tidebook: Tidebook, told: Story, arguments: tuple[str, ...], trouble: str
) -> None:
    """Each ends with one line on standard error and exit status 2."""
    said = tidebook(*arguments)
    assert said.status == 2
    assert trouble in said.err
    assert said.err.count("\n") == 1


def test_a_journal_that_is_behind_says_so(tidebook: Tidebook, story: Story) -> None:
    """What is not shown yet is not passed off as all there is, nor asked for in vain."""
    assert "run `tidebook project --once journal`" in tidebook("trial-balance").err
    assert tidebook("trial-balance", "--at", "5").status == 2
    assert tidebook("project", "--once", "journal").status == 0
    assert tidebook("trial-balance", "--at", "5").status == 0


def test_beancount_accepts_the_journal(
    tidebook: Tidebook, told: Story, datastore: Datastore, tmp_path: Path
) -> None:
    """Its command and loader find no error, and it adds up to our balances, event by event."""
    path = tmp_path / "main.beancount"
    assert tidebook("journal", "export", "--format", "beancount", "--to", path).status == 0
    assert bean_check(path) == (0, "")
    entries, errors, _ = loader.load_file(str(path))
    assert not errors
    transactions = [one for one in entries if isinstance(one, Transaction)]
    ours = balances_of(datastore)
    assert beancount_balances(path) == ours
    asserted = [one for one in entries if isinstance(one, Balance)]
    assert len(asserted) == sum(isinstance(one, Open) for one in entries) == len(ours)
    postings = list(all_postings(datastore, "main", 10**9))
    assert [int(one.meta["position"]) for one in transactions] == sorted(
        {one.position for one in postings}
    )
    assert {one.meta["topic"] for one in transactions} == {one.topic for one in postings}


def test_beancount_finds_one_minor_unit(tidebook: Tidebook, told: Story, tmp_path: Path) -> None:
    """A file with one fen less at one place is refused: the balances at the end are exact."""
    lines = tidebook("journal", "export", "--format", "beancount").out.splitlines()
    where = next(i for i, line in enumerate(lines) if "Merchant" in line and " open " not in line)
    for place in (where, where + 1):
        amount = lines[place].split()[1]
        changed = Decimal(amount) - Decimal("0.01") * (1 if place == where else -1)
        lines[place] = lines[place].replace(amount, str(changed))
    path = tmp_path / "wrong.beancount"
    path.write_text("\n".join(lines))
    status, said = bean_check(path)
    assert status == 1
    assert "Balance failed" in said
    _, errors, _ = loader.load_file(str(path))
    assert errors
    assert all("Balance failed" in error.message for error in errors)


@needs_hledger
def test_hledger_accepts_the_journal(
    tidebook: Tidebook, told: Story, datastore: Datastore, tmp_path: Path
) -> None:
    """Its strict check passes, and its balances are ours."""
    path = tmp_path / "main.journal"
    assert tidebook("journal", "export", "--format", "hledger", "--to", path).status == 0
    assert hledger_check(path) == (0, "")
    assert hledger_balances(path) == balances_of(datastore)


@needs_hledger
def test_hledger_finds_one_minor_unit(tidebook: Tidebook, told: Story, tmp_path: Path) -> None:
    """A file with one fen less at one place is refused: the balances at the end are exact."""
    lines = tidebook("journal", "export", "--format", "hledger").out.splitlines()
    where = next(i for i, line in enumerate(lines) if line.startswith("  assets:merchant:"))
    for place, change in ((where, Decimal("-0.01")), (where + 1, Decimal("0.01"))):
        amount = lines[place].split()[1]
        lines[place] = lines[place].replace(amount, str(Decimal(amount) + change))
    path = tmp_path / "wrong.journal"
    path.write_text("\n".join(lines) + "\n")
    status, said = hledger_check(path)
    assert status == 1
    assert "balance assertion" in said


def test_the_journal_as_parquet(
    tidebook: Tidebook, told: Story, datastore: Datastore, tmp_path: Path
) -> None:
    """Two lines for each posting, which add up to zero and to our balances."""
    path = tmp_path / "main.parquet"
    assert tidebook("journal", "export", "--format", "parquet", "--to", path).status == 0
    table = parquet.read_table(path)
    assert table.num_rows == 2 * len(list(all_postings(datastore, "main", 10**9)))
    assert compute.sum(table["amount_minor"]).as_py() == 0
    sums = table.group_by("account").aggregate([("amount_minor", "sum")]).to_pylist()
    ours = balances_of(datastore)
    assert {one["account"]: one["amount_minor_sum"] for one in sums} == ours
