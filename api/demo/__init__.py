"""The demo: a real year of a retailer's coupons, replayed through the HTTP API and reconciled.

It is a customer like any other: it starts the service in a home of its own and from then on knows
it by HTTP alone. It must never read the database, and never look at an answer to learn what the
answer should have been: that comes from the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

QUICK_HOUSEHOLDS: Final = 6
"""Enough for a redemption that is refused, and about twenty seconds on two cores."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How the demo is run."""

    home: Path
    """Tidebook's home; the demo keeps its own below it and never touches the rest."""

    households: int | None = None
    """Replay only so many households, always the same ones; None: all 1,559."""

    json: bool = False
    """Print one JSON document instead of tables; progress then goes to standard error only when
    that is a terminal."""

    connections: int = 64
    """Most requests in flight."""

    @property
    def demo_home(self) -> Path:
        """Where this demo lives: each sample has its own, because its campaigns are smaller."""
        name = "demo" if self.households is None else f"demo-{self.households}"
        return self.home / name


def run_demo(options: DemoOptions) -> int:
    """Replay, reconcile and verify; return the exit status.

    0: everything matches. 1: a figure differs or the verification found something. 2: the demo
    could not be run.
    """
    from api.demo.run import run

    return run(options)
