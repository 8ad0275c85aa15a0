"""Examples: one campaign and one coupon, told through every request and reply of the docs."""

from __future__ import annotations

from typing import Any, Final

CAMPAIGN: Final = "cmp_main_0f8fad5bd9cb5c1a8a5f3b1c2d3e4f50"
COUPON: Final = "cpn_main_7c9e6679742558de944be07fc1f90ae7"
PERSON: Final = "6664a42048c6d6d7fe3657e39b14155c"


def money(amount_minor: int) -> dict[str, Any]:
    """Return an amount in fen."""
    return {"amount_minor": amount_minor, "currency": "CNY"}


TERMS: Final = {"kind": "threshold", "face": money(10_000), "threshold": money(100_000)}

DRAFT: Final = {
    "name": "Spring in Sanya: 1000 − 100",
    "sponsor": "province",
    "coupon": TERMS,
    "per_person_limit": 1,
    "claim_window": {"from": "2026-05-01T10:00:00+08:00", "until": "2026-05-05T22:00:00+08:00"},
    "validity_window": {"from": "2026-05-01T10:00:00+08:00", "until": "2026-05-11T00:00:00+08:00"},
    "zone": "Asia/Shanghai",
    "merchants": ["duty-free-haitang", "duty-free-phoenix"],
    "restock": False,
}
FUNDING: Final = {
    "quota": 20_000,
    "budget": money(200_000_000),
    "current_quota": 0,
    "current_budget_minor": 0,
}
APPROVAL: Final = {"quota": 20_000, "budget": money(200_000_000)}
REASON: Final = {"reason": "a wrong threshold in the announcement"}
REDEMPTION: Final = {
    "order": "2026-0501-000017",
    "order_total": money(128_000),
    "shop": "haitang-3f",
}
REFUND: Final = {"order": "2026-0501-000017", "reason": "returned"}


def campaign(state: str, *, proposed: bool = False) -> dict[str, Any]:
    """Return the campaign in one of its states."""
    funded = state != "draft"
    return {
        "campaign": CAMPAIGN,
        "name": DRAFT["name"],
        "sponsor": "province",
        "state": state,
        "version": {"draft": 2 if proposed else 1, "funded": 3}.get(state, 4),
        "coupon": TERMS,
        "per_person_limit": 1,
        "claim_window": {"from": "2026-05-01T02:00:00Z", "until": "2026-05-05T14:00:00Z"},
        "validity_window": {"from": "2026-05-01T02:00:00Z", "until": "2026-05-10T16:00:00Z"},
        "zone": "Asia/Shanghai",
        "merchants": DRAFT["merchants"],
        "restock": False,
        "quota": 20_000 if funded else 0,
        "budget": money(200_000_000 if funded else 0),
        "proposal": {"quota": 20_000, "budget": money(200_000_000), "proposed_by": PERSON}
        if proposed
        else None,
    }


def coupon() -> dict[str, Any]:
    """Return a coupon just claimed."""
    return {
        "coupon": COUPON,
        "campaign": CAMPAIGN,
        "n": 1,
        "state": "held",
        "face": money(10_000),
        "threshold": money(100_000),
        "valid_from": "2026-05-01T02:00:00Z",
        "valid_until": "2026-05-10T16:00:00Z",
        "claimed_at": "2026-05-01T02:00:00.184213Z",
    }


PACKET: Final = "pkt_main_2b1f0a7e5d3c5e8f9a6b4c2d1e0f9a8b"
PAYMENT_ID: Final = "pay_main_91c7d0c8a6f15b0e8f2d3c4b5a697887"
REFUND_ID: Final = "rfd_main_5f4e3d2c1b0a59687f6e5d4c3b2a1908"


def packet() -> dict[str, Any]:
    """Return a packet just claimed."""
    return {
        "packet": PACKET,
        "campaign": CAMPAIGN,
        "n": 1,
        "state": "held",
        "amount": money(20_000),
        "balance": money(20_000),
        "valid_from": "2026-05-01T02:00:00Z",
        "valid_until": "2026-05-10T16:00:00Z",
        "claimed_at": "2026-05-01T02:00:00.184213Z",
    }


