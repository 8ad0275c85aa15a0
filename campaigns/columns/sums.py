"""Sums in order: what accounts and counts have come to at every event, and not at the end only."""

from __future__ import annotations

import numpy as np

from campaigns.columns.texts import Array


class Running:
    """Events in groups, each group in the order of its events."""

    def __init__(self, groups: Array) -> None:
        self._groups = groups
        self._is_one = len(groups) == 0 or bool((groups == groups[0]).all())
        self._order = np.arange(0) if self._is_one else np.argsort(groups, kind="stable")

    def sums(self, changes: Array, begins: Array) -> Array:
        """Return for each change what its group has come to with it; `begins` is what each had."""
        if self._is_one:
            whole: Array = np.cumsum(changes) + begins[self._groups[:1]]
            return whole
        order, changed = self._order, changes[self._order]
        groups, sums = self._groups[order], np.cumsum(changed)
        is_first = np.ones(len(order), bool)
        is_first[1:] = groups[1:] != groups[:-1]
        before = (sums - changed)[is_first]
        found = np.empty(len(order), np.int64)
        found[order] = sums - before[np.cumsum(is_first) - 1] + begins[groups]
        return found
