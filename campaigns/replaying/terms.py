"""Other terms: what somebody asks to change of a campaign, checked by the campaign's own rules.

A change is a name and a text, as it is typed. What nobody could keep is refused with the name and
the rule, before anything is imagined. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec.structs import replace

from campaigns.campaign import PER_PERSON_MAX, Campaign, CampaignDrafted, Terms
from campaigns.judging import CampaignAudit
from campaigns.packets.terms import PacketTerms, Split, Tier
from ledger.events import Actor, Why
from ledger.money import MINOR_MAX


class BadChange(ValueError):
    """A change that no campaign could have: its name, and the rule in words."""

    def __init__(self, name: str, rule: str) -> None:
        super().__init__(f"{name}: {rule}")
        self.name = name
        self.rule = rule


class Funds(NamedTuple):
    """How a campaign is funded; None is as it was."""

    quota: int | None = None
    budget_minor: int | None = None


class Changed(NamedTuple):
    """The terms and the funds under which everything is imagined."""

    terms: Terms
    funds: Funds
    names: tuple[str, ...]
    """What was changed."""

    def funded(self, was: Campaign, quota: int, budget_minor: int) -> tuple[int, int]:
        """Return quota and budget in the place of those that were proposed.

        A budget that was enough for each coupon of the quota is enough again, unless it was given.
        """
        packet = self.terms.packet
        if packet is not None and packet.is_seeded:
            return packet.promised
        imagined = quota if self.funds.quota is None else self.funds.quota
        if self.funds.budget_minor is not None:
            return imagined, self.funds.budget_minor
        beyond = budget_minor - quota * was.terms.face_minor
        if not quota or beyond < 0:
            return imagined, budget_minor
        return imagined, imagined * self.terms.face_minor + beyond


NAMES: Final[dict[str, str]] = {
    "quota": "how many can be had: a whole number",
    "budget": "the money that can be granted, in minor units",
    "limit": f"how many a person may have: 1 to {PER_PERSON_MAX}",
    "face": "what a coupon or packet is worth, in minor units",
    "threshold": "from which order total on a coupon is good, in minor units",
    "window": "when it can be claimed: FROM/UNTIL, two times with their offsets",
    "validity": "when it can be used: FROM/UNTIL, two times with their offsets",
    "merchants": "who takes it: names with commas between them, or `any`",
    "restock": "whether what comes back can be claimed again: `yes` or `no`",
    "tiers": "packets of fixed amounts: AMOUNT:COUNT with commas between them",
    "split": "a sum that is split into packets at random: TOTAL:COUNT",
    "intake": "`first_come`: a lottery or a waiting room is left out",
}
"""What can be changed, and its form."""

_WHOLE: Final = re.compile(r"\d{1,18}", re.ASCII)
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


def changed_terms(campaign: Campaign, changes: Mapping[str, str]) -> Changed:
    """Return what a campaign would be with these changes; raise `BadChange`."""
    if campaign.terms.public_draw is not None:
        raise BadChange("campaign", "its winners are drawn in public, by a beacon: see docs/draws")
    terms, funds = campaign.terms, Funds()
    for name, text in changes.items():
        if name not in NAMES:
            raise BadChange(name, f"there is no such term; there are {', '.join(NAMES)}")
        if name == "quota":
            funds = funds._replace(quota=_whole(name, text, least=1))
        elif name == "budget":
            funds = funds._replace(budget_minor=_whole(name, text))
        else:
            terms = _SETTERS[name](terms, text)
    _check(campaign, terms, funds)
    return Changed(terms, funds, tuple(changes))


def _whole(name: str, text: str, least: int = 0, most: int = MINOR_MAX) -> int:
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise BadChange(name, f"{NAMES[name]}; a whole number from {least} to {most} is wanted")
    return int(text)


def _limit(terms: Terms, text: str) -> Terms:
    limit = _whole("limit", text, least=1, most=PER_PERSON_MAX)
    return replace(terms, per_person_limit=limit)


def _face(terms: Terms, text: str) -> Terms:
    face = _whole("face", text, least=1)
    if terms.packet is not None and terms.packet.is_seeded:
        raise BadChange("face", "these packets hold what `tiers` or `split` say")
    follows = terms.threshold_minor == terms.face_minor and terms.kind != "threshold"
    threshold = face if follows else terms.threshold_minor
    return replace(terms, face_minor=face, threshold_minor=threshold)


def _threshold(terms: Terms, text: str) -> Terms:
    if terms.kind != "threshold":
        raise BadChange("threshold", "only a coupon of the kind `threshold` has one of its own")
    return replace(terms, threshold_minor=_whole("threshold", text, least=1))


def _window(name: str, text: str) -> tuple[datetime, datetime]:
    halves = text.split("/")
    try:
        start, end = (datetime.fromisoformat(half) for half in halves)
    except ValueError:
        raise BadChange(name, NAMES[name]) from None
    if start.utcoffset() is None or end.utcoffset() is None:
        raise BadChange(name, f"{NAMES[name]}; an offset is missing")
    if start >= end:
        raise BadChange(name, "it ends after it begins")
    return start.astimezone(UTC), end.astimezone(UTC)


def _claim_window(terms: Terms, text: str) -> Terms:
    start, end = _window("window", text)
    return replace(terms, claim_from=start, claim_until=end)


def _validity(terms: Terms, text: str) -> Terms:
    start, end = _window("validity", text)
    return replace(terms, valid_from=start, valid_until=end)


def _merchants(terms: Terms, text: str) -> Terms:
    if text == "any":
        return replace(terms, merchants=None)
    names = text.split(",")
    if not all(map(_SLUG.fullmatch, names)) or len(set(names)) < len(names):
        raise BadChange("merchants", NAMES["merchants"])
    return replace(terms, merchants=names)


def _restock(terms: Terms, text: str) -> Terms:
    if text not in {"yes", "no"}:
        raise BadChange("restock", NAMES["restock"])
    return replace(terms, restock=text == "yes")


def _pairs(name: str, text: str) -> list[tuple[int, int]]:
    pairs = []
    for part in text.split(","):
        amount, _, count = part.partition(":")
        pairs.append((_whole(name, amount, least=1), _whole(name, count, least=1)))
    return pairs


def _seeded(name: str, terms: Terms, packet: PacketTerms | None) -> Terms:
    if packet is None or terms.packet is None or not terms.packet.is_seeded:
        raise BadChange(name, "only packets of tiers or of a split sum have a seed to be given by")
    least = packet.least_minor
    return replace(terms, packet=packet, face_minor=least, threshold_minor=least)


def _tiers(terms: Terms, text: str) -> Terms:
    tiers = tuple(Tier(amount, count) for amount, count in _pairs("tiers", text))
    packet = terms.packet
    return _seeded("tiers", terms, packet and replace(packet, tiers=tiers, split=None))


def _split(terms: Terms, text: str) -> Terms:
    [(total, count), *more] = _pairs("split", text)
    if more:
        raise BadChange("split", NAMES["split"])
    packet = terms.packet
    return _seeded("split", terms, packet and replace(packet, tiers=(), split=Split(total, count)))


def _intake(terms: Terms, text: str) -> Terms:
    if text != "first_come":
        raise BadChange("intake", NAMES["intake"])
    return replace(terms, intake=None)


_SETTERS: Final[dict[str, Callable[[Terms, str], Terms]]] = {
    "limit": _limit,
    "face": _face,
    "threshold": _threshold,
    "window": _claim_window,
    "validity": _validity,
    "merchants": _merchants,
    "restock": _restock,
    "tiers": _tiers,
    "split": _split,
    "intake": _intake,
}


def _check(campaign: Campaign, terms: Terms, funds: Funds) -> None:
    """Hold changed terms against the rules by which drafts are judged."""
    if terms.claim_until > terms.valid_until:
        raise BadChange("window", "claiming does not go on after the validity has ended")
    seeded = terms.packet is not None and terms.packet.is_seeded
    if seeded and (funds.quota is not None or funds.budget_minor is not None):
        raise BadChange("quota", "packets of tiers or of a split sum are funded to the fen")
    if terms.packet is not None and terms.merchants is None:
        raise BadChange("merchants", "packets are spent at designated merchants: name them")
    drafted: dict[str, Any] = {
        "originator_id": campaign.id,
        "originator_version": 1,
        "at": terms.claim_from,
        "by": Actor("operator", ""),
        "why": Why(""),
    }
    audit = CampaignAudit("main")
    event = CampaignDrafted(**drafted, name=campaign.name, sponsor=campaign.sponsor, terms=terms)
    audit.feed(1, event)
    for finding in audit.findings:
        raise BadChange("terms", f"{finding.expected}, and not {finding.found}")


def difference(was: Terms, would: Terms) -> list[tuple[str, Any, Any]]:
    """Return the fields in which terms differ: name, as it was, as it would be."""
    names: tuple[str, ...] = Terms.__struct_fields__
    pairs = ((name, getattr(was, name), getattr(would, name)) for name in names)
    return [(name, one, other) for name, one, other in pairs if one != other]


def is_of(campaign: UUID, stream: UUID, state: bytes) -> bool:
    """Whether a stored event is of a campaign. Quotation marks inside a stored text are escaped."""
    return stream == campaign or f'"campaign":"{campaign}"'.encode() in state
