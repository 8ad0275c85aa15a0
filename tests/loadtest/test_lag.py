"""The lag of the projections is told in seconds, from what the service says in events."""

from __future__ import annotations

import pytest

from loadtest.lag import Look, largest_s


def looks(*said: tuple[float, int, int]) -> list[Look]:
    """Looks at one read model: when, where the book ends, how many events it is behind."""
    return [Look(at_s, head, {"wallets": behind}) for at_s, head, behind in said]


def test_a_read_model_that_keeps_up_has_no_lag() -> None:
    """Behind by nothing is no seconds, however fast the book grows."""
    assert largest_s(looks((0, 0, 0), (1, 9000, 0), (2, 20_000, 0))) == {"wallets": 0.0}
    assert largest_s([]) == {}


def test_the_lag_is_the_age_of_the_oldest_event_that_was_not_seen() -> None:
    """At second 2 the read model is where the book was at 0.5: it lags by 1.5 seconds."""
    seen = looks((0, 0, 0), (1, 1000, 0), (2, 2000, 1500))
    assert largest_s(seen)["wallets"] == pytest.approx(1.5)


def test_a_book_that_stood_still_does_not_add_to_the_lag() -> None:
    """What came last came between the last two looks, and is no older than that."""
    seen = looks((0, 100, 0), (60, 100, 0), (61, 200, 100))
    assert largest_s(seen)["wallets"] <= 1.0


def test_a_read_model_that_stands_still_lags_more_with_every_look() -> None:
    """Nothing seen since the first look: all of the time since then."""
    seen = looks((0, 100, 50), (1, 200, 150), (4, 300, 250))
    assert largest_s(seen)["wallets"] == pytest.approx(4.0)


def test_the_largest_of_all_looks_is_kept_for_each_read_model() -> None:
    """A lag that was made up for still counts, and read models do not mix."""
    seen = [
        Look(0, 0, {"wallets": 0, "figures": 0}),
        Look(1, 100, {"wallets": 50, "figures": 0}),
        Look(2, 200, {"wallets": 0, "figures": 10}),
    ]
    assert largest_s(seen) == {"wallets": pytest.approx(0.5), "figures": pytest.approx(0.1)}
