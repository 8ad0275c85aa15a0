"""The method of public draws: exact, complete, and fair to every place in the list.

Goal: nobody's place, number or time of arrival gives more than anybody else's.
Method: the picks are compared with a plain Fisher-Yates shuffle over a whole array; who wins is
counted over many draws and judged by chi-square at a level that a fair method misses once in a
million; two ways to favour somebody must turn the same judgement red.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.draws import method, verify_draw
from campaigns.draws.method import Seat, draw_key, picks, ranked, seat_of
from campaigns.splitting import number_below

KEYS = st.binary(min_size=32, max_size=32)


def whole_shuffle(key: bytes, entries: int) -> list[int]:
    """Every step of the shuffle, over an array that holds all."""
    array = list(range(entries))
    for step in range(entries):
        other = step + number_below(key, method.PICK_LABEL, step, entries - step)
        array[step], array[other] = array[other], array[step]
    return array


@given(KEYS, st.integers(0, 200))
def test_the_picks_are_the_shuffle_of_an_array(key: bytes, entries: int) -> None:
    """Keeping only the swaps in a dictionary changes nothing."""
    assert list(picks(key, entries)) == whole_shuffle(key, entries)


@given(KEYS, st.sets(st.integers(0, 59)), st.integers(0, 80))
def test_ranks_skip_what_was_withdrawn(key: bytes, withdrawn: set[int], count: int) -> None:
    """Ranks are the picks in order, without the empty places, as many as are wanted or there."""
    expected = [index for index in picks(key, 60) if index not in withdrawn][:count]
    assert ranked(key, 60, withdrawn, count) == expected
    assert len(expected) == min(count, 60 - len(withdrawn))


@given(KEYS, st.sets(st.integers(0, 59)), st.integers(0, 80))
def test_the_verifier_draws_the_same_by_code_of_its_own(
    key: bytes, withdrawn: set[int], count: int
) -> None:
    """Two programs that share nothing agree."""
    assert verify_draw.drawn(key, 60, withdrawn, count) == ranked(key, 60, withdrawn, count)


@given(KEYS, st.integers(1, 2**40), st.integers(0, 2**40))
def test_the_verifier_has_the_same_numbers(key: bytes, bound: int, step: int) -> None:
    """Also far beyond what is drawn in a test."""
    assert verify_draw.number_below(key, step, bound) == number_below(
        key, method.PICK_LABEL, step, bound
    )


def test_an_unfair_attempt_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of the last, incomplete stretch gives way to the next attempt, in both programs."""
    digests = {0: b"\xff" * 32, 1: (9).to_bytes(32, "big")}

    def digest(_key: bytes, told: bytes, _name: str) -> bytes:
        return digests[int.from_bytes(told[-4:], "big")]

    monkeypatch.setattr("hmac.digest", digest)
    assert number_below(b"", b"pick\0", 0, 7) == 2
    assert verify_draw.number_below(b"", 0, 7) == 2


def test_the_key_needs_everything() -> None:
    """Announcement, seed and beacon: another one of any gives another key."""
    one = (b"announcement", b"s" * 32, b"r" * 32)
    others = [(b"another", *one[1:]), (one[0], b"t" * 32, one[2]), (*one[:2], b"q" * 32)]
    assert len({draw_key(*each) for each in [one, *others]}) == 4


def test_tiers_are_filled_from_the_first_place_on() -> None:
    """The first places have the first tier; empty tiers are passed over."""
    tiers = [(800, 1), (500, 0), (200, 2)]
    assert [seat_of(tiers, place) for place in range(3)] == [
        Seat(1, 800),
        Seat(3, 200),
        Seat(3, 200),
    ]


# --- fairness -----------------------------------------------------------------------------------

ENTRIES, WINNERS, DRAWS = 40, 10, 4_000

LIMIT = 105.0
"""Chi-square with 39 degrees of freedom is above it once in about ten million."""

Method = Callable[[bytes, int], Sequence[int]]


def drawn_by_us(key: bytes, _draw: int) -> Sequence[int]:
    """The winners by the method."""
    return ranked(key, ENTRIES, frozenset(), WINNERS)


def chi_square(
    by: Method, places: Callable[[int], Sequence[int]] = lambda _: range(ENTRIES)
) -> float:
    """How far the wins of places are from equal, over many draws; `places` orders the entries."""
    wins = [0] * ENTRIES
    for number in range(DRAWS):
        order = places(number)
        for index in by(sha256(b"draw %d" % number).digest(), number):
            wins[order[index]] += 1
    expected = DRAWS * WINNERS / ENTRIES
    # Drawing without replacement varies less than independent draws by this factor.
    narrower = (ENTRIES - WINNERS) / (ENTRIES - 1)
    return sum((count - expected) ** 2 / expected for count in wins) / narrower


def test_no_place_in_the_list_wins_more_often() -> None:
    """Wins by index, which is the order of arrival, are as equal as luck lets them be."""
    assert chi_square(drawn_by_us) < LIMIT


def test_no_time_of_arrival_wins_more_often() -> None:
    """People who come in changing order win as often whether they press first or last."""

    def arrival(number: int) -> Sequence[int]:
        people = sorted(range(ENTRIES), key=lambda one: sha256(b"%d %d" % (number, one)).digest())
        return sorted(range(ENTRIES), key=people.index)

    assert chi_square(drawn_by_us, arrival) < LIMIT


def test_no_rank_belongs_to_a_place() -> None:
    """The first prize, of a single winner, goes to every place alike."""
    firsts = [ranked(sha256(b"first %d" % n).digest(), 20, (), 1)[0] for n in range(20_000)]
    counts = [firsts.count(place) for place in range(20)]
    assert (
        sum((count - 1000) ** 2 / 1000 for count in counts) < 75
    )  # 19 degrees, once in 10 million


def early_birds_a_little(key: bytes, draw: int) -> Sequence[int]:
    """One draw in ten gives the last seat to the first who came."""
    fair = ranked(key, ENTRIES, frozenset(), WINNERS)
    return fair if draw % 10 or 0 in fair else [*fair[:-1], 0]


def modulo_of_six_bits(key: bytes, _draw: int) -> Sequence[int]:
    """Six bits modulo what is left, without rejection: the first places come up more often."""
    array = list(range(ENTRIES))
    for step in range(WINNERS):
        digest = sha256(key + bytes([step])).digest()
        other = step + digest[0] % 64 % (ENTRIES - step)
        array[step], array[other] = array[other], array[step]
    return array[:WINNERS]


@pytest.mark.parametrize("biased", [early_birds_a_little, modulo_of_six_bits])
def test_a_planted_bias_is_caught(biased: Method) -> None:
    """Control: a small favour and a common mistake are both seen."""
    assert chi_square(biased) > LIMIT


def test_every_order_comes_up() -> None:
    """Of four entries all 24 orders are drawn, each about as often."""
    orders = [tuple(picks(sha256(b"%d" % n).digest(), 4)) for n in range(12_000)]
    counts = [orders.count(order) for order in itertools.permutations(range(4))]
    assert sum((count - 500) ** 2 / 500 for count in counts) < 85  # 23 degrees
