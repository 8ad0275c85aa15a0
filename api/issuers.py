"""Issuers: whose signatures are believed.

In real use that is an OIDC provider, whose public keys are fetched from its JWKS address. For
development it is this service itself, with a key in the home; that issuer hands a token to
anybody who asks and must never face the public.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from api.callers import Role
from api.errors import Problem
from api.tokens import PublicKey

FETCH_TIMEOUT_S: Final = 3.0
JWKS_BYTES_MAX: Final = 256 * 1024
KEYS_MAX: Final = 100
FRESH_S: Final = 600.0
"""Keys are fetched anew when they are older than this."""
STALE_S: Final = 3_600.0
"""With the provider away, its keys are believed for this long and not longer."""
REFETCH_S: Final = 10.0
"""Least time between two fetches, so that tokens with invented key ids cannot cause a flood."""
RSA_BITS_MIN: Final = 2_048

DEV_TOKEN_S: Final = 12 * 3_600
DEV_ISSUER: Final = "tidebook-dev"

log = logging.getLogger(__name__)


class DevelopmentIssuer:
    """Signs tokens for whoever asks, with an Ed25519 key; for development only."""

    def __init__(self, seed: bytes, audience: str, now: Callable[[], float]) -> None:
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        self._key = OKPKey.import_key(
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": _base64url(public.public_bytes_raw()),
                "d": _base64url(seed),
            },
            {"use": "sig", "alg": "Ed25519"},
        )
        self._key.ensure_kid()
        self._audience = audience
        self._now = now

    async def key(self, kid: str | None) -> PublicKey | None:
        """Return the issuer's one key."""
        return self._key if kid in (None, self._key.kid) else None

    def jwks(self) -> dict[str, Any]:
        """Return the public key as a JWKS document."""
        return {"keys": [self._key.as_dict(private=False)]}

    def token(self, role: Role, identity: str, merchant: str | None = None) -> str:
        """Return a token that names `identity` in `role`."""
        now = int(self._now())
        claims: dict[str, Any] = {
            "iss": DEV_ISSUER,
            "aud": self._audience,
            "sub": identity,
            "identity": identity,
            "role": role,
            "iat": now,
            "nbf": now,
            "exp": now + DEV_TOKEN_S,
            "jti": uuid4().hex,
        }
        if merchant is not None:
            claims["merchant"] = merchant
        header = {"alg": "Ed25519", "kid": self._key.kid}
        return jwt.encode(header, claims, self._key, algorithms=["Ed25519"])


class OidcKeys:
    """An OIDC provider's keys: fetched, kept for a while, fetched again for an unknown key id."""

    def __init__(self, url: str, now: Callable[[], float]) -> None:
        self._url = url
        self._now = now
        self._by_kid: dict[str | None, PublicKey] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, kid: str | None) -> PublicKey | None:
        """Return a key of the provider; raise `issuer_unavailable` when none can be trusted."""
        if self._now() - self._fetched_at > FRESH_S or kid not in self._by_kid:
            await self._refresh()
        if self._now() - self._fetched_at > STALE_S:
            raise Problem(
                "issuer_unavailable",
                "The sign-in service's keys could not be fetched.",
                headers={"Retry-After": str(int(REFETCH_S))},
            )
        return self._by_kid.get(kid)

    async def _refresh(self) -> None:
        """Fetch the keys, unless somebody just did or tried to."""
        asked_at = self._now()
        async with self._fetching:
            if self._tried_at >= asked_at or self._now() - self._tried_at < REFETCH_S:
                return
            self._tried_at = self._now()
            try:
                self._by_kid = _keys_by_kid(await _fetch(self._url))
            except (httpx.HTTPError, OSError, ValueError, RecursionError) as error:
                log.warning("the issuer's keys could not be fetched: %s", type(error).__name__)
            else:
                self._fetched_at = self._now()


async def _fetch(url: str) -> bytes:
    """Return the document at `url`: within a time, within a size, without following redirects."""
    async with (
        asyncio.timeout(FETCH_TIMEOUT_S),
        httpx.AsyncClient(timeout=FETCH_TIMEOUT_S, trust_env=False) as client,
        client.stream("GET", url, headers={"Accept": "application/json"}) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"the answer was {response.status_code}")
        document = b""
        async for chunk in response.aiter_bytes():
            document += chunk
            if len(document) > JWKS_BYTES_MAX:
                raise ValueError("the document is too long")
    return document


def _keys_by_kid(document: bytes) -> dict[str | None, PublicKey]:
    """Return the usable signing keys of a JWKS document; raise `ValueError` if it is not one."""
    parsed = json.loads(document)
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWKS document")  # noqa: TRY004 - a bad document, no bad caller
    keys: dict[str | None, PublicKey] = {}
    for entry in entries[:KEYS_MAX]:
        key = _signing_key(entry)
        if key is not None:
            keys[key.kid] = key
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    return keys


def _signing_key(entry: Any) -> PublicKey | None:
    """Return one entry's key; None when it is not for signatures, too weak, or not understood."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    try:
        key = JWKRegistry.import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAKey):
        return key if key.public_key.key_size >= RSA_BITS_MIN else None
    return key if isinstance(key, (ECKey, OKPKey)) else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