PAYMENT: Final = {"order": "2026-0501-000018", "total": money(25_000), "shop": "haitang-3f"}
PAID: Final = {
    "payment": PAYMENT_ID,
    "packet": PACKET,
    "campaign": CAMPAIGN,
    "merchant": "duty-free-haitang",
    "order": PAYMENT["order"],
    "total": money(25_000),
    "from_packet": money(20_000),
    "payable": money(5_000),
    "paid_at": "2026-05-02T07:11:42.000815Z",
}
PAYMENT_REFUND: Final = {
    "order": PAYMENT["order"],
    "amount": money(8_000),
    "reason": "one of three items came back",
}
PAYMENT_REFUNDED: Final = {
    "refund": REFUND_ID,
    "payment": PAYMENT_ID,
    "packet": PACKET,
    "campaign": CAMPAIGN,
    "merchant": "duty-free-haitang",
    "order": PAYMENT["order"],
    "refunded": money(8_000),
    "to_own": money(5_000),
    "to_packet": money(3_000),
    "reclaimed": money(0),
    "refunded_at": "2026-05-03T03:40:09.551902Z",
}
WALLET_CLOSED: Final = {
    "packet": PACKET,
    "campaign": CAMPAIGN,
    "state": "closed",
    "returned": money(3_000),
    "returned_to": "sponsor",
    "ended_at": "2026-05-04T01:00:00.000102Z",
}
PACKET_VIEW: Final = {
    "packet": PACKET,
    "campaign": CAMPAIGN,
    "state": "held",
    "valid_from": "2026-05-01T02:00:00Z",
    "valid_until": "2026-05-10T16:00:00Z",
    "n": 1,
    "amount": money(20_000),
    "balance": money(3_000),
    "payments": 1,
    "claimed_at": "2026-05-01T02:00:00.184213Z",
}
MOVEMENT: Final = {
    "kind": "paid",
    "at": PAID["paid_at"],
    "from_packet": money(20_000),
    "own": money(5_000),
    "merchant": "duty-free-haitang",
    "shop": "haitang-3f",
    "order": PAYMENT["order"],
    "payment": PAYMENT_ID,
}
STATEMENT: Final = {
    "packet": PACKET,
    "items": [
        {
            "kind": "claimed",
            "at": "2026-05-01T02:00:00.184213Z",
            "from_packet": money(20_000),
            "balance": money(20_000),
        },
        {**MOVEMENT, "balance": money(0)},
    ],
    "next": None,
}

ENTRY: Final = {
    "coupon": COUPON,
    "campaign": CAMPAIGN,
    "state": "entered",
    "entered_at": "2026-05-01T02:00:00.184213Z",
    "draws_at": "2026-05-01T02:00:30Z",
}
REDEEMED: Final = {
    "coupon": COUPON,
    "campaign": CAMPAIGN,
    "state": "redeemed",
    "merchant": "duty-free-haitang",
    "order": REDEMPTION["order"],
    "discount": money(10_000),
    "payable": money(118_000),
    "redeemed_at": "2026-05-02T07:11:42.000815Z",
}
REFUNDED: Final = {
    "coupon": COUPON,
    "campaign": CAMPAIGN,
    "state": "held",
    "merchant": "duty-free-haitang",
    "order": REDEMPTION["order"],
    "refunded": money(10_000),
    "refunded_at": "2026-05-03T03:40:09.551902Z",
}
VOIDED: Final = {
    "coupon": COUPON,
    "campaign": CAMPAIGN,
    "state": "voided",
    "returned": money(10_000),
    "returned_to": "campaign",
    "ended_at": "2026-05-04T01:00:00.000102Z",
}


def campaign_view() -> dict[str, Any]:
    """Return the campaign as a tourist sees it."""
    hidden = {"version", "quota", "budget", "proposal"}
    return {name: value for name, value in campaign("open").items() if name not in hidden}


