"""Merkle trees of RFC 6962 and 9162 over SHA-256: roots, compact ranges, proofs and verdicts.

Proofs are made from hashes of complete subtrees, asked for by level and number; they are judged by
their sizes and hashes alone. A verifier never believes a proof that is longer, shorter or
otherwise other than the one that the sizes ask for, and never crashes on a hostile one: it says
False. Nothing here knows what a leaf means, where hashes are kept or who signed a root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
SIZE_MAX: Final = 2**63 - 1
"""Largest size of a tree that the formats of logs know."""

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of the tree that has no leaves."""


class MerkleError(ValueError):
    """A tree, range or proof was asked for that cannot be."""


class Node(NamedTuple):
    """A complete subtree: 2**level leaves, the `number`-th such one from the left."""

    level: int
    number: int

    @property
    def start(self) -> int:
        """The first leaf."""
        return self.number << self.level

    @property
    def end(self) -> int:
        """The leaf after the last one."""
        return (self.number + 1) << self.level


class Span(NamedTuple):
    """The leaves from `start` up to, not including, `end`."""

    start: int
    end: int


HashReader = Callable[[Sequence[Node]], Sequence[bytes]]
"""Returns the hashes of complete subtrees, in the order asked for; asked once for each proof."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf that holds `entry`."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of the node above two hashes."""
    return sha256(b"\x01" + left + right).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Return the hashes of many leaves."""
    return [sha256(b"\x00" + entry).digest() for entry in entries]


def parent_hashes(hashes: Sequence[bytes]) -> list[bytes]:
    """Return the hashes one level up; the last one is left out when it has no sibling."""
    return [
        sha256(b"\x01" + left + right).digest()
        for left, right in zip(hashes[::2], hashes[1::2], strict=False)
    ]


# --- compact ranges ---------------------------------------------------------------------------


class CompactRange:
    """What must be known of the leaves from `begin` to `end` to go on: few hashes.

    They are those of the largest complete subtrees that cover the range, from left to right.
    Adding a leaf costs one node hash on average, whatever the size. Two ranges that touch merge.
    """

    __slots__ = ("_hashes", "_levels", "begin", "end")

    def __init__(
        self, begin: int = 0, end: int | None = None, hashes: Sequence[bytes] = ()
    ) -> None:
        """Take up a range whose hashes were kept; without any it is empty."""
        self.begin = begin
        self.end = begin if end is None else end
        nodes = cover(Span(self.begin, self.end))
        if len(nodes) != len(hashes) or not _are_hashes(hashes):
            raise MerkleError(f"leaves {begin} to {end} take {len(nodes)} hashes")
        self._levels = [node.level for node in nodes]
        self._hashes = list(hashes)

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """The hashes of `cover(begin, end)`, by which the range can be taken up again."""
        return tuple(self._hashes)

    def nodes(self) -> Iterator[tuple[Node, bytes]]:
        """Yield the covering subtrees with their hashes, from left to right."""
        start = self.begin
        for level, value in zip(self._levels, self._hashes, strict=True):
            yield Node(level, start >> level), value
            start += 1 << level

    def append(self, leaf: bytes, complete: Callable[[Node, bytes], None] | None = None) -> None:
        """Add the hash of the next leaf; `complete` hears of each subtree that it completes.

        It hears of the leaf first, then of the subtrees, from the smallest to the largest.
        """
        self._add(0, leaf, complete)

    def extend(
        self, leaves: Iterable[bytes], complete: Callable[[Node, bytes], None] | None = None
    ) -> None:
        """Add the hashes of the next leaves, in order."""
        for leaf in leaves:
            self._add(0, leaf, complete)

    def merge(self, right: CompactRange) -> None:
        """Add the leaves of a range that begins where this one ends."""
        if right.begin != self.end:
            raise MerkleError(f"a range from {right.begin} does not follow one to {self.end}")
        for node, value in list(right.nodes()):
            self._add(node.level, value, None)

    def root(self) -> bytes:
        """Return the root of the tree of these leaves; the range must begin at leaf 0."""
        if self.begin != 0:
            raise MerkleError("a range that does not begin at the first leaf has no root")
        return _fold(self._hashes) if self._hashes else EMPTY_ROOT

    def _add(
        self, level: int, value: bytes, complete: Callable[[Node, bytes], None] | None
    ) -> None:
        levels, hashes = self._levels, self._hashes
        number = self.end >> level
        self.end += 1 << level
        if complete is not None:
            complete(Node(level, number), value)
        while number & 1 and levels and levels[-1] == level:
            levels.pop()
            value = sha256(b"\x01" + hashes.pop() + value).digest()
            level += 1
            number >>= 1
            if complete is not None:
                complete(Node(level, number), value)
        levels.append(level)
        hashes.append(value)


def cover(span: Span) -> list[Node]:
    """Return the largest complete subtrees that make up a span, from left to right."""
    start, end = span
    if not 0 <= start <= end <= SIZE_MAX:
        raise MerkleError(f"no leaves from {start} to {end}")
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root of the tree over all these leaf hashes."""
    whole = CompactRange()
    whole.extend(leaves)
    return whole.root()


