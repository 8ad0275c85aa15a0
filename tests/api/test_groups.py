"""Group packets over HTTP: filled, sent, taken, returned and checked, as each role sees it.

Goal: what people are told is what was decided, nobody is shown a share before it is theirs, and
anybody can check the shares by the page.
Method: a service in simulated time, so that the end of a day is an instant that we choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from api.returner import Returned, Returner
from ledger.commit import GroupCommit
from projections.verification import verify as verify_read_models
from tests.api.conftest import MakeApp
from tests.api.harness import App, draft_body
from tests.docs.pages import page

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SALT = "7f" * 32


@pytest.fixture
def app(make_app: MakeApp) -> App:
    """A service whose time is noon of one day."""
    app = make_app(clock="request")
    app.time = NOON.isoformat()
    return app


def money(amount_minor: int) -> dict[str, Any]:
    """An amount in fen."""
    return {"amount_minor": amount_minor, "currency": "CNY"}


def window(days: int) -> dict[str, str]:
    """From noon for some days."""
    return {"from": NOON.isoformat(), "until": (NOON + timedelta(days=days)).isoformat()}


def at(app: App, **since_noon: int) -> None:
    """Move the clock."""
    app.time = (NOON + timedelta(**since_noon)).isoformat()


def person(app: App, who: str) -> str:
    """What somebody is called."""
    called: str = app.get("/v1/person", token=app.token("tourist", who)).json()["person"]
    return called


def campaign_of_packets(app: App, budget_minor: int = 10_000) -> str:
    """Draft, fund and open a campaign of packets."""
    body = draft_body(
        coupon=None,
        merchants=["tea-house"],
        packet={"amount": money(100)},
        claim_window=window(3),
        validity_window=window(7),
    )
    del body["coupon"]
    drafted = app.post("/v1/campaigns", body, token=app.token("operator"))
    assert drafted.status_code == 201, drafted.text
    campaign: str = drafted.json()["campaign"]
    funds = {"quota": 100, "budget": money(budget_minor)}
    steps = (("funding", funds, "one"), ("funding/approval", funds, "two"), ("open", None, "one"))
    for step, said, who in steps:
        token = app.token("operator", f"operator {who}")
        reply = app.post(f"/v1/campaigns/{campaign}/{step}", said, token=token)
        assert reply.status_code in {200, 202}, reply.text
    return campaign


def filled(app: App, campaign: str, amount_minor: int = 10_000, who: str = "sender") -> str:
    """Let two operators fill somebody's purse; return its id."""
    proposed = app.post(
        f"/v1/campaigns/{campaign}/purses",
        {"person": person(app, who), "amount": money(amount_minor)},
        token=app.token("operator", "operator one"),
    )
    assert proposed.status_code == 202, proposed.text
    purse: str = proposed.json()["purse"]
    approved = app.post(
        f"/v1/purses/{purse}/approval",
        {"amount": money(amount_minor)},
        token=app.token("operator", "operator two"),
    )
    assert approved.status_code == 200, approved.text
    return purse


def sent(app: App, purse: str, **changes: Any) -> dict[str, Any]:
    """Send a group of five shares of ten yuan together."""
    body = {"kind": "random", "shares": 5, "total": money(1_000), "salt": SALT, **changes}
    reply = app.post(f"/v1/purses/{purse}/groups", body, token=app.token("tourist", "sender"))
    assert reply.status_code == 201, reply.text
    told: dict[str, Any] = reply.json()
    return told


def code(app: App, group: str) -> str:
    """The code, which the sender passes on."""
    app.project()
    reply = app.get(f"/v1/groups/{group}/code", token=app.token("tourist", "sender"))
    assert reply.status_code == 200, reply.text
    told: str = reply.json()["code"]
    return told


def take(app: App, group: str, who: str, shown: str | None, **how: Any) -> Any:
    """Take a share for somebody."""
    body = {} if shown is None else {"code": shown}
    return app.post(f"/v1/groups/{group}/shares", body, token=app.token("tourist", who), **how)


def give_back(app: App, **since_noon: int) -> Returned:
    """What the sweeper's process does, at an instant."""
    app.project()
    at(app, **since_noon)
    writer: GroupCommit = app.service.writers[app.settings.books[0]]
    returner = Returner(app.datastore, writer, app.settings.draw_secret, shown_within_s=0.01)
    done = returner.sweep(NOON + timedelta(**since_noon))
    app.project()
    return done._replace(behind=False)  # nobody keeps the rows up in these tests


