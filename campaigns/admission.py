"""What the store's state says of a claim, told from one moment and without deciding it.

The gate proposes refusals; here they are compared with a glance at the book. Whatever is refused
here the book's writer would have refused at that moment, with the same code and facts; everything
else is left to the writer. Nothing is ever granted here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, NamedTuple

from campaigns.campaign import Campaign, why_closed
from campaigns.coupon import coupon_hex
from campaigns.gate import Facts, Knock, Verdict, Word
from campaigns.replies import holding_of_digits
from ledger.appending import Capacity

PLENTY: Final = 10**9
"""Tokens of a pool whose stock is not taken by claims: entries to a lottery."""


class Standing(NamedTuple):
    """A campaign and its pool at one moment: the head's position, and the instant of a decision."""

    campaign: Campaign
    capacity: Capacity
    position: int
    now: datetime

    @property
    def is_open(self) -> bool:
        """Whether the campaign takes claims, or will when its window opens."""
        return self.campaign.state == "open" and self.now < self.campaign.terms.claim_until

    @property
    def not_open(self) -> Facts | None:
        """The facts with which everybody is refused because no claims are taken; None if they are.

        Of a draft nothing is said: to most it is not there.
        """
        facts = why_closed(self.campaign, self.now)
        if facts is None or self.campaign.state == "draft":
            return None
        return tuple(facts.items())

    @property
    def free(self) -> int:
        """How many more coupons stock and budget are good for."""
        draw = self.campaign.draw
        if draw is not None and draw.seed is None:
            return PLENTY
        capacity = self.capacity
        money = (capacity.budget_minor - capacity.granted_minor) // self.campaign.terms.face_minor
        return max(0, min(capacity.quota - capacity.issued, money))

    @property
    def used_up(self) -> tuple[str, Facts] | None:
        """The code and facts with which everybody is refused; None while there is something."""
        if self.free > 0:
            return None
        if self.capacity.issued >= self.capacity.quota:
            return "sold_out", (("quota", self.capacity.quota),)
        return "budget_exhausted", (("budget_minor", self.capacity.budget_minor),)

    @property
    def waiting_room(self) -> tuple[int, int]:
        """Turns a second in the waiting room, 0 when there is none; when claims begin, in µs."""
        terms = self.campaign.terms
        intake = terms.intake
        per_s = intake.rate_per_s if intake is not None and intake.kind == "waiting_room" else 0
        return per_s, round(terms.claim_from.timestamp() * 1_000_000)

    def word(self, knock: Knock, *, has_all: bool) -> Word | None:
        """Return the refusal that holds at this moment; None when the writer must decide.

        `has_all`: the person has as many coupons of the campaign as one person may have.
        """
        terms = self.campaign.terms
        closed = self.not_open
        if closed is not None:
            return self._refusal(Verdict.NOT_OPEN, "not_open", closed)
        if self.campaign.state != "open" or self._is_for_a_draw(has_all):
            return None
        if has_all and terms.per_person_limit == 1:
            digits = coupon_hex(self.campaign.id.bytes, knock.person, 1)
            name = holding_of_digits(knock.book, terms, digits)
            return self._refusal(Verdict.CLAIMED, "already_claimed", (name,))
        if has_all:
            facts = (("per_person_limit", terms.per_person_limit),)
            return self._refusal(Verdict.CLAIMED, "limit_reached", facts)
        used_up = self.used_up
        return None if used_up is None else self._refusal(Verdict.SOLD_OUT, *used_up)

    def _is_for_a_draw(self, has_all: bool) -> bool:
        """Whether only the writer can tell: before a draw, and of whoever had entered for it."""
        if self.campaign.terms.public_draw is not None:
            return True
        draw = self.campaign.draw
        return draw is not None and (draw.seed is None or has_all)

    def _refusal(self, verdict: Verdict, code: str, facts: Facts) -> Word:
        return Word(verdict, code=code, position=self.position, facts=facts)


def to_other_holder(word: Word, last_coupon: str) -> Word:
    """Return what another person who has all is told at the same moment, of what one was told.

    `last_coupon`: the digits of the id of that person's last coupon of the campaign.
    """
    if word.code != "already_claimed":
        return word
    ((name, holding),) = word.facts
    facts = ((name, holding[: -len(last_coupon)] + last_coupon),)
    return Word(word.verdict, word.wait_s, word.code, word.position, facts)
