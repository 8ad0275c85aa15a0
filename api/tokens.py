"""Tokens: whether a bearer token is good, and whom it names.

A token is accepted only after its signature, algorithm, issuer, audience and times were checked
against rules that the token cannot choose. Whatever cannot be checked is refused. A checked token
is remembered for at most a minute under its hash, so that the rush does not check it again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeGuard

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from api.callers import MERCHANT, ROLES, Caller, Pseudonyms
from api.errors import UNSIGNED, unauthenticated

ALGORITHMS: Final = ("Ed25519", "EdDSA", "ES256", "ES384", "PS256", "RS256")
"""Signatures with a public key only: a shared secret or `none` never verifies a token."""

PublicKey = RSAKey | ECKey | OKPKey

TOKEN_BYTES_MAX: Final = 8_192
IDENTITY_CHARS_MAX: Final = 256
CACHE_S: Final = 60.0
"""A revoked session or suspended merchant is noticed within this time."""
CACHE_TOKENS: Final = 200_000
"""About 100 MB at most; a rush of more people than this only costs signature checks."""
NOT_BEFORE_LEEWAY_S: Final = 10
"""Clocks of issuer and server differ a little; expiry gets no such grace."""

_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9_.~+/=-]+) *")


class KeySource(Protocol):
    """Where the issuer's public keys come from."""

    async def key(self, kid: str | None) -> PublicKey | None:
        """Return the key named `kid`, or the only key when a token names none."""
        ...


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What every token must say."""

    issuer: str
    audience: str


class Tokens:
    """Checks bearer tokens against one issuer's keys and rules."""

    def __init__(
        self, rules: TokenRules, keys: KeySource, pseudonyms: Pseudonyms, now: Callable[[], float]
    ) -> None:
        self._rules = rules
        self._keys = keys
        self._pseudonyms = pseudonyms
        self._now = now
        self._seen: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def known(self, authorization: bytes) -> Caller | None:
        """Return the caller of a token that was checked within the last minute."""
        digest = hashlib.sha256(authorization).digest()
        entry = self._seen.get(digest)
        if entry is None:
            return None
        caller, until = entry
        if self._now() < until:
            return caller
        del self._seen[digest]
        return None

    async def caller(self, authorization: bytes | None) -> Caller:
        """Return who calls; raise the problem `unauthenticated` for any token but a good one."""
        if authorization is None:
            raise unauthenticated(UNSIGNED)
        caller = self.known(authorization)
        if caller is None:
            claims = await self._claims(_token_of(authorization))
            caller = self._named_by(claims)
            self._remember(authorization, caller, min(float(claims["exp"]), self._now() + CACHE_S))
        return caller

    def _remember(self, authorization: bytes, caller: Caller, until: float) -> None:
        self._seen[hashlib.sha256(authorization).digest()] = (caller, until)
        if len(self._seen) > CACHE_TOKENS:
            self._seen.popitem(last=False)

    async def _claims(self, token: str) -> dict[str, Any]:
        header = _header_of(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            raise unauthenticated("The token is signed in a way that is not accepted.")
        kid = header.get("kid")
        key = await self._keys.key(kid if isinstance(kid, str) else None)
        if key is None:
            raise unauthenticated("The token is signed with a key that its issuer does not have.")
        claims = _verified(token, key, algorithm)
        _check_times(claims, self._now())
        _check_parties(claims, self._rules)
        return claims

    def _named_by(self, claims: dict[str, Any]) -> Caller:
        subject = _name(claims, "sub")
        identity = _name(claims, "identity") if "identity" in claims else subject
        role = claims.get("role")
        if role not in ROLES:
            raise unauthenticated("The token names no role of this service.")
        merchant = claims.get("merchant") if role == "merchant" else None
        if role == "merchant" and not (isinstance(merchant, str) and MERCHANT.fullmatch(merchant)):
            raise unauthenticated("A merchant's token must name the merchant.")
        return Caller.of(role, self._pseudonyms.of(identity), merchant)


def _token_of(authorization: bytes) -> str:
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise unauthenticated(UNSIGNED)
    if len(match[1]) > TOKEN_BYTES_MAX:
        raise unauthenticated("The token is too long.")
    return match[1].decode("ascii")


def _header_of(token: str) -> dict[str, Any]:
    segment = token.partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise unauthenticated("The token is not a signed JSON web token.")
    return header


def _verified(token: str, key: PublicKey, algorithm: str) -> dict[str, Any]:
    """Return the claims of a token whose signature is `key`'s, made with `algorithm`."""
    if key.alg is not None and key.alg != algorithm:
        raise unauthenticated("The token is signed in a way that its key is not for.")
    try:
        with warnings.catch_warnings():
            # EdDSA is the older name of Ed25519; most issuers still write it.
            warnings.filterwarnings("ignore", "EdDSA is deprecated")
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm]).claims
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise unauthenticated("The token's signature does not verify.") from error
    return claims


def _check_times(claims: dict[str, Any], now: float) -> None:
    expires, not_before = claims.get("exp"), claims.get("nbf", 0)
    if not (_is_instant(expires) and _is_instant(not_before)):
        raise unauthenticated("The token does not say when it is valid.")
    if now >= expires:
        raise unauthenticated("The token has expired.")
    if now + NOT_BEFORE_LEEWAY_S < not_before:
        raise unauthenticated("The token is not valid yet.")


def _is_instant(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value < 1e12


def _check_parties(claims: dict[str, Any], rules: TokenRules) -> None:
    if claims.get("iss") != rules.issuer:
        raise unauthenticated("The token is from another issuer.")
    audience = claims.get("aud")
    if rules.audience not in (audience if isinstance(audience, list) else [audience]):
        raise unauthenticated("The token is for another audience.")


def _name(claims: dict[str, Any], claim: str) -> str:
    value = claims.get(claim)
    if not (isinstance(value, str) and 0 < len(value) <= IDENTITY_CHARS_MAX and _is_text(value)):
        raise unauthenticated(f"The token's {claim!r} names nobody.")
    return value


def _is_text(value: str) -> bool:
    return value.isprintable() and value == value.strip()
