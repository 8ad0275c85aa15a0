"""The description of the interface is true: every address, every status, every example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fastapi.routing import APIRoute

from api import schemas
from api.app import ROUTERS
from api.bodies import parse_body
from api.documentation import ProblemReply
from api.errors import BY_CODE
from api.routes import development
from campaigns.refusals import PRECEDENCE
from tests.api.harness import App, draft_body


@pytest.fixture
def document(app: App) -> Any:
    """The OpenAPI document as it is served."""
    return app.get("/openapi.json", admin=True).json()


def operations(document: Any) -> Iterator[tuple[str, Any]]:
    """Every documented call."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def begins_session(call: str) -> bool:
    """Whether this is the call that stores nothing and takes no session token."""
    return call == "POST /v1/sessions"


def test_routes_are_the_documented_routes(document: Any) -> None:
    """S46: nothing is served that is not described, but the page that shows the description."""
    served = {
        f"{method} {route.path_format}"
        for router in (*ROUTERS, development.router)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    hidden = {"GET /docs", "GET /docs/assets/{name}", "GET /problems"}
    assert {call for call, _ in operations(document)} == served - hidden


def test_every_reference_leads_somewhere(document: Any) -> None:
    """No schema is named that is not there."""
    text = json.dumps(document)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"], name


def test_every_call_says_who_may_make_it_and_what_may_go_wrong(document: Any) -> None:
    """Calls with a token document 401, 403 and 429; writes document their key and its problems."""
    for call, operation in operations(document):
        assert operation["summary"], call
        if "/v1/" not in call:
            continue
        kinds = ["bearer"] if begins_session(call) else ["session", "bearer"]
        assert operation["security"] == [{kind: []} for kind in kinds], call
        assert {"401", "429", "503"} <= set(operation["responses"]), call
        assert any(status.startswith("2") for status in operation["responses"]), call
        if call.startswith("POST") and not begins_session(call):
            assert "Idempotency-Key" in {each["name"] for each in operation["parameters"]}
            assert {"400", "403", "409", "413", "415", "422"} <= set(operation["responses"]), call


def test_path_parameters_are_described(document: Any) -> None:
    """Each part of an address in braces has a parameter."""
    for call, operation in operations(document):
        wanted = {part[1:-1] for part in call.split("/") if part.startswith("{")}
        described = {e["name"] for e in operation.get("parameters", []) if e["in"] == "path"}
        assert wanted == described, call


WITHOUT_ADDRESS = {
    *("expire", "expire_packet", "roll_over", "show_split", "sweep_purse", "return_group"),
    *(
        "enter_many",
        "close_intake",
        "draw",
        "give_drawn",
        "freeze_list",
        "record_draw",
        "give_seat",
        "move_up",
        "record_erasure",
    ),
}
"""The commands of the sweeper, of the draws and of batches, which nobody can send over HTTP."""


def test_every_refusal_of_a_rule_is_documented(document: Any) -> None:
    """The codes of a command are examples of its address's problems."""
    by_id = {operation["operationId"]: operation for _, operation in operations(document)}
    for rules, codes in PRECEDENCE.items():
        if rules in WITHOUT_ADDRESS:
            continue
        for code in codes:
            response = by_id[rules]["responses"][str(BY_CODE[code].status)]
            assert code in response["content"]["application/problem+json"]["examples"]


def test_examples_of_requests_pass_their_own_checks(document: Any) -> None:
    """What the documentation shows can be sent."""
    models = {model.__name__: model for model in schemas.BODIES}
    shown = 0
    for _, operation in operations(document):
        if "requestBody" not in operation:
            continue
        content = operation["requestBody"]["content"]["application/json"]
        model = models[content["schema"]["$ref"].rpartition("/")[2]]
        parse_body(json.dumps(content["example"]).encode(), model)
        shown += 1
    assert shown >= 25


def test_examples_of_replies_have_the_form_of_replies(document: Any) -> None:
    """What the documentation shows could have been answered."""
    known: tuple[type[msgspec.Struct], ...] = (*schemas.REPLIES, ProblemReply)
    structs = {struct.__name__: struct for struct in known}
    for call, operation in operations(document):
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                forms = content.get("schema", {})
                first = forms.get("anyOf", [forms])[0]
                schema = first.get("$ref", "").rpartition("/")[2]
                examples = [e["value"] for e in content.get("examples", {}).values()]
                for example in [*examples, *filter(None, [content.get("example")])]:
                    struct = structs[schema]
                    msgspec.json.decode(json.dumps(example), type=struct)
                    names = set(struct.__struct_encode_fields__)
                    assert set(example) <= names, (call, set(example) - names)


def test_an_example_can_be_sent_as_it_is(app: App, document: Any) -> None:
    """The draft of the documentation is accepted by the service, whatever the day."""
    example = document["paths"]["/v1/campaigns"]["post"]["requestBody"]["content"][
        "application/json"
    ]["example"]
    reply = app.post("/v1/campaigns", example, token=app.token("operator"))
    assert reply.status_code == 201, reply.text
    assert set(reply.json()) == set(document["components"]["schemas"]["CampaignReply"]["required"])


def test_every_problem_has_its_page(app: App) -> None:
    """The `type` of a problem leads to words about it."""
    for code, row in BY_CODE.items():
        page = app.get(f"/problems/{code}")
        assert page.status_code == 200
        assert code in page.text
        assert str(row.status) in page.text
    assert app.get("/problems").text.count("<section>") == len(BY_CODE)
    assert app.get("/problems/nothing").status_code == 404


def test_replies_have_the_fields_that_are_documented(app: App, document: Any) -> None:
    """What is answered in a whole life has no field that the description lacks."""
    components = document["components"]["schemas"]
    campaign = app.open_campaign(**draft_body(name="described"))
    coupon = app.claimed(campaign)
    app.project()
    reads = {
        f"/v1/campaigns/{campaign}": ("auditor", "CampaignView"),
        f"/v1/campaigns/{campaign}/figures": ("auditor", "FiguresView"),
        f"/v1/coupons/{coupon}": ("auditor", "CouponView"),
        "/v1/wallet": ("tourist", "WalletPage"),
        "/v1/campaigns": ("tourist", "CampaignPage"),
        "/v1/merchant/balance": ("merchant", "BalancePage"),
        "/v1/books/main/events": ("auditor", "EventPage"),
        "/v1/books/main/head": ("auditor", "HeadView"),
    }
    for address, (role, schema) in reads.items():
        body = app.get(address, token=app.token(role)).json()
        assert set(body) <= set(components[schema]["properties"]), address
        assert set(components[schema].get("required", ())) <= set(body), address
