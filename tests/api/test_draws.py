"""A public draw over HTTP: drafted, registered for, frozen, drawn, proved and claimed.

Goal: what people are told is what was decided, and they can show it to anybody.
Method: a service in simulated time; signatures and proofs are checked as an outsider would.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from api.beacons import Beacons
from api.publicdraws import DrawHolder
from campaigns.draws.verify_draw import check_proof
from tests.api.conftest import MakeApp
from tests.api.harness import App, yuan

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
CLOSES, DRAW_AT = NOON + timedelta(hours=1), NOON + timedelta(hours=2)
PHONE = "+86138000000{:02d}"


@pytest.fixture
def app(make_app: MakeApp) -> App:
    """A service whose time is noon of one day."""
    app = make_app(clock="request")
    app.time = NOON.isoformat()
    return app


def terms(**changes: Any) -> dict[str, Any]:
    """A draw of two coupons of 50 yuan."""
    draw = {
        "registration": {"from": NOON.isoformat(), "until": CLOSES.isoformat()},
        "draw_at": DRAW_AT.isoformat(),
        "tiers": [{"winners": 2, "amount": yuan(50)}],
        "runners_up": 1,
        "claim_s": 3600,
        **changes,
    }
    day = {"from": NOON.isoformat(), "until": (NOON + timedelta(days=1)).isoformat()}
    return {"claim_window": day, "validity_window": day, "public_draw": draw}


def register(app: App, campaign: str, n: int, phone: int | None = None, **how: Any) -> Any:
    """Register the n-th tourist with a telephone, the n-th one unless told."""
    body = {"phone": PHONE.format(n if phone is None else phone)}
    path = f"/v1/campaigns/{campaign}/draw/entries"
    return app.post(path, body, token=app.token("tourist", f"person {n}"), **how)


def look(app: App, campaign: str, what: str = "", n: int = 1) -> httpx.Response:
    """Look at the draw, or at something of one's own in it."""
    path = f"/v1/campaigns/{campaign}/draw{what}"
    return app.get(path, token=app.token("tourist", f"person {n}"))


