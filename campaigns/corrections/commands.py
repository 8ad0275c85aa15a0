"""The commands on corrections: one operator proposes an instant, another one approves it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from msgspec import UNSET

from campaigns.commands import Command, Decision, Header
from campaigns.corrections.correction import (
    CORRECTION_FOLD,
    Correction,
    CorrectionApproved,
    CorrectionProposed,
    correction_id,
)
from campaigns.corrections.replies import correction_reply
from campaigns.corrections.takings import Bill, Taking, taking_of
from campaigns.holding import holding_read
from campaigns.refusals import Refusal
from ledger.books import Book
from ledger.commit import Further, Read, View


@dataclass(frozen=True, slots=True)
class CorrectionCommand(Command):
    """A command on what a coupon's redemption counts for, or a packet's payment for a bill."""

    book: Book
    holding: UUID
    bill: Bill | None

    def reads(self) -> tuple[Read[Any], ...]:
        """The coupon or packet."""
        return (holding_read(self.holding),)

    def further(self, view: View) -> Further:
        """What was corrected before."""
        try:
            taking = self.taking(view)
        except Refusal:
            return Further()
        return Further((correction_read(taking),))

    def taking(self, view: View) -> Taking:
        """Return what is to be corrected; refuse what there is not, or what was given back."""
        return taking_of(view.state(holding_read(self.holding)), self.bill)

    def own(self, taking: Taking, view: View, header: Header) -> dict[str, Any]:
        """Return what both events say: the header, the taking and what it counts for until now."""
        stream = correction_id(taking.holding, taking.version)
        known = view.state(correction_read(taking))
        return {
            **header.of(stream, view.version(stream) + 1),
            "campaign": taking.campaign,
            "person": taking.person,
            "holding": taking.holding,
            "holding_version": taking.version,
            "payment": UNSET if taking.payment is None else taking.payment,
            "merchant": taking.merchant,
            "order": taking.order,
            "recorded_at": taking.recorded_at,
            "counted_for": taking.recorded_at if known is None else known.effective_at,
        }


@dataclass(frozen=True, slots=True)
class ProposeCorrection(CorrectionCommand):
    """Ask that it count for another instant; it replaces what was asked for before."""

    name: ClassVar[str] = "propose_correction"

    effective_at: datetime
    reason: str

    def decide(self, view: View, header: Header) -> Decision:
        """A till reports late and never early, and nobody spends what they do not have yet."""
        taking = self.taking(view)
        own = self.own(taking, view, header)
        if self.effective_at < taking.earliest:
            raise Refusal("effective_too_early", earliest=taking.earliest)
        if self.effective_at > taking.recorded_at:
            raise Refusal("effective_too_late", recorded_at=taking.recorded_at)
        if self.effective_at == own["counted_for"]:
            raise Refusal("nothing_to_correct", effective_at=self.effective_at)
        event = CorrectionProposed(**own, effective_at=self.effective_at, reason=self.reason)
        after = CORRECTION_FOLD.evolve(view.state(correction_read(taking)), event)
        reply = correction_reply(self.book, taking, after)
        return Decision("correction_proposed", reply, [event])


@dataclass(frozen=True, slots=True)
class ApproveCorrection(CorrectionCommand):
    """Approve the instant that is proposed, named by its value; only somebody else may."""

    name: ClassVar[str] = "approve_correction"

    effective_at: datetime

    def decide(self, view: View, header: Header) -> Decision:
        """What is approved is what was proposed; no money moves."""
        taking = self.taking(view)
        known = view.state(correction_read(taking))
        if known is None or known.proposal is None:
            raise Refusal("no_correction_proposed")
        if known.proposal.by == header.by.id:
            raise Refusal("self_approval")
        if self.effective_at != known.proposal.effective_at:
            raise Refusal("correction_changed", effective_at=known.proposal.effective_at)
        event = CorrectionApproved(
            **self.own(taking, view, header),
            effective_at=self.effective_at,
            reason=known.proposal.reason,
            proposed_by=known.proposal.by,
        )
        reply = correction_reply(self.book, taking, CORRECTION_FOLD.evolve(known, event))
        return Decision("corrected", reply, [event])


def correction_read(taking: Taking) -> Read[Correction | None]:
    """Return the read of what was corrected of a redemption or payment."""
    return Read(correction_id(taking.holding, taking.version), CORRECTION_FOLD)
