"""People who sign in before a clock starts: tourists and scanners, each with a session of its own.

All of it over HTTP, side by side: a token of the development issuer, then a session begun with it.
It must never hand out a token twice.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from loadtest.driver import build_request, drive
from loadtest.stage import StageFailed, address_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONNECTIONS: Final = 32


def tourists(url: str, identities: Iterable[str]) -> list[str]:
    """A session token for each of these people."""
    return _sessions(url, [{"role": "tourist", "identity": name} for name in identities])


def scanners(url: str, count: int, merchants: int) -> list[str]:
    """A session token for each of so many scanners, spread over merchants."""
    places = [f"inn-{number % merchants}" for number in range(count)]
    return _sessions(
        url,
        [
            {"role": "merchant", "identity": f"scanner {number}", "merchant": merchant}
            for number, merchant in enumerate(places)
        ],
    )


def _sessions(url: str, who: Sequence[dict[str, str]]) -> list[str]:
    tokens = _ask(url, "/dev/token", [(None, each) for each in who], "access_token")
    return _ask(url, "/v1/sessions", [(token, {}) for token in tokens], "session_token")


def _ask(
    url: str, path: str, what: Sequence[tuple[str | None, dict[str, str]]], field: str
) -> list[str]:
    """One field of the answer to each of these calls, which must all succeed."""
    host, port = address_of(url)
    requests = [
        build_request(
            "POST",
            path,
            host=f"{host}:{port}",
            headers=[("Authorization", f"Bearer {token}")] if token else [],
            body=json.dumps(body).encode(),
        )
        for token, body in what
    ]
    run = drive(host, port, requests, connections=CONNECTIONS, keep_bodies=True)
    if len(run.bodies) != len(requests):
        raise StageFailed(f"{path} was answered {run.status_counts()} {dict(run.codes)}")
    return [str(json.loads(run.bodies[index])[field]) for index in range(len(requests))]
