"""Schemas: the shape of every request and every reply, as documented and as checked.

Nothing is converted on the way in: an amount is a JSON integer and nothing else is. Fields that
a schema does not name are refused.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import available_timezones

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from api.callers import Role
from api.currencies import CURRENCIES
from api.daily.views import DailyProofList
from api.drawviews import DRAW_VIEWS
from api.fairness import FairnessReport
from api.groupviews import GROUP_VIEWS
from api.journalviews import JOURNAL_VIEWS
from api.personviews import PERSON_VIEWS
from api.transparency import LogView
from api.views import VIEWS
from campaigns.campaign import PER_PERSON_MAX
from campaigns.corrections.replies import CorrectionReply
from campaigns.draws.replies import RegistrationReply
from campaigns.draws.terms import CLAIM_S_MAX, DRAWN_MAX
from campaigns.groups.group import MEMBERS_MAX, SALT_BYTES_MAX, SHARES_MAX
from campaigns.groups.replies import GivingUpReply, GroupReply, PurseReply, ShareReply
from campaigns.packets.replies import (
    PacketEndingReply,
    PacketReply,
    PaymentRefundReply,
    PaymentReply,
)
from campaigns.packets.terms import TIERS_MAX
from campaigns.persons.person import Basis, Purpose
from campaigns.persons.person import Field as Particular
from campaigns.persons.replies import InspectionReply, PersonReply
from campaigns.replies import (
    CampaignReply,
    CouponReply,
    EndingReply,
    EntryReply,
    RedemptionReply,
    RefundReply,
)
from ledger.money import MINOR_MAX

QUOTA_MAX: Final = 1_000_000_000
"""Most coupons of one campaign; a province's year is 12 million."""
MERCHANTS_MAX: Final = 5_000
"""Most merchants that a campaign names; a city's packets were taken by 3,389."""
LOTTERY_SECONDS_MAX: Final = 30 * 24 * 3600
"""Longest time that a lottery takes entries: registrations of provinces last days, not months."""
ROOM_RATE_MAX: Final = 1_000_000
YEARS: Final = (1970, 2200)
"""Instants outside these years are typing mistakes."""

_INSTANT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_NO_OFFSET: Final = re.compile(r"\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?)?", re.ASCII)
_BIDI_CONTROLS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


# --- the kinds of values --------------------------------------------------------------------------


