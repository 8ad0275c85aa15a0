"""Splitting: sums are exact, nobody gets nothing, and the shares are as the rule says."""

from __future__ import annotations

import hmac
from collections import Counter
from hashlib import sha256
from math import sqrt
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from campaigns.seeds import commitment_of
from campaigns.splitting import (
    equal_shares,
    number_below,
    share,
    share_range,
    shares,
    split_seed,
    tier,
)

SEEDS = st.binary(min_size=32, max_size=32)
COUNTS = st.integers(1, 200)


def seed(number: int) -> bytes:
    """A seed that nobody chose for what comes of it."""
    return sha256(b"test seed %d" % number).digest()


@given(SEEDS, COUNTS, st.integers(0, 10**7))
def test_shares_sum_to_the_total_and_none_is_empty(own: bytes, count: int, more: int) -> None:
    """Whatever the seed, the total and the count: not a fen is lost, and nobody gets nothing."""
    total = count + more
    found = shares(own, total, count)
    assert len(found) == count
    assert sum(found) == total
    assert min(found) >= 1


@given(SEEDS, COUNTS, st.integers(0, 10**7))
def test_no_share_is_more_than_twice_the_mean_of_what_is_left(
    own: bytes, count: int, more: int
) -> None:
    """The double-mean rule, share by share; the last one takes the rest."""
    left = count + more
    for index, amount in enumerate(shares(own, left, count), 1):
        people = count - index + 1
        if people > 1:
            assert amount * people <= 2 * left
        left -= amount
    assert left == 0


@given(SEEDS, COUNTS, st.integers(0, 10**7))
def test_shares_are_the_same_taken_one_by_one(own: bytes, count: int, more: int) -> None:
    """The n-th share follows from the seed, n and what is left: no list need be kept."""
    left = count + more
    expected = shares(own, left, count)
    for index in range(1, count + 1):
        amount = share(own, index, left, count - index + 1)
        assert amount == expected[index - 1]
        left -= amount


@given(COUNTS, st.integers(0, 10**7))
def test_equal_shares_differ_by_one_fen_at_most(count: int, more: int) -> None:
    """The odd fen go to the first shares, one to each."""
    total = count + more
    found = equal_shares(total, count)
    assert sum(found) == total
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] <= 1


def test_a_share_each_way_at_the_edges() -> None:
    """One share is all, and a fen each is a fen each."""
    assert shares(seed(0), 1, 1) == [1]
    assert shares(seed(0), 20_000, 1) == [20_000]
    assert shares(seed(0), 7, 7) == [1] * 7
    assert share_range(10, 4) == (1, 5)
    assert share_range(5, 4) == (1, 2)


def test_the_first_share_is_uniform_up_to_twice_the_mean() -> None:
    """Each amount from 1 fen to twice the mean is as likely as the others: chi-square says so."""
    rounds, most = 8_000, 20
    seen = Counter(share(seed(n), 1, 100, 10) for n in range(rounds))
    assert set(seen) == set(range(1, most + 1))
    expected = rounds / most
    chi_square = sum((count - expected) ** 2 / expected for count in seen.values())
    assert chi_square < 43.8, "19 degrees of freedom: more is seen once in a thousand seeds"


def test_every_place_has_the_mean_whoever_comes_when() -> None:
    """Early or late: what a place gets on average is the mean, within what chance explains."""
    rounds, total, count = 3_000, 10_000, 5
    splits = [shares(seed(n), total, count) for n in range(rounds)]
    mean = total / count
    for place in range(count):
        amounts = [split[place] for split in splits]
        average = sum(amounts) / rounds
        spread = sqrt(sum((amount - average) ** 2 for amount in amounts) / rounds)
        assert abs(average - mean) < 4 * spread / sqrt(rounds) + 1


def test_a_biased_share_is_found_by_the_same_check() -> None:
    """A share that is a hash modulo a bound of its own making, without rejection, is not fair."""
    bound = 192
    fair = Counter(number_below(seed(n), b"x", 1, bound) for n in range(4_000))
    biased = Counter(sha256(seed(n)).digest()[0] % bound for n in range(4_000))

    def chi_square(seen: Counter[int]) -> float:
        expected = 4_000 / bound
        return sum((seen[value] - expected) ** 2 / expected for value in range(bound))

    assert chi_square(fair) < 261, "191 degrees of freedom, once in a thousand"
    assert chi_square(biased) > 400


def test_numbers_are_made_as_the_documentation_says() -> None:
    """Anybody can make them again with a hash function and nothing else."""
    told = b"share\0" + (3).to_bytes(8, "big") + (0).to_bytes(4, "big")
    number = int.from_bytes(hmac.digest(seed(1), told, "sha256"), "big")
    assert number_below(seed(1), b"share\0", 3, 1_000) == number % 1_000
    assert share(seed(1), 3, 5_000, 10) == 1 + number % 1_000


def test_a_number_that_would_not_be_fair_is_drawn_again() -> None:
    """Where the bound leaves half of the hashes over, every second one is rejected."""
    bound = (1 << 255) + 1
    told = b"x" + (1).to_bytes(8, "big")
    rejected = 0
    for n in range(40):
        attempts = [
            int.from_bytes(hmac.digest(seed(n), told + attempt.to_bytes(4, "big"), "sha256"), "big")
            for attempt in range(20)
        ]
        first = next(number for number in attempts if number < bound)
        rejected += first != attempts[0]
        assert number_below(seed(n), b"x", 1, bound) == first
    assert 8 < rejected < 32


@given(SEEDS, st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any))
def test_tiers_are_given_as_often_as_they_are_there(own: bytes, counts: list[int]) -> None:
    """The order is random, the numbers of each tier are not."""
    left = list(counts)
    given_out: Counter[int] = Counter()
    for index in range(1, sum(counts) + 1):
        which = tier(own, index, left)
        left[which] -= 1
        given_out[which] += 1
    assert [given_out[which] for which in range(len(counts))] == counts


def test_every_order_of_tiers_is_equally_likely() -> None:
    """Of two small and one large: the large one comes first, second and third equally often."""
    first_large: Counter[int] = Counter()
    for n in range(3_000):
        left, order = [2, 1], []
        for index in (1, 2, 3):
            which = tier(seed(n), index, left)
            left[which] -= 1
            order.append(which)
        first_large[order.index(1)] += 1
    assert all(abs(count - 1_000) < 120 for count in first_large.values())


def test_seeds_are_of_one_key_one_stream_and_one_version() -> None:
    """Who has the key finds the seed again; no two splits share one."""
    stream, other = UUID(int=1), UUID(int=2)
    made = {
        split_seed(b"k" * 32, stream, 4),
        split_seed(b"k" * 32, stream, 5),
        split_seed(b"k" * 32, other, 4),
        split_seed(b"l" * 32, stream, 4),
    }
    assert len(made) == 4
    assert commitment_of(seed(1)) == sha256(seed(1)).hexdigest()
