"""The replay of Shenzhen Luohu, October 2020: ten million yuan, drawn, claimed, spent and returned.

What was reported of that campaign is taken from the announcements; who registered, when, and what
each winner bought is made up from a seed, so that it adds up to what was reported. Every step goes
through the decisions that a real campaign goes through. Nothing here writes an event by itself, and
no figure in the table comes from the plan: it comes from the book's read models.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCALE_MAX: Final = 1_000
"""Smallest size: a thousandth, at which there are still fifty winners."""

Advance = Callable[[int], None]
Progress = Callable[[str, int | None, str], AbstractContextManager[Advance]]
"""Shows how far a step is: its name, of how many, of what."""


@dataclass(frozen=True, kw_only=True)
class LuohuOptions:
    """How the replay is run."""

    home: Path
    """Tidebook's home; the replay keeps its own below it and never touches the rest."""

    scale: int = 1
    """Every reported figure is divided by this and rounded down."""

    seed: int = 1
    """Decides the keys, the beacon's value and who buys what: the same seed, the same book."""

    @property
    def own_home(self) -> Path:
        """Where this replay lives: each size and seed has its own."""
        return self.home / f"luohu-{self.seed}-{self.scale}"