class MemoryTree:
    """All hashes of a tree that fits into memory, for proofs about any size it has had."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._hashes: dict[Node, bytes] = {}
        self._range = CompactRange()
        self.extend(leaves)

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return self._range.end

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes."""
        self._range.extend(leaves, self._hashes.__setitem__)

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of complete subtrees: a `HashReader`."""
        return [self._hashes[node] for node in nodes]

    def root(self, size: int | None = None) -> bytes:
        """Return the root at a size, the present one unless told."""
        return root_at(self.size if size is None else size, self.read)


# --- making proofs ----------------------------------------------------------------------------


def root_at(size: int, read: HashReader) -> bytes:
    """Return the root of the tree's first `size` leaves."""
    if size == 0:
        return EMPTY_ROOT
    return _hashes_of([Span(0, size)], read)[0]


def inclusion_proof(index: int, size: int, read: HashReader) -> list[bytes]:
    """Return the proof that leaf `index` is in the tree of `size` leaves (RFC 9162, 2.1.3.1)."""
    if not 0 <= index < size <= SIZE_MAX:
        raise MerkleError(f"leaf {index} is not in a tree of {size}")
    return _hashes_of(_beside(Span(index, index + 1), Span(0, size))[0], read)


def consistency_proof(size1: int, size2: int, read: HashReader) -> list[bytes]:
    """Return the proof that the tree of `size2` leaves extends the one of `size1`."""
    if not 0 < size1 <= size2 <= SIZE_MAX:
        raise MerkleError(f"no proof that a tree of {size2} extends one of {size1}")
    return subtree_consistency_proof(Span(0, size1), size2, read)


def subtree_inclusion_proof(index: int, subtree: Span, read: HashReader) -> list[bytes]:
    """Return the proof that leaf `index` is in a subtree."""
    if not (is_subtree(subtree) and subtree.start <= index < subtree.end):
        raise MerkleError(f"leaf {index} is not in a subtree {subtree}")
    return _hashes_of(_beside(Span(index, index + 1), subtree)[0], read)


def subtree_consistency_proof(subtree: Span, size: int, read: HashReader) -> list[bytes]:
    """Return the proof that a subtree is part of the tree of `size` leaves."""
    if not (is_subtree(subtree) and subtree.end <= size <= SIZE_MAX):
        raise MerkleError(f"{subtree} is no subtree of a tree of {size}")
    if subtree.start == subtree.end:
        return []
    spans, rest = _beside(subtree, Span(0, size))
    return _hashes_of(spans if rest is None else [rest, *spans], read)


def is_subtree(span: Span) -> bool:
    """Say whether a span may be a subtree: it begins at a multiple of its size rounded up.

    The size is rounded up to a power of two, so that the span is a tree of its own within every
    larger tree. It may be empty.
    """
    start, end = span
    if not 0 <= start <= end <= SIZE_MAX:
        return False
    return end - start < 2 or start % (1 << (end - start - 1).bit_length()) == 0


