"""What is foreseen is confirmed like any refusal, is paced, and is forgotten when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import render_refusal
from api.foresight import Paces
from api.passage import _refusal_body
from campaigns.campaign import POOL
from campaigns.gate import GateSettings, Heard, Knock, Rate, Verdict
from campaigns.refusals import Refusal
from ledger.books import PublicId
from tests.api.conftest import MakeApp
from tests.api.harness import App


def calls(app: App) -> int:
    """How often the gate was called."""
    assert app.service.gatekeeper is not None
    return app.service.gatekeeper.gate.tally.calls


def sold_out(app: App) -> str:
    """A campaign without stock, of which the process has heard from the store."""
    campaign = app.open_campaign(quota=1)
    app.claim(campaign, "whoever is first")

    def is_foreseen() -> bool:
        before = calls(app)
        assert app.claim(campaign, "somebody").json()["code"] == "sold_out"
        return calls(app) == before

    app.wait_until(is_foreseen)
    return campaign


def test_who_comes_too_late_is_refused_without_the_gate(app: App) -> None:
    """With the same bytes as those whom the gate refused; nobody asks Valkey."""
    campaign = sold_out(app)
    first = app.claim(campaign, "first")
    before = calls(app)
    for n in range(10):
        assert app.claim(campaign, f"late {n}").content == first.content
    assert calls(app) == before


def test_who_has_a_coupon_is_refused_without_the_gate(app: App) -> None:
    """From the second time on, and the repeat of the claim itself is still answered 201."""
    campaign = app.open_campaign(quota=9)
    first = app.claim(campaign, "ann", key="k")

    def is_foreseen() -> bool:
        before = calls(app)
        assert app.claim(campaign, "ann").json()["code"] == "already_claimed"
        return calls(app) == before

    app.wait_until(is_foreseen)
    again = app.claim(campaign, "ann", key="k")
    assert (again.status_code, again.content) == (201, first.content)


class Asked:
    """Who asked the gate, which goes on as it was."""

    def __init__(self, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
        assert app.service.gatekeeper is not None
        self.gate = app.service.gatekeeper.gate
        self.persons: list[str] = []
        ask = self.gate.ask

        def noted(knock: Knock, heard: Heard) -> None:
            self.persons.append(knock.person)
            ask(knock, heard)

        monkeypatch.setattr(self.gate, "ask", noted)


def presses_twice(app: App, asked: Asked, campaign: str, who: str) -> int:
    """Have somebody claim and claim again; return how often they asked the gate."""
    assert app.claim(campaign, who).status_code == 201
    assert app.claim(campaign, who).json()["code"] == "already_claimed"
    return asked.persons.count(app.service.pseudonyms.of(who))


def test_who_has_claimed_here_is_refused_without_the_gate(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first time on, once the gate has said how many coupons one may have."""
    asked, campaign = Asked(app, monkeypatch), app.open_campaign(quota=1_000)
    people = (f"person {n}" for n in range(1_000))
    app.wait_until(lambda: presses_twice(app, asked, campaign, next(people)) == 1)


