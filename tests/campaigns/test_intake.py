"""The intake of campaigns: how claims are taken in, and the lottery that draws the first of them.

Goal: the pure rules, each with its refusal, and the bytes of what is stored.
Method: examples, and properties over any entrants.
"""

from __future__ import annotations

import hmac
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from random import Random
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from campaigns.admission import Standing
from campaigns.campaign import Campaign, CampaignDrawn, Draw, Intake, Terms
from campaigns.coupon import coupon_id
from campaigns.gate import Knock
from campaigns.intake import Drawing, hold, is_winner, places_in, seed_of
from campaigns.redrawing import Lottery
from campaigns.seeds import commitment_of
from ledger.appending import Capacity
from ledger.events import Actor, Why
from tests.support.desk import NOON, person, terms_of

OLD_TERMS = (
    b'{"kind":"fixed","face_minor":500,"threshold_minor":500,"currency":"CNY",'
    b'"per_person_limit":1,"claim_from":"2026-05-01T11:00:00Z",'
    b'"claim_until":"2026-05-02T00:00:00Z","valid_from":"2026-05-01T11:00:00Z",'
    b'"valid_until":"2026-05-03T12:00:00Z","zone":"Asia/Shanghai","merchants":null,'
    b'"restock":false}'
)


def test_terms_without_an_intake_have_the_bytes_that_they_always_had() -> None:
    """Bytes of before there were intakes decode and encode to themselves."""
    assert msgspec.json.decode(OLD_TERMS, type=Terms) == terms_of()
    assert msgspec.json.encode(terms_of()) == OLD_TERMS


def test_an_intake_says_only_what_its_kind_needs() -> None:
    """The seconds of a lottery, the rate of a waiting room."""
    lottery = terms_of(intake=Intake(kind="lottery", seconds=30))
    stored = msgspec.json.encode(lottery)
    assert stored == OLD_TERMS[:-1] + b',"intake":{"kind":"lottery","seconds":30}}'
    assert msgspec.json.decode(stored, type=Terms) == lottery
    room = Intake(kind="waiting_room", rate_per_s=500)
    assert msgspec.json.encode(room) == b'{"kind":"waiting_room","rate_per_s":500}'


# What the gate may say of a lottery


def standing(draw: Draw | None, issued: int) -> Standing:
    """A campaign of two coupons while its claim window is open."""
    campaign = Campaign(
        id=UUID(int=7),
        version=4,
        name="Spring",
        sponsor="hainan",
        terms=terms_of(intake=Intake(kind="lottery", seconds=30)),
        state="open",
        draw=draw,
    )
    return Standing(campaign, Capacity(issued, 2, issued * 500, 1000), 9, NOON)


KNOCK = Knock("main", UUID(int=7), "all", person(1), b"r" * 16, "tourist:x", "key", None, None)
COMMITTED = Draw(commitment="c", opening=4)
DRAWN = replace(COMMITTED, places=2, seed="5eed", winners=2, threshold="f" * 64)


def test_nobody_is_kept_from_entering_by_stock() -> None:
    """Entries take none, so that the gate lets everybody through and knows no «sold out»."""
    before = standing(COMMITTED, 2)
    assert before.free > 1_000_000
    assert before.word(KNOCK, has_all=False) is None


def test_after_the_draw_the_stock_counts_again() -> None:
    """«Sold out» is told without the writer, except to those who had entered."""
    after = standing(DRAWN, 2)
    word = after.word(KNOCK, has_all=False)
    assert word is not None
    assert word.code == "sold_out"
    assert after.word(KNOCK, has_all=True) is None
    assert standing(DRAWN, 1).free == 1


# The draw


SEEDS = st.binary(min_size=32, max_size=32)
IDS = st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=40)


@given(SEEDS, IDS, st.integers(0, 45), st.randoms(use_true_random=False))
def test_a_draw_knows_no_order_of_arrival(
    seed: bytes, entrants: list[bytes], places: int, dice: Random
) -> None:
    """In whatever order they came, it is the same draw."""
    drawing = hold(seed, entrants, places)
    shuffled = list(entrants)
    dice.shuffle(shuffled)
    assert hold(seed, shuffled, places) == drawing


