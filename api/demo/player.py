"""The player: sends a plan to a running service, moment after moment, and counts the answers.

Whatever the service answers is written down, not judged: whether it was right is for the
reconciliation to say. Only an answer without which the plan cannot go on stops the player.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from api.demo.client import Client, Reply
from api.demo.plan import Kind, Moment, Step
from api.demo.reconciliation import OfferId
from api.demo.requests import Person, caller_of, people, step_request, token_request

DONE: Final[dict[Kind, int]] = {
    "draft": 201,
    "propose": 202,
    "approve": 200,
    "open": 200,
    "claim": 201,
    "redeem": 200,
    "close": 200,
}
"""The status that says that a step was done."""

NEVER_HEARD: Final = frozenset({"invalid_body"})
"""Refusals before the book: it never heard of the request, so it cannot replay the answer."""


class UnexpectedAnswer(Exception):
    """The service answered a step in a way that the plan cannot go on after."""

    def __init__(self, step: Step, reply: Reply) -> None:
        text = reply.body.decode(errors="replace")[:500]
        super().__init__(f"{step.key} was answered {reply.status}: {text}")


@dataclass
class Played:
    """What the answers were."""

    requests: int = 0
    replayed: int = 0
    unheard: int = 0
    """Refused before the book, which therefore replays nothing of them."""

    refused: dict[OfferId, Counter[str]] = field(default_factory=dict)

    @property
    def nothing_new(self) -> bool:
        """Whether every request that the book heard of was a replay."""
        return self.requests > 0 and self.replayed + self.unheard == self.requests


class Player:
    """Plays moments through a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.tokens: dict[Person, str] = {}
        self._ids: dict[str, str] = {}
        self._wanted: frozenset[str] = frozenset()
        self.played = Played()

    async def sign_in(self, moments: list[Moment]) -> None:
        """Get everybody a token, and note which coupons will be asked for again."""
        self._wanted = frozenset(
            Step("claim", step.offer, step.household).key
            for moment in moments
            if moment.kind == "redeem"
            for step in moment.steps
        )

        async def fetch(person: Person) -> None:
            reply = await self._client.ask(token_request(person))
            if reply.status != 200:
                raise RuntimeError(f"no token for the role {person.role}: {reply.code}")
            self.tokens[person] = reply.json()["access_token"]

        await self._client.ask_all(people(moments), fetch)

    async def play(self, moment: Moment) -> None:
        """Send a moment's steps, all at once, and wait for their answers."""

        async def send(step: Step) -> None:
            token = self.tokens[caller_of(step)]
            reply = await self._client.ask(step_request(step, moment.at, token, self._ids))
            self._note(step, reply)

        await self._client.ask_all(moment.steps, send)

    def _note(self, step: Step, reply: Reply) -> None:
        played = self.played
        played.requests += 1
        played.replayed += reply.header("idempotency-replayed") == "true"
        if reply.status == DONE[step.kind]:
            if step.kind == "draft":
                self._ids[step.key] = reply.json()["campaign"]
            elif step.key in self._wanted:
                self._ids[step.key] = reply.json()["coupon"]
        elif step.kind == "redeem" and 400 <= reply.status < 500:
            played.unheard += reply.code in NEVER_HEARD
            offer = (step.offer.mailing, step.offer.upc)
            played.refused.setdefault(offer, Counter())[reply.code] += 1
        else:
            raise UnexpectedAnswer(step, reply)
