"""`/sync` and `/leases`: delivery, answers after the booking, news, and what a key may send."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from httpx import Response
from tests.integration.server.service import NOW, NOW_US, Service, event, fields_of

from paygent.core.messages import (
    AssignRecord,
    Batch,
    DefaultPlanRecord,
    PlanRecord,
    PriceRecord,
    SessionRecord,
)
from paygent.core.period import END_OF_TIME_US, calendar_month
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.record_json import record_to_json

MONTH = calendar_month(NOW_US)
LIMITS = [["spend", "user", "", "period"], ["tokens", "session", "", "session"]]
WINDOWS = [list(MONTH), [0, END_OF_TIME_US]]
SPEND = [0, 0]
SESSION_TOKENS = [1, 1, "s1"]
DIME_NANO = 100_000_000  # what an event costs

_WAIT_S = 30.0


def question(user_id: str = "u1", *accounts: list[Any], **fields: Any) -> dict[str, Any]:
    """Return a question about the spend of a month, unless accounts are given."""
    chosen = list(accounts) or [SPEND]
    start_us = MONTH.start_us
    return {"user_id": user_id, "accounts": chosen, "period_start_us": start_us, **fields}


def message(*questions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a message with tables of limits and windows."""
    tables = {"limits": LIMITS, "windows": WINDOWS} if questions else {}
    return {"at_us": NOW_US, "holder": "web-1", **tables, "questions": list(questions), **fields}