def look(app: App, group: str, who: str, role: str = "tourist") -> Any:
    """A group, as somebody sees it."""
    app.project()
    return app.get(f"/v1/groups/{group}", token=app.token(role, who))


def test_a_group_from_the_purse_to_the_last_share(app: App) -> None:
    """Sent, taken by five, each told an amount at once; the sixth is told that it is empty."""
    campaign = campaign_of_packets(app)
    purse = filled(app, campaign)
    told = sent(app, purse)
    shown = code(app, told["group"])
    replies = [take(app, told["group"], f"taker {n}", shown) for n in range(5)]
    assert [reply.status_code for reply in replies] == [201] * 5
    amounts = [reply.json()["amount"]["amount_minor"] for reply in replies]
    assert sum(amounts) == 1_000
    assert min(amounts) >= 1
    late = take(app, told["group"], "taker 5", shown)
    assert (late.status_code, late.json()["code"]) == (409, "group_empty")
    again = take(app, told["group"], "taker 0", shown)
    assert (again.status_code, again.json()["code"]) == (409, "already_taken")
    closed = look(app, told["group"], "taker 0").json()
    assert closed["state"] == "closed"
    assert [one["amount"]["amount_minor"] for one in closed["takings"]] == amounts
    assert verify_read_models(app.datastore.with_session({"role": None})) == []


def test_a_retry_gets_the_same_share(app: App) -> None:
    """The same key gives the first bytes, so that a lost answer costs nobody a share."""
    told = sent(app, filled(app, campaign_of_packets(app)))
    shown = code(app, told["group"])
    first = take(app, told["group"], "one", shown, key="mine")
    again = take(app, told["group"], "one", shown, key="mine")
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


def test_the_share_is_a_packet_to_be_spent(app: App) -> None:
    """It stands in the taker's wallet of packets with its whole amount."""
    told = sent(app, filled(app, campaign_of_packets(app)), kind="equal")
    share = take(app, told["group"], "one", code(app, told["group"])).json()
    app.project()
    packet = app.get(f"/v1/packets/{share['share']}", token=app.token("tourist", "one"))
    assert packet.status_code == 200, packet.text
    assert packet.json()["balance"] == share["amount"] == money(200)


def test_strangers_find_no_group(app: App) -> None:
    """S34, S35: without the code there is nothing; a wrong one is no better than none."""
    told = sent(app, filled(app, campaign_of_packets(app)))
    group = told["group"]
    for shown in (None, "a" * 20):
        assert take(app, group, "stranger", shown).status_code == 404
    assert look(app, group, "stranger").status_code == 404
    assert look(app, group, "a merchant", "merchant").status_code == 404
    token = app.token("tourist", "stranger")
    assert app.get(f"/v1/groups/{group}/code", token=token).status_code == 404
    assert app.get(f"/v1/purses/{told['purse']}", token=token).status_code == 404


def test_a_group_for_members(app: App) -> None:
    """S34: named people need no code, and others get 403; the sender may be among them or not."""
    purse = filled(app, campaign_of_packets(app))
    members = [person(app, who) for who in ("one", "two")]
    group = sent(app, purse, members=members)["group"]
    assert take(app, group, "one", None).status_code == 201
    stranger = take(app, group, "three", None)
    assert (stranger.status_code, stranger.json()["code"]) == (403, "not_a_member")
    own = take(app, group, "sender", None)
    assert (own.status_code, own.json()["code"]) == (403, "own_group")
    token = app.token("tourist", "sender")
    assert app.get(f"/v1/groups/{group}/code", token=token).status_code == 404
    assert look(app, group, "sender").json()["members"] == members
    assert "members" not in look(app, group, "two").json()
    allowed = sent(app, purse, members=members, sender_may_take=True)["group"]
    assert take(app, allowed, "sender", None).status_code == 201


