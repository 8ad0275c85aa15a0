"""Merkle trees: the published cases, the RFC's own recursion, and proofs that were meddled with."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.merkle import (
    EMPTY_ROOT,
    CompactRange,
    MemoryTree,
    MerkleError,
    Node,
    Span,
    consistency_proof,
    cover,
    inclusion_proof,
    is_subtree,
    leaf_hash,
    leaf_hashes,
    node_hash,
    parent_hashes,
    root_at,
    root_of,
    subtree_consistency_proof,
    subtree_inclusion_proof,
    verify_consistency,
    verify_inclusion,
    verify_subtree_consistency,
    verify_subtree_inclusion,
)

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "merkle"
LARGEST = 40
TREE = MemoryTree(leaf_hashes(b"%d" % number for number in range(LARGEST)))
LEAVES = leaf_hashes(b"%d" % number for number in range(LARGEST))

sizes = st.integers(1, LARGEST)


def vectors(kind: str) -> list[dict[str, Any]]:
    """The published cases of a kind; the test is skipped where they are not to be had."""
    paths = sorted((VECTORS / kind).glob("*/*.json"))
    if not paths:
        pytest.skip("the published vectors are not at ../shared/vectors/merkle")
    return [{**json.loads(path.read_text()), "path": path} for path in paths]


def unpack(texts: list[str] | None) -> list[bytes]:
    """The bytes of base64 texts."""
    return [base64.b64decode(text) for text in texts or []]


def mth(leaves: list[bytes]) -> bytes:
    """The root as RFC 9162 2.1.1 defines it, by recursion."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    middle = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + mth(leaves[:middle]) + mth(leaves[middle:])).digest()


def test_every_published_inclusion_case_gives_the_published_verdict() -> None:
    """Inclusion in a whole tree."""
    for case in vectors("inclusion"):
        verdict = verify_inclusion(
            case["leafIdx"],
            case["treeSize"],
            base64.b64decode(case["leafHash"]),
            unpack(case["proof"]),
            base64.b64decode(case["root"]),
        )
        assert verdict is not case["wantErr"], case["path"]


def test_every_published_consistency_case_gives_the_published_verdict() -> None:
    """Consistency of two whole trees."""
    for case in vectors("consistency"):
        verdict = verify_consistency(
            case["size1"],
            case["size2"],
            unpack(case["proof"]),
            *unpack([case["root1"], case["root2"]]),
        )
        assert verdict is not case["wantErr"], case["path"]


def test_every_published_subtree_inclusion_case_gives_the_published_verdict() -> None:
    """Inclusion in a subtree."""
    for case in vectors("subtreeinclusion"):
        verdict = verify_subtree_inclusion(
            case["leafIdx"],
            Span(case["start"], case["end"]),
            base64.b64decode(case["leafHash"]),
            unpack(case["proof"]),
            base64.b64decode(case["root"]),
        )
        assert verdict is not case["wantErr"], case["path"]


def test_every_published_subtree_consistency_case_gives_the_published_verdict() -> None:
    """Consistency of a subtree with a tree."""
    for case in vectors("subtreeconsistency"):
        verdict = verify_subtree_consistency(
            Span(case["start"], case["end"]),
            case["size"],
            unpack(case["proof"]),
            *unpack([case["root1"], case["root2"]]),
        )
        assert verdict is not case["wantErr"], case["path"]


def test_hashes_of_leaves_and_nodes_are_those_of_the_rfc() -> None:
    """A leaf is hashed behind a zero byte, a node behind a one."""
    assert leaf_hash(b"").hex().startswith("6e340b9cffb37a98")
    assert node_hash(EMPTY_ROOT, EMPTY_ROOT) == sha256(b"\x01" + EMPTY_ROOT * 2).digest()
    assert parent_hashes(LEAVES[:5]) == [node_hash(*LEAVES[:2]), node_hash(*LEAVES[2:4])]


