"""Refusals: the stable codes that name a failing rule, in order of precedence.

A request that breaks several rules is answered with the first code of its row in `PRECEDENCE`.
A refusal writes no event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

PRECEDENCE: Final[dict[str, tuple[str, ...]]] = {
    "draft": ("next_round_unfit",),
    "propose_funding": (
        "not_found",
        "wrong_state",
        "unit_mismatch",
        "not_as_promised",
        "funding_stale",
        "below_issued",
        "below_granted",
    ),
    "approve_funding": (
        "not_found",
        "wrong_state",
        "draw_pending",
        "no_funding_proposed",
        "self_approval",
        "unit_mismatch",
        "proposal_changed",
        "below_promised",
        "below_issued",
        "below_granted",
    ),
    "open": ("not_found", "unfunded", "wrong_state", "below_promised", "registration_over"),
    "pause": ("not_found", "wrong_state"),
    "resume": ("not_found", "wrong_state"),
    "close": ("not_found", "wrong_state", "draw_pending", "winners_may_claim"),
    "claim": (
        "not_found",
        "not_open",
        "draw_only",
        "already_claimed",
        "limit_reached",
        "draw_pending",
        "already_entered",
        "sold_out",
        "budget_exhausted",
    ),
    "redeem": (
        "not_found",
        "not_drawn",
        "coupon_voided",
        "coupon_reclaimed",
        "already_redeemed",
        "coupon_expired",
        "not_yet_valid",
        "merchant_not_designated",
        "unit_mismatch",
        "below_threshold",
    ),
    "refund": ("not_found", "not_redeemed", "order_mismatch"),
    "void": (
        "not_found",
        "not_drawn",
        "already_redeemed",
        "coupon_voided",
        "coupon_expired",
        "coupon_reclaimed",
    ),
    "expire": ("not_found", "not_held", "still_valid"),
    "pay": (
        "not_found",
        "already_paid",
        "packet_closed",
        "packet_expired",
        "not_yet_valid",
        "merchant_not_designated",
        "unit_mismatch",
        "packet_empty",
        "too_many_payments",
    ),
    "refund_payment": (
        "not_found",
        "not_paid",
        "unit_mismatch",
        "refund_too_large",
        "too_many_refunds",
    ),
    "close_wallet": ("not_found", "packet_closed", "packet_expired"),
    "expire_packet": ("not_found", "not_held", "still_valid", "packet_empty"),
    "roll_over": ("not_found", "wrong_state", "nothing_left", "draw_pending"),
    "show_split": ("not_found", "wrong_state", "other_seed"),
    "close_intake": ("not_found", "wrong_state", "still_entering"),
    "draw": ("not_found", "wrong_state", "other_seed"),
    "enter_draw": (
        "not_found",
        "no_public_draw",
        "not_open",
        "registration_over",
        "entry_void",
        "withdrawn_too_often",
    ),
    "enter_many": ("not_found", "no_public_draw", "not_open", "registration_over", "entry_void"),
    "withdraw_entry": (
        "not_found",
        "no_public_draw",
        "not_open",
        "registration_over",
        "not_registered",
    ),
    "void_entry": (
        "not_found",
        "no_public_draw",
        "not_open",
        "registration_over",
        "not_registered",
    ),
    "freeze_list": ("not_found", "no_public_draw", "wrong_state", "still_entering", "list_differs"),
    "record_draw": (
        "not_found",
        "no_public_draw",
        "wrong_state",
        "other_round",
        "commitment_mismatch",
    ),
    "give_seat": ("not_found", "no_public_draw", "wrong_state", "already_won", "not_drawn"),
    "move_up": (
        "not_found",
        "no_public_draw",
        "wrong_state",
        "winners_may_claim",
        "nobody_moves_up",
    ),
    "claim_win": (
        "not_found",
        "no_public_draw",
        "not_open",
        "draw_pending",
        "already_claimed",
        "not_drawn",
        "claim_deadline_passed",
        "sold_out",
        "budget_exhausted",
    ),
    "give_drawn": ("not_found", "wrong_state", "already_claimed", "not_drawn"),
    "propose_filling": ("not_found", "wrong_state", "no_purses", "own_purse", "unit_mismatch"),
    "approve_filling": (
        "not_found",
        "wrong_state",
        "no_filling_proposed",
        "self_approval",
        "own_purse",
        "unit_mismatch",
        "filling_changed",
        "budget_exhausted",
    ),
    "empty_purse": ("not_found", "purse_empty"),
    "sweep_purse": ("not_found", "still_sending", "purse_empty"),
    "send_group": (
        "not_found",
        "not_open",
        "unit_mismatch",
        "purse_short",
        "sold_out",
        "other_seed",
    ),
    "take_share": (
        "not_found",
        "own_group",
        "not_a_member",
        "already_taken",
        "group_empty",
        "group_over",
        "not_open",
        "other_seed",
    ),
    "propose_giving_up": ("not_found", "group_closed", "still_open", "seed_known"),
    "give_up_group": (
        "not_found",
        "group_closed",
        "still_open",
        "seed_known",
        "no_giving_up_proposed",
        "self_approval",
    ),
    "return_group": ("not_found", "group_closed", "still_open", "other_seed"),
    "keep_particulars": ("person_erased", "erasure_begun"),
    "inspect_particulars": ("person_erased", "erasure_begun", "not_kept"),
    "request_erasure": ("person_erased", "erasure_begun"),
    "propose_erasure": ("person_erased", "erasure_begun"),
    "approve_erasure": (
        "person_erased",
        "erasure_begun",
        "no_erasure_proposed",
        "self_approval",
        "erasure_changed",
    ),
    "record_erasure": ("person_erased",),
    "propose_correction": (
        "not_found",
        "not_redeemed",
        "effective_too_early",
        "effective_too_late",
        "nothing_to_correct",
    ),
    "propose_payment_correction": (
        "not_found",
        "not_paid",
        "effective_too_early",
        "effective_too_late",
        "nothing_to_correct",
    ),
    "approve_correction": (
        "not_found",
        "not_redeemed",
        "no_correction_proposed",
        "self_approval",
        "correction_changed",
    ),
    "approve_payment_correction": (
        "not_found",
        "not_paid",
        "no_correction_proposed",
        "self_approval",
        "correction_changed",
    ),
}
"""Command → its refusal codes, the first that applies is answered."""


class Refusal(Exception):
    """A request breaks a rule. `code` is stable; `facts` are the values that the rule looked at."""

    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


RenderRefusal = Callable[[Refusal], bytes]
"""Turns a refusal into the bytes of its reply; the same refusal always into the same bytes."""
