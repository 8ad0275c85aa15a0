"""The invariants and controls that documents name are those that the tests hold."""

from __future__ import annotations

import re

import pytest

from campaigns.verification import RULE_CODES
from ledger.reply_verification import REPLY_CODES
from ledger.transparency.auditing import LOG_CODES
from ledger.verification import BOOK_CODES
from tests.campaigns.test_life import PLANTED
from tests.docs.names import named_tests
from tests.docs.pages import page

HEAD = ("", "what must hold", "enforced by", "shown by")
INVARIANTS = {row[0]: row for row in page("docs/architecture.md").table(*HEAD)}
CONTROLS = page("docs/concurrency.md").table("what is taken away", "what then happens", "test")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
NOT_YET: set[str] = set()


def test_every_invariant_is_listed() -> None:
    """I1 to I15, in order."""
    assert list(INVARIANTS) == [f"I{n}" for n in range(1, 16)]


@pytest.mark.parametrize("name", [name for name in INVARIANTS if name not in NOT_YET])
def test_an_invariant_is_shown_by_tests(name: str) -> None:
    """What holds now has a test that exists, and says where it is enforced."""
    _, _, enforced, shown = INVARIANTS[name]
    found = TEST.findall(shown)
    assert enforced
    assert found
    for file, test in found:
        assert test in named_tests(file), f"{file}::{test}"


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_does_not_hold_yet_says_so(name: str) -> None:
    """An invariant without a test claims nothing."""
    assert INVARIANTS[name][2].startswith("not yet: ")


@pytest.mark.parametrize("row", CONTROLS, ids=lambda row: row[0])
def test_a_control_names_its_test(row: list[str]) -> None:
    """Every guard that can be taken away has the test that takes it away."""
    ((file, test),) = TEST.findall(row[2])
    assert test in named_tests(file), f"{file}::{test}"


def test_every_planted_bug_is_described() -> None:
    """The bugs planted under the state machine are listed, and no others."""
    rows = page("docs/concurrency.md").table("planted bug", "the rule that is missing")
    planted = {plant.__name__.removeprefix("_plant_") for plant in PLANTED}
    assert {row[0].strip("`") for row in rows} == planted


def test_the_findings_of_operations_exist() -> None:
    """What an operator is told to look for is what a verification says."""
    rows = page("docs/operations.md").table("finding", "what it may be", "what to do")
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row[0])}
    assert named
    assert named <= BOOK_CODES.keys() | REPLY_CODES.keys() | RULE_CODES.keys() | LOG_CODES.keys()