@given(SEEDS, IDS, st.integers(0, 45))
def test_the_threshold_parts_winners_from_the_rest(
    seed: bytes, entrants: list[bytes], places: int
) -> None:
    """As many as there are places for; whoever ranks up to the threshold won, nobody else did."""
    drawing = hold(seed, entrants, places)
    draw = replace(COMMITTED, seed=seed.hex(), threshold=drawing.threshold)
    won = {one for one in entrants if is_winner(draw, UUID(bytes=one))}
    assert won == {winner.bytes for winner in drawing.winners}
    assert len(won) == min(places, len(entrants)) == len(drawing.winners)
    assert drawing.entrants == len(entrants)


def entered(entrants: Iterable[bytes]) -> Lottery:
    """A lottery as its judge knows it, with all who entered."""
    lottery = Lottery()
    for one in entrants:
        lottery.enter(int.from_bytes(one, "big"))
    return lottery


def drawn(seed: bytes, places: int, drawing: Drawing) -> tuple[Campaign, CampaignDrawn]:
    """The campaign whose intake is closed, and the event that tells of its draw."""
    campaign = replace(
        standing(None, 0).campaign,
        draw=Draw(commitment=commitment_of(seed), opening=4, places=places),
    )
    event = CampaignDrawn(
        originator_id=campaign.id,
        originator_version=6,
        at=NOON,
        by=Actor("draw", "system"),
        why=Why("r"),
        seed=seed.hex(),
        entrants=drawing.entrants,
        entrants_sha256=drawing.entrants_sha256,
        winners=len(drawing.winners),
        threshold=drawing.threshold,
    )
    return campaign, event


@given(SEEDS, IDS, st.integers(0, 45))
def test_the_recomputation_agrees(seed: bytes, entrants: list[bytes], places: int) -> None:
    """What judges draws shares no code with what holds them, and comes to the same end."""
    drawing = hold(seed, entrants, places)
    lottery = entered(entrants)
    assert lottery.redraw(*drawn(seed, places, drawing)) is None
    assert lottery.to_give == {winner.int for winner in drawing.winners}


CROWD = [sha256(b"entrant %d" % n).digest()[:16] for n in range(20_000)]


@pytest.mark.parametrize("places", [0, 1, 300, 10_000, 19_999, 20_000, 30_000])
def test_a_crowd_is_drawn_as_a_handful_is(places: int) -> None:
    """Both draws keep only those who may win yet, and come to what sorting everybody comes to."""
    seed = b"s" * 32
    drawing = hold(seed, reversed(CROWD), places)
    ranked = sorted(CROWD, key=lambda one: sha256(seed + one).digest())[:places]
    assert [winner.bytes for winner in drawing.winners] == ranked
    assert drawing.entrants == len(CROWD)
    assert drawing.entrants_sha256 == sha256(b"".join(sorted(CROWD))).hexdigest()
    lottery = entered(CROWD)
    assert lottery.redraw(*drawn(seed, places, drawing)) is None
    assert lottery.to_give == {int.from_bytes(one, "big") for one in ranked}


def test_an_entrant_takes_little_memory() -> None:
    """Of a million entrants of whom few win, both draws hold the ids and not much more."""
    seed, lottery = b"s" * 32, entered(CROWD)
    campaign, event = drawn(seed, 10, hold(seed, CROWD, 10))

    def hold_it() -> None:
        hold(seed, iter(CROWD), 10)

    def hold_it_again() -> None:
        assert lottery.redraw(campaign, event) is None

    for draw in (hold_it, hold_it_again):
        tracemalloc.start()
        draw()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40 * len(CROWD)


def test_a_seed_is_its_keys_campaigns_and_openings_own() -> None:
    """Another key, campaign or opening has another seed; the same ones have the same for ever."""
    one, two = UUID(int=1), UUID(int=2)
    seeds = [
        seed_of(b"k" * 32, one, 4),
        seed_of(b"l" * 32, one, 4),
        seed_of(b"k" * 32, two, 4),
        seed_of(b"k" * 32, one, 5),
    ]
    assert len(set(seeds)) == len(seeds)
    told = b"tidebook draw 1\0" + one.bytes + b"\0\0\0\4"
    assert seeds[0] == hmac.digest(b"k" * 32, told, "sha256")


