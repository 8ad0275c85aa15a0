"""Money and postings: whole minor units, one currency, always in balance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.books import MalformedId, PublicId, parse_book
from ledger.money import MINOR_MAX, Money, MoneyError, UnitMismatch
from ledger.postings import Transfer, TrialBalance, Unbalanced, check_transfers, transfer

amounts = st.integers(-(10**12), 10**12)
accounts = st.sampled_from(["sponsor:a", "campaign:b", "holder:c", "merchant:d"])


@pytest.mark.parametrize("amount", [1.0, True, "1", None, MINOR_MAX + 1, -MINOR_MAX - 1])
def test_an_amount_is_a_whole_number_in_range(amount: Any) -> None:
    """Floats, booleans, text and huge numbers are no money."""
    with pytest.raises(MoneyError):
        Money(amount, "CNY")


@pytest.mark.parametrize("currency", ["", "cny", "CN", "CNYY", "人民币", "CN1"])
def test_a_currency_is_three_capital_letters(currency: str) -> None:
    """Anything else is refused."""
    with pytest.raises(MoneyError):
        Money(1, currency)


@given(amounts, amounts)
def test_money_of_one_currency_adds_up(one: int, other: int) -> None:
    """Sum and difference are those of the minor units."""
    assert Money(one, "CNY") + Money(other, "CNY") == Money(one + other, "CNY")
    assert Money(one, "CNY") - Money(other, "CNY") == Money(one - other, "CNY")


def test_currencies_do_not_mix() -> None:
    """Adding yuan to dollars is an error, not a number."""
    with pytest.raises(UnitMismatch):
        Money(1, "CNY") + Money(1, "USD")


@given(st.lists(st.tuples(accounts, accounts, amounts).filter(lambda t: t[0] != t[1])))
def test_a_trial_balance_is_always_zero(moves: list[tuple[str, str, int]]) -> None:
    """Debits equal credits after any transfers, in whatever order."""
    trial = TrialBalance()
    for source, target, amount in moves:
        posted = transfer(source, target, amount, "CNY")
        check_transfers(posted)
        trial.post(posted)
        assert trial.is_zero
    for account in ("sponsor:a", "campaign:b", "holder:c", "merchant:d"):
        moved = sum(a * ((t == account) - (s == account)) for s, t, a in moves)
        assert trial.balance(account, "CNY") == moved


def test_a_trial_balance_sees_a_lost_leg() -> None:
    """A balance changed behind the postings is found."""
    trial = TrialBalance()
    trial.post(transfer("sponsor:a", "campaign:b", 5, "CNY"))
    trial.balances["campaign:b", "CNY"] += 1
    assert not trial.is_zero


def test_overdrawn_accounts_are_named() -> None:
    """Only sponsors may have paid more than they got."""
    trial = TrialBalance()
    trial.post(transfer("sponsor:a", "campaign:b", 5, "CNY"))
    trial.post(transfer("campaign:b", "holder:c", 7, "CNY"))
    assert trial.overdrawn() == [("campaign:b", "CNY", -2)]


@pytest.mark.parametrize(
    "wrong",
    [
        Transfer("a:1", "b:1", 0, "CNY"),
        Transfer("a:1", "a:1", 1, "CNY"),
        Transfer("a", "b", -1, "CNY"),
    ],
)
def test_a_transfer_moves_something_somewhere(wrong: Transfer) -> None:
    """Zero, negative and circular transfers are refused before they are written."""
    with pytest.raises(Unbalanced):
        check_transfers([wrong])


def test_a_public_id_comes_back_from_its_text() -> None:
    """The book and the stream are read from the id alone."""
    text = "cpn_main_3f2504e04f8911d39a0c0305e82c3301"
    assert str(PublicId.parse(text, "cpn")) == text
    assert PublicId.parse(text, "cpn").book == "main"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cpn_main_",
        "cmp_main_3f2504e04f8911d39a0c0305e82c3301",
        "cpn_Main_3f2504e04f8911d39a0c0305e82c3301",
        "cpn_main_3F2504E04F8911D39A0C0305E82C3301",
        "cpn_main_3f2504e04f8911d39a0c0305e82c3301\n",
        "cpn_main_3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    ],
)
def test_a_public_id_has_one_spelling(text: str) -> None:
    """Other prefixes, cases and forms are not ids."""
    with pytest.raises(MalformedId):
        PublicId.parse(text, "cpn")


@pytest.mark.parametrize("name", ["", "1a", "a_b", "A", "a" * 17, "账本"])
def test_a_book_has_a_plain_name(name: str) -> None:
    """A book's name fits into ids and needs no quoting anywhere."""
    with pytest.raises(MalformedId):
        parse_book(name)
