"""What was asked: the command behind a recorded decision, read back from what it wrote.

An event says enough of its request to ask for it again. What it does not say and nobody can know
is named by `NotAsked`. The state is only looked at to tell which command it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from msgspec import UNSET

from campaigns import campaign as k
from campaigns import commands as c
from campaigns import coupon as q
from campaigns import drawing
from campaigns.corrections import commands as cc
from campaigns.corrections import correction as ct
from campaigns.corrections.takings import Bill
from campaigns.draws import draw as d
from campaigns.draws import entry as e
from campaigns.draws import holding, registering, winning
from campaigns.draws.announcing import announcement_of
from campaigns.draws.beacon import Beacon
from campaigns.draws.enrolling import EnterMany, Registration
from campaigns.groups import commands as g
from campaigns.groups import group as gg
from campaigns.groups import purse as gp
from campaigns.groups.sharing import code_of
from campaigns.intake import hold
from campaigns.packets import commands as p
from campaigns.packets import packet as pk
from campaigns.packets import rolling
from campaigns.persons import commands as pc
from campaigns.persons import person as ps
from campaigns.replaying.lists import Lists
from campaigns.replaying.world import World
from ledger.books import Book
from ledger.commit import Read
from ledger.events import Event
from ledger.money import Money


class NotAsked(Exception):
    """A request cannot be made again; `reason` is a word of `REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


REASONS: Final[dict[str, str]] = {
    "draw_key": "it needs the ledger's draw key, which is not here",
    "unreadable": "an event of the streams that it looks at cannot be read",
    "unknown": "what it refers to is not in the record",
    "unrecorded": "the refusal is kept, and what was asked for is not",
    "void": "the reply to a batch names who was void, and of them nothing else is recorded",
}
"""Why a request is not decided again."""


def no_draw_key() -> bytes:
    """Stand for a draw key that is not there."""
    raise NotAsked("draw_key")


@dataclass(frozen=True, slots=True)
class Sources:
    """What commands need beside what they wrote: the book, its draw key, the lists of its draws."""

    book: Book
    draw_key: Callable[[], bytes]
    lists: Lists
    entrants: Callable[[UUID, int], Iterable[bytes]]
    """The coupon ids of those who entered for a campaign by a position."""


def command_of(events: Sequence[Event], view: World, sources: Sources) -> c.Command:
    """Return the command that wrote these events; raise `NotAsked`."""
    first: Any = events[0]
    simple = _SIMPLE.get(type(first))
    if simple is not None:
        return simple(sources.book, first)
    if isinstance(first, gp.PurseSent):
        if len(events) < 2 or not isinstance(events[1], gg.GroupFunded):
            raise NotAsked("unknown")
        return _send(first, events[1], sources)
    if isinstance(first, e.DrawEntered) and is_batch(first):
        return _enter_many(events, sources)
    if type(first) not in _OTHERS:
        raise NotAsked("unknown")
    return _OTHERS[type(first)](first, view, sources)


def campaign_at(view: World, campaign: UUID) -> k.Campaign:
    """Return a campaign that a recorded decision refers to; raise `NotAsked`."""
    known = view.state(c.campaign_read(campaign))
    if known is None:
        raise NotAsked("unknown")
    return known


def _retorted(_: bytes) -> bytes:
    """A signature is only on refusals, and none is asked for again."""
    raise NotAsked("unrecorded")


# Commands that the event tells in full


def _draft(book: Book, one: k.CampaignDrafted) -> c.Command:
    return c.DraftCampaign(book, one.originator_id, one.name, one.sponsor, one.terms)


def _redeem(book: Book, one: q.CouponRedeemed) -> c.Command:
    total = Money(one.order_total_minor, one.currency)
    return c.RedeemCoupon(book, one.originator_id, one.merchant, one.shop, one.order, total)


def _pay(book: Book, one: pk.PacketPaid) -> c.Command:
    total = Money(one.total_minor, one.currency)
    return p.PayFromPacket(book, one.originator_id, one.merchant, one.shop, one.order, total)


def _refund_payment(book: Book, one: pk.PacketRefunded) -> c.Command:
    """Whether all or just so much was asked for makes no difference to what was decided."""
    amount = Money(one.to_packet_minor + one.to_own_minor + one.reclaimed_minor, one.currency)
    return p.RefundPayment(book, one.originator_id, one.merchant, one.order, amount, one.reason)


def _propose_filling(book: Book, one: gp.PurseFillingProposed) -> c.Command:
    amount = Money(one.amount_minor, one.currency)
    return g.ProposeFilling(book, one.campaign, one.person, amount)


def _emptied(book: Book, one: gp.PurseEmptied) -> c.Command:
    if isinstance(one.reason, str):
        return g.EmptyPurse(book, one.originator_id, one.reason)
    return g.SweepPurse(book, one.originator_id)


def _request_erasure(book: Book, one: ps.ErasureRequested) -> c.Command:
    if isinstance(one.basis, str):
        return pc.ApproveErasure(book, one.person, one.basis)
    return pc.RequestErasure(book, one.person)


def _bill(one: ct.CorrectionProposed | ct.CorrectionApproved) -> Bill | None:
    return Bill(one.merchant, one.order) if isinstance(one.payment, UUID) else None


_SIMPLE: Final[dict[type[Event], Callable[[Book, Any], c.Command]]] = {
    k.CampaignDrafted: _draft,
    k.CampaignPaused: lambda book, one: c.PauseCampaign(book, one.originator_id, one.reason),
    k.CampaignResumed: lambda book, one: c.ResumeCampaign(book, one.originator_id),
    k.CampaignClosed: lambda book, one: c.CloseCampaign(book, one.originator_id, one.reason),
    k.CampaignIntakeClosed: lambda book, one: drawing.CloseIntake(book, one.originator_id),
    k.BudgetReclaimed: lambda book, one: rolling.RollOver(book, one.originator_id),
    k.CampaignRolledOver: lambda book, one: rolling.RollOver(book, one.originator_id),
    k.CampaignSplitShown: lambda book, one: rolling.ShowSplit(
        book, one.originator_id, bytes.fromhex(one.seed)
    ),
    q.CouponRedeemed: _redeem,
    q.CouponRefunded: lambda book, one: c.RefundCoupon(
        book, one.originator_id, one.merchant, one.order, one.reason
    ),
    q.CouponVoided: lambda book, one: c.VoidCoupon(book, one.originator_id, one.reason),
    q.CouponExpired: lambda book, one: c.ExpireCoupon(book, one.originator_id),
    pk.PacketPaid: _pay,
    pk.PacketRefunded: _refund_payment,
    pk.PacketExpired: lambda book, one: p.ExpirePacket(book, one.originator_id),
    pk.PacketWalletClosed: lambda book, one: p.CloseWallet(book, one.originator_id, one.reason),
    gp.PurseFillingProposed: _propose_filling,
    gp.PurseEmptied: _emptied,
    e.DrawWithdrawn: lambda book, one: registering.WithdrawEntry(
        book, one.campaign, one.originator_id
    ),
    e.DrawEntryVoided: lambda book, one: registering.VoidEntry(
        book, one.campaign, one.originator_id, one.reason
    ),
    ps.ParticularsKept: lambda book, one: pc.KeepParticulars(book, one.person, one.sealed),
    ps.ParticularsInspected: lambda book, one: pc.InspectParticulars(
        book, one.person, tuple(one.fields), one.purpose
    ),
    ps.ErasureProposed: lambda book, one: pc.ProposeErasure(book, one.person, one.basis),
    ps.ErasureRequested: _request_erasure,
    ps.PersonErased: lambda book, one: pc.RecordErasure(book, one.person),
    d.DrawMovedUp: lambda book, one: holding.MoveUp(book, one.campaign),
    ct.CorrectionProposed: lambda book, one: cc.ProposeCorrection(
        book, one.holding, _bill(one), one.effective_at, one.reason
    ),
    ct.CorrectionApproved: lambda book, one: cc.ApproveCorrection(
        book, one.holding, _bill(one), one.effective_at
    ),
}


# Commands that need the state, the draw key or a list


def _propose(one: k.FundingProposed, view: World, sources: Sources) -> c.Command:
    currency = campaign_at(view, one.originator_id).terms.currency
    return c.ProposeFunding(
        sources.book,
        one.originator_id,
        one.quota,
        Money(one.budget_minor, currency),
        one.from_quota,
        one.from_budget_minor,
    )


def _approve(one: k.CampaignFunded, _: World, sources: Sources) -> c.Command:
    budget = Money(one.budget_minor, one.currency)
    return c.ApproveFunding(sources.book, one.originator_id, one.quota, budget)


def _open(one: k.CampaignOpened, _: World, sources: Sources) -> c.Command:
    return c.OpenCampaign(sources.book, one.originator_id, sources.draw_key)


def _draw(one: k.CampaignDrawn, view: World, sources: Sources) -> c.Command:
    """The draw is held again among those who had entered."""
    draw = campaign_at(view, one.originator_id).draw
    if draw is None or draw.places is None:
        raise NotAsked("unknown")
    seed = bytes.fromhex(one.seed)
    drawn = hold(seed, sources.entrants(one.originator_id, view.position), draw.places)
    return drawing.RecordDraw(sources.book, one.originator_id, seed, drawn)


def _claim(one: q.CouponEntered | q.CouponClaimed, view: World, sources: Sources) -> c.Command:
    if isinstance(one, q.CouponClaimed) and one.drawn is True:
        if campaign_at(view, one.campaign).terms.public_draw is not None:
            return winning.ClaimWin(sources.book, one.campaign, one.person)
        return drawing.GiveDrawn(sources.book, one.originator_id)
    return c.ClaimCoupon(sources.book, one.campaign, one.person, sources.draw_key)


def _claim_packet(one: pk.PacketClaimed, view: World, sources: Sources) -> c.Command:
    if isinstance(one.group, UUID):
        return _take(one.group, one.person, view, sources)
    if campaign_at(view, one.campaign).terms.public_draw is not None:
        return winning.ClaimWin(sources.book, one.campaign, one.person)
    return c.ClaimCoupon(sources.book, one.campaign, one.person, sources.draw_key)


def _take(group_uuid: UUID, person: str, view: World, sources: Sources) -> c.Command:
    """Who took a share of a group with a code has shown it, and the draw key makes it again."""
    group = view.state(Read(group_uuid, gg.GROUP_FOLD, True))
    if group is None:
        raise NotAsked("unknown")
    code = code_of(sources.draw_key(), group_uuid) if group.code_sha256 is not None else None
    return g.TakeShare(sources.book, group_uuid, person, code, sources.draw_key)


def _approve_filling(one: gp.PurseFilled, _: World, sources: Sources) -> c.Command:
    amount = Money(one.amount_minor, one.currency)
    return g.ApproveFilling(sources.book, one.originator_id, amount, sources.draw_key)


def _return(one: gg.GroupClosed, _: World, sources: Sources) -> c.Command:
    return g.ReturnGroup(sources.book, one.originator_id, sources.draw_key)


def _give_up(_: Any, __: World, ___: Sources) -> c.Command:
    """It was decided while the draw key was lost, and with the key it would be another decision."""
    raise NotAsked("draw_key")


def _enter(one: e.DrawEntered, _: World, sources: Sources) -> c.Command:
    region = one.region if isinstance(one.region, str) else None
    operator = one.operator if isinstance(one.operator, str) else None
    return registering.EnterDraw(
        sources.book, one.campaign, one.person, one.phone, region, operator, _retorted
    )


def is_batch(one: e.DrawEntered) -> bool:
    """Whether somebody else registered a person, as one of a batch."""
    return one.by.id != one.person


def _enter_many(events: Sequence[Event], sources: Sources) -> c.Command:
    """Who was void in the batch is not in the record, and changes nothing for the others."""
    entered = [event for event in events if isinstance(event, e.DrawEntered)]
    rows = [
        Registration(
            one.person,
            one.phone,
            one.region if isinstance(one.region, str) else None,
            one.operator if isinstance(one.operator, str) else None,
        )
        for one in entered
    ]
    return EnterMany(sources.book, entered[0].campaign, rows, _retorted)


def _freeze(one: d.DrawFrozen | d.DrawVoided, view: World, sources: Sources) -> c.Command:
    facts = sources.lists.facts(one.campaign, view.position)
    return holding.FreezeList(sources.book, one.campaign, facts)


def _record(one: d.DrawDrawn, view: World, sources: Sources) -> c.Command:
    """The draw is held again from the list, the seed and the beacon's value."""
    results = _results(one.campaign, one.seed, one.randomness, view, sources)
    outcome = holding.Outcome(one.winners, one.runners_up, results.root)
    beacon = Beacon(one.round, bytes.fromhex(one.signature))
    return holding.RecordDraw(sources.book, one.campaign, bytes.fromhex(one.seed), beacon, outcome)


def _give_seat(one: e.DrawWon, view: World, sources: Sources) -> c.Command:
    draw = view.state(Read(d.draw_id(one.campaign), d.DRAW_FOLD, True))
    if draw is None or draw.held is None:
        raise NotAsked("unknown")
    results = _results(one.campaign, draw.held.seed, draw.held.randomness, view, sources)
    proof = results.proof(one.rank)
    return holding.GiveSeat(sources.book, one.campaign, one.originator_id, one.rank, proof)


def _results(campaign: UUID, seed: str, randomness: str, view: World, sources: Sources) -> Any:
    known = campaign_at(view, campaign)
    draw = view.state(Read(d.draw_id(campaign), d.DRAW_FOLD, True))
    terms = known.terms.public_draw
    if draw is None or draw.frozen is None or terms is None:
        raise NotAsked("unknown")
    told = announcement_of(sources.book, known, draw)
    secrets = (bytes.fromhex(seed), bytes.fromhex(randomness))
    wanted = terms.winners + terms.runners_up
    return sources.lists.results(campaign, view.position, told, secrets, wanted)


_OTHERS: Final[dict[type[Event], Callable[[Any, World, Sources], c.Command]]] = {
    k.FundingProposed: _propose,
    k.CampaignFunded: _approve,
    k.CampaignOpened: _open,
    k.CampaignDrawn: _draw,
    q.CouponEntered: _claim,
    q.CouponClaimed: _claim,
    pk.PacketClaimed: _claim_packet,
    gp.PurseFilled: _approve_filling,
    gg.GroupClosed: _return,
    gg.GroupGivingUpProposed: _give_up,
    gg.GroupGivenUp: _give_up,
    e.DrawEntered: _enter,
    e.DrawWon: _give_seat,
    d.DrawFrozen: _freeze,
    d.DrawVoided: _freeze,
    d.DrawDrawn: _record,
}


def _send(sent: gp.PurseSent, funded: gg.GroupFunded, sources: Sources) -> c.Command:
    """Return the command that sent a group: both of its events tell of it."""
    members = None if funded.members is UNSET else tuple(funded.members)
    return g.SendGroup(
        sources.book,
        sent.originator_id,
        funded.originator_id,
        sent.person,
        funded.kind,
        funded.shares,
        Money(funded.total_minor, funded.currency),
        funded.salt,
        members,
        funded.sender_may_take is True,
        sources.draw_key,
    )


ASKED: Final = frozenset({*_SIMPLE, *_OTHERS, gp.PurseSent})
"""The types of events with which a decision begins that can be asked for again."""