def sync(service: Service, *questions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Send a message to `/sync` with the key of an application, and return the answer."""
    answer = service.post("/sync", message(*questions, **fields), key="sdk")
    assert answer.status_code == 200, answer.text
    answered: dict[str, Any] = answer.json()
    return answered


def leases(service: Service, *questions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Send a message to `/leases` with the key of an application, and return the answer."""
    answer = service.post("/leases", message(*questions, **fields), key="sdk")
    assert answer.status_code == 200, answer.text
    answered: dict[str, Any] = answer.json()
    return answered


def spent(answer: dict[str, Any]) -> dict[str, list[int]]:
    """Return the figures of each user of an answer."""
    return {each["user_id"]: each.get("spent", []) for each in answer.get("users", ())}


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens after an answer."""
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# -- delivery


def test_sync__a_batch_again__is_booked_once(any_service: Service) -> None:
    """After a lost answer a process repeats its batch; the second answer names the duplicates."""
    batch = {"number": 1, "events": [event(1), event(2)]}
    first = sync(any_service, question(), **batch)
    assert "duplicates" not in first
    for _ in range(2):
        again = sync(any_service, question(), **batch)
        assert again["duplicates"] == ["event-1", "event-2"]
        assert again["booked_through"] == first["booked_through"] == 1
        assert spent(again) == spent(first) == {"u1": [2 * DIME_NANO]}
    mixed = sync(any_service, question(), number=2, events=[event(2), event(3)])
    assert mixed["duplicates"] == ["event-2"]
    assert spent(mixed) == {"u1": [3 * DIME_NANO]}


def test_sync__events_of_both_routes__are_the_same_events(any_service: Service) -> None:
    """An id is booked once, whichever way it came."""
    any_service.book(event(1))
    assert sync(any_service, number=1, events=[event(1)])["duplicates"] == ["event-1"]
    assert any_service.book(event(1)) == {"accepted": 0, "duplicates": 1}


def test_sync__booked_through__is_that_of_the_holder(any_service: Service) -> None:
    """Also of a reading, and a number that comes late does not lower it."""
    assert sync(any_service)["booked_through"] == 0
    assert sync(any_service, number=3)["booked_through"] == 3
    assert sync(any_service, number=2, events=[event(1)])["booked_through"] == 3
    assert leases(any_service)["booked_through"] == 3
    assert leases(any_service, holder="web-2")["booked_through"] == 0
    assert leases(any_service, holder="")["booked_through"] == 0


def test_sync__questions__are_answered_after_the_booking(any_service: Service) -> None:
    """With figures of several accounts in the question's order, and of each user."""
    answer = sync(
        any_service,
        question("u1", SESSION_TOKENS, SPEND, [1, 1, "s2"]),
        question("u2"),
        number=1,
        events=[event(1), event(2, session_id="s2"), event(3, user_id="u2")],
    )
    assert spent(answer) == {"u1": [1_500, 2 * DIME_NANO, 1_500], "u2": [DIME_NANO]}
    (first, _) = answer["users"]
    assert first["by_model"] == {"gpt-4o": [3_000, 2 * DIME_NANO]}
    assert first["period_start_us"] == MONTH.start_us


def test_sync__blocked_calls__are_the_shadow_of_an_account(any_service: Service) -> None:
    """What was spent past a hard gate is shown apart."""
    events = [event(1), event(2, blocked=True)]
    answer = sync(any_service, question("u1", SPEND, SESSION_TOKENS), number=1, events=events)
    (user,) = answer["users"]
    assert user["spent"] == [2 * DIME_NANO, 3_000]
    assert user["shadow"] == [DIME_NANO, 1_500]


def test_sync__a_batch_without_a_number__is_booked_too(any_service: Service) -> None:
    """Without a holder nothing is noted; the events count all the same."""
    answer = sync(any_service, question(), holder="", events=[event(1)])
    assert spent(answer) == {"u1": [DIME_NANO]}
    assert answer["booked_through"] == 0


def test_sync__an_invalid_event__is_named_and_nothing_is_booked(any_service: Service) -> None:
    """Neither events, sessions nor the number of the batch."""
    session = record_to_json(SessionRecord("u1", "s1", True, NOW_US, NOW_US))
    body = message(
        question(), number=1, events=[event(1), event(2, input_tokens=-1)], records=[session]
    )
    refused = any_service.post("/sync", body, key="sdk")
    assert refused.status_code == 422
    assert fields_of(refused) == ["events[1].input_tokens", "events[1].total_tokens"]
    assert any_service.get("/users/u1").status_code == 404
    answer = leases(any_service, question())
    assert spent(answer) == {"u1": [0]}
    assert answer["booked_through"] == 0
    assert "open_session" not in answer["users"][0]


def test_sync__a_batch_that_the_ledger_rejects__stores_no_number(any_service: Service) -> None:
    """Sums that leave 64 bits are refused as a whole, and the process can go on."""
    large = {"cost_tokens": 9e5, "cost_total": 9e5, "input_tokens": 10**12, "total_tokens": None}
    events = [event(number, **large) for number in range(1_000)]
    for number in range(1, 12):
        fresh = [{**each, "id": f"{number}-{each['id']}"} for each in events]
        body = message(question(), number=number, events=fresh)
        answer = any_service.post("/sync", body, key="sdk")
        if answer.status_code != 200:
            break
    assert answer.status_code == 422
    assert answer.json()["type"].endswith(":rejected")
    assert leases(any_service)["booked_through"] == number - 1


def test_sync__no_json__is_refused(service: Service) -> None:
    """As everywhere; both routes."""
    for path in ("/sync", "/leases"):
        answer = service.call("POST", path, key="sdk", content=b"{")
        assert answer.status_code == 400, path
        answer = service.post(path, [], key="sdk")
        assert (answer.status_code, fields_of(answer)) == (422, ["message"])


# -- what the process has already


def test_sync__a_user_with_the_same_figures__is_left_out(any_service: Service) -> None:
    """Until something changes, which is another version."""
    any_service.book(event(1), event(2, user_id="u2"))
    first = leases(any_service, question("u1"), question("u2"))
    versions = {each["user_id"]: each["version"] for each in first["users"]}
    asked = [question(user_id, version=versions[user_id]) for user_id in ("u1", "u2")]
    assert "users" not in leases(any_service, *asked)
    changed = sync(any_service, *asked, number=1, events=[event(3)])
    assert spent(changed) == {"u1": [2 * DIME_NANO]}
    assert changed["users"][0]["version"] != versions["u1"]
    other_account = question("u2", SPEND, SESSION_TOKENS, version=versions["u2"])
    assert spent(leases(any_service, other_account)) == {"u2": [DIME_NANO, 1_500]}


def test_sync__plans__come_only_when_they_are_new(any_service: Service) -> None:
    """Their version names them; a change of one of them is another version."""
    any_service.plan("pro", max_spend_per_period=5)
    first = sync(any_service)
    assert first["plans"].keys() == {"pro"}
    assert first["plans"]["pro"]["document"] == plan_to_json(PlanConfig(max_spend_per_period=5))
    again = sync(any_service, plans_version=first["plans_version"])
    assert "plans" not in again
    assert again["plans_version"] == first["plans_version"]
    any_service.plan("pro", max_spend_per_period=6)
    changed = sync(any_service, plans_version=first["plans_version"])
    assert changed["plans"]["pro"]["version"] == first["plans"]["pro"]["version"] + 1
    assert changed["plans_version"] != first["plans_version"]


# -- news


def test_sync__changes_of_users__are_shown_once_they_are_made(any_service: Service) -> None:
    """A pause, a subscription and an override; the figures of the user then have them."""
    plan_id = any_service.plan("pro", max_spend_per_session=5)
    for user_id in ("u1", "u2", "u3", "u4"):
        any_service.user(user_id)
    start = sync(any_service, news_since_us=0)
    assert "changed" not in start
    since_us = start["news_until_us"]
    assert since_us == NOW_US
    assert "news_until_us" not in sync(any_service)
    pause = {"paused": True, "reason": "chargeback"}
    assert any_service.call("PATCH", "/users/u1", json=pause).status_code == 200
    assert sync(any_service, news_since_us=since_us)["changed"] == ["u1"]
    body = {"plan_id": plan_id}
    assert any_service.post("/users/u2/subscription", body).status_code == 201
    any_service.post("/users/u3/subscription", body)
    raised = {
        "limit": "session_spend",
        "add": 2,
        "until": (NOW + timedelta(days=1)).isoformat(),
    }
    assert any_service.post("/users/u3/overrides", raised).status_code == 201
    any_service.book(event(1, user_id="u4"))
    answer = leases(
        any_service,
        *(question(user_id) for user_id in ("u1", "u2", "u3")),
        news_since_us=since_us,
    )
    assert answer["changed"] == ["u1", "u2", "u3"]
    paused, subscribed, raised_user = answer["users"]
    assert (paused["paused"], paused["paused_reason"]) == (True, "chargeback")
    assert (subscribed["plan"], subscribed.get("own")) == ("pro", None)
    assert raised_user["own"] == plan_to_json(PlanConfig(max_spend_per_session=7))


# -- questions before calls


def test_leases__with_something_to_deliver__are_refused(service: Service) -> None:
    """Only one of the two routes books."""
    session = record_to_json(SessionRecord("u1", "s1", True, NOW_US, NOW_US))
    for name, given in (("events", [event(1)]), ("records", [session])):
        refused = service.post("/leases", message(question(), **{name: given}), key="sdk")
        assert (refused.status_code, fields_of(refused)) == (422, [name])
    assert spent(sync(service, question())) == {"u1": [0]}


def test_leases__of_a_new_user__create_them_soon(any_service: Service) -> None:
    """The answer does not wait for that, and the accounts are kept from then on."""
    answer = leases(any_service, question("u9"))
    assert spent(answer) == {"u9": [0]}
    until(lambda: any_service.get("/users/u9").status_code == 200)


def test_leases__with_a_full_writer__are_answered_all_the_same(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call waits for the answer; the user is created with a later question."""
    writer = service.app.state.backend.writer
    monkeypatch.setattr(writer, "_requests_max", 0)
    assert spent(leases(service, question("u9"))) == {"u9": [0]}
    assert service.get("/users/u9").status_code == 404
    monkeypatch.undo()
    leases(service, question("u9"))
    until(lambda: service.get("/users/u9").status_code == 200)


def test_leases__a_user_who_cannot_be_created__are_logged(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is in the server's log, without the user's id."""

    def fail(_: str, batches: Sequence[Batch]) -> list[Exception]:
        return [ValueError("u9 is odd")] * len(batches)

    monkeypatch.setattr(service.app.state.backend.bookings, "book", fail)
    assert spent(leases(service, question("u9"))) == {"u9": [0]}
    until(lambda: "users could not be created: Rejected" in caplog.text)
    (record,) = [each for each in caplog.records if "could not be created" in each.message]
    assert "u9" not in record.message


def test_sync__of_a_new_user__creates_them(any_service: Service) -> None:
    """With a number at once; a reading alone as `/leases` does."""
    sync(any_service, question("u8"), number=1)
    assert any_service.get("/users/u8").status_code == 200
    sync(any_service, question("u9"))
    until(lambda: any_service.get("/users/u9").status_code == 200)


def test_sync__a_thousand_questions__are_one_request(any_service: Service) -> None:
    """As a process asks that has just started; each user once, in order."""
    users = [f"u{number}" for number in range(1_000)]
    events = [event(number, user_id=user_id) for number, user_id in enumerate(users[::2])]
    asked = [question(user_id, SPEND, SESSION_TOKENS) for user_id in users]
    answer = sync(any_service, *asked, number=1, events=events)
    assert [each["user_id"] for each in answer["users"]] == users
    assert {tuple(each["spent"]) for each in answer["users"][::2]} == {(DIME_NANO, 1_500)}
    assert {tuple(each["spent"]) for each in answer["users"][1::2]} == {(0, 0)}
    versions = {each["user_id"]: each["version"] for each in answer["users"]}
    again = [{**each, "version": versions[each["user_id"]]} for each in asked]
    assert "users" not in leases(any_service, *again)


@pytest.mark.parametrize("path", ["/sync", "/leases"])
def test_messages__of_several_megabytes__are_taken(service: Service, path: str) -> None:
    """A process with very many sessions asks about all of them at once; 4 MiB are the limit."""
    asked = question("u1", SPEND, padding="x" * (3 << 20))  # unknown fields are ignored
    assert service.post(path, message(asked), key="sdk").status_code == 200
    asked["padding"] *= 2
    assert service.post(path, message(asked), key="sdk").status_code == 413


def test_sync__two_questions_about_one_user__are_refused(service: Service) -> None:
    """An answer has one state of a user; the second question is named."""
    refused = service.post("/sync", message(question(), question()), key="sdk")
    assert (refused.status_code, fields_of(refused)) == (422, ["questions[1].user_id"])


# -- what a key may send

PLAN = plan_to_json(PlanConfig(max_spend_per_period=5))
KEPT = AssignRecord("u1", "pro", None, None, NOW_US, keeps=True)


def deliver(service: Service, key: str, *records: Any) -> Response:
    """Send ledger records to `/sync`."""
    directory = [record_to_json(record) for record in records]
    return service.post("/sync", message(number=1, records=directory), key=key)


def test_sync__sessions_prices_and_first_plans__are_an_applications_to_send(
    any_service: Service,
) -> None:
    """What a process learns by running; an assignment that exists stays."""
    any_service.plan("pro")
    session = SessionRecord("u1", "s1", True, NOW_US, NOW_US)
    prices = PriceRecord("list-1", {"gpt-4o": {}}, NOW_US)
    assert deliver(any_service, "sdk", session, prices, KEPT).status_code == 200
    assert deliver(any_service, "sdk", KEPT._replace(plan="free")).status_code == 200
    (user,) = leases(any_service, question())["users"]
    assert user["plan"] == "pro"
    opened = {"session_id": "s1", "started_us": NOW_US, "used_us": NOW_US}
    assert user["open_session"] == opened


@pytest.mark.parametrize(
    "record",
    [
        PlanRecord("pro", PLAN, NOW_US),
        DefaultPlanRecord("pro", NOW_US),
        KEPT._replace(keeps=False),
    ],
    ids=lambda record: type(record).__name__,
)
def test_sync__plans_and_assignments__need_an_admin_key(any_service: Service, record: Any) -> None:
    """A key that runs in every process of an application changes no plan, and nothing is booked."""
    session = SessionRecord("u1", "s1", True, NOW_US, NOW_US)
    refused = deliver(any_service, "sdk", session, record)
    assert refused.status_code == 403
    assert refused.json()["type"].endswith(":insufficient-scope")
    assert leases(any_service)["booked_through"] == 0
    assert any_service.get("/users/u1").status_code == 404
    accepted = deliver(any_service, "admin", session, record)
    assert accepted.status_code == 200
    assert accepted.json()["booked_through"] == 1


def test_sync__an_admin_key__sets_plans(any_service: Service) -> None:
    """They are the product's from then on."""
    plan = PlanRecord("pro", PLAN, NOW_US)
    answer = deliver(any_service, "admin", plan, DefaultPlanRecord("pro", NOW_US)).json()
    assert answer["plans"] == {"pro": {"version": 1, "document": PLAN}}
    assert answer["default_plan"] == "pro"


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (KEPT._replace(own={"colour": "red"}), "records[0].own.colour"),
        (PlanRecord("pro", {"price": -1}, NOW_US), "records[0].document.price"),
    ],
)
def test_sync__a_plan_that_is_none__is_refused(service: Service, record: Any, field: str) -> None:
    """It would fail each later request that reads the user's limits."""
    refused = deliver(service, "admin", record)
    assert (refused.status_code, fields_of(refused)) == (422, [field])


