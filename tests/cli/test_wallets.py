"""`tidebook dispatch`, `reconcile` and `sandbox`, as people call them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from api.sandbox.running import in_thread
from campaigns.commands import ClaimCoupon
from campaigns.packets.terms import PacketTerms
from campaigns.wallets.port import WalletNames
from tests.cli.conftest import Tidebook
from tests.support.desk import NOON, Desk, person, terms_of, tourist
from tests.wallets.harness import KEY, NAMES_KEY


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Path]:
    """The file of an operator that the settings name."""
    monkeypatch.setenv("TIDEBOOK_WALLET_OPERATOR_KEY", KEY.hex())
    monkeypatch.setenv("TIDEBOOK_WALLET_KEY", NAMES_KEY.hex())
    file = tmp_path / "operator.sqlite"
    with in_thread(file, KEY) as (_, url):
        monkeypatch.setenv("TIDEBOOK_WALLET_OPERATOR_URL", url)
        yield file


TERMS = terms_of(
    kind="packet",
    face_minor=20_000,
    packet=PacketTerms(),
    valid_until=NOON + timedelta(days=36_500),
)


@pytest.fixture
def claimed(desk: Desk) -> None:
    """Two people with a packet of 200 yuan each."""
    campaign = desk.opened(terms=TERMS)
    for n in (1, 2):
        command = ClaimCoupon(desk.book, campaign, person(n))
        assert desk.send(command, tourist(person(n))).code == "claimed"


def test_packets_are_credited_and_reconciled(
    tidebook: Tidebook, store: Path, claimed: None
) -> None:
    """Dispatched once, both sides agree; a fen more at the operator, and they do not."""
    before = tidebook("reconcile", "--json")
    assert (before.status, before.document["agree"]) == (0, True)
    dispatched = tidebook("dispatch", "--once")
    assert (dispatched.status, dispatched.out) == (0, "main: nothing open\n")
    agreed = tidebook("reconcile", "--json")
    assert agreed.status == 0
    assert agreed.document["sums"]["operator"]["credited_minor"] == 40_000
    assert agreed.document["sums"]["ledger"] == agreed.document["sums"]["operator"]
    shown = tidebook("reconcile")
    assert "All sides agree." in shown.out
    assert "2 × 400.00" in shown.out
    with sqlite3.connect(store, timeout=10) as db:
        db.execute("UPDATE wallet SET balance_minor = balance_minor + 1")
    db.close()
    differs = tidebook("reconcile", "--json")
    assert differs.status == 1
    assert differs.document["counts"] == {"balance": 4}
    assert "4 differences: 4 × balance" in tidebook("reconcile").out


def test_a_closed_wallet_comes_back_to_the_ledger(
    tidebook: Tidebook, store: Path, claimed: None
) -> None:
    """The holder closes the wallet before the credit; the ledger takes the money back, by rule."""
    name = WalletNames(NAMES_KEY, "sandbox").of(person(1))
    with sqlite3.connect(store, timeout=10) as db:
        db.execute("INSERT INTO wallet VALUES (?, 'closed', 0, 'CNY')", (name,))
    db.close()
    assert tidebook("dispatch", "--once").status == 0
    found = tidebook("reconcile", "--json")
    assert (found.status, found.document["sums"]["refused"]) == (0, 2)
    verified = tidebook("verify", "--no-projections", "--json")
    assert (verified.status, verified.document["counts"]) == (0, {})


def test_what_is_left_open_is_said(tidebook: Tidebook, store: Path, claimed: None) -> None:
    """While the operator chokes, `--once` ends with 1 and names the states."""
    spoilt = tidebook("sandbox", "--spoil", "fail_before", "--calls", "100")
    assert spoilt.out == "answers 500 and does nothing, 100 times; 1 faults are planned\n"
    dispatched = tidebook("dispatch", "--once")
    assert (dispatched.status, dispatched.out) == (1, "main: 2 unknown\n")
    under_way = tidebook("reconcile", "--json")
    assert (under_way.status, under_way.document["sums"]["open"]) == (0, 2)


def test_an_operator_that_is_not_there_is_said(
    tidebook: Tidebook, store: Path, claimed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a statement nothing is said about agreement."""
    monkeypatch.setenv("TIDEBOOK_WALLET_OPERATOR_URL", "http://127.0.0.1:9")
    said = tidebook("reconcile")
    assert said.status == 2
    assert "operator sandbox gave no answer to believe" in said.err