# --- judging proofs ---------------------------------------------------------------------------


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> bool:
    """Say whether a proof shows that the leaf hash is number `index` of the tree of `size`."""
    return verify_subtree_inclusion(index, Span(0, size), leaf, proof, root)


def verify_subtree_inclusion(
    index: int, subtree: Span, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> bool:
    """Say whether a proof shows that the leaf hash is number `index` of a subtree's root."""
    if not (is_subtree(subtree) and subtree.start <= index < subtree.end):
        return False
    spans, _ = _beside(Span(index, index + 1), subtree)
    if len(proof) != len(spans) or not _are_hashes([leaf, root, *proof]):
        return False
    value = leaf
    for span, sibling in zip(spans, proof, strict=True):
        value = node_hash(value, sibling) if span.start > index else node_hash(sibling, value)
    return compare_digest(value, root)


def verify_consistency(
    size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes
) -> bool:
    """Say whether a proof shows that the tree of `size2` extends the one of `size1`.

    Every tree extends the empty one, so there is nothing to prove of size 0 and the answer is
    False: who begins with nothing must say so instead of asking here.
    """
    return size1 > 0 and verify_subtree_consistency(Span(0, size1), size2, proof, root1, root2)


def verify_subtree_consistency(
    subtree: Span, size: int, proof: Sequence[bytes], root1: bytes, root2: bytes
) -> bool:
    """Say whether a proof shows that the subtree of `root1` is part of the tree of `root2`."""
    if not (is_subtree(subtree) and subtree.end <= size <= SIZE_MAX):
        return False
    if subtree.start == subtree.end:
        return not proof and root1 == EMPTY_ROOT
    if subtree == (0, size):
        return not proof and root1 == root2
    return _verify_part(subtree, size, proof, root1, root2)


def _verify_part(
    subtree: Span, size: int, proof: Sequence[bytes], root1: bytes, root2: bytes
) -> bool:
    spans, rest = _beside(subtree, Span(0, size))
    hashes = list(proof) if rest is not None else [root1, *proof]
    if len(hashes) != len(spans) + 1 or not _are_hashes([root1, root2, *proof]):
        return False
    part = whole = hashes[0]
    end = subtree.end
    for span, sibling in zip(spans, hashes[1:], strict=True):
        if span.start >= end:
            whole = node_hash(whole, sibling)
            continue
        if span.start >= subtree.start:
            part = node_hash(sibling, part)
        whole = node_hash(sibling, whole)
    return compare_digest(part, root1) and compare_digest(whole, root2)


# --- the shape that proofs have ---------------------------------------------------------------


def _beside(part: Span, tree: Span) -> tuple[list[Span], Span | None]:
    """Return the subtrees beside the way from a part up to a tree's root, from the bottom up.

    Where the part is no node of the tree (its last leaves are in the midst of one), the way
    begins at the node that holds exactly its last leaves, and this node is returned as well.
    """
    start, end = tree
    first = part.start
    beside = []
    while (start, end) != (first, part.end):
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if part.end <= middle:
            beside.append(Span(middle, end))
            end = middle
        else:
            beside.append(Span(start, middle))
            start = middle
            first = max(first, middle)
    beside.reverse()
    return beside, Span(start, end) if first > part.start else None


def _hashes_of(spans: Sequence[Span], read: HashReader) -> list[bytes]:
    """Return the roots of subtrees, having asked once for all hashes that make them up."""
    covers = [cover(span) for span in spans]
    known = iter(read([node for nodes in covers for node in nodes]))
    return [_fold([next(known) for _ in nodes]) for nodes in covers]


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Return the root over complete subtrees that shrink from left to right."""
    value = hashes[-1]
    for left in reversed(hashes[:-1]):
        value = sha256(b"\x01" + left + value).digest()
    return value


def _are_hashes(values: Sequence[object]) -> bool:
    return all(isinstance(value, bytes) and len(value) == HASH_BYTES for value in values)