def test_sync__a_billing_period_without_length__is_refused(service: Service) -> None:
    """The periods after it could not be computed."""
    record = record_to_json(KEPT) | {
        "subscription": {"start_us": NOW_US, "end_us": NOW_US, "renews": "auto"}
    }
    body = message(number=1, records=[record])
    refused = service.post("/sync", body, key="sdk")
    assert (refused.status_code, fields_of(refused)) == (422, ["records[0]"])


# -- other products


def test_sync__of_another_product__shares_nothing(any_service: Service) -> None:
    """Holders, ids of events, users, plans and news of the same names are others."""
    any_service.plan("pro")
    any_service.user("u1")
    sync(any_service, question(), number=5, events=[event(1)])
    any_service.call("PATCH", "/users/u1", json={"paused": True})
    body = message(question(), number=1, events=[event(1, cost_tokens=0.2, cost_total=0.2)])
    other = any_service.post("/sync", {**body, "news_since_us": 1}, key="other").json()
    assert other["booked_through"] == 1
    assert "duplicates" not in other
    assert spent(other) == {"u1": [2 * DIME_NANO]}
    assert other["plans"] == {}
    assert "changed" not in other
    assert "paused" not in other["users"][0]
    own = sync(any_service, question(), news_since_us=1)
    assert own["booked_through"] == 5
    assert spent(own) == {"u1": [DIME_NANO]}
    assert own["changed"] == ["u1"]
