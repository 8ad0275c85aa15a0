"""Bad input: the answer names the field and the rule, nothing is stored, nothing breaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.harness import App, draft_body, yuan

HUGE = int("9" * 19)
WINDOW = {"from": "2026-05-01T00:00:00+08:00", "until": "2026-05-02T00:00:00+08:00"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """An ordinary draft with one field changed, or dropped when the value is `...`."""
    body: dict[str, Any] = json.loads(json.dumps(draft_body()))
    *way, last = path.split(".")
    place = body
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return body


MISSING = [
    "name", "sponsor", "coupon.kind", "coupon.face", "coupon.face.amount_minor",
    "coupon.face.currency", "claim_window", "claim_window.from", "claim_window.until",
    "validity_window", "zone",
]  # fmt: skip

WRONG = [
    # amounts
    ("coupon.face.amount_minor", -1, "out_of_range"),
    ("coupon.face.amount_minor", 0, "out_of_range"),
    ("coupon.face.amount_minor", 10**15 + 1, "out_of_range"),
    ("coupon.face.amount_minor", HUGE, "out_of_range"),
    ("coupon.face.amount_minor", 2**53, "out_of_range"),
    ("coupon.face.amount_minor", 1.5, "not_an_integer"),
    ("coupon.face.amount_minor", 50.0, "not_an_integer"),
    ("coupon.face.amount_minor", "5000", "wrong_type"),
    ("coupon.face.amount_minor", "５０００", "not_ascii_digits"),
    ("coupon.face.amount_minor", "٥٠", "not_ascii_digits"),
    ("coupon.face.amount_minor", True, "wrong_type"),
    ("coupon.face.amount_minor", None, "wrong_type"),
    ("coupon.face.amount_minor", [5000], "wrong_type"),
    ("coupon.face", 5000, "wrong_type"),
    ("coupon.face", None, "wrong_type"),
    # currencies
    ("coupon.face.currency", "cny", "unknown_currency"),
    ("coupon.face.currency", "RMB", "unknown_currency"),
    ("coupon.face.currency", "", "unknown_currency"),
    ("coupon.face.currency", "ＣＮＹ", "unknown_currency"),
    ("coupon.face.currency", "CNY ", "unknown_currency"),
    ("coupon.face.currency", 156, "wrong_type"),
    # times
    ("claim_window.from", "2026-05-01T10:00:00", "time_without_offset"),
    ("claim_window.from", "2026-05-01", "time_without_offset"),
    ("claim_window.from", "2026-05-01 10:00:00+08:00", "malformed_time"),
    ("claim_window.from", "2026-05-01T10:00:00+0800", "malformed_time"),
    ("claim_window.from", "2026-02-30T10:00:00+08:00", "malformed_time"),
    ("claim_window.from", "2026-05-01T24:00:01+08:00", "malformed_time"),
    ("claim_window.from", "2026-05-01T23:59:60Z", "malformed_time"),
    ("claim_window.from", "２０２６-05-01T10:00:00+08:00", "malformed_time"),
    ("claim_window.from", "2026-05-01T10:00:00.1234567Z", "malformed_time"),
    ("claim_window.from", "2026-W18-5T10:00:00Z", "malformed_time"),
    ("claim_window.from", "tomorrow", "malformed_time"),
    ("claim_window.from", "", "malformed_time"),
    ("claim_window.from", "0001-01-01T00:00:00+08:00", "malformed_time"),
    ("claim_window.from", "9999-12-31T23:59:59-08:00", "malformed_time"),
    ("claim_window.from", "1969-01-01T00:00:00Z", "out_of_range"),
    ("claim_window.from", 1_777_600_000, "wrong_type"),
    ("claim_window.from", None, "wrong_type"),
    ("zone", "Asia/Atlantis", "unknown_zone"),
    ("zone", "../../etc/passwd", "unknown_zone"),
    ("zone", "+08:00", "unknown_zone"),
    # names
    ("name", "", "too_short"),
    ("name", "   ", "blank"),
    ("name", "x" * 121, "too_long"),
    ("name", "a\u0000b", "control_character"),
    ("name", "a\nb", "control_character"),
    ("name", "a\u0085b", "control_character"),
    ("name", "a\u2028b", "control_character"),
    ("name", "a\u202eb", "control_character"),
    ("name", 7, "wrong_type"),
    ("sponsor", "a b", "bad_format"),
    ("sponsor", "省", "bad_format"),
    ("sponsor", "x" * 65, "bad_format"),
    ("book", "Main", "bad_format"),
    ("book", "nosuchbook", "unknown_book"),
    # the rest
    ("coupon.kind", "percentage", "not_a_choice"),
    ("per_person_limit", 0, "out_of_range"),
    ("per_person_limit", 21, "out_of_range"),
    ("per_person_limit", 1.0, "not_an_integer"),
    ("per_person_limit", "1", "wrong_type"),
    ("restock", 1, "wrong_type"),
    ("restock", "false", "wrong_type"),
    ("merchants", [], "too_few"),
    ("merchants", "shop-1", "wrong_type"),
    ("merchants", ["shop-1", "shop-1"], "repeated"),
    ("merchants", [f"shop-{n}" for n in range(5001)], "too_many"),
    ("status", "open", "extra_field"),
    ("owner_id", "me", "extra_field"),
    ("coupon.amount", 5, "extra_field"),
    ("coupon.face.amount", 5, "extra_field"),
]  # fmt: skip


def rules(reply: Any) -> set[tuple[str, str]]:
    """The fields that a problem names, with their rules."""
    assert reply.headers["content-type"] == "application/problem+json"
    return {(error["field"], error["rule"]) for error in reply.json()["errors"]}


def test_every_bad_field_of_a_draft_is_named(app: App) -> None:
    """Missing, unknown, negative, fractional, huge, full-width, wrong in kind: 422 each."""
    token = app.token("operator")
    cases = [(path, ..., "missing_field") for path in MISSING] + WRONG
    answers = [
        (path, rule, app.start("POST", "/v1/campaigns", json=changed(path, value), token=token))
        for path, value, rule in cases
    ]
    for path, rule, answer in answers:
        reply = answer.result(60)
        assert reply.status_code == 422, (path, rule, reply.text)
        assert (path, rule) in rules(reply), (path, reply.text)
    assert app.events() == 0


def test_rules_between_fields_are_named(app: App) -> None:
    """Windows run forwards, a threshold fits its kind and its face value."""
    token = app.token("operator")
    backwards = {"from": WINDOW["until"], "until": WINDOW["from"]}
    empty = {"from": WINDOW["from"], "until": WINDOW["from"]}
    threshold = {"kind": "threshold", "face": yuan(50)}
    late = {"from": WINDOW["from"], "until": "2027-01-01T00:00:00Z"}
    cases: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"claim_window": backwards}, ("claim_window", "backwards_window")),
        ({"validity_window": empty}, ("validity_window", "backwards_window")),
        ({"coupon": threshold}, ("coupon", "threshold_missing")),
        ({"coupon": {**threshold, "threshold": yuan(49)}}, ("coupon", "threshold_below_face")),
        (
            {"coupon": {"kind": "fixed", "face": yuan(5), "threshold": yuan(9)}},
            ("coupon", "threshold_without_use"),
        ),
        ({"claim_window": late, "validity_window": WINDOW}, ("", "claim_after_validity")),
    ]
    for changes, expected in cases:
        reply = app.post("/v1/campaigns", draft_body(**changes), token=token)
        assert reply.status_code == 422, reply.text
        assert expected in rules(reply), reply.text
    mixed = {**threshold, "threshold": {"amount_minor": 9_000, "currency": "USD"}}
    reply = app.post("/v1/campaigns", draft_body(coupon=mixed), token=token)
    assert (reply.status_code, reply.json()["code"]) == (422, "unit_mismatch")
    assert app.events() == 0


ORDINARY = json.dumps(draft_body()).encode()

MALFORMED = [
    b"{",
    b"[]",
    b"null",
    b"1",
    b'"text"',
    b"{}{}",
    b"{'name':'x'}",
    b'{"name":"x",}',
    b'{"name":\xff\xfe}',
    b'{"name":"\xc3\x28"}',
    b'{"name":"\xed\xa0\x80"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    ORDINARY.replace(b"5000", "５０００".encode()),
    ORDINARY.replace(b"5000", b"05000"),
    ORDINARY.replace(b"5000", b"0x1388"),
    ORDINARY.replace(b"5000", b"+5000"),
    ORDINARY.replace(b"5000", b"NaN"),
    ORDINARY.replace(b"5000", b"Infinity"),
    ORDINARY.replace(b"5000", b"-Infinity"),
    ORDINARY.replace(b'"name"', b'"name":"first","name"'),
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"[" * 30_000 + b"]" * 30_000,
]


def test_what_is_no_json_object_is_refused(app: App) -> None:
    """Bad UTF-8, no JSON, twins, no numbers, bottomless nesting: 400, and nothing breaks."""
    token = app.token("operator")
    kind = [("Content-Type", "application/json")]
    for body in MALFORMED:
        reply = app.post("/v1/campaigns", content=body, token=token, headers=kind)
        assert (reply.status_code, reply.json()["code"]) == (400, "malformed_json"), body[:40]
    assert app.events() == 0


def test_numbers_that_are_no_integers_are_named(app: App) -> None:
    """As JSON writes them: exponents, fractions, thousands of digits."""
    token = app.token("operator")
    kind = [("Content-Type", "application/json")]
    cases = {
        b"5e3": "not_an_integer",
        b"5000.0": "not_an_integer",
        b"1e400": "not_an_integer",
        b"-0.0": "not_an_integer",
        b"9" * 5_000: "out_of_range",
        b"-" + b"9" * 5_000: "out_of_range",
        b"-0": "out_of_range",
        b'"\\ud800"': "not_ascii_digits",
    }
    for number, rule in cases.items():
        body = ORDINARY.replace(b"5000", number, 1)
        reply = app.post("/v1/campaigns", content=body, token=token, headers=kind)
        assert reply.status_code == 422, (number[:20], reply.text)
        assert ("coupon.face.amount_minor", rule) in rules(reply), reply.text


def test_a_lone_surrogate_is_refused(app: App) -> None:
    """Text that cannot be written as UTF-8 does not come in, in a value or in a name."""
    token = app.token("operator")
    kind = [("Content-Type", "application/json")]
    for body in (
        ORDINARY.replace(b'"province"', b'"\\ud800"'),
        json.dumps(draft_body(name="\ud83d")).encode(),
        ORDINARY.replace(b'"name"', b'"\\udfff": 1, "name"'),
    ):
        reply = app.post("/v1/campaigns", content=body, token=token, headers=kind)
        assert reply.status_code == 422, reply.text
        reply.content.decode("utf-8")
    assert app.events() == 0


def test_a_made_up_name_comes_back_only_if_it_looks_like_one(app: App) -> None:
    """A telephone number sent as a field's name is not repeated."""
    reply = app.post(
        "/v1/campaigns", {**draft_body(), "13800138000": 1, "<b>": 2}, token=app.token("operator")
    )
    assert ("?", "extra_field") in rules(reply)
    assert "13800138000" not in reply.text
    assert "<b>" not in reply.text


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ("text/plain", None),
        ("application/x-www-form-urlencoded", None),
        ("application/json; charset=gbk", None),
        ("multipart/form-data", None),
        (None, None),
        ("application/json", "gzip"),
    ],
)
def test_only_plain_json_is_read(app: App, kind: str | None, encoding: str | None) -> None:
    """Any other media type or encoding is 415."""
    headers = [("Content-Type", kind)] if kind else []
    headers += [("Content-Encoding", encoding)] if encoding else []
    reply = app.post(
        "/v1/campaigns", content=ORDINARY, token=app.token("operator"), headers=headers
    )
    assert (reply.status_code, reply.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("query", "field", "rule"),
    [
        ("limit=0", "limit", "out_of_range"),
        ("limit=-1", "limit", "out_of_range"),
        ("limit=201", "limit", "out_of_range"),
        ("limit=1000000000", "limit", "out_of_range"),
        ("limit=99999999999999999999", "limit", "not_an_integer"),
        ("limit=1.0", "limit", "not_an_integer"),
        ("limit=1e2", "limit", "not_an_integer"),
        ("limit=1_0", "limit", "not_an_integer"),
        ("limit=%EF%BC%91", "limit", "not_an_integer"),
        ("limit=", "limit", "not_an_integer"),
        ("state=secret", "state", "not_a_choice"),
        ("after=!", "after", "bad_cursor"),
        ("after=AAAA", "after", "bad_cursor"),
        ("after=" + "A" * 300, "after", "too_long"),
        ("after=W10", "after", "bad_cursor"),
        ("offset=-1", "offset", "extra_field"),
    ],
)
def test_bad_queries_name_the_parameter(app: App, query: str, field: str, rule: str) -> None:
    """Page sizes out of bounds, invented cursors and unknown parameters: 422."""
    for address, role in (("/v1/campaigns", "auditor"), ("/v1/wallet", "tourist")):
        reply = app.get(f"{address}?{query}", token=app.token(role))
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_query"), reply.text
        assert (field, rule) in rules(reply), reply.text