def test_nobody_is_shown_a_share_that_is_not_theirs(app: App) -> None:
    """S35: until the close one sees one's own amount, how many are taken, and nothing else."""
    told = sent(app, filled(app, campaign_of_packets(app)))
    shown = code(app, told["group"])
    mine = take(app, told["group"], "one", shown).json()
    for who, role in (("one", "tourist"), ("sender", "tourist"), ("x", "operator")):
        seen = look(app, told["group"], who, role).json()
        assert seen["taken"] == 1
        assert not {"takings", "seed", "returned_amount", "outstanding"} & set(seen)
    assert look(app, told["group"], "one").json()["mine"]["amount"] == mine["amount"]
    assert "mine" not in look(app, told["group"], "sender").json()


def test_what_is_left_comes_back_after_a_day(app: App) -> None:
    """S34: 24 hours later the rest is in the sender's purse, once; late comers are refused."""
    campaign = campaign_of_packets(app)
    purse = filled(app, campaign)
    told = sent(app, purse)
    shown = code(app, told["group"])
    mine = take(app, told["group"], "one", shown).json()["amount"]["amount_minor"]
    assert give_back(app, hours=23) == Returned()
    assert give_back(app, hours=24) == Returned(groups=1)
    assert give_back(app, hours=25) == Returned()
    late = take(app, told["group"], "two", shown)
    assert (late.status_code, late.json()["code"]) == (409, "group_over")
    token = app.token("tourist", "sender")
    [seen] = app.get("/v1/purses", token=token).json()["items"]
    assert seen["balance"] == money(10_000 - mine)
    [group] = app.get("/v1/groups", token=token).json()["items"]
    assert (group["returned"], group["returned_amount"]) == (4, money(1_000 - mine))


def test_figures_add_up_at_every_step(app: App) -> None:
    """Sent = taken + returned + outstanding, filled = in purses + outstanding + taken + emptied."""
    campaign = campaign_of_packets(app)
    purse = filled(app, campaign)
    told = sent(app, purse)
    shown = code(app, told["group"])

    def figures() -> dict[str, int]:
        app.project()
        reply = app.get(f"/v1/campaigns/{campaign}/groups/figures", token=app.token("auditor"))
        found = {k: v["amount_minor"] for k, v in reply.json().items() if isinstance(v, dict)}
        assert found["sent"] == found["taken"] + found["returned"] + found["outstanding"]
        assert found["filled"] == (
            found["in_purses"] + found["outstanding"] + found["taken"] + found["emptied"]
        )
        return found

    assert figures()["outstanding"] == 1_000
    take(app, told["group"], "one", shown)
    assert figures()["taken"] > 0
    give_back(app, hours=24)
    assert figures()["outstanding"] == 0
    reply = app.post(f"/v1/purses/{purse}/empty", {"reason": "over"}, token=app.token("operator"))
    assert reply.status_code == 200, reply.text
    assert figures()["in_purses"] == 0


def test_purses_are_emptied_at_the_end(app: App) -> None:
    """After the claim window nobody can send, and the money is the campaign's again."""
    campaign = campaign_of_packets(app)
    purse = filled(app, campaign)
    assert give_back(app, days=3) == Returned(purses=1)
    app.project()
    seen = app.get(f"/v1/purses/{purse}", token=app.token("operator")).json()
    assert seen["balance"] == money(0)


def test_operators_fill_no_purse_of_their_own(app: App) -> None:
    """S37: the same identity as operator and as sender is one person."""
    campaign = campaign_of_packets(app)
    reply = app.post(
        f"/v1/campaigns/{campaign}/purses",
        {"person": person(app, "operator one"), "amount": money(100)},
        token=app.token("operator", "operator one"),
    )
    assert (reply.status_code, reply.json()["code"]) == (403, "own_purse")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"shares": 0}, "shares", "out_of_range"),
    ({"shares": 1_001}, "shares", "out_of_range"),
    ({"shares": 5, "total": money(4)}, "", "share_too_small"),
    ({"salt": "7F"}, "salt", "bad_format"),
    ({"salt": "7"}, "salt", "bad_format"),
    ({"salt": "7f" * 33}, "salt", "bad_format"),
    ({"members": []}, "members", "too_few"),
    ({"members": ["a" * 32] * 2}, "members", "repeated"),
    ({"members": ["somebody"]}, "members.0", "bad_format"),
    ({"kind": "lucky"}, "kind", "not_a_choice"),
]