def instant_of(value: Any) -> datetime:
    """Return the instant, in UTC, that a text in the form of RFC 3339 names."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("wrong_type", "This must be a time in a string.")
    if _NO_OFFSET.fullmatch(value):
        raise PydanticCustomError(
            "time_without_offset", "A time needs its offset, for example +08:00 or Z."
        )
    try:
        moment = datetime.fromisoformat(value) if _INSTANT.fullmatch(value) else None
        moment = moment and moment.astimezone(UTC)
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise PydanticCustomError(
            "malformed_time", "This must be a time as in RFC 3339: 2026-05-01T10:00:00+08:00."
        )
    if not YEARS[0] <= moment.year < YEARS[1]:
        raise PydanticCustomError(
            "out_of_range", f"A time must lie in the years {YEARS[0]} to {YEARS[1] - 1}."
        )
    return moment


def _plain_text(value: str) -> str:
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise PydanticCustomError(
                "control_character", "This must not have control characters or lone surrogates."
            )
        if character in _BIDI_CONTROLS:
            raise PydanticCustomError(
                "control_character", "This must not have characters that turn the text around."
            )
    if not value.strip():
        raise PydanticCustomError("blank", "This must not be blank.")
    return value


def _currency(value: str) -> str:
    if value not in CURRENCIES:
        raise PydanticCustomError(
            "unknown_currency", "This must be an ISO 4217 code in capital letters, such as CNY."
        )
    return value


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _zone(value: str) -> str:
    if value not in _zones():
        raise PydanticCustomError(
            "unknown_zone", "This must be an IANA time zone, such as Asia/Shanghai."
        )
    return value


def _no_twins(values: list[str]) -> list[str]:
    if len(set(values)) != len(values):
        raise PydanticCustomError("repeated", "An entry stands twice in this list.")
    return values


Instant = Annotated[
    datetime,
    BeforeValidator(instant_of),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
AmountMinor = Annotated[
    StrictInt, Field(ge=1, le=MINOR_MAX, description="Whole minor units, such as fen.")
]
Currency = Annotated[
    StrictStr,
    AfterValidator(_currency),
    Field(description="ISO 4217 code.", json_schema_extra={"pattern": "^[A-Z]{3}$"}),
]
Name = Annotated[StrictStr, Field(min_length=1, max_length=120), AfterValidator(_plain_text)]
Reason = Annotated[StrictStr, Field(min_length=1, max_length=200), AfterValidator(_plain_text)]
Address = Annotated[StrictStr, Field(min_length=1, max_length=400), AfterValidator(_plain_text)]
Slug = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
PersonId = Annotated[
    StrictStr,
    Field(pattern=r"^[0-9a-f]{32}$", description="A person, as `GET /v1/person` names oneself."),
]
OrderNumber = Annotated[StrictStr, Field(pattern=r"^[!-~]([ -~]{0,62}[!-~])?$")]
BookName = Annotated[StrictStr, Field(pattern=r"^[a-z][a-z0-9]{0,15}$")]
Telephone = Annotated[
    StrictStr,
    Field(pattern=r"^\+[1-9][0-9]{6,14}$", description="With the country, as in E.164."),
]
Zone = Annotated[StrictStr, Field(max_length=64), AfterValidator(_zone)]
Quota = Annotated[StrictInt, Field(ge=0, le=QUOTA_MAX)]
BudgetMinor = Annotated[StrictInt, Field(ge=0, le=MINOR_MAX)]


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MoneyBody(Body):
    """An amount of more than nothing."""

    amount_minor: AmountMinor
    currency: Currency


class BudgetBody(Body):
    """An amount that may be nothing."""

    amount_minor: BudgetMinor
    currency: Currency


class WindowBody(Body):
    """A span of time: from its first instant up to, and without, its last."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    start: Instant = Field(alias="from")
    until: Instant

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.until <= self.start:
            raise PydanticCustomError("backwards_window", "A window must end after its start.")
        return self


# --- requests -------------------------------------------------------------------------------------


class CouponTermsBody(Body):
    """What a coupon is worth: a fixed amount, or an amount off orders from a threshold (满减)."""

    kind: Literal["fixed", "threshold"]
    face: MoneyBody
    threshold: MoneyBody | None = None

    @model_validator(mode="after")
    def _threshold_fits(self) -> Self:
        if self.kind == "threshold" and self.threshold is None:
            raise PydanticCustomError(
                "threshold_missing", "A coupon of the kind threshold needs its threshold."
            )
        if self.kind == "fixed" and self.threshold is not None:
            raise PydanticCustomError(
                "threshold_without_use", "A coupon of the kind fixed has no threshold."
            )
        if (
            self.threshold is not None
            and self.threshold.currency == self.face.currency
            and self.threshold.amount_minor < self.face.amount_minor
        ):
            raise PydanticCustomError(
                "threshold_below_face", "A threshold must not lie below the face value."
            )
        return self


PacketCount = Annotated[StrictInt, Field(ge=1, le=QUOTA_MAX)]


class TierBody(Body):
    """So many packets of one amount."""

    amount: MoneyBody
    count: PacketCount


class SplitBody(Body):
    """A sum that is split into so many packets of random amounts (拼手气), a fen each at least."""

    total: MoneyBody
    count: PacketCount

    @model_validator(mode="after")
    def _a_fen_each(self) -> Self:
        if self.total.amount_minor < self.count:
            raise PydanticCustomError(
                "split_too_small", "Each packet of a split sum holds a minor unit at least."
            )
        return self