def test_without_hearing_of_claims_the_gate_is_asked(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same people, of whom nobody tells."""
    asked, campaign = Asked(app, monkeypatch), app.open_campaign(quota=100)
    monkeypatch.setattr(asked.gate, "holds_all", lambda *_: None)
    assert all(presses_twice(app, asked, campaign, f"person {n}") == 2 for n in range(20))


def test_who_may_have_more_is_not_refused(app: App) -> None:
    """A person is known to have all with the last coupon, not with the first."""
    campaign = app.open_campaign(quota=100, per_person_limit=3)
    for n in range(10):
        codes = [app.claim(campaign, f"person {n}").status_code for _ in range(4)]
        assert codes == [201, 201, 201, 409]


def test_stock_that_comes_back_is_given_out(app: App) -> None:
    """What was foreseen is not confirmed any more, so the next one has a coupon."""
    campaign = app.open_campaign(quota=1, restock=True)
    coupon = app.claimed(campaign, "whoever is first")

    def is_foreseen() -> bool:
        before = calls(app)
        assert app.claim(campaign, "somebody").json()["code"] == "sold_out"
        return calls(app) == before

    app.wait_until(is_foreseen)
    reply = app.post(
        f"/v1/coupons/{coupon}/void", {"reason": "mistake"}, token=app.token("operator")
    )
    assert reply.status_code == 200
    assert app.claim(campaign, "next").status_code == 201
    assert app.claim(campaign, "and next").json()["code"] == "sold_out"


def test_whoever_is_too_fast_is_told_so(make_app: MakeApp) -> None:
    """Though no bucket at the gate is asked."""
    app = make_app(rate_tourist_per_s=0.01, rate_tourist_burst=40)
    campaign = sold_out(app)
    statuses = [app.claim(campaign, "robot").status_code for _ in range(42)]
    assert statuses[0] == 409
    assert statuses[-1] == 429
    assert app.claim(campaign, "somebody else").status_code == 409


@given(
    refusal=st.sampled_from(
        [
            ("already_claimed", (("coupon", "cpn_main_" + 32 * "a"),)),
            ("already_claimed", (("packet", "pkt_a-book.2_" + 32 * "7"),)),
            ("already_claimed", ()),
            ("limit_reached", (("per_person_limit", 3),)),
            ("sold_out", (("quota", 10),)),
            ("budget_exhausted", (("budget_minor", 7),)),
        ]
    )
)
def test_bodies_are_rendered_as_where_they_are_decided(refusal: Any) -> None:
    """Byte for byte, whichever was asked for before."""
    code, facts = refusal
    assert _refusal_body(code, facts) == render_refusal(Refusal(code, **dict(facts)))


def knock(person: str, device: str | None = None, address: str | None = None) -> Knock:
    """A knock of somebody."""
    campaign = PublicId.parse("cmp_main_" + "4" * 32, "cmp").uuid
    return Knock("main", campaign, POOL, person, bytes(16), "s", "k", device, address)


ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 2), st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from("123")
    ),
    max_size=60,
)


@given(arrivals=ARRIVALS, only_persons=st.booleans())
def test_nobody_gets_more_than_rate_and_burst(arrivals: Any, *, only_persons: bool) -> None:
    """In no span of time, by person, device or address; and the first of each burst gets in."""
    none = Rate()
    settings = GateSettings(
        person_rate=Rate.per_second(2, 3),
        device_rate=none if only_persons else Rate.per_second(3, 4),
        address_rate=none if only_persons else Rate.per_second(5, 5),
    )
    paces, now = Paces(settings), 100.0
    taken: list[tuple[float, str, str, str]] = []
    for pause, person, device, address in arrivals:
        now += pause / 4
        wait_s = paces.wait_s(knock(person, device, address), now)
        if wait_s <= 0:
            taken.append((now, person, device, address))
        else:
            assert wait_s <= 1.0
    if arrivals:
        assert taken
    rules = [(1, 2, 3)] if only_persons else [(1, 2, 3), (2, 3, 4), (3, 5, 5)]
    for kind, per_s, burst in rules:
        for name in {each[kind] for each in taken}:
            times = [each[0] for each in taken if each[kind] == name]
            for i, begin in enumerate(times):
                for j in range(i, len(times)):
                    assert j - i + 1 <= burst + per_s * (times[j] - begin) + 1e-6


def test_the_words_are_counted(app: App) -> None:
    """Those that were foreseen count as the gate's."""
    campaign = sold_out(app)
    assert app.service.gatekeeper is not None
    words = app.service.gatekeeper.gate.tally.words
    before = words[Verdict.SOLD_OUT]
    app.claim(campaign, "one more")
    assert words[Verdict.SOLD_OUT] == before + 1
