"""Scenarios: who comes when and what each does, one kind of rush per module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadtest.scenarios.bots import Bots
from loadtest.scenarios.day import Day
from loadtest.scenarios.lottery import Lottery
from loadtest.scenarios.redemptions import Redemptions
from loadtest.scenarios.rush import Rush
from loadtest.scenarios.skewed import Skewed
from loadtest.scenarios.waiting import Waiting

if TYPE_CHECKING:
    from loadtest.scenarios.plan import Scenario

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (Rush(), Skewed(), Bots(), Redemptions(), Day(), Waiting(), Lottery())
}
"""Every scenario, by the name that the command line knows it by."""
