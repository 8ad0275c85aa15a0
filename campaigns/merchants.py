"""The merchants that a campaign designates, asked for one at a time.

A city names thousands of them and every till asks, so that each campaign's list is made a set once.
Nothing here knows of coupons, packets or events.
"""

from __future__ import annotations

from typing import Final

SETS_MAX: Final = 1_000
"""Campaigns whose merchants are kept as a set."""

_sets: dict[int, tuple[list[str], frozenset[str]]] = {}


def is_designated(merchants: list[str] | None, merchant: str) -> bool:
    """Whether a campaign's list has a merchant; without a list every merchant is designated."""
    return merchants is None or merchant in _as_set(merchants)


def _as_set(merchants: list[str]) -> frozenset[str]:
    known = _sets.get(id(merchants))
    if known is None or known[0] is not merchants:
        if len(_sets) >= SETS_MAX:
            _sets.clear()
        known = _sets[id(merchants)] = (merchants, frozenset(merchants))
    return known[1]