FIGURES: Final = {
    "campaign": CAMPAIGN,
    "state": "open",
    "quota": 20_000,
    "budget": money(200_000_000),
    "coupons": {
        "claimed": 12_004,
        "held": 9_000,
        "redeemed": 3_000,
        "refunded": 41,
        "expired": 0,
        "voided": 4,
        "reclaimed": 0,
        "entered": 0,
        "drawn": 0,
    },
    "money": {
        "funded": money(200_000_000),
        "pot": money(80_000_000),
        "held": money(90_000_000),
        "spent": money(30_000_000),
        "reclaimed": money(0),
    },
    "position": 15_052,
}
WALLET: Final = {
    "items": [coupon()],
    "worth": [{"count": 1, "amount_minor": 10_000, "currency": "CNY"}],
    "next": None,
}
BALANCE: Final = {
    "merchant": "duty-free-haitang",
    "items": [
        {
            "book": "main",
            "redemptions": 3_000,
            "refunds": 41,
            "redeemed": money(30_000_000),
            "refunded": money(410_000),
            "payments": 1_204,
            "payment_refunds": 18,
            "paid": money(16_803_000),
            "paid_back": money(203_500),
            "balance": money(46_189_500),
        }
    ],
}
REDEMPTIONS: Final = {
    "items": [
        {
            "coupon": COUPON,
            "shop": REDEMPTION["shop"],
            "order": REDEMPTION["order"],
            "discount": money(10_000),
            "redeemed_at": REDEEMED["redeemed_at"],
            "refunded_at": None,
        }
    ],
    "next": None,
}
HEAD: Final = {"book": "main", "position": 15_052, "at": "2026-05-03T03:40:09.551902Z"}
EVENTS: Final = {
    "items": [
        {
            "position": 4,
            "stream": CAMPAIGN.rpartition("_")[2],
            "version": 4,
            "topic": "campaign.opened",
            "state": {
                "at": "2026-05-01T01:00:00Z",
                "by": {"role": "operator", "id": PERSON},
                "why": {"request": "0b7c5a1e2f90-4", "key": "open-1", "fingerprint": "9f" * 32},
            },
        }
    ],
    "next": 4,
}
SESSION: Final = {"device": "5b1f0c1e-phone"}
SESSION_REPLY: Final = {
    "session_token": "tbs1.…",
    "expires_at": "2026-05-01T02:05:00Z",
    "role": "tourist",
}
TOKEN: Final = {"role": "merchant", "identity": "till 7", "merchant": "duty-free-haitang"}
TOKEN_REPLY: Final = {"access_token": "eyJ…", "token_type": "Bearer", "expires_in": 43_200}
READY: Final = {
    "status": "ready",
    "database": "ok",
    "rate_limits": "shared",
    "books": [
        {
            "book": "main",
            "position": 15_052,
            "behind": {"wallets": 0, "campaign_figures": 0, "merchant_balances": 0},
            "lag_s": {"wallets": 0.0, "campaign_figures": 0.0, "merchant_balances": 0.0},
            "queued": 0,
            "served": 15_040,
            "halted": None,
        }
    ],
}


PLACE: Final = {
    "campaign": CAMPAIGN,
    "state": "waiting",
    "number": 4_211,
    "ahead": 1_704,
    "wait_s": 3.4,
    "served_per_s": 500.0,
    "places": 38_020,
    "left": 17_493,
}
FAIRNESS: Final = {
    "campaign": CAMPAIGN,
    "pool": "all",
    "opened_for_claims": "2026-05-01T02:00:00Z",
    "calls": 61_204,
    "granted": 20_000,
    "refused": {"sold_out": 40_113, "already_claimed": 989, "not_open": 102},
    "early": 102,
    "first_second_calls": 9_310,
    "first_second_granted": 9_288,
    "first_second_share": 0.4644,
    "order": {
        "last_granted": "2026-05-01T02:00:02.204119Z",
        "first_sold_out": "2026-05-01T02:00:02.190733Z",
        "overtaking_ms": 13.386,
    },
    "latency": {"p50_ms": 20, "p90_ms": 50, "p99_ms": 100},
    "latency_granted": {"p50_ms": 50, "p90_ms": 50, "p99_ms": 100},
    "spans": [
        {
            "at": "2026-05-01T02:00:00Z",
            "span_s": 1,
            "calls": 9_310,
            "granted": 9_288,
            "refused": {"already_claimed": 22},
            "chance": 0.997637,
            "latency": {"p50_ms": 50, "p90_ms": 50, "p99_ms": 100},
        }
    ],
    "spans_left_out": 59,
}