def test_a_group_that_cannot_be_kept_is_refused(app: App) -> None:
    """The field and the rule that it breaks."""
    purse, token = "prs_main_" + "0" * 32, app.token("tourist", "sender")
    for changes, field, rule in REFUSED:
        body = {"kind": "random", "shares": 5, "total": money(1_000), **changes}
        reply = app.post(f"/v1/purses/{purse}/groups", body, token=token)
        assert reply.status_code == 422, reply.text
        assert [(one["field"], one["rule"]) for one in reply.json()["errors"]] == [(field, rule)]


# The published check


def checker() -> Any:
    """The function that the page shows."""
    names: dict[str, Any] = {}
    snippet = next(s for s in page("docs/group-packets.md").snippets if "check_group" in s.text)
    exec(compile(snippet.text, "group-packets.md", "exec"), names)
    return names["check_group"]


def test_a_taker_checks_the_shares_by_the_page(app: App) -> None:
    """The code of the page, over what a taker sees once the group is closed."""
    purse = filled(app, campaign_of_packets(app))
    for day, (kind, takers) in enumerate((("random", 5), ("equal", 2))):
        at(app, days=day)
        told = sent(app, purse, kind=kind)
        shown = code(app, told["group"])
        mine, *_ = [take(app, told["group"], f"t{n}", shown).json() for n in range(takers)]
        give_back(app, days=day + 1)
        seen = look(app, told["group"], "t0").json()
        assert checker()(seen, told["seed_commitment"])[0] == mine["amount"]["amount_minor"]


def forgeries(seen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same group with one thing in it that is not as it was."""
    first, *rest = seen["takings"]
    yield seen | {"seed": "00" * 32}
    yield seen | {"salt": "11" * 32}
    yield seen | {"total": money(1_001)}
    yield seen | {"kind": "equal"}
    yield seen | {"shares": 6}
    yield seen | {"takings": rest}
    yield seen | {"takings": [*rest, first]}
    more = money(first["amount"]["amount_minor"] + 1)
    yield seen | {"takings": [first | {"amount": more}, *rest]}
    yield seen | {"returned_amount": money(0)}


def test_a_forged_group_is_refused_by_the_page(app: App) -> None:
    """Whatever is not as it was makes the published check fail."""
    told = sent(app, filled(app, campaign_of_packets(app)))
    shown = code(app, told["group"])
    for n in range(2):
        take(app, told["group"], f"t{n}", shown)
    give_back(app, hours=24)
    seen = look(app, told["group"], "t0").json()
    assert checker()(seen, told["seed_commitment"])
    for forged in forgeries(seen):
        with pytest.raises(AssertionError):
            checker()(forged, told["seed_commitment"])
    assert somebody_elses(seen, told["seed_commitment"]) > 0


def somebody_elses(seen: dict[str, Any], commitment: str) -> int:
    """Return how many of 64 other packets the check refuses as the first taker's.

    One in five draws the same of five shares, and then only its owner sees that it is not theirs.
    """
    first, *rest = seen["takings"]
    refused = 0
    for n in range(64):
        forged = first | {"share": f"pkt_main_{n:032x}"}
        try:
            checker()(seen | {"takings": [forged, *rest]}, commitment)
        except AssertionError:
            refused += 1
    return refused


def test_a_group_whose_draw_key_is_lost_is_given_up(app: App) -> None:
    """By two operators when the day is over; everybody sees that there is no seed."""
    purse = filled(app, campaign_of_packets(app))
    told = sent(app, purse, shares=4, members=[person(app, "Li")])
    group = told["group"]
    path = f"/v1/groups/{group}/giving-up"
    one, two = (app.token("operator", f"operator {n}") for n in ("one", "two"))
    reason = {"reason": "the draw key was lost in a fire"}
    at(app, hours=24)
    assert app.post(path, reason, token=one).json()["code"] == "seed_known"
    app.service.draw_key = cache(lambda: b"the key that came after it, 32 b")
    asked = app.post(path, reason, token=one)
    assert (asked.status_code, asked.json()["left"]) == (202, money(1_000))
    assert app.post(f"{path}/approval", {}, token=one).json()["code"] == "self_approval"
    approved = app.post(f"{path}/approval", {}, token=two)
    assert (approved.status_code, approved.json()["balance"]) == (200, money(10_000))
    app.project()
    shown = app.get(f"/v1/groups/{group}", token=app.token("tourist", "sender")).json()
    assert (shown["state"], shown["returned"]) == ("given_up", 4)
    assert "seed" not in shown
