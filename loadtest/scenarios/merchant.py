"""Checkout: merchants redeem the coupons that were claimed, some twice, and refund a few."""

from __future__ import annotations

import random
from typing import Any, Final
from uuid import uuid4

from locust import FastHttpUser, between, task

from loadtest.scenarios.tourist import code_of
from loadtest.scenarios.world import the_world
from loadtest.stage import THRESHOLD_MINOR, money

DOUBLES: Final = 0.1
"""Share of coupons that are shown at a second till."""
REFUNDS: Final = 0.05
"""Share of orders that are taken back."""
MERCHANTS: Final = 20


class Merchant(FastHttpUser):
    """One till: takes a claimed coupon and an order, redeems, and sometimes takes it back."""

    weight = 1
    wait_time = between(0.0, 0.1)
    headers: dict[str, str]

    def on_start(self) -> None:
        """Sign in as one of the merchants."""
        merchant = f"inn-{random.randrange(MERCHANTS)}"
        body = {"role": "merchant", "identity": f"till of {merchant}", "merchant": merchant}
        token = self.client.post("/dev/token", json=body, name="sign in").json()["access_token"]
        self.headers = {"Authorization": f"Bearer {token}"}

    @task
    def check_out(self) -> None:
        """One guest who pays with a coupon."""
        held = the_world().held
        if not held:
            return
        coupon, order = held.popleft(), uuid4().hex[:12]
        total = money(random.randrange(THRESHOLD_MINOR, 5 * THRESHOLD_MINOR))
        if not self._post(coupon, "redemptions", {"order": order, "order_total": total}, "redeem"):
            return
        if random.random() < DOUBLES:
            again = {"order": uuid4().hex[:12], "order_total": total}
            self._post(coupon, "redemptions", again, "redeem twice", refusal="already_redeemed")
        if random.random() < REFUNDS and self._post(coupon, "refunds", {"order": order}, "refund"):
            held.append(coupon)

    def _post(
        self, coupon: str, what: str, body: dict[str, Any], name: str, *, refusal: str | None = None
    ) -> bool:
        """Send a write; with `refusal` that code is the proper answer, otherwise a success is."""
        headers = {**self.headers, "Idempotency-Key": uuid4().hex}
        with self.client.post(
            f"/v1/coupons/{coupon}/{what}",
            json=body,
            headers=headers,
            name=name,
            catch_response=True,
        ) as reply:
            if refusal is None:
                return bool(reply.status_code == 200)
            if reply.status_code == 409 and code_of(reply) == refusal:
                reply.success()
            elif reply.status_code < 500:
                reply.failure(f"{refusal} was expected, not {reply.status_code} {code_of(reply)}")
            return False