# Persons

PERSON_NAME: Final = "per_main_6664a42048c6d6d7fe3657e39b14155c"
PARTICULARS: Final = {"telephone": "+8613800000000", "payee_name": "李 Li"}
INSPECTION: Final = {"fields": ["telephone"], "purpose": "delivery"}
INSPECTED: Final = {
    "person": PERSON_NAME,
    "fields": ["telephone"],
    "purpose": "delivery",
    "until": "2026-05-03T02:30:00.184213Z",
}
BASIS: Final = {"basis": "written_request"}
PARTICULARS_VIEW: Final = {
    "person": PERSON_NAME,
    "state": "known",
    "kept": ["telephone", "payee_name"],
    "telephone": "+8613800000000",
    "address": None,
    "payee_name": None,
    "inspections": [
        {
            "by": "0d2f4be8a1c34d7790b5f6a3e2c1d845",
            "fields": ["telephone"],
            "purpose": "delivery",
            "at": "2026-05-03T02:15:00.184213Z",
            "until": "2026-05-03T02:30:00.184213Z",
        }
    ],
}


def person(state: str) -> dict[str, Any]:
    """How a person stands."""
    return {"person": PERSON_NAME, "state": state, "kept": ["telephone", "payee_name"]}


# A public draw

ENTRY_ID: Final = "ent_main_5a0c6d3b1e7f5c2d9a4b8e6f7c1d2a3b"
REGISTRATION: Final = {"phone": "+8613800000000", "region": "460000", "operator": "icbc"}
REGISTERED: Final = {
    "entry": ENTRY_ID,
    "campaign": CAMPAIGN,
    "state": "registered",
    "index": 117_042,
    "leaf": "5a0c6d3b1e7f5c2d9a4b8e6f7c1d2a3b00000001",
    "entered_at": "2026-04-20T03:10:00.184213Z",
    "draw_at": "2026-05-01T01:00:00Z",
    "round": 28_264_612,
}
_CHAIN: Final = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
_HASH: Final = "9f" * 32
_LIST: Final = {
    "entries": 1_913_847,
    "root": "3e" * 32,
    "withdrawn": 2_112,
    "withdrawn_sha256": _HASH,
}
PUBLIC_DRAW: Final = {
    "campaign": CAMPAIGN,
    "state": "frozen",
    "registration": {"from": "2026-04-20T02:00:00Z", "until": "2026-04-30T10:00:00Z"},
    "draw_at": "2026-05-01T01:00:00Z",
    "beacon": {
        "chain": _CHAIN,
        "genesis": 1_692_803_367,
        "period_s": 3,
        "round": 28_264_612,
        "emitted_at": "2026-05-01T01:00:00Z",
    },
    "tiers": [{"winners": 20_000, "amount": money(10_000)}],
    "runners_up": 2_000,
    "claim_s": 86_400,
    "regions": ["460000"],
    "operators": None,
    "seed_commitment": "c4" * 32,
    "refusal_key": "7b" * 32,
    "list": {
        **_LIST,
        "announcement_sha256": "a1" * 32,
        "frozen_at": "2026-04-30T10:00:01.002Z",
    },
}
DRAW_ENTRY: Final = {
    **REGISTERED,
    "state": "won",
    "won": {
        "rank": 311,
        "turn": 0,
        "tier": 1,
        "amount": money(10_000),
        "claim_until": "2026-05-02T01:00:04Z",
    },
}
ANNOUNCEMENT: Final = {
    "format": "tidebook-draw/1",
    "campaign": CAMPAIGN,
    "name": DRAFT["name"],
    "register_from": "2026-04-20T02:00:00Z",
    "register_until": "2026-04-30T10:00:00Z",
    "draw_at": "2026-05-01T01:00:00Z",
    "beacon": {
        "chain": _CHAIN,
        "genesis": 1_692_803_367,
        "period_s": 3,
        "round": 28_264_612,
    },
    "seed_commitment": "c4" * 32,
    "tiers": [{"amount_minor": 10_000, "winners": 20_000}],
    "currency": "CNY",
    "runners_up": 2_000,
    "claim_s": 86_400,
    "list": _LIST,
}
DRAW_PROOF: Final = {
    "format": "tidebook-draw/1",
    "index": 117_042,
    "leaf": REGISTERED["leaf"],
    "path": [_HASH] * 21,
    "root": "3e" * 32,
    "size": 1_913_847,
}

