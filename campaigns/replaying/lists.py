"""The lists of public draws, made again from the book: what was frozen, and what was drawn from it.

The same as the files that the holder keeps (`campaigns.draws.listing`), made in memory from the
events alone: twenty bytes an entry while one draw is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

import msgspec

from campaigns.draws.announcing import ListFacts
from campaigns.draws.entry import DrawEntered, DrawEntryVoided, DrawWithdrawn, leaf_of
from campaigns.draws.listing import numbers
from campaigns.draws.method import draw_key, ranked, result_leaves
from ledger.history import Entry
from ledger.merkle import CompactRange, MemoryTree, inclusion_proof, leaf_hash


class _Listed(msgspec.Struct):
    campaign: UUID
    index: int


class _List(NamedTuple):
    entries: int
    withdrawn: list[int]
    root: str


class Results(NamedTuple):
    """What a draw came to: the index of each rank, and the tree over both."""

    ranks: list[int]
    tree: MemoryTree

    @property
    def root(self) -> str:
        """The root of the tree of results, in hex."""
        return self.tree.root().hex()

    def proof(self, rank: int) -> tuple[bytes, ...]:
        """Return the proof that a rank has its entry; nothing proves a rank that is not there."""
        if not 0 <= rank < len(self.ranks):
            return ()
        return tuple(inclusion_proof(rank, len(self.ranks), self.tree.read))


_decode = msgspec.json.Decoder(_Listed).decode


class Lists:
    """Makes lists and results again; those of the draw that was asked for last are kept."""

    def __init__(self, entries: Callable[[int], Iterable[Entry]]) -> None:
        """`entries` yields the book's events up to a position."""
        self._entries = entries
        self._results: tuple[UUID, bytes, Results] | None = None

    def facts(self, campaign: UUID, until: int) -> ListFacts:
        """Return what is published of a list as it stood at a position."""
        found = self._list(campaign, until)
        withdrawn = sha256(numbers(found.withdrawn)).hexdigest()
        return ListFacts(found.entries, found.root, len(found.withdrawn), withdrawn)

    def results(
        self,
        campaign: UUID,
        until: int,
        announcement: bytes,
        secrets: tuple[bytes, bytes],
        wanted: int,
    ) -> Results:
        """Return what is drawn with the seed and the beacon's value, by drawing again."""
        key = draw_key(announcement, *secrets)
        if self._results is None or self._results[:2] != (campaign, key):
            found = self._list(campaign, until)
            ranks = ranked(key, found.entries, frozenset(found.withdrawn), wanted)
            results = Results(ranks, MemoryTree(result_leaves(ranks)))
            self._results = (campaign, key, results)
        return self._results[2]

    def _list(self, campaign: UUID, until: int) -> _List:
        named = f'"campaign":"{campaign}"'.encode()
        tree, count, withdrawn = CompactRange(), 0, list[int]()
        for entry in self._entries(until):
            if entry.topic == DrawEntered.TOPIC and named in entry.state:
                tree.append(leaf_hash(leaf_of(entry.stream, entry.version)))
                count += 1
            elif entry.topic in _EMPTIES and named in entry.state:
                withdrawn.append(_decode(entry.state).index)
        return _List(count, sorted(withdrawn), tree.root().hex())


_EMPTIES = frozenset({DrawWithdrawn.TOPIC, DrawEntryVoided.TOPIC})
