"""The page of events: every stored fact with its topic, its fields, its bytes and its money."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin
from uuid import UUID, uuid5

import msgspec
from msgspec import UnsetType

from api.reference import corrections, draws, groups, packets, persons
from api.reference.markdown import block, code, codes, document, table
from campaigns import campaign as c
from campaigns import coupon as k
from campaigns.accounting import postings_of
from campaigns.draws.terms import PublicDrawTerms
from campaigns.event_types import EVENT_TYPES
from campaigns.packets.terms import PacketTerms
from campaigns.verification import SUCCESSES
from ledger.events import Actor, Event, Why

_INTRO = """\
An event is a row of `tidebook.event`. Its place (`book`, `position`) and its stream
(`originator_id`, `originator_version`) are columns; the rest is `state`: JSON in UTF-8, without
spaces, fields in the order given here. These bytes are final. A topic is never renamed and never
gets another meaning: a new form is a new topic, and old ones are turned into it on reading
(`ledger/events.py`). A reader that meets a topic it does not know stops.

Below, states are printed with spaces so that they can be read."""

_MEANINGS: Final = {
    "at": "when it happened; never before the event in front of it in the book",
    "by": "who acted: a role and a pseudonym",
    "why": "request id, idempotency key, fingerprint (hex) and the position that caused it; "
    "what is empty is left out",
    "name": "what the campaign is called",
    "sponsor": "who pays",
    "terms": "what its coupons are, see [Terms](#terms)",
    "quota": "most coupons that may be issued, as a new total",
    "budget_minor": "the money that may be granted, as a new total",
    "from_quota": "the quota that the proposer saw",
    "from_budget_minor": "the budget that the proposer saw",
    "quota_change": "by how much the quota grew; negative when it was cut",
    "budget_change_minor": "by how much the budget grew; negative when it was cut",
    "currency": "ISO 4217 code of every amount here",
    "proposed_by": "pseudonym of the operator who proposed it",
    "reason": "why, in the words of who did it",
    "amount_minor": "how much money moved",
    "campaign": "the campaign's stream",
    "campaign_version": "the campaign's version that the claim was decided against",
    "person": "pseudonym of the holder",
    "seed_commitment": "SHA-256 (hex) of the seed of a lottery; absent otherwise",
    "places": "how many coupons are drawn, at most",
    "seed": "the seed (hex); an entrant's rank is SHA-256(seed ‖ the coupon's id in 16 bytes)",
    "entrants": "how many people had entered",
    "entrants_sha256": "SHA-256 (hex) over the entered coupons' ids, sorted, 16 bytes each",
    "winners": "how many were drawn: those of the lowest ranks",
    "threshold": "rank (hex) of the last winner; null when nobody won",
    "drawn": "true when the draw gave the coupon; absent otherwise",
    "n": "the person's n-th coupon of the campaign, from 1",
    "face_minor": "what the coupon takes off",
    "threshold_minor": "the least order total it is good for",
    "valid_from": "first instant of its validity",
    "valid_until": "end of its validity, itself outside",
    "merchant": "who redeemed it",
    "shop": "which of the merchant's shops",
    "order": "the merchant's order number",
    "order_total_minor": "the order's total before the discount",
    "discount_minor": "what came off",
    "to": "where the money went: the pot, or the sponsor once the campaign is closed",
    "kind": "fixed-amount (立减) or threshold (满减) coupons, or packets (红包)",
    "per_person_limit": "most coupons a person may claim over the campaign's life",
    "claim_from": "first instant of the claim window",
    "claim_until": "end of the claim window, itself outside",
    "zone": "IANA time zone in which the windows were meant",
    "merchants": "who may redeem; null for any merchant",
    "restock": "whether a coupon that ends goes back to stock",
    "intake": "how claims are taken in; absent for first come, first served",
    "packet": "what packets hold and where their money goes back to; absent for coupons",
    "split_commitment": "SHA-256 (hex) of the seed of tiers or of a split sum; absent otherwise",
    "public_draw": "the public draw that gives the coupons or packets; absent where there is none",
}
"""Field → what it means. A field without an entry stops the page from being written."""

# One story, told by one event of each type.

_PERSON: Final = "6664a42048c6d6d7fe3657e39b14155c"
_OPERATOR: Final = Actor("operator", "0d2f4be8a1c34d7790b5f6a3e2c1d845")
_SECOND: Final = Actor("operator", "9b1c7702ee5a4b6c8f13d0a7c4e5f621")
_TOURIST: Final = Actor("tourist", _PERSON)
_MERCHANT: Final = Actor("merchant", "duty-free-haitang")
_SWEEPER: Final = Actor("sweeper", "system")
_DRAW: Final = Actor("draw", "system")
_CAMPAIGN: Final = UUID("0f8fad5b-d9cb-5c1a-8a5f-3b1c2d3e4f50")
_COUPON: Final = k.coupon_id(_CAMPAIGN, _PERSON, 1)
_AT: Final = datetime(2026, 5, 1, 2, 0, 0, 184_213, tzinfo=UTC)
_OPENS: Final = datetime(2026, 5, 1, 2, tzinfo=UTC)
_CLAIMS_END: Final = datetime(2026, 5, 5, 14, tzinfo=UTC)
_ENDS: Final = datetime(2026, 5, 10, 16, tzinfo=UTC)
_TERMS: Final = c.Terms(
    kind="threshold",
    face_minor=10_000,
    threshold_minor=100_000,
    currency="CNY",
    per_person_limit=1,
    claim_from=_OPENS,
    claim_until=_CLAIMS_END,
    valid_from=_OPENS,
    valid_until=_ENDS,
    zone="Asia/Shanghai",
    merchants=["duty-free-haitang"],
)
_FUNDS: Final = {"quota": 20_000, "budget_minor": 200_000_000}
_MONEY: Final = {"amount_minor": 10_000, "currency": "CNY"}
_OF_COUPON: Final = {"campaign": _CAMPAIGN, "person": _PERSON}
_RETURN: Final = {**_OF_COUPON, **_MONEY, "to": "campaign", "sponsor": "province"}
_TAKEN: Final = {
    **_OF_COUPON,
    "n": 1,
    "face_minor": 10_000,
    "threshold_minor": 100_000,
    "currency": "CNY",
    "valid_from": _OPENS,
    "valid_until": _ENDS,
}
_SEED: Final = sha256(b"an example").digest()
_DRAWN: Final = {
    "seed": _SEED.hex(),
    "entrants": 1_913_847,
    "entrants_sha256": sha256(_COUPON.bytes).hexdigest(),
    "winners": 20_000,
    "threshold": "02ac" + 30 * "5e",
}
_ORDER: Final = {"merchant": "duty-free-haitang", "order": "2026-0501-000017"}

_STORY: Final[tuple[tuple[type[Event], Actor, int, dict[str, Any]], ...]] = (
    (c.CampaignDrafted, _OPERATOR, 1, {"name": "Spring", "sponsor": "province", "terms": _TERMS}),
    (c.FundingProposed, _OPERATOR, 2, {**_FUNDS, "from_quota": 0, "from_budget_minor": 0}),
    (
        c.CampaignFunded,
        _SECOND,
        3,
        {
            **_FUNDS,
            "quota_change": 20_000,
            "budget_change_minor": 200_000_000,
            "currency": "CNY",
            "sponsor": "province",
            "proposed_by": _OPERATOR.id,
        },
    ),
    (c.CampaignOpened, _OPERATOR, 4, {"seed_commitment": sha256(_SEED).hexdigest()}),
    (c.CampaignIntakeClosed, _DRAW, 5, {"places": 20_000}),
    (c.CampaignDrawn, _DRAW, 6, _DRAWN),
    (c.CampaignPaused, _OPERATOR, 5, {"reason": "a wrong threshold in the announcement"}),
    (c.CampaignResumed, _OPERATOR, 6, {}),
    (c.CampaignClosed, _OPERATOR, 7, {"reason": "the season is over"}),
    (c.BudgetReclaimed, _OPERATOR, 8, {**_MONEY, "sponsor": "province"}),
    (k.CouponEntered, _TOURIST, 1, _TAKEN | {"campaign_version": 4}),
    (k.CouponClaimed, _DRAW, 2, _TAKEN | {"campaign_version": 6, "drawn": True}),
    (
        k.CouponRedeemed,
        _MERCHANT,
        2,
        {
            **_OF_COUPON,
            **_ORDER,
            "shop": "haitang-3f",
            "order_total_minor": 128_000,
            "discount_minor": 10_000,
            "currency": "CNY",
        },
    ),
    (k.CouponRefunded, _MERCHANT, 3, {**_OF_COUPON, **_ORDER, **_MONEY, "reason": "returned"}),
    (k.CouponReclaimed, _MERCHANT, 4, _RETURN),
    (k.CouponExpired, _SWEEPER, 2, {**_RETURN, "valid_until": _ENDS}),
    (k.CouponVoided, _OPERATOR, 2, {**_RETURN, "reason": "claimed by a script"}),
)


def page() -> str:
    """Return the page."""
    story = list(_story())
    told = {event.TOPIC for event in story}
    assert told == EVENT_TYPES.topics, f"the story lacks {EVENT_TYPES.topics - told}"
    return document(
        "Events",
        _INTRO,
        "## What every event carries",
        _fields(Event, without=("originator_id", "originator_version")),
        *(part for event in story for part in _section(event)),
        "## Terms",
        "What a coupon of a campaign is and who may have it. Windows are half-open.",
        _fields(c.Terms),
    )


def _story() -> Iterator[Event]:
    for cls, actor, version, own in _STORY:
        stream = _CAMPAIGN if cls in c.CAMPAIGN_EVENTS else _COUPON
        key = None if actor.id == "system" else f"{actor.role}-{version}"
        fingerprint = None if key is None else uuid5(stream, key).hex * 2
        yield cls(
            originator_id=stream,
            originator_version=version,
            at=_AT,
            by=actor,
            why=Why("a4f1c2d3e4b5-1f", key, fingerprint),
            **own,
        )
    actors = {each.role: each for each in (_OPERATOR, _TOURIST, _MERCHANT, _SWEEPER, _DRAW)}
    told = (
        *draws.story(_CAMPAIGN, _PERSON),
        *packets.story(_CAMPAIGN, _PERSON, _COUPON),
        *groups.story(_CAMPAIGN, _PERSON),
        *persons.story(_PERSON),
        *corrections.story(_CAMPAIGN, _PERSON, _COUPON),
    )
    for cls, role, stream, version, own in told:
        actor = actors[role]
        key = None if actor.id == "system" else f"{actor.role}-{version}"
        fingerprint = None if key is None else uuid5(stream, key).hex * 2
        why = Why("a4f1c2d3e4b5-1f", key, fingerprint)
        header: dict[str, Any] = {"originator_id": stream, "originator_version": version, "at": _AT}
        yield cls(**header, by=actor, why=why, **own)


def _section(event: Event) -> Iterator[str]:
    cls = type(event)
    yield f"## {event.TOPIC}"
    yield f"`{cls.__name__}`: {inspect.getdoc(cls)}"
    yield f"Written by {codes(_written_by(event.TOPIC))}. Money: {_money(event)}."
    fields = _fields(cls, without=Event.__struct_fields__)
    yield fields if len(cls.__struct_fields__) > len(Event.__struct_fields__) else "No own fields."
    yield block(msgspec.json.format(EVENT_TYPES.encode(event), indent=2).decode(), "json")


def _written_by(topic: str) -> list[str]:
    last = [success for success, topics in SUCCESSES.items() if topic in topics]
    return [*last, *groups.BESIDE.get(topic, ())]


def _money(event: Event) -> str:
    transfers = [
        f"{_kind(one.credit)} → {_kind(one.debit)}, {one.amount_minor} minor units here"
        for one in postings_of(event)
    ]
    return "; ".join(transfers) or "none"


def _kind(account: str) -> str:
    return account.partition(":")[0]


def _fields(cls: type[msgspec.Struct], without: tuple[str, ...] = ()) -> str:
    rows = [
        (code(field.name), _type(field.type), _meaning(cls, field.name))
        for field in msgspec.structs.fields(cls)
        if field.name not in without
    ]
    return table(("field", "type", "meaning"), rows)


_OWN_MEANINGS: Final[tuple[tuple[tuple[type[Event], ...], dict[str, str]], ...]] = tuple(
    (one.KINDS, one.MEANINGS) for one in (draws, packets, groups, persons, corrections)
)


def _meaning(cls: type[msgspec.Struct], field: str) -> str:
    """Return what a field means: of draws, packets, groups some words mean their own."""
    for kinds, meanings in _OWN_MEANINGS:
        if cls in kinds and field in meanings:
            return meanings[field]
    return _MEANINGS[field]


_NAMES: Final[dict[Any, str]] = {
    bool: "boolean",
    int: "integer",
    str: "string",
    UUID: "UUID",
    datetime: "instant, UTC",
    Actor: "object: `role`, `id`",
    Why: "object: `request`, `key`, `fingerprint`, `cause`",
    c.Terms: "object",
    c.Intake: "object: `kind`, `seconds` (lottery), `rate_per_s` (waiting room)",
    PublicDrawTerms: "object: `register_from`, `register_until`, `draw_at`, `chain`, `tiers`, "
    "`claim_s`, `runners_up`, `regions`, `operators`",
    PacketTerms: "object: `tiers`, `split`, `refund_order`, `leftover`, `next_round`",
    NoneType: "null",
    UnsetType: "absent",
}


def _type(kind: Any) -> str:
    """Return a field's type in words."""
    if kind in _NAMES:
        return _NAMES[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(code(value) for value in arguments)
    if origin in (UnionType, Union):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is dict:
        return f"object: {_type(arguments[0])} to {_type(arguments[1])}"
    assert origin in (list, tuple), f"no words for {kind}"
    return f"list of {_type(arguments[0])}"