class PacketTermsBody(Body):
    """What a packet holds: one amount, an amount of a tier, or a share of a sum."""

    amount: MoneyBody | None = None
    tiers: Annotated[list[TierBody], Field(min_length=1, max_length=TIERS_MAX)] | None = None
    split: SplitBody | None = None
    refund_order: Literal["own_first", "packet_first"] = Field(
        "own_first", description="Whose money comes back first when a payment is refunded in part."
    )
    leftover: Literal["sponsor", "next_round"] = Field(
        "sponsor", description="Where money goes that packets give back."
    )
    next_round: Annotated[StrictStr, Field(max_length=64)] | None = Field(
        None, description="The id of the campaign that leftovers go to."
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if sum(each is not None for each in (self.amount, self.tiers, self.split)) != 1:
            raise PydanticCustomError(
                "one_kind_of_amount", "A packet has an amount, tiers or a split, and one of them."
            )
        if (self.leftover == "next_round") != (self.next_round is not None):
            raise PydanticCustomError(
                "next_round_mismatch", "Leftovers to the next round, and only they, name it."
            )
        return self

    @model_validator(mode="after")
    def _tiers_differ(self) -> Self:
        amounts = [tier.amount for tier in self.tiers or ()]
        if len({amount.currency for amount in amounts}) > 1:
            raise PydanticCustomError("mixed_currencies", "Tiers are in one currency.")
        if len({amount.amount_minor for amount in amounts}) < len(amounts):
            raise PydanticCustomError("repeated", "Each tier has an amount of its own.")
        return self


class IntakeBody(Body):
    """How claims are taken in: first come, through a waiting room, or drawn by lot (摇号)."""

    kind: Literal["first_come", "waiting_room", "lottery"]
    seconds: Annotated[StrictInt, Field(ge=1, le=LOTTERY_SECONDS_MAX)] | None = Field(
        None, description="lottery: claims of this many first seconds are drawn by lot."
    )
    rate_per_s: Annotated[StrictInt, Field(ge=1, le=ROOM_RATE_MAX)] | None = Field(
        None, description="waiting_room: how many a second are let through to claim."
    )

    @model_validator(mode="after")
    def _says_what_its_kind_needs(self) -> Self:
        given = {"seconds": self.seconds, "rate_per_s": self.rate_per_s}
        needed = {"lottery": "seconds", "waiting_room": "rate_per_s"}.get(self.kind)
        for name, value in given.items():
            if name == needed and value is None:
                raise PydanticCustomError(
                    "intake_incomplete", f"An intake of the kind {self.kind} needs {name}."
                )
            if name != needed and value is not None:
                raise PydanticCustomError(
                    "intake_without_use", f"An intake of the kind {self.kind} has no {name}."
                )
        return self


class ChainBody(Body):
    """A public beacon: the name of its chain, the time of its first round, and its period."""

    hash: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
    genesis: Annotated[StrictInt, Field(ge=0, le=2**33, description="Seconds since 1970.")]
    period_s: Annotated[StrictInt, Field(ge=1, le=86_400)]


class SeatsBody(Body):
    """A tier of a public draw: so many winners of one amount."""

    winners: Annotated[StrictInt, Field(ge=1, le=DRAWN_MAX)]
    amount: MoneyBody


class PublicDrawBody(Body):
    """A public draw (公开摇号): who may register when, which beacon decides, what is won."""

    registration: WindowBody
    draw_at: Instant = Field(
        description="The beacon's first round that is emitted then or later decides."
    )
    chain: ChainBody | None = Field(None, description="Without one, drand's quicknet.")
    tiers: Annotated[list[SeatsBody], Field(min_length=1, max_length=TIERS_MAX)]
    runners_up: Annotated[StrictInt, Field(ge=0, le=DRAWN_MAX)] = 0
    claim_s: Annotated[StrictInt, Field(ge=1, le=CLAIM_S_MAX)] = Field(
        description="Seconds that winners have to claim, from the draw or from moving up."
    )
    regions: (
        Annotated[
            list[Slug], Field(min_length=1, max_length=MERCHANTS_MAX), AfterValidator(_no_twins)
        ]
        | None
    ) = Field(None, description="Who may register, by region; without it everybody.")
    operators: (
        Annotated[
            list[Slug], Field(min_length=1, max_length=MERCHANTS_MAX), AfterValidator(_no_twins)
        ]
        | None
    ) = Field(None, description="Who may register, by the operator of the wallet.")


class RegistrationBody(Body):
    """Who registers for a public draw. The telephone is kept as a pseudonym only."""

    phone: Telephone
    region: Slug | None = None
    operator: Slug | None = None


class EntryVoidBody(Body):
    """Which entry is void, and why."""

    entry: Annotated[StrictStr, Field(pattern=r"^ent_[a-z][a-z0-9]{0,15}_[0-9a-f]{32}$")]
    reason: Reason


class DraftBody(Body):
    """A campaign as an operator writes it down."""

    name: Name
    sponsor: Slug
    book: BookName | None = None
    coupon: CouponTermsBody | None = None
    packet: PacketTermsBody | None = None
    per_person_limit: Annotated[StrictInt, Field(ge=1, le=PER_PERSON_MAX)] = 1
    claim_window: WindowBody
    validity_window: WindowBody
    zone: Zone
    merchants: (
        Annotated[
            list[Slug],
            Field(min_length=1, max_length=MERCHANTS_MAX),
            AfterValidator(_no_twins),
        ]
        | None
    ) = None
    restock: StrictBool = False
    intake: IntakeBody | None = None
    public_draw: PublicDrawBody | None = None

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.claim_window.until > self.validity_window.until:
            raise PydanticCustomError(
                "claim_after_validity", "Claiming must not go on after the validity has ended."
            )
        return self

    @model_validator(mode="after")
    def _gives_one_thing(self) -> Self:
        if (self.coupon is None) == (self.packet is None):
            raise PydanticCustomError(
                "coupon_or_packet", "A campaign gives coupons or packets: `coupon` or `packet`."
            )
        if self.packet is None:
            return self
        if self.merchants is None:
            raise PydanticCustomError(
                "merchants_missing", "Packets are spent at designated merchants: name them."
            )
        if self.restock:
            raise PydanticCustomError("restock_without_use", "Packets do not go back to stock.")
        if self.intake is not None and self.intake.kind == "lottery":
            raise PydanticCustomError(
                "lottery_of_packets", "An intake of the kind lottery is for coupons."
            )
        return self


class FundingBody(Body):
    """New totals of quota and budget, and the totals that the operator saw before."""

    quota: Quota
    budget: BudgetBody
    current_quota: Quota = 0
    current_budget_minor: BudgetMinor = 0


class ApprovalBody(Body):
    """The proposal that a second operator approves, repeated so that nothing slips in between."""

    quota: Quota
    budget: BudgetBody


class EmptyBody(Body):
    """Nothing to say."""


class ReasonBody(Body):
    """Why it is done."""

    reason: Reason


class RedemptionBody(Body):
    """The order that a coupon is redeemed for."""

    order: OrderNumber
    order_total: MoneyBody
    shop: Slug | None = None


class RefundBody(Body):
    """The order that was returned."""

    order: OrderNumber
    reason: Reason = "returned"


class PaymentBody(Body):
    """An order that is paid from a packet, as far as that goes."""

    order: OrderNumber
    total: MoneyBody
    shop: Slug | None = None


class PaymentRefundBody(Body):
    """What was returned of an order: an amount, or all that was not given back yet."""

    order: OrderNumber
    amount: MoneyBody | None = None
    reason: Reason = "returned"


class PurseBody(Body):
    """Whose purse is to be filled, and with how much."""

    person: PersonId
    amount: MoneyBody


class FillingBody(Body):
    """The amount that a second operator approves, repeated so that nothing slips in between."""

    amount: MoneyBody


class GroupBody(Body):
    """A sum to be sent to a group (群红包), in equal or random (拼手气) shares.

    `salt` is the sender's part of what decides who gets which share: fresh random bytes, in hex.
    """

    kind: Literal["equal", "random"] = "random"
    shares: Annotated[StrictInt, Field(ge=1, le=SHARES_MAX)]
    total: MoneyBody
    salt: Annotated[StrictStr, Field(pattern=rf"^([0-9a-f]{{2}}){{0,{SALT_BYTES_MAX}}}$")] = ""
    members: (
        Annotated[
            list[PersonId],
            Field(min_length=1, max_length=MEMBERS_MAX),
            AfterValidator(_no_twins),
        ]
        | None
    ) = Field(None, description="Who may take a share; without it, whoever has the group's code.")
    sender_may_take: StrictBool = False

    @model_validator(mode="after")
    def _everybody_gets_something(self) -> Self:
        if self.total.amount_minor < self.shares:
            raise PydanticCustomError(
                "share_too_small", "The total must be at least one minor unit for each share."
            )
        return self


class ShareBody(Body):
    """The code of a group that is open to whoever has it."""

    code: Annotated[StrictStr, Field(pattern=r"^[a-z2-7]{20}$")] | None = None


class SessionBody(Body):
    """What the caller says about itself; nothing of it is believed."""

    device: (
        Annotated[StrictStr, Field(min_length=1, max_length=128), AfterValidator(_plain_text)]
        | None
    ) = None


class TokenBody(Body):
    """Whom a development token should name."""

    role: Role
    identity: Annotated[StrictStr, Field(min_length=1, max_length=256), AfterValidator(_plain_text)]
    merchant: Slug | None = None

    @model_validator(mode="after")
    def _merchant_named(self) -> Self:
        if (self.role == "merchant") != (self.merchant is not None):
            raise PydanticCustomError(
                "merchant_mismatch", "The role merchant, and only it, names a merchant."
            )
        return self


class ParticularsBody(Body):
    """Particulars; each one replaces the one before. They are kept sealed and never told again."""

    telephone: Telephone | None = None
    address: Address | None = None
    payee_name: Name | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.telephone is None and self.address is None and self.payee_name is None:
            raise PydanticCustomError("nothing_given", "At least one particular must be given.")
        return self


class InspectionBody(Body):
    """Which particulars an operator wants to read, and what for."""

    fields: Annotated[
        list[Particular], Field(min_length=1, max_length=3), AfterValidator(_no_twins)
    ]
    purpose: Purpose


class ErasureBody(Body):
    """That one gives up what one holds: coupons, packets, purses and entries."""

    give_up: Literal[True]


class BasisBody(Body):
    """On what an operator asks for an erasure on behalf of a person."""

    basis: Basis


class CorrectionApprovalBody(Body):
    """The instant that a second operator approves, repeated so that nothing slips in between."""

    effective_at: Instant


class CorrectionBody(Body):
    """The instant at which a redemption happened, and why it was reported later."""

    effective_at: Instant
    reason: Reason


class PaymentCorrectionApprovalBody(CorrectionApprovalBody):
    """The same for a packet's payment, which its merchant and order name."""

    merchant: Slug
    order: OrderNumber


class PaymentCorrectionBody(CorrectionBody):
    """The instant at which a packet's payment happened, and why it was reported later."""

    merchant: Slug
    order: OrderNumber


# --- all of them, for the documentation -----------------------------------------------------------

BODIES: Final[tuple[type[Body], ...]] = (
    DraftBody,
    FundingBody,
    ApprovalBody,
    EmptyBody,
    ReasonBody,
    RedemptionBody,
    RefundBody,
    PaymentBody,
    PaymentRefundBody,
    RegistrationBody,
    EntryVoidBody,
    PurseBody,
    FillingBody,
    GroupBody,
    ShareBody,
    ParticularsBody,
    InspectionBody,
    ErasureBody,
    BasisBody,
    CorrectionBody,
    CorrectionApprovalBody,
    PaymentCorrectionBody,
    PaymentCorrectionApprovalBody,
    SessionBody,
    TokenBody,
)

REPLIES: Final[tuple[type[msgspec.Struct], ...]] = (
    CampaignReply,
    CouponReply,
    EntryReply,
    RegistrationReply,
    RedemptionReply,
    RefundReply,
    EndingReply,
    PacketReply,
    PaymentReply,
    PaymentRefundReply,
    PacketEndingReply,
    PurseReply,
    GivingUpReply,
    GroupReply,
    ShareReply,
    PersonReply,
    InspectionReply,
    CorrectionReply,
    *PERSON_VIEWS,
    *JOURNAL_VIEWS,
    FairnessReport,
    *DRAW_VIEWS,
    *GROUP_VIEWS,
    *VIEWS,
    LogView,
    DailyProofList,
)
