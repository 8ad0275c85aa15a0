"""Sums in order: what accounts and counts have come to at every event, and not at the end only."""

from __future__ import annotations

from typing import Any

import numpy as np

from campaigns.columns.texts import Array


def running(groups: Array, changes: Array, begins: Any) -> Array:
    """Return for each change what its group has come to with it; `begins` is what each had."""
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    sums = np.cumsum(changes[order])
    is_first = np.ones(len(order), bool)
    is_first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    firsts = np.flatnonzero(is_first)
    before = sums[firsts] - changes[order][firsts]
    found = np.empty(len(order), np.int64)
    found[order] = sums - before[np.cumsum(is_first) - 1] + begins[sorted_groups]
    return found


def totals(groups: Array, changes: Array, count: int) -> Array:
    """Return what each of so many groups changed by."""
    found = np.zeros(count, np.int64)
    np.add.at(found, groups, changes)
    return found