# Group packets: a purse of the same campaign, and a group that was sent from it

PURSE_ID: Final = "prs_main_9d2b1c0e7a3f5d4e8b6c2a1f0e9d8c7b"
GROUP_ID: Final = "grp_main_4e6f8a1b3c5d5e7f9a0b2c4d6e8f0a1b"
SHARE_ID: Final = "pkt_main_5b7c9d1e3f405a6b8c9d0e1f2a3b4c5d"
SENDER: Final = "b3d1f5a7c9e2048683a1c5e7092b4d6f"

PURSE_BODY: Final = {"person": SENDER, "amount": money(100_000)}
FILLING_BODY: Final = {"amount": money(100_000)}
GROUP_BODY: Final = {
    "kind": "random",
    "shares": 8,
    "total": money(20_000),
    "salt": "7f3a" * 16,
    "sender_may_take": False,
}
LOST_KEY: Final = {"reason": "the draw key was lost in a fire"}
GIVING_UP: Final = {
    "group": GROUP_ID,
    "campaign": CAMPAIGN,
    **LOST_KEY,
    "proposed_by": "0d2f4be8a1c34d7790b5f6a3e2c1d845",
    "left": money(16_859),
}
SHARE_BODY: Final = {"code": "k3ybqf7ph2mzx5wcnd4r"}


BILL: Final = {"merchant": "duty-free-haitang", "order": PAYMENT["order"]}
CORRECTION_APPROVAL: Final = {"effective_at": "2026-05-02T03:02:00Z"}
CORRECTION_BODY: Final = {**CORRECTION_APPROVAL, "reason": "the till was offline"}


def correction(*, proposed: bool) -> dict[str, Any]:
    """Return the two times of a redemption, before or after a second operator has approved."""
    recorded = "2026-05-02T07:11:42.000815Z"
    return {
        "of": COUPON,
        "packet": None,
        "merchant": "duty-free-haitang",
        "order": REDEMPTION["order"],
        "recorded_at": recorded,
        "effective_at": recorded if proposed else CORRECTION_APPROVAL["effective_at"],
        "proposal": {**CORRECTION_BODY, "proposed_by": "0d2f4be8a1c34d7790b5f6a3e2c1d845"}
        if proposed
        else None,
    }


def payment_correction(*, proposed: bool) -> dict[str, Any]:
    """Return the same of a packet's payment."""
    own = {"of": PAYMENT_ID, "packet": PACKET, "order": PAYMENT["order"]}
    return correction(proposed=proposed) | own


def purse(balance_minor: int, *, proposed: bool = False) -> dict[str, Any]:
    """Return the purse with what is in it."""
    return {
        "purse": PURSE_ID,
        "campaign": CAMPAIGN,
        "person": SENDER,
        "version": 1 if proposed else 2,
        "balance": money(balance_minor),
        "next_seed_commitment": None if proposed else "5e" * 32,
        "filling": {"amount": money(100_000), "proposed_by": PERSON} if proposed else None,
    }


