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
            "balance": money(29_590_000),
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
