"""Receipts over HTTP: each reply becomes a proof for those whose it is, and for nobody else.

Goal: whoever may see an event gets what verifies offline, and others learn nothing at all.
Method: a service without a gate, so that each refusal is decided by the writer and kept; what is
given is judged by the stand-alone checker, with the keys that are published.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import httpx
import pytest
import zxingcpp

from api import qr
from api.transparency import begin_log
from campaigns import disclosure
from campaigns.event_types import EVENT_TYPES
from ledger.transparency import check_receipt as alone
from ledger.transparency.follower import Follower
from ledger.transparency.keys import SignerFiles
from ledger.transparency.packing import unpack
from ledger.transparency.proofs import parse_proof
from tests.api import test_draws, test_groups, test_packets
from tests.api.conftest import MakeApp
from tests.api.harness import App, yuan
from tests.api.test_transparency import follow
from tests.ledger.test_check_receipt import PROOF, RECEIPT


@pytest.fixture
def app(make_app: MakeApp) -> App:
    """A service without a gate."""
    return make_app(redis_url=None)


@pytest.fixture
def signer(app: App) -> SignerFiles:
    """The keys of the book's log."""
    return begin_log(app.settings.home, "main", "ledger.example", bytes(range(64)))


def tourist(app: App, who: str = "a tourist") -> str:
    """A tourist's token."""
    return app.token("tourist", who)


def till(app: App, merchant: str = "shop-1") -> str:
    """A merchant's token."""
    return app.token("merchant", f"till of {merchant}", merchant)


def checked(app: App, data: bytes) -> alone.Found:
    """What a receipt proves, by the keys that the service publishes."""
    told = app.get("/log/main").json()
    logs = tuple(map(alone.parse_key, told["keys"]))
    return alone.check(data, alone.Trust(logs, (), 0, (alone.parse_key(told["statements"]),)))


def state_of(found: alone.Found) -> dict[str, Any]:
    """The state of the event that was proved."""
    state: dict[str, Any] = json.loads(found.told["state"])
    return state


def redeemed(app: App, coupon: str, **how: Any) -> httpx.Response:
    """Redeem a coupon for an order of 80 yuan."""
    body = {"order": "o-1", "order_total": yuan(80)}
    token = how.pop("token", None) or till(app)
    return app.post(f"/v1/coupons/{coupon}/redemptions", body, token=token, **how)


def test_a_claim_becomes_a_receipt_three_ways(app: App, signer: SignerFiles) -> None:
    """By the position that the reply told, by the coupon, and by the key: the same bytes."""
    reply = app.claim(app.open_campaign(), key="k-1")
    coupon, place = reply.json()["coupon"], reply.headers["tidebook-position"]
    book, _, position = place.partition(":")
    follow(app, signer)
    ways = (
        f"/v1/books/{book}/events/{position}/receipt",
        f"/v1/coupons/{coupon}/receipts/1",
        "/v1/receipts?key=k-1",
    )
    given = [app.get(way, token=tourist(app)) for way in ways]
    assert {one.status_code for one in given} == {200}
    assert len({one.content for one in given}) == 1
    assert given[0].headers["content-type"] == "text/plain; charset=utf-8"
    assert given[0].headers["cache-control"] == "no-store"
    found = checked(app, given[0].content)
    assert (found.told["topic"], found.told["position"]) == ("coupon.claimed", int(position))
    assert found.told["stream"] == coupon[-32:]
    assert "a person claimed a coupon" in "\n".join(alone.words(found, False))


def test_a_receipt_is_there_once_a_head_covers_it(app: App, signer: SignerFiles) -> None:
    """Until then its owner is told to ask again, and another person that there is nothing."""
    campaign = app.open_campaign()
    follow(app, signer)
    coupon = app.claimed(campaign)
    for path in (
        f"/v1/coupons/{coupon}/receipts/1",
        f"/v1/books/main/events/{app.events()}/receipt",
    ):
        early = app.get(path, token=tourist(app))
        assert (early.status_code, early.json()["code"]) == (503, "behind")
        assert early.headers["retry-after"] == "1"
        other = app.get(path, token=tourist(app, "another"))
        absent = app.get("/v1/coupons/cpn_main_" + "0" * 32 + "/receipts/1", token=tourist(app))
        assert (other.status_code, other.json()) == (404, absent.json())
    follow(app, signer)
    assert app.get(f"/v1/coupons/{coupon}/receipts/1", token=tourist(app)).is_success


def test_nobody_gets_what_is_anothers(app: App, signer: SignerFiles) -> None:
    """Another tourist, another merchant, an operator: the same 404 as for what is not there."""
    coupon = app.claimed(app.open_campaign(merchants=["shop-1", "shop-2"]))
    assert redeemed(app, coupon, key="till-1").is_success
    follow(app, signer)
    others = (tourist(app, "another"), till(app, "shop-2"), app.token("operator"))
    for path in (
        f"/v1/coupons/{coupon}/receipts/2",
        f"/v1/books/main/events/{app.events()}/receipt",
        "/v1/receipts?key=till-1",
        f"/v1/coupons/{coupon}/receipts/3",
        f"/v1/coupons/{coupon}/receipts/0",
        f"/v1/coupons/{coupon}/receipts/x",
        "/v1/receipts?key=never",
        "/v1/receipts?key=till-1&book=other",
    ):
        for token in others:
            reply = app.get(path, token=token)
            assert (reply.status_code, reply.json()["code"]) == (404, "not_found"), path
    assert app.get(f"/v1/coupons/{coupon}/receipts/1", token=till(app)).status_code == 404
    assert app.get(f"/v1/coupons/{coupon}/receipts/2", token=app.token("auditor")).is_success


