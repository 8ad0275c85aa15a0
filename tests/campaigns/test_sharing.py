"""Who gets which share: fixed by seed and salt, fair to every order of arrival, and not guessable.

Goal: the amounts follow the double-mean rule and sum to the total; when somebody comes, and who
somebody is, changes nothing of what they can expect. Method: properties over any group, and
counts over many groups whose seeds nobody chose, with planted biases that the counts must catch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from math import sqrt
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.groups import sharing
from campaigns.groups.sharing import amounts_of, code_hash, code_of, index_for, mixed_seed, share_id
from tests.support.desk import person

SEEDS = st.binary(min_size=32, max_size=32)
GROUP = UUID(int=77)
HandOut = Callable[[bytes, UUID, int, list[int]], int]


def seed(number: int) -> bytes:
    """A seed that nobody chose for what comes of it."""
    return sha256(b"group %d" % number).digest()


def handed_out(
    number: int, total: int, count: int, hand_out: HandOut = index_for
) -> list[tuple[int, int]]:
    """What so many takers of a group get in the order in which they come: index and amount."""
    mixed = mixed_seed(seed(number), GROUP, "")
    amounts = amounts_of("random", mixed, total, count)
    left = list(range(1, count + 1))
    got = []
    for nth in range(1, count + 1):
        index = hand_out(mixed, share_id(GROUP, person(nth)), nth, left)
        left.remove(index)
        got.append((index, amounts[index - 1]))
    return got


@given(SEEDS, st.integers(1, 60), st.integers(0, 10**6), st.sampled_from(["equal", "random"]))
def test_everything_is_handed_out_once(own: bytes, count: int, more: int, kind: str) -> None:
    """Whoever comes in whatever order: each share is taken once, and the sum is the total."""
    mixed = mixed_seed(own, GROUP, "00")
    amounts = amounts_of(kind, mixed, count + more, count)
    assert sum(amounts) == count + more
    assert min(amounts) >= 1
    left = list(range(1, count + 1))
    for nth in range(1, count + 1):
        left.remove(index_for(mixed, share_id(GROUP, person(nth)), nth, left))
    assert left == []


@given(SEEDS, st.binary(min_size=0, max_size=32), st.binary(min_size=0, max_size=32))
def test_seed_salt_and_group_all_decide(own: bytes, one: bytes, other: bytes) -> None:
    """Neither the server's seed nor the sender's salt alone, nor both for two groups at once."""
    mixed = mixed_seed(own, GROUP, one.hex())
    assert (mixed == mixed_seed(own, GROUP, other.hex())) == (one == other)
    assert mixed != mixed_seed(own, UUID(int=78), one.hex())
    assert mixed != mixed_seed(sha256(own).digest(), GROUP, one.hex())


def chi_square(counts: Counter[int], values: range, rounds: int) -> float:
    """How far counts are from all values being equally likely."""
    expected = rounds / len(values)
    return sum((counts[value] - expected) ** 2 / expected for value in values)


ROUNDS, COUNT, TOTAL = 3_000, 10, 2_000
ONCE_IN_A_THOUSAND = 27.9
"""Chi-square of nine degrees of freedom that one run in a thousand exceeds."""


def unfairness(hand_out: HandOut) -> float:
    """The worst chi-square, over who comes when, of which share they get."""
    seen: list[Counter[int]] = [Counter() for _ in range(COUNT)]
    for number in range(ROUNDS):
        for nth, (index, _) in enumerate(handed_out(number, TOTAL, COUNT, hand_out)):
            seen[nth][index] += 1
    return max(chi_square(counts, range(1, COUNT + 1), ROUNDS) for counts in seen)


def test_whoever_comes_when_gets_any_share_alike() -> None:
    """S35: no order of arrival leads to the larger shares, nor to the smaller ones."""
    assert unfairness(index_for) < ONCE_IN_A_THOUSAND


def _in_order(_mixed: bytes, _share: UUID, _nth: int, left: list[int]) -> int:
    """Planted: shares are handed out in their order, which is that of their spread."""
    return left[0]


def _a_little_late(mixed: bytes, share: UUID, nth: int, left: list[int]) -> int:
    """Planted: one in ten is not drawn among all that are left."""
    hurried = mixed[0] % 10 == 0
    return left[-1] if hurried else index_for(mixed, share, nth, left)


@pytest.mark.parametrize("bias", [_in_order, _a_little_late])
def test_a_planted_bias_is_found(bias: HandOut) -> None:
    """Control: the same count goes red when the hand-out favours somebody, even one in ten."""
    assert unfairness(bias) > ONCE_IN_A_THOUSAND


def test_everybody_can_expect_the_mean_whenever_they_come() -> None:
    """What each place in the order of arrival gets on average is the mean, but for chance."""
    got = [handed_out(number, TOTAL, COUNT) for number in range(ROUNDS)]
    mean = TOTAL / COUNT
    for nth in range(COUNT):
        amounts = [each[nth][1] for each in got]
        average = sum(amounts) / ROUNDS
        spread = sqrt(sum((amount - average) ** 2 for amount in amounts) / ROUNDS)
        assert abs(average - mean) < 4 * spread / sqrt(ROUNDS)


def test_the_spread_is_the_same_whenever_they_come() -> None:
    """By the double-mean rule late shares spread widest; here coming late is no wilder bet."""

    def spreads(hand_out: HandOut) -> list[float]:
        got = [handed_out(number, TOTAL, COUNT, hand_out) for number in range(ROUNDS)]
        mean = TOTAL / COUNT
        return [sqrt(sum((each[n][1] - mean) ** 2 for each in got) / ROUNDS) for n in range(COUNT)]

    fair, in_order = spreads(index_for), spreads(_in_order)
    assert max(fair) / min(fair) < 1.1
    assert max(in_order) / min(in_order) > 1.1, "control: the same count sees the rule's own spread"


def test_what_one_gets_depends_on_who_one_is() -> None:
    """Next in line, two people get different shares: watching the others tells nobody theirs."""
    mixed = mixed_seed(seed(1), GROUP, "")
    left = list(range(1, 101))
    got = {index_for(mixed, share_id(GROUP, person(n)), 1, left) for n in range(50)}
    assert len(got) > 25


def test_a_code_is_the_same_again_and_says_nothing_of_another() -> None:
    """Made by the key, so that it need not be kept: a hundred bits of 32 letters and digits."""
    code = code_of(b"k" * 32, GROUP)
    assert code == code_of(b"k" * 32, GROUP)
    assert len(code) == 20
    assert set(code) <= set("abcdefghijklmnopqrstuvwxyz234567")
    assert code != code_of(b"k" * 32, UUID(int=78)) != code_of(b"l" * 32, GROUP)
    assert code not in code_hash(code)


def test_amounts_are_made_once_for_all_takers() -> None:
    """A thousand takers of a group do not split its sum a thousand times."""
    sharing.amounts_of.cache_clear()
    mixed = mixed_seed(seed(2), GROUP, "")
    assert amounts_of("random", mixed, 5_000, 100) is amounts_of("random", mixed, 5_000, 100)
