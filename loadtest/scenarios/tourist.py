"""The claim rush: one person after another signs in and presses «claim», some of them twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from locust import FastHttpUser, between, task

from loadtest.scenarios.world import World, the_world

if TYPE_CHECKING:
    from locust.contrib.fasthttp import FastResponse, ResponseContextManager

RETRIES: Final = 0.2
"""Share of people whose telephone sends the same request again."""
GREED: Final = 0.1
"""Share of people who try for a second coupon."""
REFUSALS: Final = frozenset({"sold_out", "budget_exhausted"})
"""Codes that are a proper answer to a first claim."""


class Tourist(FastHttpUser):
    """Each round is another person: sign in, claim, perhaps again, look at the wallet."""

    weight = 3
    wait_time = between(0.0, 0.2)

    @task
    def rush(self) -> None:
        """One person's visit."""
        world = the_world()
        token = self._sign_in(world)
        if token is None:
            return
        key = uuid4().hex
        first = self._claim(world, token, key, "claim")
        if first and random.random() < RETRIES:
            again = self._claim(world, token, key, "claim, same key again")
            assert again == first, "a replay is the same, byte for byte"
        if first and random.random() < GREED:
            self._claim_a_second(world, token)
        headers = {"Authorization": f"Bearer {token}"}
        self.client.get("/v1/wallet", headers=headers, name="wallet")

    def _sign_in(self, world: World) -> str | None:
        body = {"role": "tourist", "identity": world.new_identity()}
        reply = self.client.post("/dev/token", json=body, name="sign in")
        return str(reply.json()["access_token"]) if reply.status_code == 200 else None

    def _claim(self, world: World, token: str, key: str, name: str) -> bytes | None:
        """Claim; return the body of a success, and count whatever else it was."""
        world.unknown += 1  # until it is answered: the end of the run may cut it off
        with self._post_claim(world, token, key, name) as reply:
            if 0 < reply.status_code < 500:
                world.unknown -= 1
            if reply.status_code == 201:
                if "idempotency-replayed" not in reply.headers:
                    coupon = reply.json()["coupon"]
                    world.acknowledged.append(coupon)
                    world.held.append(coupon)
                return bytes(reply.content)
            if reply.status_code == 409 and code_of(reply) in REFUSALS:
                world.refusals[code_of(reply)] += 1
                reply.success()
            return None

    def _claim_a_second(self, world: World, token: str) -> None:
        with self._post_claim(world, token, uuid4().hex, "claim a second") as reply:
            if reply.status_code == 409 and code_of(reply) == "already_claimed":
                reply.success()
            elif reply.status_code < 500:
                reply.failure(f"a second claim was answered {reply.status_code}")

    def _post_claim(self, world: World, token: str, key: str, name: str) -> ResponseContextManager:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": key}
        address = f"/v1/campaigns/{world.campaign}/claims"
        return self.client.post(address, json={}, headers=headers, name=name, catch_response=True)


def code_of(reply: FastResponse) -> str:
    """The code of a problem."""
    try:
        return str(reply.json()["code"])
    except (ValueError, KeyError, TypeError):
        return ""
