"""The story of the replay: made up, and yet what was reported, at every scale."""

from __future__ import annotations

import pytest

from api.luohu import SCALE_MAX, story
from api.luohu.figures import REPORTED, WORTH_MINOR, Figures, scaled
from campaigns.draws.terms import problems_of
from campaigns.packets.spending import parts_of_payment

SCALES = [1, 2, 3, 7, 10, 99, 100, 250, 333, *range(900, SCALE_MAX + 1)]


def payments_of(figures: Figures, seed: int = 1) -> dict[int, int]:
    """Play the story on balances of its own; return what each rank's packet pays in all."""
    balances: dict[int, int] = {}
    paid: dict[int, int] = {}
    own: dict[str, int] = {}
    before = None
    for step in story.steps(figures, seed):
        assert before is None or step.at >= before
        before = step.at
        assert story.VALID_FROM <= step.at < story.VALID_UNTIL
        match step:
            case story.Claim():
                assert step.rank not in balances
                balances[step.rank] = WORTH_MINOR
            case story.Payment():
                parts = parts_of_payment(balances[step.rank], step.total_minor)
                assert parts.packet_minor > 0, "nobody pays from an empty packet"
                balances[step.rank] -= parts.packet_minor
                paid[step.rank] = paid.get(step.rank, 0) + parts.packet_minor
                own[step.order] = parts.own_minor
            case story.Refund():
                assert 0 < step.amount_minor <= own.pop(step.order)
    return paid


@pytest.mark.parametrize("scale", [1, 10, 333, SCALE_MAX])
def test_what_packets_pay_is_what_was_reported(scale: int) -> None:
    """To the fen, however payments and refunds follow each other."""
    figures = scaled(scale)
    assert sum(payments_of(figures).values()) == figures.spent_minor


def test_there_is_a_story_at_every_scale() -> None:
    """As many claims, payments and merchants as the scaled figures say."""
    for scale in SCALES[1:]:
        figures = scaled(scale)
        steps = story.steps(figures, scale)
        payments = [step for step in steps if isinstance(step, story.Payment)]
        assert len(payments) == figures.payments
        assert {step.merchant for step in payments} == set(story.merchants(figures))
        assert sum(isinstance(step, story.Claim) for step in steps) == figures.claims


def test_the_reported_figures_come_to_ten_million_yuan() -> None:
    """50,000 packets of 200 yuan; 8,764,000.00 was spent and the rest went back."""
    assert REPORTED.funded_minor == 1_000_000_000
    assert REPORTED.returned_minor == 123_600_000
    assert scaled(1) == REPORTED


def test_everybody_registers_once_and_some_twice() -> None:
    """Doubles come after those whom they double, and every place of the list is somebody else's."""
    figures = scaled(SCALE_MAX)
    people = [person for batch in story.arrivals(figures, 5) for person in batch]
    assert len(people) == figures.registered + figures.doubled
    seen: set[str] = set()
    phones: set[str] = set()
    void = []
    for person in people:
        is_void = person.identity in seen or person.phone in phones
        if is_void:
            void.append("same_person" if person.identity in seen else "same_phone")
        else:
            assert person == story.person(len(seen))
            seen.add(person.identity)
            phones.add(person.phone)
    assert len(seen) == figures.registered
    assert void.count("same_person") == figures.same_person
    assert void.count("same_phone") == figures.same_phone


def test_the_same_seed_tells_the_same_story() -> None:
    """And another seed another one."""
    figures = scaled(100)
    assert story.steps(figures, 1) == story.steps(figures, 1)
    assert story.steps(figures, 1) != story.steps(figures, 2)
    assert story.beacon_signature(1, 9) != story.beacon_signature(2, 9)
    assert len(story.beacon_signature(1, 9)) == 96


def test_the_calendar_can_be_kept() -> None:
    """Registrations lie in their window, and the list is frozen before the beacon speaks."""
    from api.luohu.campaign import draw_terms

    terms = draw_terms(REPORTED)
    assert list(problems_of(terms, story.DRAW_AT, story.VALID_UNTIL)) == []
    everybody = REPORTED.registered + REPORTED.doubled
    assert story.registered_at(0, REPORTED) == terms.register_from
    assert story.registered_at(everybody, REPORTED) < terms.register_until
    assert terms.register_until < story.FROZEN_AT < terms.round_time < story.VALID_FROM
