"""What a draft says of a public draw: its body, checked, as the terms of the campaign."""

from __future__ import annotations

from collections.abc import Iterator

from api.bodies import invalid_body
from api.errors import FieldError
from api.schemas import DraftBody, MoneyBody, PublicDrawBody
from campaigns.draws.terms import QUICKNET, Chain, PublicDrawTerms, problems_of
from campaigns.packets.terms import Tier


def public_draw_of(body: DraftBody) -> PublicDrawTerms | None:
    """Return the terms of a draft's public draw; raise what nobody could keep."""
    if body.public_draw is None:
        return None
    terms = _terms(body.public_draw)
    window = body.claim_window
    errors = [
        FieldError(f"public_draw.{field}", "draw_impossible", words)
        for field, words in problems_of(terms, window.start, window.until)
    ]
    errors += _misfits(body, body.public_draw)
    if errors:
        raise invalid_body(errors)
    return terms


def _terms(body: PublicDrawBody) -> PublicDrawTerms:
    chain = body.chain
    return PublicDrawTerms(
        register_from=body.registration.start,
        register_until=body.registration.until,
        draw_at=body.draw_at,
        chain=QUICKNET
        if chain is None
        else Chain(hash=chain.hash, genesis=chain.genesis, period_s=chain.period_s),
        tiers=tuple(Tier(tier.amount.amount_minor, tier.winners) for tier in body.tiers),
        claim_s=body.claim_s,
        runners_up=body.runners_up,
        regions=None if body.regions is None else tuple(body.regions),
        operators=None if body.operators is None else tuple(body.operators),
    )


def _misfits(body: DraftBody, draw: PublicDrawBody) -> Iterator[FieldError]:
    """Yield what of the campaign does not fit its public draw."""
    if body.per_person_limit != 1:
        yield FieldError("per_person_limit", "draw_one_each", "A draw gives one to a person: 1.")
    if body.intake is not None and body.intake.kind != "first_come":
        yield FieldError("intake", "draw_and_intake", "A public draw has no other intake.")
    least = _least(body)
    if least is None:
        yield FieldError(
            "packet", "draw_amount", "A draw's packets have an amount: the least of its tiers."
        )
        return
    if any(tier.amount.currency != least.currency for tier in draw.tiers):
        yield FieldError("public_draw.tiers", "draw_currency", "All tiers have one currency.")
    worths = {tier.amount.amount_minor for tier in draw.tiers}
    if min(worths) != least.amount_minor or (body.coupon is not None and len(worths) > 1):
        yield FieldError(
            "public_draw.tiers", "draw_amount", "The least tier has the amount that is given."
        )


def _least(body: DraftBody) -> MoneyBody | None:
    """Return the amount of a coupon or packet; None for packets of tiers or of a split sum."""
    if body.coupon is not None:
        return body.coupon.face
    return body.packet.amount if body.packet is not None else None
