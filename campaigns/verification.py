"""Verification of a whole book: what holds for any book, the rules, and what it all adds up to.

A pure pass over stored events in order, so that auditors can run it on an export as well as on a
live store. Findings are values; nothing is raised and nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from campaigns.accounting import campaign_account, postings_of
from campaigns.campaign import (
    BudgetReclaimed,
    CampaignClosed,
    CampaignDrafted,
    CampaignDrawn,
    CampaignFunded,
    CampaignIntakeClosed,
    CampaignOpened,
    CampaignPaused,
    CampaignResumed,
    CampaignRolledIn,
    CampaignRolledOver,
    CampaignSplitShown,
    FundingProposed,
)
from campaigns.corrections.correction import CorrectionApproved, CorrectionProposed
from campaigns.corrections.judging import RULES as CORRECTION_RULES
from campaigns.coupon import (
    CouponClaimed,
    CouponEntered,
    CouponExpired,
    CouponReclaimed,
    CouponRedeemed,
    CouponRefunded,
    CouponVoided,
)
from campaigns.draws.auditing import RULES as DRAW_RULES
from campaigns.draws.draw import DrawDrawn, DrawFrozen, DrawMovedUp, DrawOpened, DrawVoided
from campaigns.draws.entry import DrawEntryVoided, DrawPhoneFreed, DrawPhoneTaken, DrawWon
from campaigns.event_types import MAPPER
from campaigns.granting import TOLD, tell, tells_itself
from campaigns.groups.group import (
    GroupClosed,
    GroupFunded,
    GroupGivingUpProposed,
    GroupShareTaken,
)
from campaigns.groups.purse import PurseEmptied, PurseFilled, PurseFillingProposed, PurseReturned
from campaigns.judging import CampaignAudit
from campaigns.packets.packet import (
    PacketClaimed,
    PacketExpired,
    PacketPaid,
    PacketRefunded,
    PacketWalletClosed,
)
from campaigns.persons.judging import RULES as PERSON_RULES
from campaigns.persons.person import (
    ErasureProposed,
    ErasureRequested,
    ParticularsInspected,
    ParticularsKept,
    PersonErased,
)
from campaigns.refusals import PRECEDENCE
from ledger.events import Event
from ledger.history import Entry, Standing
from ledger.reply_verification import Codes
from ledger.verification import BookAudit, Finding, PostingsOf

RULE_CODES: Final[dict[str, str]] = {
    "terms_invalid": "a campaign's terms are ones that can be kept",
    "campaign_unknown": "a campaign is drafted before anything else happens to it",
    "coupon_unknown": "a coupon is claimed before anything else happens to it",
    "coupon_id": "a coupon's id is made of its campaign, its person and its ordinal",
    "person_limit": "no person has more coupons of a campaign than its terms allow",
    "ordinal_skipped": "a person's coupons of a campaign are numbered 1, 2, 3, …",
    "claim_not_open": "no coupon is claimed unless its campaign is open",
    "claim_outside_window": "no coupon is claimed outside the claim window",
    "claim_other_version": "a claim is decided against the campaign's version at that position",
    "claim_other_terms": "a coupon carries its campaign's terms",
    "seed_commitment": "a lottery, and nothing else, commits to a seed when it opens",
    "entry_outside_intake": "nobody enters a draw before, after or without its intake",
    "seed_differs": "the seed that a draw shows is the one that was committed to",
    "draw_differs": "a draw has all entrants, and the places that there was stock and money for; "
    "its winners are those of the lowest ranks",
    "not_a_winner": "a draw gives coupons to its winners, once each, and to nobody else",
    **DRAW_RULES,
    "draw_incomplete": "until each winner has the coupon nothing else is given out or taken back",
    "over_issued": "no more coupons are issued than the quota of that moment",
    "over_granted": "no more money is granted than the budget of that moment",
    "capacity_differs": "the stored capacity is what the events add up to",
    "illegal_step": "campaigns and coupons only take the steps of their lives",
    "redeemed_twice": "a coupon is redeemed at most once at a time",
    "after_end": "nothing happens to a coupon after its end",
    "outside_validity": "coupons are used inside their validity and expire after it",
    "merchant_not_designated": "only designated merchants redeem",
    "below_threshold": "an order reaches the coupon's threshold",
    "other_amount": "money moves in the amount that the coupon or pot has",
    "other_redemption": "a refund names the merchant and order of the redemption",
    "other_destination": "money goes back to the pot, or to the sponsor after the close",
    "self_approval": "what needs two is approved by another person than proposed it",
    "not_as_proposed": "what is approved is what was proposed, on the values of that moment",
    "decision_cut_short": "a close gives the rest back, and a late refund reclaims, at once",
    "packet_unknown": "a packet is claimed before anything else happens to it, by the same person",
    "paid_twice": "a merchant's order is paid once from a packet",
    "payment_parts": "a payment takes what is in the packet first, and no more than that",
    "refund_parts": "a refund gives back what was paid, in the campaign's order, and the packet's "
    "part into the packet while it can be spent",
    "share_differs": "a packet holds what its campaign's terms say, and the seed once it is shown",
    "split_commitment": "tiers and split sums, and nothing else, are funded to the fen and "
    "committed to by a seed, which is shown after the last claim",
    "leftover_differs": "what packets leave in the pot goes to the next round that is named, whole",
    "purse_unknown": "money is proposed for a purse before anything else happens to it",
    "purse_id": "a purse's id is made of its campaign and its person",
    "purse_not_due": "purses have money that tiers, a split or a draw are not promised",
    "own_purse": "nobody proposes or approves money for a purse of their own",
    "over_sent": "no more is sent from a purse than is in it",
    "group_unknown": "a group is funded before anything else happens to it",
    "group_commitment": "a group has the seed that its purse committed to before it was sent",
    "group_time": "shares are taken within a day, and what is left comes back after it",
    "shares_differ": "a group has its shares, a minor unit at least each, and each is taken once",
    "not_invited": "shares are taken by members, or by the sender where the group says so",
    "wrong_share": "each taker has the share that seed, salt and the taker's id decide",
    **PERSON_RULES,
    **CORRECTION_RULES,
    "conservation": "pots, purses, groups, holders, packets and merchants have what the events say",
}
"""Finding → the rule that it breaks."""

SUCCESSES: Final[dict[str, frozenset[str]]] = {
    "drafted": frozenset({CampaignDrafted.TOPIC}),
    "funding_proposed": frozenset({FundingProposed.TOPIC}),
    "funded": frozenset({CampaignFunded.TOPIC}),
    "opened": frozenset({CampaignOpened.TOPIC, DrawOpened.TOPIC}),
    "paused": frozenset({CampaignPaused.TOPIC}),
    "resumed": frozenset({CampaignResumed.TOPIC}),
    "intake_closed": frozenset({CampaignIntakeClosed.TOPIC}),
    "drawn": frozenset({CampaignDrawn.TOPIC}),
    "entered": frozenset({CouponEntered.TOPIC}),
    "registered": frozenset({DrawPhoneTaken.TOPIC}),
    "withdrawn": frozenset({DrawPhoneFreed.TOPIC}),
    "entry_voided": frozenset({DrawEntryVoided.TOPIC}),
    "list_frozen": frozenset({DrawFrozen.TOPIC}),
    "draw_voided": frozenset({DrawVoided.TOPIC}),
    "draw_recorded": frozenset({DrawDrawn.TOPIC}),
    "seat_given": frozenset({DrawWon.TOPIC}),
    "moved_up": frozenset({DrawMovedUp.TOPIC}),
    "closed": frozenset({CampaignClosed.TOPIC, BudgetReclaimed.TOPIC}),
    "claimed": frozenset({CouponClaimed.TOPIC, PacketClaimed.TOPIC}),
    "redeemed": frozenset({CouponRedeemed.TOPIC}),
    "refunded": frozenset({CouponRefunded.TOPIC, CouponReclaimed.TOPIC, PacketRefunded.TOPIC}),
    "paid": frozenset({PacketPaid.TOPIC}),
    "wallet_closed": frozenset({PacketWalletClosed.TOPIC}),
    "rolled_over": frozenset({CampaignRolledOver.TOPIC, CampaignRolledIn.TOPIC}),
    "split_shown": frozenset({CampaignSplitShown.TOPIC}),
    "voided": frozenset({CouponVoided.TOPIC}),
    "filling_proposed": frozenset({PurseFillingProposed.TOPIC}),
    "purse_filled": frozenset({PurseFilled.TOPIC}),
    "purse_emptied": frozenset({PurseEmptied.TOPIC}),
    "group_funded": frozenset({GroupFunded.TOPIC}),
    "share_taken": frozenset({GroupShareTaken.TOPIC, GroupClosed.TOPIC}),
    "giving_up_proposed": frozenset({GroupGivingUpProposed.TOPIC}),
    "group_returned": frozenset({PurseReturned.TOPIC}),
    "expired": frozenset({CouponExpired.TOPIC, PacketExpired.TOPIC}),
    "particulars_kept": frozenset({ParticularsKept.TOPIC}),
    "particulars_inspected": frozenset({ParticularsInspected.TOPIC}),
    "erasure_proposed": frozenset({ErasureProposed.TOPIC}),
    "erasure_requested": frozenset({ErasureRequested.TOPIC}),
    "erased": frozenset({PersonErased.TOPIC}),
    "correction_proposed": frozenset({CorrectionProposed.TOPIC}),
    "corrected": frozenset({CorrectionApproved.TOPIC}),
}
"""Code of a success → the topics that its last event may have."""

OUTCOMES: Final = {topic: code for code, topics in SUCCESSES.items() for topic in topics}
"""Topic of a decision's last event → code of its success."""

