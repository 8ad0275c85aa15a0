"""Sessions: one sign-in, then a token that only this service can make and anybody can show."""

from __future__ import annotations

import base64
import hmac
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api import sessions
from api.callers import Caller
from api.errors import Problem
from api.sessions import Revocations, SessionKey, Sessions, session_header
from tests.api.conftest import MakeApp
from tests.api.harness import App

NOW = 1_800_000_000
KEY, OTHER = b"k" * 32, b"o" * 32
PERSON = "6664a42048c6d6d7fe3657e39b14155c"
TOURIST = Caller.of("tourist", PERSON)
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at rest."""
    return Clock()


@pytest.fixture
def made(clock: Clock) -> Sessions:
    """Sessions of 300 seconds under one key."""
    return Sessions((KEY,), 300, clock)


def bearer(token: str) -> bytes:
    """The header that carries a token."""
    return f"Bearer {token}".encode()


def refused(checker: Sessions, header: bytes) -> Problem:
    """The problem that a header meets."""
    with pytest.raises(Problem) as caught:
        checker.caller(header)
    return caught.value


@pytest.mark.parametrize(
    "caller",
    [
        TOURIST,
        Caller.of("operator", PERSON),
        Caller.of("auditor", PERSON),
        *(Caller.of("merchant", PERSON, "m" * length) for length in (1, 2, 3, 64)),
    ],
)
def test_a_session_names_who_began_it(made: Sessions, caller: Caller) -> None:
    """Role, person, merchant and scope come back, and each session has an id of its own."""
    one, two = (made.caller(bearer(made.begin(caller).token)) for _ in range(2))
    for found in (one, two):
        assert (found.role, found.person, found.merchant) == (
            caller.role,
            caller.person,
            caller.merchant,
        )
        assert (found.actor, found.scope, found.device) == (caller.actor, caller.scope, None)
    assert one.session != two.session


def test_a_session_remembers_its_device(made: Sessions) -> None:
    """The mark of the device is in the token, the device's name is not."""
    token = made.begin(TOURIST, b"8 bytes!").token
    assert made.caller(bearer(token)).device == b"8 bytes!".hex()


def test_a_session_ends(made: Sessions, clock: Clock) -> None:
    """After its time, or when the issuer's token ends if that is earlier."""
    long, short = made.begin(TOURIST), made.begin(TOURIST, until=NOW + 5.9)
    assert (long.ends_at, short.ends_at) == (NOW + 300, NOW + 5)
    clock.now = NOW + 5
    assert refused(made, bearer(short.token)).status == 401
    assert made.caller(bearer(long.token)).person == PERSON
    clock.now = NOW + 300
    assert refused(made, bearer(long.token)).status == 401


def test_a_change_of_keys_ends_no_session(made: Sessions, clock: Clock) -> None:
    """Every server takes tokens of both keys while one is exchanged for the other."""
    before = Sessions((KEY, OTHER), 300, clock)
    after = Sessions((OTHER, KEY), 300, clock)
    for old in (made.begin(TOURIST), before.begin(TOURIST)):
        assert after.caller(bearer(old.token)).person == PERSON
    new = after.begin(TOURIST)
    assert before.caller(bearer(new.token)).person == PERSON
    assert refused(made, bearer(new.token)).status == 401


def test_any_changed_character_is_refused(made: Sessions) -> None:
    """Every other token of the same length is forged, those with another role byte included.

    That holds for spellings as well: no second text stands for the same bytes.
    """
    good = bearer(made.begin(Caller.of("merchant", PERSON, "m")).token)
    assert made.caller(good).merchant == "m"
    for place in range(len(b"Bearer tbs1."), len(good)):
        for other in (*ALPHABET, *b".+/= ~\xff"):
            forged = good[:place] + bytes([other]) + good[place + 1 :]
            if forged != good:
                assert refused(made, forged).status == 401


def test_a_remembered_session_is_checked_like_any_other(made: Sessions, clock: Clock) -> None:
    """It is known by all of its bytes, ends in time, and ends when its owner ends it."""
    one, other = (bearer(made.begin(TOURIST).token) for _ in range(2))
    for header in (one, other):
        made.remember(header)
        assert made.caller(header) == Sessions((KEY,), 300, clock).caller(header)
    for place in range(len(b"Bearer tbs1."), len(one)):
        assert refused(made, one[:place] + b"+" + one[place + 1 :]).status == 401
    session = made.caller(one).session
    assert session is not None
    made.revocations.note(session)
    assert refused(made, one).status == 401
    assert made.caller(other).person == PERSON
    clock.now = NOW + 300
    assert refused(made, other).status == 401


