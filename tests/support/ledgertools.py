"""The tools of the trade that read our journal: beancount's and hledger's own commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
from beancount import loader
from beancount.core.data import Transaction

from projections.journal_export import from_beancount_name, from_hledger_name

MINOR_OF_MAJOR: Final = 100
"""The books of these tests are in yuan and dollars."""

needs_hledger = pytest.mark.skipif(
    shutil.which("hledger") is None,
    reason="hledger is not installed (Debian: apt-get install hledger)",
)


def bean_check(path: Path) -> tuple[int, str]:
    """How beancount's own command ends, and what it says."""
    return _ended(str(Path(sys.executable).with_name("bean-check")), "--no-cache", str(path))


def hledger_check(path: Path) -> tuple[int, str]:
    """How hledger's check ends, by its strictest rules, and what it says."""
    return _ended("hledger", "-f", str(path), "check", "--strict", "ordereddates")


def _ended(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def beancount_balances(path: Path) -> dict[str, int]:
    """Every account's balance by beancount's own reading, in minor units."""
    entries, errors, _ = loader.load_file(str(path))
    assert not errors
    found: dict[str, Decimal] = {}
    for posting in (
        posting for one in entries if isinstance(one, Transaction) for posting in one.postings
    ):
        assert posting.units is not None
        assert posting.units.number is not None
        account = from_beancount_name(posting.account)
        found[account] = found.get(account, Decimal(0)) + posting.units.number
    return {account: int(MINOR_OF_MAJOR * amount) for account, amount in found.items()}


def hledger_balances(path: Path) -> dict[str, int]:
    """Every account's balance by hledger's own addition, in minor units."""
    wanted = ["balance", "--flat", "-E", "-N", "--format", "%(account) %(total)"]
    done = subprocess.run(
        ["hledger", "-f", str(path), *wanted],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = {}
    for line in done.stdout.splitlines():
        name, amount, *_ = line.split()  # zero has no unit
        found[from_hledger_name(name)] = int(MINOR_OF_MAJOR * Decimal(amount))
    return found