def test_without_the_rule_of_disclosure_anybody_gets_a_receipt(
    app: App, signer: SignerFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test before: the same calls succeed when nothing is withheld."""
    coupon = app.claimed(app.open_campaign())
    follow(app, signer)
    monkeypatch.setattr("api.receipts.withheld", lambda *_: disclosure.NOTHING)
    path = f"/v1/coupons/{coupon}/receipts/1"
    assert app.get(path, token=tourist(app, "another")).is_success


def test_a_merchant_is_not_told_who_it_was(app: App, signer: SignerFiles) -> None:
    """The holder's receipt shows the person; the merchant's withholds it, and both hold."""
    coupon = app.claimed(app.open_campaign(merchants=["shop-1"]))
    assert redeemed(app, coupon, key="till-1").is_success
    follow(app, signer)
    path = f"/v1/coupons/{coupon}/receipts/2"
    of_holder = checked(app, app.get(path, token=tourist(app)).content)
    by_merchant = app.get(path, token=till(app))
    of_merchant = checked(app, by_merchant.content)
    assert app.get("/v1/receipts?key=till-1", token=till(app)).content == by_merchant.content
    whole, shown = state_of(of_holder), state_of(of_merchant)
    assert (of_holder.kind, of_merchant.kind) == ("event", "attested")
    person = whole.pop("person")
    assert shown == whole
    assert of_merchant.told["withheld"] == "person"
    assert of_merchant.told["leaf"] == of_holder.told["leaf"]
    assert person.encode() not in (parse_proof(by_merchant.content).extra or b"")


def test_a_refusal_becomes_a_signed_statement(app: App, signer: SignerFiles) -> None:
    """What, when, to whom and where in the book: the same bytes always, of the kept reply."""
    coupon = app.claimed(app.open_campaign(merchants=["shop-1"]))
    assert redeemed(app, coupon).is_success
    refused = redeemed(app, coupon, key="again")
    assert (refused.status_code, refused.json()["code"]) == (409, "already_redeemed")
    decided_at = app.events()
    follow(app, signer)
    first = app.get("/v1/receipts?key=again", token=till(app))
    app.claimed(app.open_campaign())
    follow(app, signer)
    again = app.get("/v1/receipts?key=again", token=till(app))
    assert first.content == again.content
    told = checked(app, first.content).told
    assert told["code"] == "already_redeemed"
    assert told["caller"] == "merchant:shop-1"
    assert told["reply"] == hashlib.sha256(refused.content).hexdigest()
    assert int(told["position"]) == decided_at
    before = app.get(f"/v1/books/main/events/{decided_at}/receipt", token=app.token("auditor"))
    assert checked(app, before.content).told["leaf"] == told["leaf"]
    assert app.get("/v1/receipts?key=again", token=till(app, "shop-2")).status_code == 404


def test_a_refused_claim_names_its_campaign_when_it_is_asked_to(
    app: App, signer: SignerFiles
) -> None:
    """Only the campaign that was claimed from, by the fingerprint of the request."""
    campaign = app.open_campaign()
    app.claimed(campaign)
    assert app.claim(campaign, key="twice").status_code == 409
    early = app.get("/v1/receipts?key=twice", token=tourist(app))
    assert (early.status_code, early.json()["code"]) == (503, "behind")
    follow(app, signer)
    named = app.get(f"/v1/receipts?key=twice&campaign={campaign}", token=tourist(app))
    assert checked(app, named.content).told["campaign"] == campaign
    other = "cmp_main_" + "0" * 32
    wrong = app.get(f"/v1/receipts?key=twice&campaign={other}", token=tourist(app))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_query")


def test_payments_and_refunds_of_packets_become_receipts(app: App, signer: SignerFiles) -> None:
    """For the holder and for the merchant, each as they may see it."""
    packet = test_packets.claimed(app, test_packets.opened(app))
    mall = test_packets.till(app)
    paid = app.post(f"/v1/packets/{packet}/payments", test_packets.order("a", 120), token=mall)
    assert paid.is_success
    back = {"order": "a", "amount": yuan(20)}
    assert app.post(f"/v1/packets/{packet}/refunds", back, token=mall, key="back").is_success
    follow(app, signer)
    for number, topic in enumerate(("packet.claimed", "packet.paid", "packet.refunded"), 1):
        path = f"/v1/packets/{packet}/receipts/{number}"
        own = checked(app, app.get(path, token=tourist(app, "li")).content)
        assert own.told["topic"] == topic
        reply = app.get(path, token=mall)
        if number == 1:
            assert reply.status_code == 404
        else:
            assert "person" not in state_of(checked(app, reply.content))
    by_key = checked(app, app.get("/v1/receipts?key=back", token=mall).content)
    assert by_key.told["topic"] == "packet.refunded"


def test_entries_of_a_draw_become_receipts(make_app: MakeApp) -> None:
    """One's own entry, by its number and by the key of the registration."""
    app = make_app(clock="request", redis_url=None)
    app.time = test_draws.NOON.isoformat()
    files = begin_log(app.settings.home, "main", "ledger.example", bytes(range(64)))
    campaign = app.open_campaign(**test_draws.terms())
    assert test_draws.register(app, campaign, 1, key="reg").status_code == 201
    void = test_draws.register(app, campaign, 1, key="reg-2")
    assert void.json()["code"] == "entry_void"
    Follower(app.datastore, "main", "test", files, ttl_s=0).run_once()
    mine, others = tourist(app, "person 1"), tourist(app, "person 2")
    path = f"/v1/campaigns/{campaign}/draw/entry/receipts/1"
    found = checked(app, app.get(path, token=mine).content)
    assert found.told["topic"] == "draw.entered"
    assert app.get("/v1/receipts?key=reg", token=mine).content == app.get(path, token=mine).content
    assert app.get(path, token=others).status_code == 404
    refusal = checked(app, app.get("/v1/receipts?key=reg-2", token=mine).content)
    assert (refusal.kind, refusal.told["code"]) == ("refusal", "entry_void")


def test_a_share_of_a_group_becomes_a_receipt(make_app: MakeApp) -> None:
    """For whoever took it, by the group or by the packet that it is; and not for the sender."""
    app = make_app(clock="request", redis_url=None)
    app.time = test_groups.NOON.isoformat()
    files = begin_log(app.settings.home, "main", "ledger.example", bytes(range(64)))
    told = test_groups.sent(app, test_groups.filled(app, test_groups.campaign_of_packets(app)))
    group = told["group"]
    taken = test_groups.take(app, group, "wang", test_groups.code(app, group), key="took")
    assert taken.status_code == 201, taken.text
    Follower(app.datastore, "main", "test", files, ttl_s=0).run_once()
    sender, taker = tourist(app, "sender"), tourist(app, "wang")
    by_key = app.get("/v1/receipts?key=took", token=taker)
    found = checked(app, by_key.content)
    assert found.told["topic"] in {"group.share_taken", "packet.claimed"}
    own = checked(app, app.get(f"/v1/groups/{group}/receipts/2", token=taker).content)
    assert own.told["topic"] == "group.share_taken"
    assert app.get(f"/v1/groups/{group}/receipts/2", token=sender).status_code == 404
    sending = checked(app, app.get(f"/v1/groups/{group}/receipts/1", token=sender).content)
    assert sending.told["topic"] == "group.funded"


def test_every_topic_of_the_rule_is_one_that_there_is() -> None:
    """And whatever is about somebody's thing names the person; the rest is for auditors."""
    assert EVENT_TYPES.topics >= disclosure.OF_PERSONS | disclosure.OF_MERCHANTS
    assert disclosure.OF_MERCHANTS <= disclosure.OF_PERSONS


# --- QR ---------------------------------------------------------------------------------------


def read_back(png: bytes) -> str:
    """What a reader sees in a picture."""
    import io

    from PIL import Image

    (found,) = zxingcpp.read_barcodes(Image.open(io.BytesIO(png)))
    return found.text


def test_a_receipt_is_read_back_from_its_code(app: App, signer: SignerFiles) -> None:
    """The picture holds the text, and the text is the receipt."""
    coupon = app.claimed(app.open_campaign())
    follow(app, signer)
    path = f"/v1/coupons/{coupon}/receipts/1"
    file = app.get(path, token=tourist(app)).content
    text = app.get(f"{path}?form=text", token=tourist(app)).text
    assert unpack(text) == file
    svg = app.get(f"{path}?form=svg", token=tourist(app))
    assert svg.headers["content-type"] == "image/svg+xml"
    assert b"<svg" in svg.content
    coded = qr.coded(file)
    assert svg.content == coded.svg()
    assert coded.whole
    assert read_back(coded.png()) == text
    assert checked(app, text.encode()).told["topic"] == "coupon.claimed"
    assert "█" in coded.terminal() or "▀" in coded.terminal()
    wrong = app.get(f"{path}?form=pdf", token=tourist(app))
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_query")


def test_what_does_not_fit_is_named_by_address_and_leaf() -> None:
    """A receipt of a long event; without an address it is said that it does not fit."""
    noise = b"".join(hashlib.sha512(b"%d" % n).digest() for n in range(45))
    data = PROOF._replace(extra=b"\1" + noise).encode()
    coded = qr.coded(data, b"l" * 32, "https://ledger.example/v1/books/main/events/5/receipt")
    assert not coded.whole
    assert read_back(coded.png()).startswith("https://ledger.example/v1/books/main/events/5/")
    with pytest.raises(qr.DoesNotFit):
        qr.coded(data)
    assert qr.coded(RECEIPT).whole