def hold(app: App, at: datetime, recorded: Path) -> None:
    """Do what is due at an instant."""
    app.time = at.isoformat()
    writer = app.service.writers[app.settings.books[0]]
    holder = DrawHolder(
        app.datastore,
        writer,
        app.settings.draw_secret,
        Beacons([str(recorded)]),
        app.settings.lists,
    )
    for _ in holder.steps(at):
        pass


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A file with the beacon's value for the round of the draw."""
    round_ = -(-(int(DRAW_AT.timestamp()) - 1_692_803_367) // 3) + 1
    path = tmp_path / "beacons.jsonl"
    path.write_text(json.dumps({"round": round_, "signature": "ab" * 48}) + "\n")
    return path


def test_a_draw_from_draft_to_claim(app: App, recorded: Path) -> None:
    """Each step as people see it, the proof as anybody can check it."""
    campaign = app.open_campaign(quota=2, **terms())
    shown = look(app, campaign).json()
    assert shown["state"] == "registering"
    assert "result" not in shown
    assert "seed" not in json.dumps(shown).replace("seed_commitment", "")
    first = register(app, campaign, 1, key="mine")
    assert first.status_code == 201, first.text
    assert first.json()["index"] == 0
    assert register(app, campaign, 1, key="mine").content == first.content
    for n in range(2, 7):
        assert register(app, campaign, n).status_code == 201
    for what in ("/announcement", "/proof"):
        early = look(app, campaign, what)
        assert (early.status_code, early.json()["code"]) == (409, "not_frozen")

    hold(app, CLOSES, recorded)
    shown = look(app, campaign).json()
    assert (shown["state"], shown["list"]["entries"]) == ("frozen", 6)
    told = look(app, campaign, "/announcement").content
    assert sha256(told).hexdigest() == shown["list"]["announcement_sha256"]
    for n in range(1, 7):
        proof = check_proof(look(app, campaign, "/proof", n).content)
        assert (proof["root"], proof["index"]) == (shown["list"]["root"], n - 1)

    hold(app, DRAW_AT, recorded)
    shown = look(app, campaign).json()
    assert sha256(bytes.fromhex(shown["result"]["seed"])).hexdigest() == shown["seed_commitment"]
    states = {n: look(app, campaign, "/entry", n).json() for n in range(1, 7)}
    winners = [n for n, entry in states.items() if entry["state"] == "won"]
    assert len(winners) == 2
    assert {states[n]["won"]["rank"] for n in winners} == {0, 1}
    loser = next(n for n in states if n not in winners)
    assert states[loser]["state"] == "not_drawn"
    path = f"/v1/campaigns/{campaign}/draw/wins"
    claimed = app.post(path, {}, token=app.token("tourist", f"person {winners[0]}"), key="win")
    assert (claimed.status_code, claimed.json()["state"]) == (201, "held")
    again = app.post(path, {}, token=app.token("tourist", f"person {winners[0]}"), key="win")
    assert again.content == claimed.content
    assert again.headers["idempotency-replayed"] == "true"
    lost = app.post(path, {}, token=app.token("tourist", f"person {loser}"))
    assert (lost.status_code, lost.json()["code"]) == (409, "not_drawn")


def test_a_void_entry_is_refused_under_a_signature(app: App) -> None:
    """Anybody can check it with the published key; another word in it breaks it."""
    campaign = app.open_campaign(quota=2, **terms())
    register(app, campaign, 1)
    void = register(app, campaign, 2, phone=1, key="mine")
    body = void.json()
    assert (void.status_code, body["code"], body["reason"]) == (409, "entry_void", "same_phone")
    assert register(app, campaign, 2, phone=1, key="mine").content == void.content
    key = Ed25519PublicKey.from_public_bytes(
        bytes.fromhex(look(app, campaign).json()["refusal_key"])
    )
    statement, signature = body["statement"].encode(), bytes.fromhex(body["signature"])
    key.verify(signature, statement)
    with pytest.raises(InvalidSignature):
        key.verify(signature, statement.replace(b"same_phone", b"same_perso"))
    assert json.loads(statement)["campaign"] == campaign


def test_ones_entries_in_all_draws(app: App, recorded: Path) -> None:
    """Of one's own, the newest draw first, page by page; with what was won, and in which states.

    The figures of the campaign count them.
    """
    older = app.open_campaign(quota=2, **terms())
    for n in (1, 2, 3):
        assert register(app, older, n).status_code == 201
    newer = app.open_campaign(quota=2, **terms(draw_at=(DRAW_AT + timedelta(hours=1)).isoformat()))
    entry = register(app, newer, 1).json()["entry"]
    body = {"entry": entry, "reason": "a bought account"}
    voided = app.post(f"/v1/campaigns/{newer}/draw/voids", body, token=app.token("operator"))
    assert voided.status_code == 200, voided.text
    hold(app, CLOSES, recorded)
    hold(app, DRAW_AT, recorded)
    app.project()

    def listed(n: int, query: str = "") -> Any:
        found = app.get(f"/v1/draw-entries{query}", token=app.token("tourist", f"person {n}"))
        assert found.status_code == 200, found.text
        return found.json()

    page = listed(1, "?limit=1")
    rest = listed(1, f"?limit=1&after={page['next']}")
    assert rest["next"] is None
    both = [*page["items"], *rest["items"]]
    assert both == listed(1)["items"]
    # Drafted at one instant, as they may be here, the draws are in order of their ids.
    mine = {one["campaign"]: one for one in both}
    assert list(mine) in ([newer, older], sorted([newer, older], reverse=True))
    assert (mine[newer]["state"], mine[newer]["reason"]) == ("voided", "a bought account")
    others = [listed(n)["items"][0]["state"] for n in (2, 3)]
    assert sorted([mine[older]["state"], *others]) == ["not_drawn", "won", "won"]
    assert listed(9) == {"items": [], "next": None}

    def figures(campaign: str) -> Any:
        path = f"/v1/campaigns/{campaign}/figures"
        return app.get(path, token=app.token("operator")).json()["public_draw"]

    drawn = figures(older)
    assert (drawn["registered"], drawn["drawn"], drawn["seats_given"]) == (3, 2, 2)
    assert figures(newer)["void"] == {"a bought account": 1}
    assert figures(newer)["in_list"] == 0


def test_an_entry_that_an_operator_voids(app: App) -> None:
    """Its person sees why, signed; only operators may."""
    campaign = app.open_campaign(quota=2, **terms())
    entry = register(app, campaign, 1).json()["entry"]
    path, body = f"/v1/campaigns/{campaign}/draw/voids", {"entry": "", "reason": "bought account"}
    body["entry"] = entry
    assert app.post(path, body, token=app.token("tourist", "person 2")).status_code == 403
    assert app.post(path, body, token=app.token("operator")).json()["state"] == "voided"
    seen = look(app, campaign, "/entry").json()
    assert (seen["state"], seen["reason"]) == ("voided", "bought account")
    key = bytes.fromhex(look(app, campaign).json()["refusal_key"])
    Ed25519PublicKey.from_public_bytes(key).verify(
        bytes.fromhex(seen["signature"]), seen["statement"].encode()
    )
    assert register(app, campaign, 1, phone=9).json()["reason"] == "voided"


def test_who_withdraws_is_out_and_may_come_again(app: App) -> None:
    """The entry says so; the telephone is free."""
    campaign = app.open_campaign(quota=2, **terms())
    register(app, campaign, 1)
    path = f"/v1/campaigns/{campaign}/draw/withdrawals"
    gone = app.post(path, {}, token=app.token("tourist", "person 1"))
    assert gone.json()["state"] == "withdrawn"
    twice = app.post(path, {}, token=app.token("tourist", "person 1"))
    assert (twice.status_code, twice.json()["code"]) == (409, "not_registered")
    assert register(app, campaign, 2, phone=1).json()["index"] == 1
    assert register(app, campaign, 1).json()["reason"] == "same_phone"
    assert register(app, campaign, 1, phone=3).json()["index"] == 2


def test_a_key_that_is_used_with_another_telephone(app: App) -> None:
    """The telephone belongs to the request, although only its pseudonym is compared."""
    campaign = app.open_campaign(quota=2, **terms())
    assert register(app, campaign, 1, phone=1, key="mine").status_code == 201
    other = register(app, campaign, 1, phone=2, key="mine")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_no_telephone_is_stored(app: App) -> None:
    """Not in an event or a reply, and no plain hash that could be searched for it."""
    campaign = app.open_campaign(quota=2, **terms())
    register(app, campaign, 1)
    register(app, campaign, 2, phone=1)
    number = PHONE.format(1)
    path = f"/v1/campaigns/{campaign}/draw/entries"
    body = json.dumps({"operator": None, "phone": number, "region": None}, separators=(",", ":"))
    with app.datastore.transaction() as cursor:
        cursor.execute("SELECT string_agg(encode(state, 'escape'), '') FROM event")
        (stored,) = cursor.fetchone()
        cursor.execute("SELECT string_agg(encode(body, 'escape') || key, '') FROM idempotency")
        stored += cursor.fetchone()[0]
        cursor.execute("SELECT fingerprint FROM idempotency")
        prints = [bytes(row[0]) for row in cursor.fetchall()]
    assert number[1:] not in stored
    from api.bodies import canonical
    from api.schemas import RegistrationBody

    plain = sha256(canonical(path, RegistrationBody(phone=number))).digest()
    assert plain not in prints
    assert sha256(number.encode()).hexdigest()[:32] not in stored
    assert body not in stored


def test_a_telephone_has_another_pseudonym_in_each_draw(app: App) -> None:
    """Two draws cannot be laid side by side by their telephones."""
    names = app.service.pseudonyms
    one, two = (names.telephone(UUID(int=n).hex, PHONE.format(1)) for n in (1, 2))
    assert one != two
    assert names.of(PHONE.format(1)) not in (one, two)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"draw_at": CLOSES.isoformat()}, "public_draw.draw_at"),
        ({"draw_at": (NOON + timedelta(days=2)).isoformat()}, "public_draw.draw_at"),
        ({"tiers": [{"winners": 2, "amount": yuan(60)}]}, "public_draw.tiers"),
        ({"runners_up": 5_000_000}, "public_draw.runners_up"),
    ],
)
def test_a_draw_that_nobody_could_keep_is_not_drafted(
    app: App, changes: dict[str, Any], field: str
) -> None:
    """The answer names the field."""
    from tests.api.harness import draft_body

    body = draft_body(NOON, **terms(**changes))
    reply = app.post("/v1/campaigns", body, token=app.token("operator"))
    assert reply.status_code == 422, reply.text
    assert field in [error["field"] for error in reply.json()["errors"]]


def test_there_is_no_draw_where_none_is(app: App) -> None:
    """Looking at it is 404, registering says why, claiming in the ordinary way does too."""
    plain = app.open_campaign()
    assert look(app, plain).status_code == 404
    assert register(app, plain, 1).json()["code"] == "no_public_draw"
    drawn = app.open_campaign(quota=2, **terms())
    claim = app.claim(drawn, "one")
    assert (claim.status_code, claim.json()["code"]) == (409, "draw_only")
    assert look(app, drawn, "/entry").status_code == 404
