"""Errors: one table from code to status and words, and one way to write a problem.

Every refusal, from the transport to the domain, is a row of `TABLE`. When several apply to one
call, the first row down to "the writer" is answered; what the writer decides has its order of
precedence, command by command, in `campaigns.refusals`. HTTP status codes of refusals live here
and nowhere else. A problem never holds a request id, a time or what the caller sent: a replayed
refusal must be equal byte for byte, and what a person typed must not come back through an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from campaigns.refusals import Refusal

CONTENT_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "/problems/"


class Trouble(NamedTuple):
    """One row: what went wrong, the status, a title, and what it means to the caller."""

    code: str
    status: int
    title: str
    meaning: str


TABLE: Final[tuple[Trouble, ...]] = (
    # --- the request as bytes -----------------------------------------------------------------
    Trouble(
        "malformed_request",
        400,
        "This is not an HTTP request",
        "The bytes are not HTTP/1.1 as RFC 9112 writes it. The connection ends with this answer.",
    ),
    Trouble(
        "header_too_large",
        431,
        "The head of the request is too large",
        "Address and headers are longer than the server takes. The connection ends with this "
        "answer.",
    ),
    Trouble(
        "request_timeout",
        408,
        "The request did not arrive in time",
        "Nothing was done: the request was not read to its end. The connection ends with this "
        "answer.",
    ),
    # --- the call itself ----------------------------------------------------------------------
    Trouble(
        "not_found",
        404,
        "Nothing here",
        "There is nothing at this address, or it is not yours to see: the answer is the same, so "
        "that nobody learns which ids exist.",
    ),
    Trouble(
        "method_not_allowed",
        405,
        "This method is not offered here",
        "The `Allow` header lists the methods of this address. A method-override header has no "
        "effect.",
    ),
    # --- the caller ---------------------------------------------------------------------------
    Trouble(
        "unauthenticated",
        401,
        "A valid access token is needed",
        "Send `Authorization: Bearer <token>` with a token that this service's issuer signed, "
        "for this audience, inside its time, with a role.",
    ),
    Trouble(
        "issuer_unavailable",
        503,
        "Tokens cannot be checked now",
        "The sign-in service's keys could not be fetched. No token is accepted unseen; try again "
        "after the time in `Retry-After`.",
    ),
    Trouble(
        "suspended",
        403,
        "This caller is suspended",
        "Calls of this merchant or person are not taken at present, whatever token they carry.",
    ),
    Trouble(
        "rate_limited",
        429,
        "Too many calls",
        "Wait for the seconds in `Retry-After`. Many answers 404 in a row also lead here.",
    ),
    Trouble(
        "waiting_room",
        429,
        "This campaign has a waiting room",
        "Take a place with `PUT /v1/campaigns/{campaign}/place` and wait there for your turn. Then "
        "send the pass that you get with the claim, as `Tidebook-Pass`. The claim had no effect.",
    ),
    Trouble(
        "no_waiting_room",
        409,
        "This campaign has no waiting room",
        "Its claims are taken as they come: claim at once.",
    ),
    Trouble(
        "waiting_room_away",
        503,
        "The waiting room cannot be reached",
        "Places are kept in Valkey, which does not answer. Ask again after `Retry-After`; claims "
        "are taken without a pass meanwhile.",
    ),
    Trouble(
        "idempotency_key_missing",
        400,
        "An Idempotency-Key header is needed",
        "Every POST carries an `Idempotency-Key` of the caller's choice, a new one for each new "
        "intent and the same one for each retry. It is stored as it is sent and never erased, so "
        "nothing personal may be in it; a UUID is a good key.",
    ),
    Trouble(
        "idempotency_key_invalid",
        400,
        "The Idempotency-Key header is not usable",
        "Send the header once, with 1 to 128 printable ASCII characters, quoted or not.",
    ),
    Trouble(
        "role_forbidden",
        403,
        "Your role may not do this",
        "The token is good, but its role does not cover this call.",
    ),
    # --- the request's form -------------------------------------------------------------------
    Trouble(
        "body_too_large",
        413,
        "The body is too large",
        "A body has at most 64 KiB. It was not read to its end.",
    ),
    Trouble(
        "unsupported_media_type",
        415,
        "The body must be JSON",
        "Send `Content-Type: application/json`, in UTF-8 and without a content encoding.",
    ),
    Trouble(
        "malformed_json",
        400,
        "The body is not well-formed JSON",
        "The body must be one JSON object in UTF-8 (RFC 8259), with no name twice in one object, "
        "no lone surrogates, and no NaN or Infinity.",
    ),
    Trouble(
        "invalid_header",
        400,
        "A header is not usable",
        "A header that this call reads has a value outside its documented form.",
    ),
    Trouble(
        "invalid_query",
        422,
        "The query is not valid",
        "Each entry of `errors` names a parameter and the rule that it breaks.",
    ),
    Trouble(
        "invalid_body",
        422,
        "The body is not valid",
        "Each entry of `errors` names a field by its path, the rule that it breaks, and the rule "
        "in words.",
    ),
    # --- the writer ---------------------------------------------------------------------------
    Trouble(
        "overloaded",
        503,
        "Too much is waiting",
        "Nothing was done. Try again with the same key after the time in `Retry-After`.",
    ),
    Trouble(
        "idempotency_key_reused",
        422,
        "This Idempotency-Key was used for something else",
        "The key already stands for another call or another body of yours. Use a new key for a "
        "new intent.",
    ),
    Trouble(
        "idempotency_in_flight",
        409,
        "The first call with this key is still running",
        "Nothing was done by this call. Ask again with the same key to get the first one's answer.",
    ),
    # --- the rules of campaigns ---------------------------------------------------------------
    Trouble(
        "wrong_state",
        409,
        "The campaign is in another state",
        "The campaign's `state` does not allow this; `allowed` lists the states that do.",
    ),
    Trouble(
        "unfunded",
        409,
        "The campaign has no funds",
        "A campaign opens only after a second operator has approved its quota and budget.",
    ),
    Trouble(
        "no_funding_proposed",
        409,
        "No funding waits for approval",
        "There is no proposal of quota and budget to approve.",
    ),
    Trouble(
        "self_approval",
        403,
        "Somebody else must approve",
        "Whoever proposed it cannot approve it, from whatever account.",
    ),
    Trouble(
        "unit_mismatch",
        422,
        "The currency does not fit",
        "An amount is in another currency than `currency`, the one that counts here.",
    ),
    Trouble(
        "next_round_unfit",
        409,
        "Leftovers cannot go there",
        "The next round must be another campaign of the same book, sponsor and currency that is "
        "not closed and is not funded to the fen for tiers or a split sum.",
    ),
    Trouble(
        "not_as_promised",
        409,
        "These are not the funds that the terms need",
        "Tiers and split sums are funded with exactly `quota` packets and `budget_minor`, "
        "before the campaign opens.",
    ),
    Trouble(
        "proposal_changed",
        409,
        "The proposal is another one",
        "The quota and budget that wait for approval are not those that were sent.",
    ),
    Trouble(
        "funding_stale",
        409,
        "The funding has changed meanwhile",
        "The campaign's quota and budget are not those that the proposal started from.",
    ),
    Trouble(
        "below_issued",
        409,
        "More coupons are issued already",
        "The quota cannot be lower than the number of coupons issued.",
    ),
    Trouble(
        "below_granted",
        409,
        "More money is granted already",
        "The budget cannot be lower than the money granted to holders.",
    ),
    # --- the rules of claiming ----------------------------------------------------------------
    Trouble(
        "not_open",
        409,
        "The campaign is not open",
        "Coupons can be claimed only while the campaign is open and inside its claim window.",
    ),
    Trouble(
        "already_claimed",
        409,
        "You have this coupon already",
        "A person can have one coupon of this campaign; `coupon` is the one that you have.",
    ),
    Trouble(
        "limit_reached",
        409,
        "You have all that one person may have",
        "A person can have `per_person_limit` coupons of this campaign.",
    ),
    Trouble(
        "draw_pending",
        409,
        "The draw is not done yet",
        "The first claims of this campaign are drawn by lot from `draws_at` on. Until each winner "
        "has the coupon nothing else is given out; ask with a new key after `Retry-After`.",
    ),
    Trouble(
        "already_entered",
        409,
        "You are in the draw already",
        "A person enters once. `coupon` is the coupon that you have if you are drawn, at "
        "`draws_at`.",
    ),
    Trouble(
        "sold_out",
        409,
        "All coupons are claimed",
        "The campaign's whole quota is issued.",
    ),
    Trouble(
        "budget_exhausted",
        409,
        "The budget is used up",
        "What is left in the campaign's pot is less than a coupon's face value.",
    ),
    # --- the rules of coupons -----------------------------------------------------------------
    Trouble(
        "not_drawn",
        409,
        "The draw has not given this coupon",
        "Somebody entered a draw with this coupon's id. It is nobody's coupon unless it is drawn.",
    ),
    Trouble(
        "coupon_voided",
        409,
        "The coupon was voided",
        "An operator ended this coupon; it cannot be used.",
    ),
    Trouble(
        "coupon_reclaimed",
        409,
        "The coupon was reclaimed",
        "This coupon was refunded after its validity and has ended.",
    ),
    Trouble(
        "already_redeemed",
        409,
        "The coupon is redeemed",
        "This coupon is in use for an order.",
    ),
    Trouble(
        "coupon_expired",
        409,
        "The coupon has expired",
        "The coupon's validity ended at `valid_until`.",
    ),
    Trouble(
        "not_yet_valid",
        409,
        "The coupon is not valid yet",
        "The coupon's validity starts at `valid_from`.",
    ),
    Trouble(
        "merchant_not_designated",
        409,
        "This merchant does not take the coupon",
        "The campaign names the merchants that take its coupons, and this is none of them.",
    ),
    Trouble(
        "below_threshold",
        409,
        "The order is too small",
        "The coupon takes its amount off orders from `threshold_minor` on.",
    ),
    Trouble(
        "not_redeemed",
        409,
        "The coupon is not redeemed",
        "Only a redemption can be refunded or corrected, and this coupon's `state` is another.",
    ),
    Trouble(
        "order_mismatch",
        409,
        "The coupon was used for another order",
        "The order number is not that of the coupon's redemption.",
    ),
    Trouble(
        "not_held",
        409,
        "The coupon is not held",
        "Only a coupon that is held can expire, and this coupon's `state` is another.",
    ),
    Trouble(
        "still_valid",
        409,
        "The coupon is still valid",
        "The coupon's validity ends at `valid_until`.",
    ),
    # --- the rules of packets ----------------------------------------------------------------
    Trouble(
        "already_paid",
        409,
        "The order is paid already",
        "An order is paid once from a packet; `payment` is the payment. A till that asks again "
        "because it lost the answer must not collect the money again.",
    ),
    Trouble(
        "packet_closed",
        409,
        "The packet's wallet was closed",
        "The wallet that held this packet was closed and what was left in the packet went back.",
    ),
    Trouble(
        "packet_expired",
        409,
        "The packet has expired",
        "The packet's validity ended at `valid_until`.",
    ),
    Trouble(
        "packet_empty",
        409,
        "The packet is empty",
        "There is nothing left in this packet. A refund may fill it again while it is valid.",
    ),
    Trouble(
        "too_many_payments",
        409,
        "The packet has made too many payments",
        "A packet makes `payments_max` payments at most.",
    ),
    Trouble(
        "not_paid",
        409,
        "There is no such payment",
        "This packet has paid nothing for this order of yours.",
    ),
    Trouble(
        "refund_too_large",
        409,
        "The refund is too large",
        "No more is given back than was paid: `left_minor` of the payment is left.",
    ),
    Trouble(
        "too_many_refunds",
        409,
        "The payment was refunded too often",
        "A payment is given back in `refunds_max` parts at most.",
    ),
    # --- the rules of group packets -----------------------------------------------------------
    Trouble(
        "no_purses",
        409,
        "The campaign has no purses",
        "Only a campaign of packets fills purses, and only where its money is not promised to "
        "tiers, a split sum or a draw.",
    ),
    Trouble(
        "own_purse",
        403,
        "The purse would be your own",
        "Nobody proposes or approves money for a purse of theirs.",
    ),
    Trouble(
        "no_filling_proposed",
        409,
        "Nothing is proposed for the purse",
        "There is no amount that waits for approval.",
    ),
    Trouble(
        "filling_changed",
        409,
        "The proposal is another one",
        "What was proposed for the purse meanwhile is `amount_minor`.",
    ),
    Trouble(
        "purse_short",
        409,
        "There is not enough in the purse",
        "The purse has `balance_minor`, and more cannot be sent.",
    ),
    Trouble(
        "purse_empty",
        409,
        "The purse is empty",
        "There is nothing in it to give back.",
    ),
    Trouble(
        "still_sending",
        409,
        "The purse can still be sent from",
        "Until `ends_at`, the end of the claim window, the person may send what is in it.",
    ),
    Trouble(
        "own_group",
        403,
        "You sent this group packet",
        "Its sender takes no share of it; the sender can allow that when sending.",
    ),
    Trouble(
        "not_a_member",
        403,
        "This group packet is for others",
        "Its sender named who may take a share, and you are not among them.",
    ),
    Trouble(
        "already_taken",
        409,
        "You have a share already",
        "A person takes one share of a group packet; `share` is the one that you have.",
    ),
    Trouble(
        "group_empty",
        409,
        "All shares are taken",
        "Each of the `shares` of this group packet has somebody.",
    ),
    Trouble(
        "group_over",
        409,
        "The time is over",
        "Shares could be taken until `until`; what is left goes back to the sender.",
    ),
    Trouble(
        "group_closed",
        409,
        "The group packet is closed",
        "All its shares are taken, or what was left has gone back to the sender.",
    ),
    Trouble(
        "still_open",
        409,
        "Shares can still be taken",
        "What is left goes back to the sender at `until`, not before.",
    ),
    Trouble(
        "seed_known",
        409,
        "The seed of this group packet is not lost",
        "The service has the draw key that it was sent with: what is left goes back by itself.",
    ),
    Trouble(
        "no_giving_up_proposed",
        409,
        "Nobody asked that the group packet be given up",
        "One operator asks for it and another one approves it.",
    ),
    # --- the rules of public draws ------------------------------------------------------------
    Trouble(
        "no_public_draw",
        409,
        "This campaign has no public draw",
        "There is nothing to register for: what it gives is claimed.",
    ),
    Trouble(
        "draw_only",
        409,
        "This campaign gives by a public draw only",
        "Register for the draw; whoever is drawn claims with `POST "
        "/v1/campaigns/{campaign}/draw/wins`. The draw is at `draws_at`.",
    ),
    Trouble(
        "registration_over",
        409,
        "The registration is over",
        "Entries are made, taken back and voided until `ended_at`. Then the list is frozen.",
    ),
    Trouble(
        "entry_void",
        409,
        "This entry is void",
        "The first valid entry of an identity and of a telephone counts. `reason` says why this "
        "one does not: `same_person`, `same_phone`, `region`, `operator` or `voided`. `signature` "
        "is over the bytes of `statement`, so that it can be shown to others.",
    ),
    Trouble(
        "withdrawn_too_often",
        409,
        "You have withdrawn too often",
        "A person may register `most` times for one draw.",
    ),
    Trouble(
        "not_registered",
        409,
        "The entry is not in the list",
        "Only an entry that is in the list can leave it, and this one's `state` is another.",
    ),
    Trouble(
        "claim_deadline_passed",
        409,
        "The time to claim is over",
        "You were drawn and could claim until `claim_until`. The seat is for a runner-up now.",
    ),
    Trouble(
        "winners_may_claim",
        409,
        "Winners may still claim",
        "Until `claim_until` what was drawn is kept for those who were drawn.",
    ),
    Trouble(
        "below_promised",
        409,
        "The draw promises more",
        "A public draw is funded for every seat: `quota` of them, worth `budget_minor`.",
    ),
    Trouble(
        "not_frozen",
        409,
        "The list is not frozen yet",
        "It is published, with its root, after the registration has ended.",
    ),
    Trouble(
        "list_away",
        503,
        "The list cannot be read here now",
        "The list of this draw is not on this machine, or is being made again from the book.",
    ),
    # --- the steps of a draw, asked for by the service itself ---------------------------------
    Trouble(
        "still_entering",
        409,
        "The intake is still open",
        "People may enter until `draws_at`.",
    ),
    Trouble(
        "other_seed",
        409,
        "This is not the seed of this draw",
        "The SHA-256 of the seed is not the `seed_commitment` that was published before. The "
        "service has another draw key than it had then.",
    ),
    Trouble(
        "list_differs",
        409,
        "This is not the whole list",
        "The book has `entries` places in the list, `withdrawn` of them empty.",
    ),
    Trouble(
        "other_round",
        409,
        "This value does not decide the draw",
        "The beacon's round `round` does, which is emitted at `emitted_at`.",
    ),
    Trouble(
        "commitment_mismatch",
        409,
        "The seed is not the one that was committed to",
        "The SHA-256 of the seed is not the `seed_commitment` that was published at the opening.",
    ),
    Trouble(
        "already_won",
        409,
        "This entry has its seat",
        "A seat is given once.",
    ),
    Trouble(
        "nobody_moves_up",
        409,
        "Nobody moves up",
        "There is no vacant seat, no runner-up left, or nothing can be claimed any more.",
    ),
    Trouble(
        "nothing_left",
        409,
        "The pot is empty",
        "There is nothing to move into the next round.",
    ),
    # --- persons ------------------------------------------------------------------------------
    Trouble(
        "person_erased",
        403,
        "This person was erased",
        "Nothing is kept of this person any more, and nothing comes back. Whoever was erased may "
        "sign in as somebody new from `until` on, when the campaigns of that time are over.",
    ),
    Trouble(
        "erasure_begun",
        409,
        "The erasure has begun",
        "It was asked for and will be done; there is no way back.",
    ),
    Trouble(
        "not_kept",
        409,
        "These particulars are not kept",
        "The person has not given them, so that there is nothing to see.",
    ),
    Trouble(
        "no_erasure_proposed",
        409,
        "No erasure waits for approval",
        "Propose it first; a second operator approves it.",
    ),
    Trouble(
        "erasure_changed",
        409,
        "Another erasure is proposed",
        "It is proposed on another `basis`; look at it again before you approve.",
    ),
    # --- corrections --------------------------------------------------------------------------
    Trouble(
        "effective_too_early",
        409,
        "It cannot have been taken so early",
        "The holder had the coupon or packet, and it was valid, from `earliest` on.",
    ),
    Trouble(
        "effective_too_late",
        409,
        "It cannot have been taken so late",
        "The ledger recorded it at `recorded_at`; a till reports late, and never early.",
    ),
    Trouble(
        "nothing_to_correct",
        409,
        "It counts for that instant already",
        "Nothing would change: `effective_at` is what it counts for.",
    ),
    Trouble(
        "no_correction_proposed",
        409,
        "No correction waits for approval",
        "Propose it first; a second operator approves it. What was refunded is another matter.",
    ),
    Trouble(
        "correction_changed",
        409,
        "Another instant is proposed",
        "`effective_at` is what is proposed now; look at it again before you approve.",
    ),
    # --- what happened to the store -----------------------------------------------------------
    Trouble(
        "store_unavailable",
        503,
        "The ledger's store cannot be reached",
        "Nothing was done. Try again with the same key after the time in `Retry-After`.",
    ),
    Trouble(
        "outcome_unknown",
        503,
        "Whether it was done is not known",
        "The reply of the store was lost or late. The same call with the same key gives the "
        "answer, and has its effect at most once.",
    ),
    Trouble(
        "behind",
        503,
        "The figures are not there yet",
        "The read models have not reached the position in `Tidebook-Min-Position`. Ask again "
        "after the time in `Retry-After`.",
    ),
    Trouble(
        "internal_error",
        500,
        "Something broke here",
        "This is our fault, and it is in our log under the request id of this reply. Whether a "
        "write was done is not known; the same key gives the answer.",
    ),
)


class FieldError(NamedTuple):
    """One broken rule of one field: its path, the rule's stable name, the rule in words."""

    field: str
    rule: str
    message: str