def test_the_root_at_every_size_is_that_of_the_rfcs_recursion() -> None:
    """Root from a compact range, from stored hashes and by definition are one."""
    for size in range(LARGEST + 1):
        expected = mth(LEAVES[:size])
        assert root_of(LEAVES[:size]) == root_at(size, TREE.read) == expected
        assert TREE.root(size) == expected


def test_every_proof_of_inclusion_holds() -> None:
    """For every leaf of every size, and for no other leaf."""
    for size in range(1, LARGEST + 1):
        root = TREE.root(size)
        for index in range(size):
            proof = inclusion_proof(index, size, TREE.read)
            assert verify_inclusion(index, size, LEAVES[index], proof, root)
            assert not verify_inclusion(index, size, LEAVES[index - 1], proof, root) or size == 1


def test_every_proof_of_consistency_holds() -> None:
    """Between any two sizes."""
    for size2 in range(1, LARGEST + 1):
        for size1 in range(1, size2 + 1):
            proof = consistency_proof(size1, size2, TREE.read)
            assert verify_consistency(size1, size2, proof, TREE.root(size1), TREE.root(size2))


def test_every_proof_about_subtrees_holds() -> None:
    """For every subtree of every size, its hash being that of a tree of its own."""
    spans = [Span(a, b) for b in range(LARGEST + 1) for a in range(b + 1) if is_subtree(Span(a, b))]
    assert Span(4, 7) in spans
    assert Span(2, 5) not in spans
    for span in spans:
        part = mth(LEAVES[span.start : span.end])
        for size in {max(span.end, 1), (span.end + LARGEST) // 2, LARGEST}:
            proof = subtree_consistency_proof(span, size, TREE.read)
            assert verify_subtree_consistency(span, size, proof, part, TREE.root(size))
        for index in range(*span):
            proof = subtree_inclusion_proof(index, span, TREE.read)
            assert verify_subtree_inclusion(index, span, LEAVES[index], proof, part)


@given(st.data())
def test_a_meddled_proof_of_inclusion_is_never_believed(data: st.DataObject) -> None:
    """One flipped bit, one hash more or fewer, or another place: False, and no crash."""
    size = data.draw(sizes)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, TREE.read)
    leaf, root = LEAVES[index], TREE.root(size)
    meddled = data.draw(meddling([leaf, root, *proof]))
    assert not verify_inclusion(index, size, *_arranged(meddled))
    other = data.draw(st.integers(-3, 2 * LARGEST).filter(lambda place: place != index))
    assert not verify_inclusion(other, size, leaf, proof, root)


@given(st.data())
def test_a_meddled_proof_of_consistency_is_never_believed(data: st.DataObject) -> None:
    """One flipped bit, one hash more or fewer, or swapped roots: False, and no crash."""
    size1, size2 = sorted(data.draw(st.tuples(sizes, sizes)))
    proof = consistency_proof(size1, size2, TREE.read)
    root1, root2 = TREE.root(size1), TREE.root(size2)
    meddled = data.draw(meddling([root1, root2, *proof]))
    assert not verify_consistency(size1, size2, meddled[2:], meddled[0], meddled[1])
    if size1 != size2:
        assert not verify_consistency(size1, size2, proof, root2, root1)
        assert not verify_consistency(size2, size1, proof, root2, root1)


@st.composite
def meddling(draw: st.DrawFn, hashes: list[bytes]) -> list[bytes]:
    """The hashes with one thing wrong about them; the first two stay where they are."""
    place = draw(st.integers(0, len(hashes) - 1))
    wrong = list(hashes)
    how = draw(st.sampled_from(["flip", "insert", "cut", "drop"] if len(hashes) > 2 else ["flip"]))
    if how == "flip":
        bit = draw(st.integers(0, 255))
        wrong[place] = (int.from_bytes(wrong[place]) ^ 1 << bit).to_bytes(32)
    elif how == "insert":
        wrong.insert(max(place, 2), draw(st.binary(min_size=32, max_size=32)))
    elif how == "cut":
        wrong[place] = wrong[place][:-1]
    else:
        del wrong[max(place, 2)]
    return wrong