GROUP_SENT: Final = {
    "group": GROUP_ID,
    "purse": PURSE_ID,
    "campaign": CAMPAIGN,
    "state": "open",
    "kind": "random",
    "shares": 8,
    "total": money(20_000),
    "left": money(80_000),
    "salt": GROUP_BODY["salt"],
    "seed_commitment": "5e" * 32,
    "next_seed_commitment": "a1" * 32,
    "funded_at": "2026-05-01T12:00:00Z",
    "until": "2026-05-02T12:00:00Z",
}
SHARE_TAKEN: Final = {
    "share": SHARE_ID,
    "group": GROUP_ID,
    "campaign": CAMPAIGN,
    "index": 5,
    "nth": 1,
    "amount": money(3_141),
    "valid_from": "2026-05-01T02:00:00Z",
    "valid_until": "2026-05-10T16:00:00Z",
    "taken_at": "2026-05-01T12:00:03.250117Z",
    "kind": "random",
    "shares": 8,
    "total": money(20_000),
    "salt": GROUP_BODY["salt"],
    "seed_commitment": "5e" * 32,
}
PERSON_VIEW: Final = {"person": PERSON}
PURSE_VIEW: Final = {
    **{name: value for name, value in purse(80_000).items() if name != "version"},
    "filled": money(100_000),
    "returned": money(0),
    "sent": money(20_000),
    "emptied": money(0),
    "version": 3,
}
TAKING: Final = {
    "nth": 1,
    "share": SHARE_ID,
    "index": 5,
    "amount": money(3_141),
    "taken_at": SHARE_TAKEN["taken_at"],
}
GROUP_VIEW: Final = {
    **{name: GROUP_SENT[name] for name in ("group", "purse", "campaign", "kind", "shares")},
    **{name: GROUP_SENT[name] for name in ("total", "salt", "seed_commitment")},
    **{name: GROUP_SENT[name] for name in ("funded_at", "until")},
    "state": "closed",
    "taken": 1,
    "sender_may_take": False,
    "mine": TAKING,
    "returned": 7,
    "returned_amount": money(16_859),
    "seed": "c4" * 32,
    "closed_at": "2026-05-02T12:00:01Z",
    "takings": [TAKING],
}
GROUP_LISTED: Final = {
    name: value for name, value in GROUP_VIEW.items() if name not in {"mine", "takings"}
}
GROUP_CODE: Final = {"group": GROUP_ID, "code": SHARE_BODY["code"]}
GROUP_FIGURES: Final = {
    "campaign": CAMPAIGN,
    "groups": 1,
    "filled": money(100_000),
    "in_purses": money(96_859),
    "emptied": money(0),
    "sent": money(20_000),
    "taken": money(3_141),
    "returned": money(16_859),
    "outstanding": money(0),
    "position": 15_070,
}
_LINE: Final = {
    "position": 15_052,
    "line": 1,
    "at": "2026-05-03T03:40:09.551902Z",
    "event": "coupon.redeemed",
    "stream": COUPON.rpartition("_")[2],
    "other": "holder:0f3c5a2b7d9e4816a0c2e4f6081a3c5e",
    "amount": money(10_000),
    "balance": money(46_189_500),
}
TRIAL_BALANCE: Final = {
    "book": "main",
    "position": 15_052,
    "items": [
        {
            "kind": "sponsor",
            "debited": money(0),
            "credited": money(46_189_500),
            "balance": money(-46_189_500),
        },
        {
            "kind": "merchant",
            "debited": money(46_803_000),
            "credited": money(613_500),
            "balance": money(46_189_500),
        },
    ],
}
ACCOUNTS: Final = {
    "book": "main",
    "position": 15_052,
    "items": [
        {
            "account": "merchant:duty-free-haitang",
            "opened": 41,
            "opened_at": "2026-05-01T03:40:09.551902Z",
            "balance": money(46_189_500),
        }
    ],
    "next": None,
}
ACCOUNT_STATEMENT: Final = {
    "book": "main",
    "account": "merchant:duty-free-haitang",
    "position": 15_052,
    "items": [_LINE],
    "next": None,
}
OWN_STATEMENT: Final = ACCOUNT_STATEMENT | {"items": [_LINE | {"other": "holder"}]}
