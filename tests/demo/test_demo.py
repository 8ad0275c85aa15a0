"""The demo itself: a sample of the year through a real service, twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from api.demo import DemoOptions, run_demo
from tests.support.ledgertools import (
    bean_check,
    beancount_balances,
    hledger_balances,
    hledger_check,
    needs_hledger,
)


@pytest.fixture(name="home")
def _home() -> Iterator[Path]:
    """A home that the servers' account can enter, short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="tidebook-demo-"))
    yield home
    with suppress(OSError):
        shutil.rmtree(home)


def demonstrate(home: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Run the demo for three households; return its exit status and its document."""
    status = run_demo(DemoOptions(home=home, households=3, json=True))
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_year_reconciles_and_a_second_run_changes_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the cent, with a redemption refused; the repeated run is nothing but replays."""
    monkeypatch.setenv("TIDEBOOK_DATABASE_URL", "postgresql://nobody@nowhere.invalid/ledger")
    status, first = demonstrate(home, capsys)
    assert first["reconciliation"]["differences"] == []
    assert first["verification"]["status"] == 0
    assert status == first["exit_status"] == 0
    assert first["requests"]["replayed"] == 0
    assert not first["nothing_new"]
    sums = {
        (row["subject"], row["measure"]): row["ledger"] for row in first["reconciliation"]["sums"]
    }
    assert sums["all mailings", "refused: already_redeemed"] >= 1
    assert sums["all mailings", "held"] == sums["all mailings", "money left"] == 0

    status, second = demonstrate(home, capsys)
    assert status == 0
    assert second["nothing_new"]
    assert second["requests"]["replayed"] == first["requests"]["sent"]
    assert second["book"]["position_after"] == first["book"]["position_after"]
    assert second["reconciliation"] == first["reconciliation"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "check", "balances"),
    [
        ("beancount", bean_check, beancount_balances),
        pytest.param("hledger", hledger_check, hledger_balances, marks=needs_hledger),
    ],
)
def test_the_tools_of_the_trade_accept_the_demos_journal(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    check: Callable[[Path], tuple[int, str]],
    balances: Callable[[Path], dict[str, int]],
) -> None:
    """Their own commands find nothing wrong, and add up to our trial balance."""
    assert run_demo(DemoOptions(home=home, households=2, json=True)) == 0
    capsys.readouterr()
    path = home / "main.journal"
    at_home = {**os.environ, "TIDEBOOK_HOME": str(home / "demo-2")}
    command = [str(Path(sys.executable).with_name("tidebook"))]

    def tidebook(*arguments: str) -> str:
        return subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True, env=at_home
        ).stdout

    tidebook("journal", "export", "--format", form, "--to", str(path))
    assert check(path) == (0, "")
    ours = json.loads(tidebook("trial-balance", "--accounts", "--json"))["accounts"]
    assert balances(path) == {one["account"]: one["balance_minor"] for one in ours}


def test_a_home_that_cannot_be_used_is_said_before_anything_runs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, and why."""
    (home / "demo-3").write_text("not a directory")
    assert run_demo(DemoOptions(home=home, households=3, json=True)) == 2
    assert "The demo cannot be run" in capsys.readouterr().err