def _arranged(hashes: list[bytes]) -> tuple[bytes, list[bytes], bytes]:
    return hashes[0], hashes[2:], hashes[1]


@given(
    st.integers(-(2**70), 2**70),
    st.integers(-(2**70), 2**70),
    st.integers(-(2**70), 2**70),
    st.lists(st.binary(max_size=40), max_size=70),
    st.binary(max_size=40),
    st.binary(max_size=40),
)
def test_no_numbers_or_bytes_crash_a_verifier(
    one: int, two: int, three: int, proof: list[bytes], root1: bytes, root2: bytes
) -> None:
    """Whatever is asked, the answer is True or False, and nonsense is not true."""
    assert not verify_inclusion(one, two, root1, proof, root2) or one == 0
    assert verify_consistency(one, two, proof, root1, root2) in {True, False}
    assert verify_subtree_inclusion(one, Span(two, three), root1, proof, root2) in {True, False}
    assert verify_subtree_consistency(Span(one, two), three, proof, root1, root2) in {True, False}


@given(st.lists(st.integers(0, LARGEST), min_size=2, max_size=6))
def test_ranges_that_touch_merge_into_the_range_of_both(cuts: list[int]) -> None:
    """However leaves are cut into ranges, merged they are the one range, and it can be kept."""
    cuts.sort()
    merged = CompactRange(cuts[0])
    for start, end in pairwise(cuts):
        right = CompactRange(start)
        right.extend(LEAVES[start:end])
        merged.merge(right)
    kept = CompactRange(cuts[0], cuts[-1], merged.hashes)
    assert [node for node, _ in kept.nodes()] == cover(Span(cuts[0], cuts[-1]))
    assert [value for _, value in kept.nodes()] == TREE.read(cover(Span(cuts[0], cuts[-1])))
    if cuts[0] == 0:
        assert kept.root() == TREE.root(cuts[-1])


def test_what_completes_is_told_once_and_in_order() -> None:
    """Appending a leaf tells of it and of the subtrees that it completes, smallest first."""
    told: list[Node] = []
    whole = CompactRange()
    for leaf in LEAVES[:4]:
        whole.append(leaf, lambda node, _: told.append(node))
    leaves = [Node(0, number) for number in range(4)]
    assert told == [*leaves[:2], Node(1, 0), *leaves[2:], Node(1, 1), Node(2, 0)]
    assert [(node.start, node.end) for node in told[-2:]] == [(2, 4), (0, 4)]


def test_what_cannot_be_is_refused() -> None:
    """Proofs of leaves that are not there, ranges that do not touch, hashes that do not fit."""
    for ask in (
        lambda: inclusion_proof(4, 4, TREE.read),
        lambda: inclusion_proof(-1, 4, TREE.read),
        lambda: consistency_proof(0, 4, TREE.read),
        lambda: consistency_proof(5, 4, TREE.read),
        lambda: subtree_inclusion_proof(1, Span(1, 3), TREE.read),
        lambda: subtree_consistency_proof(Span(2, 5), 8, TREE.read),
        lambda: CompactRange(0, 3, LEAVES[:1]),
        lambda: CompactRange(0, 2, [b"short"]),
        lambda: CompactRange().merge(CompactRange(1)),
        lambda: CompactRange(1).root(),
        lambda: cover(Span(2, 1)),
    ):
        with pytest.raises(MerkleError):
            ask()


@settings(max_examples=20)
@given(st.integers(2**40, 2**62), st.integers(0, 2**62))
def test_a_proof_of_a_huge_tree_stays_small(size: int, place: int) -> None:
    """At most one hash a level is needed beyond what is stored, whatever the size."""
    index = place % size
    proof = inclusion_proof(index, size, lambda nodes: [bytes(32)] * len(nodes))
    assert len(proof) <= size.bit_length()
    assert not verify_inclusion(index, size, bytes(32), proof, bytes(32))
