"""Tokens: only good ones open the door, and one identity is one person."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from api.callers import Caller, Pseudonyms
from api.errors import Problem
from api.issuers import DEV_ISSUER, REFETCH_S, STALE_S, DevelopmentIssuer, OidcKeys
from api.tokens import CACHE_S, TokenRules, Tokens

NOW = 1_800_000_000
ISSUER = "https://sign-in.example"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        """The time."""
        return self.now


class Provider:
    """An OIDC provider's JWKS address on loopback, with keys that a test changes."""

    def __init__(self) -> None:
        self.keys: list[Any] = []
        self.status = 200
        self.document: bytes | None = None
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                body = provider.document
                if body is None:
                    keys = [key.as_dict(private=False) for key in provider.keys]
                    body = json.dumps({"keys": keys}).encode()
                self.send_response(provider.status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Go away."""
        self.server.shutdown()
        self.server.server_close()


def ed25519(kid: str) -> OKPKey:
    """A fresh key."""
    return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig"})


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider with one key, named `one`."""
    made = Provider()
    made.keys = [ed25519("one")]
    yield made
    made.close()


@pytest.fixture
def clock() -> Clock:
    """A clock at rest."""
    return Clock()


@pytest.fixture
def tokens(provider: Provider, clock: Clock) -> Tokens:
    """A checker that trusts the provider."""
    rules = TokenRules(ISSUER, "tidebook")
    return Tokens(rules, OidcKeys(provider.url, clock), Pseudonyms(b"k" * 32), clock)


def signed(key: Any, alg: str = "Ed25519", header: Any = None, **changes: Any) -> bytes:
    """An Authorization header with a token of a tourist; a change to None drops a claim."""
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": "tidebook",
        "sub": "account-1",
        "identity": "460200199001011234",
        "role": "tourist",
        "nbf": NOW - 10,
        "exp": NOW + 600,
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    made = jwt.encode({"alg": alg, "kid": key.kid, **(header or {})}, claims, key, [alg])
    return f"Bearer {made}".encode()


def caller(tokens: Tokens, authorization: bytes | None) -> Caller:
    """Whom a header names."""
    return asyncio.run(tokens.caller(authorization))


def refused(tokens: Tokens, authorization: bytes | None) -> Problem:
    """The problem that a header meets."""
    with pytest.raises(Problem) as caught:
        caller(tokens, authorization)
    return caught.value


def test_a_good_token_names_a_caller_by_pseudonym(tokens: Tokens, provider: Provider) -> None:
    """The identity does not come through; a pseudonym of it does."""
    found = caller(tokens, signed(provider.keys[0]))
    assert found.role == "tourist"
    assert len(found.person) == 32
    assert "460200199001011234" not in repr(found)
    assert found.scope == f"tourist:{found.person}"


def test_two_accounts_of_one_identity_are_one_person(tokens: Tokens, provider: Provider) -> None:
    """Only the verified identity counts, not the account or the device."""
    one = caller(tokens, signed(provider.keys[0], sub="phone"))
    two = caller(tokens, signed(provider.keys[0], sub="tablet"))
    other = caller(tokens, signed(provider.keys[0], identity="460200199001015678"))
    assert one.person == two.person != other.person


def test_without_an_identity_the_subject_is_the_person(tokens: Tokens, provider: Provider) -> None:
    """An issuer that verifies no identity still names its accounts."""
    assert caller(tokens, signed(provider.keys[0], identity=None)).person


def test_a_merchant_acts_as_the_merchant(tokens: Tokens, provider: Provider) -> None:
    """Two tills of one merchant share their idempotency keys, and are two persons."""
    tills = [
        caller(tokens, signed(provider.keys[0], role="merchant", merchant="shop", identity=who))
        for who in ("till one", "till two")
    ]
    assert {till.scope for till in tills} == {"merchant:shop"}
    assert tills[0].person != tills[1].person


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("kind", ["RS256", "PS256", "ES256", "EdDSA"])
def test_the_common_algorithms_are_accepted(tokens: Tokens, provider: Provider, kind: str) -> None:
    """Whatever public-key algorithm the provider uses."""
    make: dict[str, Callable[[], Any]] = {
        "RS256": lambda: RSAKey.generate_key(2048, {"kid": "k"}),
        "PS256": lambda: RSAKey.generate_key(2048, {"kid": "k"}),
        "ES256": lambda: ECKey.generate_key("P-256", {"kid": "k"}),
        "EdDSA": lambda: ed25519("k"),
    }
    key = make[kind]()
    provider.keys = [key]
    assert caller(tokens, signed(key, kind)).role == "tourist"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 1},
        {"exp": NOW},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": NOW + 60},
        {"nbf": "yesterday"},
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "another-service"},
        {"aud": ["a", "b"]},
        {"aud": None},
        {"role": "root"},
        {"role": None},
        {"role": ["operator"]},
        {"role": "merchant"},
        {"role": "merchant", "merchant": "../shop"},
        {"role": "merchant", "merchant": 7},
        {"sub": None},
        {"sub": ""},
        {"identity": ""},
        {"identity": 460200199001011234},
        {"identity": "a\u0000b"},
        {"identity": "x" * 257},
    ],
)
def test_a_token_that_breaks_a_rule_is_refused(
    tokens: Tokens, provider: Provider, changes: dict[str, Any]
) -> None:
    """Expired, not yet valid, for or from somebody else, or naming nobody: 401."""
    problem = refused(tokens, signed(provider.keys[0], **changes))
    assert problem.status == 401
    assert 'error="invalid_token"' in problem.headers["WWW-Authenticate"]


