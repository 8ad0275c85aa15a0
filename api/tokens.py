"""Tokens: whether a bearer token is good, and whom it names.

A token is accepted only after its signature, algorithm, issuer, audience and times were checked
against rules that the token cannot choose. Whatever cannot be checked is refused. A checked token
is remembered for at most a minute under its hash, so that the rush does not check it again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from api.callers import MERCHANT, ROLES, Caller, Pseudonyms, Role
from api.errors import UNSIGNED, unauthenticated

ALGORITHMS: Final = {
    name: JWSRegistry.algorithms[name]
    for name in ("Ed25519", "EdDSA", "ES256", "ES384", "PS256", "RS256")
}
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

_SEGMENT: Final = rb"([A-Za-z0-9_-]+)"
_BEARER: Final = re.compile(
    rb"[Bb][Ee][Aa][Rr][Ee][Rr] +" + rb"\.".join([_SEGMENT, _SEGMENT, _SEGMENT]) + rb" *"
)


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


class Claims(msgspec.Struct, frozen=True):
    """What is read of a token; anything else in it is ignored, anything missing refuses it."""

    iss: str
    aud: str | list[str]
    sub: str
    exp: float
    role: str
    nbf: float = 0.0
    identity: str | None = None
    merchant: str | None = None


class Checked(NamedTuple):
    """What a good token says, and for how long it is believed unseen."""

    caller: Caller
    believed_until: float
    expires_at: float


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    crit: msgspec.Raw | None = None


class _Signed(NamedTuple):
    """A token taken apart."""

    header: _Header
    payload: bytes
    signing_input: bytes
    signature: bytes


_claims_of: Final = msgspec.json.Decoder(Claims).decode


class Tokens:
    """Checks bearer tokens against one issuer's keys and rules."""

    def __init__(
        self, rules: TokenRules, keys: KeySource, pseudonyms: Pseudonyms, now: Callable[[], float]
    ) -> None:
        self._rules = rules
        self._keys = keys
        self._pseudonyms = pseudonyms
        self.persons: Callable[[str], Awaitable[str]] = self._keyed
        """Tells the person of a verified identity."""
        self._now = now
        self._seen: OrderedDict[bytes, Checked] = OrderedDict()

    def known(self, authorization: bytes) -> Caller | None:
        """Return the caller of a token that was checked within the last minute."""
        digest = hashlib.sha256(authorization).digest()
        seen = self._seen.get(digest)
        if seen is None:
            return None
        if self._now() < seen.believed_until:
            return seen.caller
        del self._seen[digest]
        return None

    async def caller(self, authorization: bytes | None) -> Caller:
        """Return who calls; raise the problem `unauthenticated` for any token but a good one."""
        if authorization is None:
            raise unauthenticated(UNSIGNED)
        return self.known(authorization) or (await self.checked(authorization)).caller

    async def checked(self, authorization: bytes | None) -> Checked:
        """Return who calls and until when, checked now; raise as `caller` does."""
        if authorization is None:
            raise unauthenticated(UNSIGNED)
        claims = await self._claims(authorization)
        believed_until = min(claims.exp, self._now() + CACHE_S)
        checked = Checked(await self._named_by(claims), believed_until, claims.exp)
        self._seen[hashlib.sha256(authorization).digest()] = checked
        if len(self._seen) > CACHE_TOKENS:
            self._seen.popitem(last=False)
        return checked

    async def _claims(self, authorization: bytes) -> Claims:
        """Return a token's claims once its signature and its rules were checked."""
        signed = _taken_apart(authorization)
        key = await self._keys.key(signed.header.kid)
        if key is None:
            raise unauthenticated("The token is signed with a key that its issuer does not have.")
        _check_signature(signed, key)
        try:
            claims = _claims_of(signed.payload)
        except (msgspec.DecodeError, RecursionError):
            raise unauthenticated("The token lacks a claim or has one of another kind.") from None
        _check_times(claims, self._now())
        _check_parties(claims, self._rules)
        return claims

    async def _keyed(self, identity: str) -> str:
        return self._pseudonyms.of(identity)

    async def _named_by(self, claims: Claims) -> Caller:
        identity = claims.sub if claims.identity is None else claims.identity
        if not (_is_name(claims.sub) and _is_name(identity)):
            raise unauthenticated("The token names nobody.")
        role = _role(claims.role)
        merchant = claims.merchant if role == "merchant" else None
        if role == "merchant" and not (merchant and MERCHANT.fullmatch(merchant)):
            raise unauthenticated("A merchant's token must name the merchant.")
        return Caller.of(role, await self.persons(identity), merchant)


def _taken_apart(authorization: bytes) -> _Signed:
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise unauthenticated(UNSIGNED)
    if len(authorization) > TOKEN_BYTES_MAX:
        raise unauthenticated("The token is too long.")
    header, payload, signature = match.groups()
    found = _header(header)
    if found is None:
        raise unauthenticated("The token is signed in a way that is not accepted.")
    try:
        return _Signed(found, _decoded(payload), header + b"." + payload, _decoded(signature))
    except binascii.Error:
        raise unauthenticated("The token is not a signed JSON web token.") from None


@lru_cache(maxsize=1_024)
def _header(segment: bytes) -> _Header | None:
    """Return a token's header, or None for one that cannot be accepted.

    The tokens of one issuer share a few headers, so that each is read once.
    """
    try:
        header = msgspec.json.decode(_decoded(segment), type=_Header)
    except (binascii.Error, msgspec.DecodeError, RecursionError):
        return None
    # What is critical to the issuer would have to be understood here, and nothing is.
    return header if header.alg in ALGORITHMS and header.crit is None else None


def _decoded(segment: bytes) -> bytes:
    return base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))


def _check_signature(signed: _Signed, key: PublicKey) -> None:
    """Refuse a token that `key` did not sign, or with an algorithm that the key is not for."""
    algorithm = ALGORITHMS[signed.header.alg]
    try:
        algorithm.check_key(key)
        good = algorithm.verify(signed.signing_input, signed.signature, key)
    except (JoseError, ValueError, TypeError):
        good = False
    if not good:
        raise unauthenticated("The token's signature does not verify.")


def _check_times(claims: Claims, now: float) -> None:
    if now >= claims.exp:
        raise unauthenticated("The token has expired.")
    if now + NOT_BEFORE_LEEWAY_S < claims.nbf:
        raise unauthenticated("The token is not valid yet.")


def _check_parties(claims: Claims, rules: TokenRules) -> None:
    if claims.iss != rules.issuer:
        raise unauthenticated("The token is from another issuer.")
    if rules.audience not in (claims.aud if isinstance(claims.aud, list) else [claims.aud]):
        raise unauthenticated("The token is for another audience.")


def _role(name: str) -> Role:
    for role in ROLES:
        if role == name:
            return role
    raise unauthenticated("The token names no role of this service.")


def _is_name(value: str) -> bool:
    return 0 < len(value) <= IDENTITY_CHARS_MAX and value.isprintable() and value == value.strip()
