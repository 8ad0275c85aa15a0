"""Claims as conditional appends to a running `umadb` server: one claim a person, nothing else.

The rule is the condition: append unless an event of this campaign and this person is there. There
is no stock and no key, because a count over all claims would make every append conflict with every
other one. Each thread has a client of its own. It must never answer before the server did.
"""

from __future__ import annotations

import argparse
import json
import sys
from secrets import token_hex
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import umadb

from loadtest.baselines.tally import by_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CLAIMED: Final = "coupon.claimed"
STATE_BYTES: Final = 620
"""As long as the event of a claim is in our store."""


class Claims:
    """The claims of one campaign."""

    def __init__(self, client: umadb.Client, campaign: str) -> None:
        self._client = client
        self._campaign = campaign

    def claim(self, person: str) -> int:
        """The position of the claim; raises `umadb.IntegrityError` when the person has one."""
        tags = [f"campaign:{self._campaign}", f"person:{person}"]
        once = umadb.Query(items=[umadb.QueryItem(types=[CLAIMED], tags=tags)])
        event = umadb.Event(CLAIMED, self._state(person), tags, uuid4())
        return self._client.append([event], umadb.AppendCondition(once))

    def count(self) -> int:
        """How many claims the store holds."""
        tags = [f"campaign:{self._campaign}"]
        claims = umadb.Query(items=[umadb.QueryItem(types=[CLAIMED], tags=tags)])
        return sum(1 for _ in self._client.read(claims))

    def _state(self, person: str) -> bytes:
        state = json.dumps({"campaign": self._campaign, "person": person, "face_minor": 5000})
        return state.encode().ljust(STATE_BYTES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Claim for so long and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.baselines.umadb_claims")
    parser.add_argument("--url", required=True)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args(arguments)
    campaign = uuid4().hex

    def caller() -> Callable[[], object]:
        claims = Claims(umadb.Client(options.url), campaign)
        return lambda: claims.claim(token_hex(16))

    tally = by_threads(caller, options.threads, options.seconds)
    stored = Claims(umadb.Client(options.url), campaign).count()
    assert stored == tally.claims, f"{tally.claims} were answered, {stored} are stored"
    print(tally.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