class Problem(Exception):
    """A refusal on its way to the caller."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        facts: Mapping[str, Any] | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.trouble = BY_CODE[code]
        self.detail = detail
        self.facts = dict(facts or {})
        self.errors = tuple(errors)
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status of this problem."""
        return self.trouble.status

    @property
    def body(self) -> bytes:
        """The problem as `application/problem+json`."""
        facts = dict(self.facts)
        if self.errors:
            facts["errors"] = [error._asdict() for error in self.errors]
        return problem_body(self.trouble.code, self.detail, facts)


BY_CODE: Final[Mapping[str, Trouble]] = MappingProxyType({row.code: row for row in TABLE})


def status_of(code: str) -> int:
    """Return the HTTP status of a refusal."""
    return BY_CODE[code].status


def problem_body(code: str, detail: str, facts: Mapping[str, Any] | None = None) -> bytes:
    """Return a problem's bytes: the members of RFC 9457 first, then the facts by name.

    The same refusal gives the same bytes on every machine, at every time.
    """
    trouble = BY_CODE[code]
    members = {
        "type": TYPE_BASE + code,
        "title": trouble.title,
        "status": trouble.status,
        "code": code,
        "detail": detail,
    }
    for name in sorted(facts or ()):
        assert name not in members, f"the fact {name!r} would hide a member of the problem"
        members[name] = (facts or {})[name]
    return msgspec.json.encode(members)


