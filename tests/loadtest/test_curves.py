"""Arrival curves: everybody arrives, inside the run, as the curve says."""

from __future__ import annotations

import bisect
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.scenarios.curves import (
    Curve,
    Mixture,
    Peak,
    Plateau,
    Release,
    arrivals,
    rate,
    when,
    zipf,
)

SECONDS = st.floats(0.5, 86_400)
SHARES = st.floats(0.01, 0.45)
SIMPLE: st.SearchStrategy[Curve] = st.one_of(
    st.builds(Release, SECONDS, scale_s=st.floats(0.05, 60), tail=st.floats(0.2, 4)),
    st.builds(Plateau, SECONDS, ramp=SHARES),
    st.builds(Peak, SECONDS, middle=st.floats(0.1, 0.9), width=SHARES, steady=SHARES),
)


@st.composite
def mixtures(draw: st.DrawFn) -> Curve:
    """Two curves one after the other inside a longer run."""
    first, second = draw(SIMPLE), draw(SIMPLE)
    share = draw(SHARES)
    seconds = first.seconds + second.seconds
    return Mixture(seconds, ((share, 0.0, first), (1 - share, first.seconds, second)))


CURVES = st.one_of(SIMPLE, mixtures())


@given(CURVES)
def test_a_curve_integrates_to_everybody(curve: Curve) -> None:
    """The rate summed over the run is all who come: nobody before the start, all by the end."""
    steps = 200
    step = curve.seconds / steps
    total = sum(rate(curve, (number + 0.5) * step, step) * step for number in range(steps))
    assert total == pytest.approx(1.0)
    assert curve.at(0.0) == pytest.approx(0.0, abs=1e-9)
    assert curve.at(curve.seconds) == pytest.approx(1.0)
    assert curve.at(2 * curve.seconds) == pytest.approx(1.0)


@given(CURVES, st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_nobody_leaves_again(curve: Curve, shares: list[float]) -> None:
    """The share that has arrived never falls."""
    arrived = [curve.at(share * curve.seconds) for share in sorted(shares)]
    assert all(after >= before - 1e-12 for before, after in itertools.pairwise(arrived))


@given(CURVES, st.floats(0.001, 0.999))
def test_the_moment_of_a_share_is_when_that_share_has_arrived(curve: Curve, share: float) -> None:
    """`when` turns `at` round."""
    assert curve.at(when(curve, share)) == pytest.approx(share, abs=1e-6)


@given(CURVES, st.integers(1, 300), st.integers())
def test_arrivals_keep_to_the_curve(curve: Curve, count: int, seed: int) -> None:
    """Exactly as many as asked for, in order, in the run, never more than one off the curve."""
    moments = arrivals(curve, count, random.Random(seed))
    assert len(moments) == count
    assert list(moments) == sorted(moments)
    assert 0 <= moments[0] <= moments[-1] <= curve.seconds
    for moment in (curve.seconds * share for share in (0.1, 0.5, 0.9)):
        arrived = bisect.bisect(moments, moment)
        assert abs(arrived - count * curve.at(moment)) <= 1 + 1e-6 * count


def test_the_same_seed_gives_the_same_arrivals() -> None:
    """A run can be repeated."""
    first, again = (arrivals(Release(20), 50, random.Random(7)) for _ in range(2))
    assert first == again


def test_a_release_is_steep_in_front_and_long_behind() -> None:
    """More than half press in the first two of sixty seconds, some in the last ten."""
    curve = Release(60)
    assert curve.at(1) > 0.5
    assert rate(curve, 0.05, 0.1) > 50 * rate(curve, 30, 0.1)
    assert curve.at(60) - curve.at(50) > 0.001


@given(st.integers(1, 500), st.floats(0.1, 3))
def test_popularity_falls_and_sums_to_one(count: int, exponent: float) -> None:
    """Zipf's weights are shares, the first the greatest."""
    weights = zipf(count, exponent)
    assert sum(weights) == pytest.approx(1.0)
    assert weights == sorted(weights, reverse=True)