def test_ten_megabytes_are_refused_before_they_are_read(app: App) -> None:
    """Announced or not, a large body is cut off at the limit."""
    token = app.token("operator")
    sent = 0

    async def announced() -> None:
        nonlocal sent
        statuses = []

        async def receive() -> dict[str, Any]:
            nonlocal sent
            sent += 1
            return {"type": "http.request", "body": b"x" * 10_000, "more_body": True}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        for length in ([(b"content-length", b"10485760")], []):
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/campaigns",
                "raw_path": b"/v1/campaigns",
                "query_string": b"",
                "client": ("203.0.113.7", 1),
                "headers": [
                    (b"authorization", f"Bearer {token}".encode()),
                    (b"idempotency-key", b"k"),
                    (b"content-type", b"application/json"),
                    *length,
                ],
            }
            await app.asgi(scope, receive, send)
        assert statuses == [413, 413]

    app.loop.run(announced())
    assert sent <= 8
    assert app.events() == 0


def test_a_zero_byte_or_a_slash_in_an_address_finds_nothing(app: App) -> None:
    """Whatever an address is made of, it is 404 and no fault."""
    token = app.token("auditor")
    for name in ("%00", "%2e%2e%2f", "a" * 5_000, "cpn_main_%FF", "cpn_main_" + "g" * 32):
        for address in (f"/v1/coupons/{name}", f"/v1/campaigns/{name}", f"/v1/books/{name}/head"):
            assert app.get(address, token=token).status_code == 404, address