def render_refusal(refusal: Refusal) -> bytes:
    """Return the body of a refusal by the rules of campaigns and coupons."""
    if refusal.code == "not_found":
        return NOT_FOUND_BODY
    return problem_body(refusal.code, BY_CODE[refusal.code].meaning, refusal.facts)


# --- problems that several places answer with -----------------------------------------------------

RETRY_SOON: Final = {"Retry-After": "1"}

RETRY_AFTER: Final[Mapping[str, str]] = MappingProxyType({"draw_pending": "5"})
"""Refusals by the rules after which it is worth to ask again with a new key → seconds to wait."""


NOT_FOUND_DETAIL: Final = "There is nothing here, or it is not yours to see."
NOT_FOUND_BODY: Final = problem_body("not_found", NOT_FOUND_DETAIL)


def not_found() -> Problem:
    """Absent and not yours to see: one answer, so that neither tells of the other."""
    return Problem("not_found", NOT_FOUND_DETAIL)


def unauthenticated(detail: str) -> Problem:
    """No token or a bad one. `detail` says which rule failed, never what was sent."""
    challenge = 'Bearer realm="tidebook"'
    if detail != UNSIGNED:
        challenge += ', error="invalid_token"'
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": challenge})


UNSIGNED: Final = "The call carries no bearer token."


def rate_limited(wait_s: float) -> Problem:
    """Too fast: come back after `wait_s` seconds, rounded up to whole ones."""
    return Problem(
        "rate_limited",
        "Calls come faster than this caller may call.",
        headers={"Retry-After": str(max(1, int(-(-wait_s // 1))))},
    )