def test_without_its_checks_a_remembered_session_would_live_on(
    made: Sessions, clock: Clock
) -> None:
    """The control: what is remembered alone says nothing of an end."""
    header = bearer(made.begin(TOURIST).token)
    made.remember(header)
    session = made.caller(header).session
    assert session is not None
    made.revocations.note(session)
    clock.now = NOW + 300
    caller, ends_at = made._known[header]
    assert (caller.person, ends_at) == (PERSON, NOW + 300)


def test_a_forged_header_is_never_remembered(made: Sessions) -> None:
    """Its MAC is compared before anything is kept."""
    good = bearer(made.begin(TOURIST).token)
    with pytest.raises(Problem):
        made.remember(good[:-1] + (b"A" if good[-1:] != b"A" else b"B"))
    made.remember(b"bearer   " + good.removeprefix(b"Bearer "))
    assert not made._known


def test_remembered_sessions_are_forgotten(made: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded; whoever fell out of it is checked anew."""
    monkeypatch.setattr(sessions, "KNOWN_MAX", 3)
    headers = [bearer(made.begin(TOURIST).token) for _ in range(20)]
    for header in headers:
        made.remember(header)
        made.remember(header)
        assert len(made._known) + len(made._older) <= 6
    assert all(made.caller(header).person == PERSON for header in headers)


def test_another_role_under_the_old_mac_is_refused(made: Sessions) -> None:
    """A tourist who writes the operator's role into the token gets nowhere."""
    prefix, key_id, content, mac = made.begin(TOURIST).token.split(".")
    forged = bytearray(base64.urlsafe_b64decode(content))
    forged[0] = 2
    text = base64.urlsafe_b64encode(forged).decode()
    assert refused(made, bearer(f"{prefix}.{key_id}.{text}.{mac}")).status == 401


def test_a_mac_by_another_key_is_refused(made: Sessions, clock: Clock) -> None:
    """Even under the right key's name."""
    token = Sessions((OTHER,), 300, clock).begin(TOURIST).token
    assert refused(made, bearer(token)).status == 401
    renamed = token.split(".")
    renamed[1] = SessionKey(KEY).id.decode()
    assert refused(made, bearer(".".join(renamed))).status == 401
    signed = ".".join(renamed[:3]) + "."
    forged = signed + SessionKey(OTHER).mac(signed.encode()).decode()
    assert refused(made, bearer(forged)).status == 401


def test_a_cut_or_lengthened_token_is_refused(made: Sessions) -> None:
    """At either end, down to nothing."""
    good = bearer(made.begin(TOURIST).token)
    for cut in range(1, len(good) - len(b"Bearer ")):
        assert refused(made, good[:-cut]).status == 401
    for longer in (good + b"=", good + b" ", good + b"A", good + b"\n", good + good):
        assert refused(made, longer).status == 401


@pytest.mark.parametrize(
    "header",
    [
        b"Bearer tbs1.",
        b"Bearer tbs1......",
        b"Bearer tbs1." + b"." * 200,
        b"Bearer tbs1." + b"A" * 8_000,
        b"Bearer tbs1.\xff\xfe" + b"\x00" * 100,
    ],
)
def test_nonsense_is_refused(made: Sessions, header: bytes) -> None:
    """401, never a crash."""
    assert refused(made, header).status == 401


@pytest.mark.parametrize("length", [32, 63, 64, 65, 200])
def test_the_mac_is_hmac_sha256(length: int) -> None:
    """With keys of any length, for any text."""
    secret = bytes(range(256))[:length]
    for text in (b"", b"x", b"tbs1.text" * 50):
        mac = hmac.digest(secret, text, "sha256")[:24]
        assert SessionKey(secret).mac(text) == base64.urlsafe_b64encode(mac)


def test_macs_are_compared_in_constant_time(
    made: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides is the comparison that is made for secrets."""
    asked: list[bytes] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        asked.append(theirs)
        return hmac.compare_digest(ours, theirs)

    good = bearer(made.begin(TOURIST).token)
    monkeypatch.setattr(sessions, "hmac", SimpleNamespace(compare_digest=compare))
    made.caller(good)
    assert asked == [good[-32:]]


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER   "])
def test_the_scheme_may_be_spelt_in_any_case(made: Sessions, scheme: bytes) -> None:
    """As HTTP has it; what is no session token is not taken for one."""
    token = made.begin(TOURIST).token.encode()
    header = session_header(scheme + token)
    assert header is not None
    assert made.caller(header).person == PERSON
    assert session_header(scheme + b"eyJ.eyJ.x") is None
    assert session_header(b"Basic " + token) is None


def test_what_was_read_too_long_ago_is_not_believed(clock: Clock, app: App) -> None:
    """A server that cannot read revocations any more takes nobody, with 503 and not 401."""
    revocations = Revocations(clock)
    checker = Sessions((KEY,), 300, clock, revocations=revocations)
    with pytest.raises(Problem) as caught:
        checker.require_standing(TOURIST)
    assert caught.value.trouble.code == "store_unavailable"
    with app.datastore.transaction() as cursor:
        revocations.read(cursor)
    checker.require_standing(TOURIST)
    clock.now += sessions.REVOCATION_S
    with pytest.raises(Problem):
        checker.require_standing(TOURIST)


# --- over HTTP ------------------------------------------------------------------------------------


def begun(app: App, token: str, **body: Any) -> str:
    """Begin a session; return its token."""
    reply = app.post("/v1/sessions", body or None, token=token, key="")
    assert reply.status_code == 201, reply.text
    session: str = reply.json()["session_token"]
    return session


def told(reply: Any) -> tuple[int, str]:
    """Status and code."""
    return reply.status_code, reply.json()["code"]


def test_every_address_takes_a_session_token(app: App) -> None:
    """A coupon's life and the reads about it, without the issuer's token after the sign-in."""
    campaign = app.open_campaign()
    me, till, auditor = (begun(app, app.token(role)) for role in ("tourist", "merchant", "auditor"))
    claimed = app.post(f"/v1/campaigns/{campaign}/claims", token=me, key="k")
    assert claimed.status_code == 201, claimed.text
    coupon = claimed.json()["coupon"]
    order = {"order": "1", "order_total": {"amount_minor": 8_000, "currency": "CNY"}}
    redeemed = app.post(f"/v1/coupons/{coupon}/redemptions", order, token=till)
    assert redeemed.status_code == 200, redeemed.text
    app.project()
    assert app.get("/v1/wallet", token=me).json()["items"][0]["coupon"] == coupon
    assert app.get("/v1/merchant/balance", token=till).status_code == 200
    assert app.get("/v1/books/main/head", token=auditor).status_code == 200
    assert told(app.get("/v1/books/main/head", token=me)) == (403, "role_forbidden")
    oidc = app.post(f"/v1/campaigns/{campaign}/claims", token=app.token("tourist"), key="k")
    assert oidc.content == claimed.content
    assert oidc.headers["idempotency-replayed"] == "true"


def test_a_session_tells_when_it_ends_and_for_whom(app: App) -> None:
    """The reply names the role and the instant, and it is stored nowhere on the way."""
    reply = app.post("/v1/sessions", {"device": "my phone"}, token=app.token("operator"), key="")
    assert reply.status_code == 201
    assert reply.headers["cache-control"] == "no-store"
    shown = reply.json()
    assert shown["role"] == "operator"
    assert shown["expires_at"].endswith("Z")
    assert "phone" not in shown["session_token"]


def test_a_session_token_begins_no_session(app: App) -> None:
    """Otherwise a stolen one would last for ever."""
    session = begun(app, app.token("tourist"))
    assert told(app.post("/v1/sessions", token=session, key="")) == (401, "unauthenticated")


def test_the_issuers_token_in_the_dress_of_a_session_is_refused(app: App) -> None:
    """And the other way round: neither kind of token is ever read as the other."""
    token, session = app.token("tourist"), begun(app, app.token("tourist"))
    for mixed in (
        f"tbs1.{token}",
        session.removeprefix("tbs1."),
        session.replace("tbs1.", "tbs2."),
        ".".join(session.split(".")[:3]),
        ".".join([*token.split(".")[:2], session.split(".")[3]]),
    ):
        assert told(app.get("/v1/wallet", token=mixed)) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"json": {"device": ""}}, "invalid_body"),
        ({"json": {"device": "x" * 129}}, "invalid_body"),
        ({"json": {"device": 7}}, "invalid_body"),
        ({"json": {"role": "operator"}}, "invalid_body"),
        ({"json": {"person": PERSON}}, "invalid_body"),
        ({"content": b"{"}, "unsupported_media_type"),
        ({"token": ""}, "unauthenticated"),
        ({"token": "x.y.z"}, "unauthenticated"),
    ],
)
def test_a_session_is_what_the_issuer_says(app: App, how: dict[str, Any], code: str) -> None:
    """Nothing in the body makes more of a caller, and nobody begins a session unsigned."""
    reply = app.post("/v1/sessions", **{"token": app.token("tourist"), "key": "", **how})
    assert reply.json()["code"] == code


def test_an_ended_session_is_refused_everywhere(make_app: MakeApp) -> None:
    """S04: at once where it was ended, and elsewhere as soon as that server has looked."""
    app, other = make_app(), make_app()
    session, second = (begun(app, app.token("tourist")) for _ in range(2))
    assert other.get("/v1/wallet", token=session).status_code == 200
    ended = app.call("DELETE", "/v1/sessions/current", token=session)
    assert (ended.status_code, ended.content) == (204, b"")
    assert told(app.get("/v1/wallet", token=session)) == (401, "unauthenticated")
    other.loop.run(other.service.in_store(other.service.sessions.revocations.read))
    assert told(other.get("/v1/wallet", token=session)) == (401, "unauthenticated")
    assert told(app.call("DELETE", "/v1/sessions/current", token=session))[0] == 401
    assert app.get("/v1/wallet", token=second).status_code == 200


def test_a_call_without_a_session_has_none_to_end(app: App) -> None:
    """The issuer's tokens end by themselves."""
    ended = app.call("DELETE", "/v1/sessions/current", token=app.token("tourist"))
    assert told(ended) == (404, "not_found")


def test_revocations_vanish_with_their_sessions(app: App) -> None:
    """The table that every server reads stays small."""
    session = begun(app, app.token("tourist"))
    with app.datastore.transaction() as cursor:
        sessions.revoke(cursor, b"long past its end", NOW - 10**9)
    app.call("DELETE", "/v1/sessions/current", token=session)
    with app.datastore.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM revocation")
        assert cursor.fetchone() == (1,)


def test_a_suspended_merchant_is_refused_with_any_token(app: App) -> None:
    """S04: the session goes on existing, and so does the issuer's token; neither helps."""
    token = app.token("merchant", merchant="shop-1")
    session = begun(app, token)
    fine = app.token("merchant", merchant="shop-2")
    with app.datastore.transaction() as cursor:
        sessions.suspend(cursor, "merchant:shop-1")
    app.loop.run(app.service.in_store(app.service.sessions.revocations.read))
    for refusal in (
        app.get("/v1/merchant/balance", token=token),
        app.get("/v1/merchant/balance", token=session),
        app.post("/v1/sessions", token=token, key=""),
    ):
        assert told(refusal) == (403, "suspended")
    assert app.get("/v1/merchant/balance", token=fine).status_code == 200
    with app.datastore.transaction() as cursor:
        assert sessions.lift(cursor, "merchant:shop-1")
        assert not sessions.lift(cursor, "merchant:shop-1")
    app.loop.run(app.service.in_store(app.service.sessions.revocations.read))
    assert app.get("/v1/merchant/balance", token=session).status_code == 200


def test_servers_look_often_enough() -> None:
    """Several looks may fail before anything goes unnoticed for longer than is promised."""
    assert sessions.POLL_S * 5 <= sessions.REVOCATION_S <= 60


def test_servers_of_one_home_share_the_key(make_app: MakeApp, tmp_path: Path) -> None:
    """A session that one server began is good at every other."""
    one, two = make_app(), make_app()
    assert two.get("/v1/wallet", token=begun(one, one.token("tourist"))).status_code == 200
    three = make_app(session_key="00" * 32)
    assert three.get("/v1/wallet", token=begun(one, one.token("tourist"))).status_code == 401