def test_what_the_issuer_says_beside_is_ignored(tokens: Tokens, provider: Provider) -> None:
    """Further claims of any kind, and further members of the header, change nothing."""
    more: dict[str, Any] = {"scope": ["a"], "iat": "whenever", "acr": None}
    assert caller(tokens, signed(provider.keys[0], header={"x5t": "abc"}, **more)).person


def test_what_is_critical_and_not_understood_is_refused(tokens: Tokens, provider: Provider) -> None:
    """An extension that must be understood is not understood here."""
    head, body, _ = signed(provider.keys[0]).removeprefix(b"Bearer ").split(b".")
    header = base64.urlsafe_b64decode(head + b"==").replace(b"{", b'{"crit":["b64"],"b64":true,')
    assert b"crit" in header
    content = base64.urlsafe_b64encode(header).rstrip(b"=") + b"." + body
    key = provider.keys[0]
    mark = base64.urlsafe_b64encode(key.get_op_key("sign").sign(content)).rstrip(b"=")
    assert refused(tokens, b"Bearer " + content + b"." + mark).status == 401
    plain = head + b"." + body
    mark = base64.urlsafe_b64encode(key.get_op_key("sign").sign(plain)).rstrip(b"=")
    assert caller(tokens, b"Bearer " + plain + b"." + mark).person


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic dXNlcjpwYXNz",
        b"Bearer a b",
        b"Bearer \xff\xfe",
        b"Bearer not-a-token",
        b"Bearer a.b.c",
        b"Bearer bnVsbA.e30.x",
        b"Bearer W10.e30.x",
        b"Bearer " + b"x" * 9_000,
        b"Bearer " + b"W1" * 3_000 + b".e30.x",
    ],
)
def test_what_is_no_token_is_refused(tokens: Tokens, header: bytes | None) -> None:
    """Anything else in the header is 401, never a crash."""
    assert refused(tokens, header).status == 401


def test_a_forged_token_is_refused(tokens: Tokens, provider: Provider) -> None:
    """Another key under the right name, a changed body, a cut signature."""
    assert refused(tokens, signed(ed25519("one"))).status == 401
    good = signed(provider.keys[0])
    head, body, mark = good.split(b".")
    other = signed(provider.keys[0], role="operator").split(b".")[1]
    for forged in (b".".join([head, other, mark]), good[:-4], b".".join([head, body, b""])):
        assert refused(tokens, forged).status == 401


def test_algorithms_that_prove_nothing_are_refused(tokens: Tokens, provider: Provider) -> None:
    """Neither `none` nor a shared secret made of the public key opens the door."""
    public = json.dumps(provider.keys[0].as_dict(private=False)).encode()
    secret = OctKey.import_key(public, {"kid": "one"})
    assert refused(tokens, signed(secret, "HS256")).status == 401
    head, body, _ = signed(provider.keys[0]).split(b".")
    for none in (b"eyJhbGciOiJub25lIn0", b"eyJhbGciOiJOb25lIiwia2lkIjoib25lIn0"):
        assert refused(tokens, b"Bearer " + none + b"." + body + b".").status == 401
    assert head


