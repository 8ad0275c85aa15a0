"""Replies about corrections: what a caller gets, and a replay gives again."""

from __future__ import annotations

from datetime import datetime

import msgspec

from campaigns.corrections.correction import Correction
from campaigns.corrections.takings import Taking
from campaigns.packets.replies import packet_name, payment_name
from campaigns.replies import COUPON_PREFIX
from ledger.books import Book, PublicId


class CorrectionProposalReply(msgspec.Struct, frozen=True):
    """Another instant for a redemption or payment, which waits for a second operator."""

    effective_at: datetime
    reason: str
    proposed_by: str


class CorrectionReply(msgspec.Struct, frozen=True):
    """The two times of a redemption or payment, and what is proposed for the second one."""

    of: str
    """The coupon, or the payment."""
    packet: str | None
    merchant: str
    order: str
    recorded_at: datetime
    effective_at: datetime
    proposal: CorrectionProposalReply | None


def correction_reply(book: Book, taking: Taking, correction: Correction | None) -> CorrectionReply:
    """Return how a redemption or payment stands."""
    name = str(PublicId(COUPON_PREFIX, book, taking.holding))
    proposal = None if correction is None else correction.proposal
    return CorrectionReply(
        of=name if taking.payment is None else payment_name(book, taking.payment),
        packet=None if taking.payment is None else packet_name(book, taking.holding),
        merchant=taking.merchant,
        order=taking.order,
        recorded_at=taking.recorded_at,
        effective_at=taking.recorded_at if correction is None else correction.effective_at,
        proposal=None
        if proposal is None
        else CorrectionProposalReply(proposal.effective_at, proposal.reason, proposal.by),
    )