@given(st.builds(Capacity, *(st.integers(0, 50) for _ in range(4))), st.integers(1, 60))
def test_there_are_places_for_stock_and_money(free: Capacity, face_minor: int) -> None:
    """Never more than either is good for, and none to spare."""
    places = places_in(free, face_minor)
    assert places >= 0
    if places:
        after = free.plus(Capacity(issued=places, granted_minor=places * face_minor))
        assert after.within_bounds
        one_more = after.plus(Capacity(issued=1, granted_minor=face_minor))
        assert not one_more.within_bounds


# Fairness


PEOPLE = 24
PLACES = 6
DRAWS = 3_000
CHI_SQUARE_MAX = 63.0
"""24 people, 23 degrees of freedom: a fair draw exceeds it once in 70,000 runs, and the seeds here
are always the same."""


def luck(
    draw: Callable[[bytes, list[bytes], int], Iterable[bytes]],
    place_of: Callable[[list[bytes], bytes], int],
) -> float:
    """Return chi-square of the wins by place, over many campaigns with the same people."""
    wins: Counter[int] = Counter()
    for number in range(DRAWS):
        campaign = UUID(int=number)
        seed = seed_of(b"k" * 32, campaign, 4)
        arrivals = [coupon_id(campaign, person(n), 1).bytes for n in range(PEOPLE)]
        for winner in draw(seed, arrivals, PLACES):
            wins[place_of(arrivals, winner)] += 1
    expected = DRAWS * PLACES / PEOPLE
    spread = sum((wins[place] - expected) ** 2 for place in range(PEOPLE)) / expected
    # A draw without replacement varies less than independent ones, by this factor.
    return spread * (PEOPLE - 1) / (PEOPLE - PLACES)


def by_arrival(arrivals: list[bytes], one: bytes) -> int:
    """The place in the order of arrival, which is also who the person is."""
    return arrivals.index(one)


def by_id(arrivals: list[bytes], one: bytes) -> int:
    """The place among the ids, which look random and must not matter either."""
    return sorted(arrivals).index(one)


def fairly(seed: bytes, entrants: list[bytes], places: int) -> list[bytes]:
    """The draw as it is."""
    return [winner.bytes for winner in hold(seed, entrants, places).winners]


def early_birds(_seed: bytes, entrants: list[bytes], places: int) -> list[bytes]:
    """Bias: first come."""
    return entrants[:places]


def early_birds_a_little(seed: bytes, entrants: list[bytes], places: int) -> list[bytes]:
    """Bias: one in ten draws has a place for the first who came."""
    winners = fairly(seed, entrants, places)
    if seed[0] % 10 == 0 and entrants[0] not in winners:
        winners[-1] = entrants[0]
    return winners


def low_ids(_seed: bytes, entrants: list[bytes], places: int) -> list[bytes]:
    """Bias: no seed, so that the ids decide and anybody could have known."""
    return sorted(entrants)[:places]


def half_a_seed(seed: bytes, entrants: list[bytes], places: int) -> list[bytes]:
    """Bias: the id's first byte weighs in beside the hash."""

    def weight(one: bytes) -> int:
        return sha256(seed + one).digest()[0] + one[0] // 8

    return sorted(entrants, key=weight)[:places]


@pytest.mark.parametrize("place_of", [by_arrival, by_id])
def test_neither_arrival_nor_id_has_any_influence(
    place_of: Callable[[list[bytes], bytes], int],
) -> None:
    """Each place in the order of arrival, and among the ids, wins as often as any other."""
    assert luck(fairly, place_of) < CHI_SQUARE_MAX


@pytest.mark.parametrize(
    ("draw", "place_of"),
    [
        (early_birds, by_arrival),
        (early_birds_a_little, by_arrival),
        (low_ids, by_id),
        (half_a_seed, by_id),
    ],
)
def test_a_planted_bias_is_seen(
    draw: Callable[[bytes, list[bytes], int], Iterable[bytes]],
    place_of: Callable[[list[bytes], bytes], int],
) -> None:
    """Control: the check would have told."""
    assert luck(draw, place_of) > CHI_SQUARE_MAX