@pytest.mark.filterwarnings("ignore:Key size")
def test_a_weak_or_foreign_key_is_not_used(tokens: Tokens, provider: Provider) -> None:
    """Keys for encryption and short RSA keys do not verify."""
    signing = ed25519("enc")
    encrypting = OKPKey.import_key({**signing.as_dict(private=False), "use": "enc"})
    short = RSAKey.generate_key(1024, {"kid": "short"})
    provider.keys = [encrypting, short, ed25519("one")]
    assert refused(tokens, signed(signing)).status == 401
    assert refused(tokens, signed(short, "RS256")).status == 401


def test_a_new_key_of_the_issuer_is_found(tokens: Tokens, provider: Provider, clock: Clock) -> None:
    """An unknown key id leads to one look at the provider, bounded in frequency."""
    caller(tokens, signed(provider.keys[0]))
    assert provider.asked == 1
    provider.keys.append(ed25519("two"))
    clock.now += REFETCH_S
    assert caller(tokens, signed(provider.keys[1])).role == "tourist"
    assert provider.asked == 2
    for invented in range(20):
        assert refused(tokens, signed(ed25519(f"invented-{invented}"))).status == 401
    assert provider.asked == 2


def test_many_callers_at_once_fetch_the_keys_once(provider: Provider, clock: Clock) -> None:
    """A rush right after the start asks the provider one time."""
    rules = TokenRules(ISSUER, "tidebook")
    header = signed(provider.keys[0])

    async def rush() -> None:
        keys = OidcKeys(provider.url, clock)
        tokens = Tokens(rules, keys, Pseudonyms(b"k" * 32), clock)
        await asyncio.gather(*(tokens.caller(header) for _ in range(50)))

    asyncio.run(rush())
    assert provider.asked == 1


def test_without_keys_nobody_comes_in(tokens: Tokens, provider: Provider) -> None:
    """A provider that is away or talks nonsense is 503: no token is accepted unseen."""
    provider.status = 500
    assert refused(tokens, signed(provider.keys[0])).trouble.code == "issuer_unavailable"


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":[1,null,{}]}', b"x" * 300_000]
)
def test_nonsense_from_the_provider_is_no_key(
    provider: Provider, tokens: Tokens, document: bytes
) -> None:
    """What the provider says is parsed with care."""
    provider.document = document
    assert refused(tokens, signed(provider.keys[0])).status in (401, 503)


def test_known_keys_outlive_a_short_absence_of_the_provider(
    tokens: Tokens, provider: Provider, clock: Clock
) -> None:
    """Keys are believed for an hour after the last good fetch, and then not."""
    caller(tokens, signed(provider.keys[0]))
    provider.status = 503
    clock.now = NOW + STALE_S - 10
    assert caller(tokens, signed(provider.keys[0], exp=NOW + 9_000)).role == "tourist"
    clock.now = NOW + STALE_S + REFETCH_S
    late = signed(provider.keys[0], exp=NOW + 9_001)
    assert refused(tokens, late).trouble.code == "issuer_unavailable"


def test_a_checked_token_is_remembered_for_a_minute_at_most(
    tokens: Tokens, provider: Provider, clock: Clock
) -> None:
    """A key taken out of use stops working within the minute."""
    header = signed(provider.keys[0])
    caller(tokens, header)
    assert tokens.known(header) is not None
    clock.now += CACHE_S - 1
    assert tokens.known(header) is not None
    clock.now += 2
    assert tokens.known(header) is None


def test_a_remembered_token_still_expires(tokens: Tokens, provider: Provider, clock: Clock) -> None:
    """The memory never outlives the token."""
    header = signed(provider.keys[0], exp=NOW + 5)
    caller(tokens, header)
    clock.now += 5
    assert tokens.known(header) is None
    assert refused(tokens, header).status == 401


def test_the_development_issuer_is_checked_like_any_other(clock: Clock) -> None:
    """Its tokens verify against its published key only."""
    dev = DevelopmentIssuer(b"s" * 32, "tidebook", clock)
    other = DevelopmentIssuer(b"t" * 32, "tidebook", clock)
    tokens = Tokens(TokenRules(DEV_ISSUER, "tidebook"), dev, Pseudonyms(b"k" * 32), clock)
    good = dev.token("operator", "alice")
    assert caller(tokens, f"Bearer {good}".encode()).role == "operator"
    assert refused(tokens, f"Bearer {other.token('operator', 'alice')}".encode()).status == 401
    assert "d" not in dev.jwks()["keys"][0]