REFUSALS: Final = frozenset(code for codes in PRECEDENCE.values() for code in codes)

CODES: Final = Codes(SUCCESSES, REFUSALS, TOLD, tell)


class Audit:
    """The whole verification of a book's events: what holds for any book, and the rules."""

    def __init__(
        self, book: str, postings: PostingsOf = postings_of, *, tallies: bool = True
    ) -> None:
        """Without `tallies` no kept replies can be compared afterwards."""
        self.book = BookAudit(book, MAPPER, postings, OUTCOMES, tells=tells_itself, tallies=tallies)
        self.rules = CampaignAudit(book)
        self._clean = True

    def feed(self, entry: Entry) -> Event | None:
        """Check one entry after all before it; return its event when it is one to be judged."""
        event = self.book.feed(entry)
        if event is None:
            self.rules.skip(entry.stream)
        else:
            self.rules.feed(entry.position, event)
        return event

    def finish(self, standing: Standing | None = None) -> None:
        """Check what the events add up to, against the store's own figures when they are known."""
        self.book.finish(standing)
        if self.book.whole:
            self.rules.finish(standing)
        self._clean &= not self.has_findings
        if self._clean:
            self.rules.findings.extend(_conservation(self.book, self.rules))

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found so far, so that what is kept of everything is what it is."""
        is_whole = self.book.whole and self.rules.is_settled
        return is_whole and self._clean and not self.has_findings

    @property
    def has_findings(self) -> bool:
        """Whether there is something to take."""
        return bool(self.book.findings or self.rules.findings)

    def take_findings(self) -> list[Finding]:
        """Return what was found since the last call."""
        found = self.book.findings + self.rules.findings
        if found:
            self._clean = False
            self.book.findings.clear()
            self.rules.findings.clear()
        return found


def verify(
    book: str, entries: Iterable[Entry], standing: Standing | None = None
) -> Iterator[Finding]:
    """Yield what is wrong with a book's events, all of them from position 1, as it is found."""
    audit = Audit(book)
    for entry in entries:
        audit.feed(entry)
        if audit.has_findings:
            yield from audit.take_findings()
    audit.finish(standing)
    yield from audit.take_findings()


def _conservation(book: BookAudit, rules: CampaignAudit) -> Iterator[Finding]:
    """Compare accounts with what campaigns and coupons say, where every event was in order."""
    for campaign, pot in rules.pots.items():
        currency = pot.campaign.terms.currency
        account = campaign_account(campaign)
        found = book.balances.get(currency, {}).get(account, 0)
        if found != pot.left_minor:
            left = f"{pot.left_minor} {currency}"
            yield Finding("conservation", account, left, f"{found} {currency}")
    for kind, stream, currency, expected in rules.groups.balances():
        account = f"{kind}:{stream.hex}"
        found = book.balances.get(currency, {}).get(account, 0)
        if found != expected:
            yield Finding("conservation", account, f"{expected} {currency}", f"{found} {currency}")
    for kind, totals in (
        ("holder", rules.held_minor),
        ("packet", rules.packets.balance_minor),
        ("merchant", rules.redeemed_minor),
    ):
        for currency, expected in totals.items():
            total = book.total(kind, currency)
            if total != expected:
                where = f"{book.book} {kind}s"
                yield Finding(
                    "conservation", where, f"{expected} {currency}", f"{total} {currency}"
                )
