"""The ledger of a backend with only the documented routes, over sockets: against a strict server of
the contract, and against the application of this product without its own routes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import Swallowed
from tests.contract.samples import (
    HOUR_US,
    MONTH,
    NOON_US,
    ask,
    batch_of,
    day_key,
    make_correction,
    make_event,
    period_key,
    rolling_key,
    session_key,
)
from tests.contract.test_directory import make_gate_event
from tests.integration.server.service import NOW_US, listening
from tests.unit.ledger.documented_server import (
    BOOK,
    GATES,
    HEALTH,
    DocumentedServer,
    documented_server,
    problem,
)

from paygent.core.account import AccountKey
from paygent.core.messages import (
    MISSING_USER_ID,
    Answer,
    Batch,
    Question,
    UnmeteredCount,
    UserLedger,
)
from paygent.core.period import Subscription, Window, billing_period, calendar_month, to_datetime
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.core.report_request import SpendRequest
from paygent.failopen import diagnostics
from paygent.ledger import polling
from paygent.ledger.polled_session import read_session
from paygent.ledger.polling import PollingLedger
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable
from paygent.ledger.transport import HttpTransport
from paygent.store.sqlite import SqliteStore

pytestmark = pytest.mark.usefixtures("environment")

SPEND = period_key()
IN_SESSION = session_key("s1")
ANN = "/api/v1/users/ann/session"
WAIT_S = 20.0


@pytest.fixture
def server() -> Iterator[DocumentedServer]:
    """A running server of the documented contract."""
    with documented_server() as running:
        yield running


@pytest.fixture
def ledger(server: DocumentedServer) -> Iterator[PollingLedger]:
    """The ledger of that server."""
    made = PollingLedger(HttpTransport(server.url, "k"))
    made.open()
    yield made
    made.close()


def numbered(number: int, *events: Any, about: str = "ann", **others: Any) -> Batch:
    """Return a numbered batch with a question about one user."""
    questions = ask(about, SPEND, IN_SESSION)
    return batch_of(*events, **{"questions": questions, "holder": "h", "number": number, **others})


def question(*accounts: AccountKey, user_id: str = "ann", **others: Any) -> Batch:
    """Return a batch that only asks, about one user."""
    return batch_of(**{"questions": ask(user_id, *accounts), "holder": "h", **others})


def own_plan(state: UserLedger) -> PlanConfig:
    """Return the plan of an answer."""
    assert state.own is not None
    return plan_from_json(state.own)


# -- booking


def test_settle__a_batch__is_booked_in_documented_form(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A strict server accepts the events, and the answer has ids, number and exact figures."""
    event = make_event("a", details={"searches": 1})
    answer = ledger.settle(numbered(1, event, make_event("b")))
    assert answer.counted == {"a", "b"}
    assert answer.booked_through == 1
    assert answer.users["ann"].spent == {SPEND: 2_000, IN_SESSION: 2_000}
    assert sorted(id_ for _, id_ in server.events) == ["a", "b"]


def test_settle__many_events__are_sent_in_requests_of_a_hundred(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """No request has more events than the contract allows, and none is left out."""
    events = [make_event(f"e{number}") for number in range(250)]
    answer = ledger.settle(numbered(1, *events))
    assert server.batches == [100, 100, 50]
    assert answer.counted == {event.event_id for event in events}
    assert answer.users["ann"].spent[SPEND] == 250_000


def test_settle__gate_events__are_sent_in_documented_form(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A strict server accepts them; how many calls one stands for is in its metadata. Again they
    are duplicates, and counts of unmetered calls have no route.
    """
    refused = [make_gate_event(f"g{number}", calls=3) for number in range(101)]
    count = UnmeteredCount("p", 0, "openai:POST /videos", "", 5)
    for _ in range(2):
        answer = ledger.settle(numbered(1, make_event("a"), records=(*refused, count)))
        assert answer.booked_through == 1
    assert server.paths.count(GATES) == 4
    assert len(server.gate_events) == 101
    sent = server.gate_events["g0"]
    assert (sent["blocked"], sent["current_value"], sent["metadata"]) == (True, 10.0, {"calls": 3})
    assert (sent["usage_pct"], sent["gate_reason"]) == (1.0, "total_spend")


@pytest.mark.parametrize("status", [404, 405, 501])
def test_settle__a_backend_without_gate_events__has_the_usage(
    server: DocumentedServer, ledger: PollingLedger, status: int
) -> None:
    """It is logged once that they are missing there, and events do not wait for them."""
    server.replaced[GATES] = (status, b"")
    for number in range(2):
        records = (make_gate_event("g"),)
        answer = ledger.settle(numbered(number + 1, make_event(f"e{number}"), records=records))
        assert answer.counted == {f"e{number}"}
    assert diagnostics.counts["gate_events_unsent"] == 2


def test_settle__gate_events_that_are_refused__are_counted_and_left(
    server: DocumentedServer, ledger: PollingLedger, swallowed: Swallowed
) -> None:
    """They must not hold up the usage."""
    swallowed.expect("ledger_refused")
    server.replaced[GATES] = problem(422, "no")
    records = (make_gate_event("g"),)
    assert ledger.settle(numbered(1, make_event("a"), records=records)).counted == {"a"}


@pytest.mark.parametrize(
    "answer", [(500, b""), (503, b""), (403, b""), (400, b""), (200, b"no JSON")]
)
def test_settle__a_backend_that_fails_at_gate_events__has_the_usage(
    server: DocumentedServer,
    ledger: PollingLedger,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[int, bytes],
) -> None:
    """They wait, and are sent again later, each once; usage is booked meanwhile, without a delay
    at each batch.
    """
    server.replaced[GATES] = answer
    for number in range(3):
        records = (make_gate_event(f"g{number}"),)
        batch = numbered(number + 1, make_event(f"e{number}"), records=records)
        settled = ledger.settle(batch)
        assert settled.counted == {f"e{number}"}
        assert settled.booked_through == number + 1
    assert server.paths.count(GATES) == 1
    server.replaced.clear()
    monkeypatch.setattr(ledger, "_report_after_s", 0.0)
    ledger.settle(numbered(4, make_event("e3")))
    assert list(server.gate_events) == ["g0", "g1", "g2"]
    assert diagnostics.counts["gate_events_unsent"] == 1


def test_settle__gate_events_of_a_long_failure__are_bounded(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """The oldest are dropped."""
    server.replaced[GATES] = (500, b"")
    records = tuple(make_gate_event(f"g{number}") for number in range(1_500))
    ledger.settle(numbered(1, records=records))
    assert next(iter(ledger._unsent)) == "g500"


@pytest.mark.parametrize(("events_max", "sent"), [(3, [3, 3, 1]), (1_000, [7]), (0, [1] * 7)])
def test_settle__a_configured_maximum__holds_within_the_contract(
    server: DocumentedServer, events_max: int, sent: list[int]
) -> None:
    """A smaller maximum applies; a larger one is that of the contract."""
    ledger = PollingLedger(HttpTransport(server.url, "k"), events_max=events_max)
    ledger.settle(batch_of(*(make_event(f"e{number}") for number in range(7))))
    ledger.close()
    assert server.batches == sent


def test_settle__a_maximum_above_the_contract__is_a_hundred(server: DocumentedServer) -> None:
    """An application's larger batch size does not make the server refuse its events."""
    ledger = PollingLedger(HttpTransport(server.url, "k"), events_max=1_000)
    ledger.settle(batch_of(*(make_event(f"e{number}") for number in range(101))))
    ledger.close()
    assert server.batches == [100, 1]


def test_settle__duplicates__are_read_and_not_counted(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Of a request with a duplicate no id is named, and the figures include each event once."""
    ledger.settle(batch_of(make_event("a")))
    answer = ledger.settle(numbered(1, make_event("a"), make_event("b")))
    assert answer.counted == frozenset()
    assert answer.users["ann"].spent[SPEND] == 2_000


def test_settle__a_duplicate_in_one_request_of_two__leaves_the_other_counted(
    server: DocumentedServer,
) -> None:
    """A request with accepted events alone names their ids, whatever is in another one."""
    ledger = PollingLedger(HttpTransport(server.url, "k"), events_max=2)
    ledger.settle(batch_of(make_event("a")))
    events = [make_event(name) for name in "abcd"]
    assert ledger.settle(batch_of(*events)).counted == {"c", "d"}
    ledger.close()


def test_settle__a_lost_answer__is_sent_again_and_counts_once(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """The batch was stored although no answer came; sent again, it is booked once everywhere."""
    ledger.settle(numbered(1))
    server.losing = 1
    batch = numbered(2, make_event("a"))
    with pytest.raises(LedgerUnavailable):
        ledger.settle(batch)
    assert ledger.state(question(SPEND, user_id="bob")).booked_through == 1
    answer = ledger.settle(batch)
    assert answer.booked_through == 2
    assert answer.users["ann"].spent == {SPEND: 1_000, IN_SESSION: 1_000}
    assert len(server.events) == 1


def test_settle__a_batch_lost_in_its_second_request__sums_each_event_once(
    server: DocumentedServer,
) -> None:
    """A batch that was booked in part is sent again whole; sums of this process count it once."""
    ledger = PollingLedger(HttpTransport(server.url, "k"), events_max=1)
    batch = numbered(1, make_event("a"), make_event("b"))

    def lose_the_second(path: str) -> None:
        server.losing = len(server.batches) if path == BOOK else 0

    server.before = lose_the_second
    with pytest.raises(LedgerUnavailable):
        ledger.settle(batch)
    server.before = lambda _: None
    server.losing = 0
    assert ledger.settle(batch).users["ann"].spent == {SPEND: 2_000, IN_SESSION: 2_000}
    ledger.close()


def test_settle__figures_that_cannot_be_read__are_read_when_it_is_sent_again(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A batch that is booked while its users cannot be read counts once in the end."""
    server.replaced[ANN] = problem(500, "no")
    batch = numbered(1, make_event("a"))
    with pytest.raises(LedgerUnavailable, match="500"):
        ledger.settle(batch)
    server.replaced.clear()
    state = ledger.state(question(SPEND, IN_SESSION))
    assert (state.booked_through, state.users["ann"].spent[IN_SESSION]) == (1, 1_000)
    answer = ledger.settle(batch)
    assert answer.counted == frozenset()
    assert answer.users["ann"].spent == {SPEND: 1_000, IN_SESSION: 1_000}


def test_settle__a_correction__lowers_every_figure(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A signed difference is booked like an event and is no call."""
    calls = day_key("calls")
    event = make_event("a")
    batch = numbered(1, event, make_correction("c", event), questions=ask("ann", calls, IN_SESSION))
    assert ledger.settle(batch).users["ann"].spent == {calls: 1, IN_SESSION: 900}


def test_settle__a_correction_with_whole_figures__is_refused_unsent(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A server that cannot compute the difference would add the whole to the original."""
    restating = make_event("c", corrects="a", restates=True)
    with pytest.raises(LedgerRefused, match="whole figures"):
        ledger.settle(batch_of(make_event("a"), restating))
    assert server.events == {}


def test_settle__directory_records_and_no_events__send_nothing(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """There is no route for records, and an empty batch needs no request."""
    answer = ledger.settle(batch_of(holder="h", number=4))
    assert answer == Answer(booked_through=4)
    assert server.paths == []


def test_settle__counts_that_are_none__name_the_field(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """An answer without usable counts is not taken for a booking."""
    for body, field in (
        ({"accepted": 1}, "duplicates"),
        ({"accepted": "1", "duplicates": 0}, "accepted"),
        ({"accepted": -1, "duplicates": 0}, "accepted"),
        ([], "object"),
    ):
        server.replaced[BOOK] = (200, body)
        with pytest.raises(LedgerUnavailable, match=field):
            ledger.settle(numbered(1, make_event("a")))
    assert ledger.state(question(SPEND, user_id="bob")).booked_through == 0


# -- reading


def test_state__a_user__has_plan_period_and_exact_usage(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Everything in the response reaches the process, amounts exactly."""
    tokens, of_model = period_key("tokens"), period_key("tokens", "gpt-4o")
    dollars = period_key("spend", "gpt-4o")
    ledger.settle(
        batch_of(
            make_event("a", cost_tokens_nano=150_000_001),
            make_event("b", model="claude-x", model_key="claude-x"),
        )
    )
    state = ledger.state(question(SPEND, tokens, of_model, dollars)).users["ann"]
    assert state.spent == {SPEND: 150_001_001, tokens: 60, of_model: 30, dollars: 150_000_001}
    assert (state.plan, own_plan(state).max_spend_per_period_nano) == ("pro", 5 * 10**9)
    assert state.subscription == Subscription(*MONTH)
    assert (state.sdk_enabled, state.paused, state.is_unknown) == (True, False, False)
    assert state.period_start_us == MONTH.start_us
    assert state.by_model == {"gpt-4o": (30, 150_000_001), "claude-x": (30, 1_000)}


def test_state__exact_twins__win_over_the_numbers(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Where the server has the exact amount, the shown one is not used."""
    usage = {
        "period_cost": 9007199.254740993,
        "period_cost_nano": 9007199254740993,
        "period_tokens_total": 1,
        "period_tokens_by_model": {"gpt-4o": 1},
        "period_cost_by_model": {"gpt-4o": 0.3},
        "period_cost_by_model_nano": {"gpt-4o": 300_000_001},
    }
    server.users["ann"] = {"current_usage": usage}
    dollars = period_key("spend", "gpt-4o")
    state = ledger.state(question(SPEND, dollars)).users["ann"]
    assert state.spent == {SPEND: 9007199254740993, dollars: 300_000_001}


def test_state__an_unknown_user__has_zeros(server: DocumentedServer, ledger: PollingLedger) -> None:
    """A user of whom the server has never heard is unknown, and has spent nothing."""
    answer = ledger.state(question(SPEND, IN_SESSION, user_id="new"))
    assert answer.users["new"] == UserLedger(
        spent={SPEND: 0, IN_SESSION: 0}, period_start_us=MONTH.start_us, is_unknown=True
    )


@pytest.mark.parametrize("user_id", ["a/b", "a b?c#d", "é%2F", ".", "..", "../x", "\ud800", "+&="])
def test_state__an_id_with_reserved_characters__is_one_segment(
    server: DocumentedServer, ledger: PollingLedger, user_id: str
) -> None:
    """The server is asked about this user, whatever the id consists of."""
    answer = ledger.settle(numbered(1, make_event("a", user_id=user_id), about=user_id))
    assert answer.users[user_id].spent[SPEND] == 1_000
    assert server.paths[-1].count("/") == ANN.count("/")


def test_state__switches_of_a_user__arrive(server: DocumentedServer, ledger: PollingLedger) -> None:
    """`sdk_enabled`, and `paused` where the server has it, apply."""
    server.users["ann"] = {"sdk_enabled": False, "paused": True, "paused_reason": "unpaid"}
    state = ledger.state(question(SPEND)).users["ann"]
    assert (state.sdk_enabled, state.paused, state.paused_reason) == (False, True, "unpaid")


def test_state__a_whole_plan__is_read_without_loss(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Caps, limits of models and rates of the response are those that apply."""
    server.users["ann"] = {
        "plan_config": {
            "id": "p1",
            "name": "pro",
            "version": 3,
            "max_spend_per_period": 0.1,
            "max_spend_per_session": 0.07,
            "soft_gate_at": 0.5,
            "model_limits": {"gpt-4o": {"max_tokens_per_period": 1000}},
            "cost_rates": {"gpt-4o": {"input": 0.0025, "output": 0.01}},
        }
    }
    assert own_plan(ledger.state(question(SPEND)).users["ann"]) == PlanConfig(
        max_spend_per_period="0.1",
        max_spend_per_session="0.07",
        soft_gate_at=0.5,
        model_limits={"gpt-4o": 1000},
        cost_rates={"gpt-4o": {"input": "0.0025", "output": "0.01"}},
    )


def test_state__a_plan_that_cannot_be_read__is_left_out_and_counted(
    server: DocumentedServer, ledger: PollingLedger, swallowed: Swallowed
) -> None:
    """Figures and switches of the user apply without it."""
    swallowed.expect("plan_document")
    server.users["ann"] = {"plan_config": {"max_spend_per_period": "much"}}
    state = ledger.state(question(SPEND)).users["ann"]
    assert (state.plan, state.own, state.spent) == ("pro", None, {SPEND: 0})
    assert diagnostics.counts["plan_document"] == 1


def test_state__an_unknown_field_of_a_plan__is_counted_and_the_rest_applies(
    server: DocumentedServer, ledger: PollingLedger, swallowed: Swallowed
) -> None:
    """A limit that this version does not know does not remove those that it knows."""
    swallowed.expect("plan_document")
    server.users["ann"] = {"plan_config": {"max_spend_per_period": 2, "max_images": 5}}
    state = ledger.state(question(SPEND)).users["ann"]
    assert own_plan(state) == PlanConfig(max_spend_per_period=2)


def test_state__neither_plan_nor_period__is_that_of_a_user_without(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Null is the default plan, and the calendar month with its usage."""
    ledger.settle(batch_of(make_event("a")))
    server.users["ann"] = {"plan": None, "plan_config": None, "billing_period": None}
    state = ledger.state(question(SPEND)).users["ann"]
    assert (state.plan, state.own, state.subscription) == (None, None, None)
    assert state.spent == {SPEND: 1_000}


def test_state__the_user_of_calls_without_one__is_never_assigned(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """The default plan that every backend shows does not limit all unattributed calls together."""
    server.users[MISSING_USER_ID] = {}
    state = ledger.state(question(SPEND, user_id=MISSING_USER_ID)).users[MISSING_USER_ID]
    assert (state.plan, state.own, state.is_unknown) == (None, None, False)


def test_state__nothing_asked__checks_that_the_server_answers(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A probe is one cheap request, and fails where something else answers."""
    assert ledger.state(Batch()) == Answer()
    assert server.paths == [HEALTH]
    server.replaced[HEALTH] = (200, {"hello": 1})
    with pytest.raises(LedgerUnavailable, match="status"):
        ledger.state(Batch())


def test_state__slow_answers__leave_the_rest_for_later(
    server: DocumentedServer, ledger: PollingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many questions do not hold the thread longer than its time; those read are answered."""
    monkeypatch.setattr(polling, "_READ_S", 0.0)
    questions = (*ask("ann", SPEND), *ask("bob", SPEND))
    assert ledger.state(batch_of(questions=questions)).users == {}
    monkeypatch.setattr(polling, "_READ_S", WAIT_S)
    assert ledger.state(batch_of(questions=questions)).users.keys() == {"ann", "bob"}


def test_settle__slow_answers__still_read_users_of_events_that_were_not_counted(
    server: DocumentedServer, ledger: PollingLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the reading, an event that may be a duplicate would be in no figure."""
    ledger.settle(batch_of(make_event("a")))
    monkeypatch.setattr(polling, "_READ_S", 0.0)
    questions = (*ask("bob", SPEND), *ask("ann", SPEND))
    answer = ledger.settle(numbered(1, make_event("a"), questions=questions))
    assert answer.users.keys() == {"ann"}


def test_state__a_refused_id__leaves_the_other_users_answered(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """An id that the server does not take concerns no other user."""
    server.replaced["/api/v1/users/odd/session"] = problem(422, "no such id")
    questions = (*ask("odd", SPEND), *ask("ann", SPEND))
    assert ledger.state(batch_of(questions=questions)).users.keys() == {"ann"}


# -- periods


def test_state__a_billing_period__is_exactly_the_users_window_and_goes_on(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Within it the window is the server's; at its end the next begins, under the same plan."""
    server.period = Window(NOON_US - 10 * HOUR_US, NOON_US + HOUR_US)
    key = SPEND._replace(start_us=server.period.start_us, end_us=server.period.end_us)
    ledger.settle(batch_of(make_event("a"), make_event("old", at_us=NOON_US - 11 * HOUR_US)))
    state = ledger.state(question(key, SPEND)).users["ann"]
    assert state.spent == {key: 1_000, SPEND: 0}
    assert state.period_start_us == server.period.start_us
    end_us = server.period.end_us
    assert billing_period(state.subscription, end_us - 1) == server.period
    assert billing_period(state.subscription, end_us) == Window(end_us, end_us + 11 * HOUR_US)


def test_state__a_period_that_has_ended__is_replaced_by_the_servers_next(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Until the server shows the next period this process's sums count, then its figures."""
    server.period = Window(NOON_US - 10 * HOUR_US, NOON_US)
    following = Window(NOON_US, NOON_US + 10 * HOUR_US)
    key = SPEND._replace(start_us=following.start_us, end_us=following.end_us)
    asked = (Question("ann", (key,), following.start_us),)
    before = ledger.settle(batch_of(make_event("a"), questions=asked)).users["ann"]
    assert (before.spent, before.period_start_us, before.by_model) == (
        {key: 1_000},
        following.start_us,
        {},
    )
    server.period = following
    server.events["ann", "by another process"] = {**server.events["ann", "a"]}
    after = ledger.state(batch_of(questions=asked)).users["ann"]
    assert (after.spent, after.subscription) == ({key: 2_000}, Subscription(*following))
    assert after.by_model == {"gpt-4o": (60, 2_000)}


# -- sums of this process


def test_state__accounts_that_the_contract_does_not_show__are_summed_here(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Sessions, days, rolling windows and calls count what this process has delivered."""
    keys = (IN_SESSION, day_key(), rolling_key(), period_key("calls"))
    ledger.state(question(*keys))
    ledger.settle(
        batch_of(
            make_event("a"),
            make_event("b", session_id="s2"),
            make_event("c", at_us=NOON_US - 23 * HOUR_US, session_id="s2"),
            make_event("d", user_id="bob"),
        )
    )
    spent = ledger.state(question(*keys)).users["ann"].spent
    assert [spent[key] for key in keys] == [1_000, 2_000, 3_000, 3]


def test_state__blocked_calls__are_the_shadow_of_their_accounts(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """In shadow mode the spend of blocked calls can be taken off again, also that of the period."""
    ledger.state(question(SPEND, IN_SESSION))
    ledger.settle(batch_of(make_event("a"), make_event("b", blocked=True)))
    state = ledger.state(question(SPEND, IN_SESSION)).users["ann"]
    assert state.spent == {SPEND: 2_000, IN_SESSION: 2_000}
    assert state.shadow == {SPEND: 1_000, IN_SESSION: 1_000}


def test_state__a_snapshot_that_the_server_merges__is_summed_here(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A limit of an exact name holds although the server counts under the canonical one."""
    key = period_key("tokens", "gpt-4o-2024-08-06")
    ledger.state(question(key))
    ledger.settle(batch_of(make_event("a")))
    usage = {
        "period_cost": 0.1,
        "period_tokens_total": 99,
        "period_tokens_by_model": {"gpt-4o": 99},
        "period_cost_by_model": {"gpt-4o": 0.1},
    }
    server.users["ann"] = {"current_usage": usage}
    assert ledger.state(question(key)).users["ann"].spent == {key: 30}


def test_forget_after_fork__in_a_child__starts_with_no_batch_and_no_sum(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """The child is a holder of its own, and connects for itself."""
    ledger.settle(numbered(7, make_event("a")))
    ledger.pause_for_fork()
    ledger.resume_after_fork()
    assert ledger.state(question(IN_SESSION)).booked_through == 7
    ledger.forget_after_fork()
    answer = ledger.state(question(IN_SESSION))
    assert (answer.booked_through, answer.users["ann"].spent) == (0, {IN_SESSION: 0})


# -- batches in doubt


def test_state__a_batch_in_doubt__leaves_its_users_out_until_it_is_settled(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Whether the figures include it is not known; those of other users are exact."""
    ledger.settle(numbered(1))
    server.losing = 1
    batch = numbered(2, make_event("a"))
    with pytest.raises(LedgerUnavailable):
        ledger.settle(batch)
    both = batch_of(questions=(*ask("ann", SPEND), *ask("bob", SPEND)), holder="h")
    answer = ledger.state(both)
    assert (set(answer.users), answer.booked_through) == ({"bob"}, 1)
    ledger.settle(batch)
    answer = ledger.state(both)
    assert (set(answer.users), answer.booked_through) == ({"ann", "bob"}, 2)


def test_state__a_batch_that_another_way_acknowledged__is_in_doubt_no_more(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """During an outage a batch may reach the backend otherwise; the next number ends its doubt."""
    server.losing = 2
    later = numbered(2, make_event("b", user_id="bob"), about="bob")
    for batch in (numbered(1, make_event("a")), later):
        with pytest.raises(LedgerUnavailable):
            ledger.settle(batch)
    both = batch_of(questions=(*ask("ann", SPEND), *ask("bob", SPEND)), holder="h")
    assert set(ledger.state(both).users) == {"ann"}
    ledger.settle(later)
    answer = ledger.state(both)
    assert (set(answer.users), answer.booked_through) == ({"ann", "bob"}, 2)


def test_state__batches_without_a_number__change_no_doubt(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Records of a dead process are settled meanwhile; the own batch stays what it is."""
    ledger.settle(numbered(1))
    ledger.settle(batch_of(make_event("a")))
    assert ledger.state(question(SPEND)).booked_through == 1
    server.losing = 1
    with pytest.raises(LedgerUnavailable):
        ledger.settle(numbered(2, make_event("b")))
    ledger.settle(batch_of(make_event("c")))
    assert ledger.state(question(SPEND)) == Answer(booked_through=1)


def test_state__another_holder__has_no_batches(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Numbers are those of one holder; another one starts from none."""
    ledger.settle(numbered(5))
    assert ledger.state(question(SPEND, holder="other")).booked_through == 0
    server.losing = 1
    batch = numbered(5, make_event("a"), holder="other")
    with pytest.raises(LedgerUnavailable):
        ledger.settle(batch)
    answer = ledger.state(question(SPEND, holder="other"))
    assert answer == Answer(booked_through=0)
    assert ledger.settle(batch).booked_through == 5


def test_state__a_booking_in_progress__leaves_its_users_out(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """While the server books, a user of the batch is not answered, with or without it."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_bookings(path: str) -> None:
        if path == BOOK:
            reached.set()
            assert go_on.wait(WAIT_S)

    for name in ("before", "between"):  # not yet stored, and stored
        setattr(server, name, hold_bookings)
        with ThreadPoolExecutor(1) as pool:
            number = 1 if name == "before" else 2
            settling = pool.submit(ledger.settle, numbered(number, make_event(name)))
            assert reached.wait(WAIT_S)
            both = batch_of(questions=(*ask("ann", SPEND), *ask("bob", SPEND)), holder="h")
            answer = ledger.state(both)
            assert (set(answer.users), answer.booked_through) == ({"bob"}, number - 1)
            go_on.set()
            assert settling.result(WAIT_S).users["ann"].spent[SPEND] == number * 1_000
        setattr(server, name, lambda _: None)
        reached.clear()
        go_on.clear()


@pytest.mark.parametrize("when", ["before", "between"])
def test_state__a_booking_during_the_reading__leaves_its_users_out(
    server: DocumentedServer, ledger: PollingLedger, when: str
) -> None:
    """A reading that began before a whole booking and ended after it has either figure."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_readings(path: str) -> None:
        if path == ANN and not go_on.is_set():
            reached.set()
            assert go_on.wait(WAIT_S)

    setattr(server, when, hold_readings)
    both = batch_of(questions=(*ask("ann", SPEND), *ask("bob", SPEND)), holder="h")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(ledger.state, both)
        assert reached.wait(WAIT_S)
        booked = ledger.settle(numbered(1, make_event("a"), about="bob"))
        assert booked.booked_through == 1
        go_on.set()
        answer = reading.result(WAIT_S)
    assert (set(answer.users), answer.booked_through) == ({"bob"}, 1)


def test_state__bookings_and_readings_at_once__every_answer_is_exact(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """Each answered figure, also of a session, is that of the batches that the answer names."""
    done = threading.Event()
    wrong: list[Answer] = []
    answered = 0

    def read() -> None:
        nonlocal answered
        while not done.is_set():
            answer = ledger.state(question(SPEND, IN_SESSION))
            state = answer.users.get("ann")
            if state is not None and not state.is_unknown:
                answered += 1
                if set(state.spent.values()) != {answer.booked_through * 1_000}:
                    wrong.append(answer)

    ledger.state(question(SPEND, IN_SESSION))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        number = 0
        try:
            while number < 30 or (not answered and number < 2_000):
                number += 1
                server.losing = int(number % 7 == 0)
                batch = numbered(number, make_event(f"e{number}"))
                try:
                    answer = ledger.settle(batch)
                except LedgerUnavailable:
                    answer = ledger.settle(batch)
                assert set(answer.users["ann"].spent.values()) == {number * 1_000}
        finally:
            done.set()
        reading.result(WAIT_S)
    assert wrong == []
    assert answered


# -- failures


Verb = Callable[[PollingLedger], Any]
VERBS: dict[str, tuple[str, Verb]] = {
    "settle": (BOOK, lambda ledger: ledger.settle(numbered(1, make_event("a")))),
    "state": (ANN, lambda ledger: ledger.state(question(SPEND))),
    "probe": (HEALTH, lambda ledger: ledger.state(Batch())),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, LedgerUnauthorised),
        (403, LedgerUnauthorised),
        (429, LedgerUnavailable),
        (500, LedgerUnavailable),
        (503, LedgerUnavailable),
        (302, LedgerUnavailable),
    ],
)
def test_verbs__a_status__is_the_same_failure_everywhere(
    server: DocumentedServer,
    ledger: PollingLedger,
    verb: str,
    status: int,
    kind: type[LedgerUnavailable],
) -> None:
    """Keys and overload are reported as such, with the time that the server asks for."""
    path, call = VERBS[verb]
    server.headers["retry-after"] = "7"
    server.replaced[path] = problem(status, "no")
    with pytest.raises(LedgerUnavailable) as caught:
        call(ledger)
    assert (type(caught.value), caught.value.retry_after_s) == (kind, 7.0)


def test_settle__a_refused_batch__is_about_its_content(
    server: DocumentedServer, ledger: PollingLedger
) -> None:
    """A rejected batch can be searched for the bad record; the rest is booked."""
    bad = make_event("a", user_id="refused")
    with pytest.raises(LedgerRefused, match="422"):
        ledger.settle(numbered(1, bad, make_event("b")))
    assert ledger.settle(batch_of(make_event("b"))).counted == {"b"}
    with pytest.raises(LedgerRefused):
        ledger.settle(batch_of(bad))
    answer = ledger.settle(numbered(1))
    assert (answer.booked_through, answer.users["ann"].spent[SPEND]) == (1, 1_000)
    assert ledger.state(question(SPEND)).users.keys() == {"ann"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 200_000, b"NaN", b"null", b"[]"])
def test_verbs__a_body_that_is_no_answer__is_not_now(
    server: DocumentedServer, ledger: PollingLedger, verb: str, body: bytes
) -> None:
    """Whatever a proxy sends, the request can be made again."""
    path, call = VERBS[verb]
    server.replaced[path] = (200, body)
    with pytest.raises(LedgerUnavailable):
        call(ledger)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs__no_server__are_not_now(verb: str) -> None:
    """An address without a listener is the same."""
    ledger = PollingLedger(HttpTransport("http://127.0.0.1:1", "k"))
    with pytest.raises(LedgerUnavailable, match="cannot be reached"):
        VERBS[verb][1](ledger)
    ledger.close()


def test_verbs__reports_and_events__are_not_served(ledger: PollingLedger) -> None:
    """There is no route for them."""
    with pytest.raises(LedgerUnavailable, match="reports"):
        ledger.report(SpendRequest(("user",)))
    with pytest.raises(LedgerUnavailable, match="single events"):
        ledger.event("a")


GOOD: dict[str, Any] = {
    "plan": "pro",
    "sdk_enabled": True,
    "plan_config": {},
    "billing_period": {"start": "2024-10-01T00:00:00Z", "end": "2024-11-01T00:00:00Z"},
    "current_usage": {
        "period_cost": 0.1,
        "period_tokens_total": 10,
        "period_tokens_by_model": {"gpt-4o": 10},
        "period_cost_by_model": {"gpt-4o": 0.1},
    },
}
_PATHS = [
    *((name,) for name in GOOD),
    *(("current_usage", name) for name in GOOD["current_usage"]),
    *(("billing_period", name) for name in GOOD["billing_period"]),
]


def changed(path: tuple[str, ...], change: Callable[[dict[str, Any], str], Any]) -> dict[str, Any]:
    """Return a copy of a good response with a change of one field."""
    document: dict[str, Any] = json.loads(json.dumps(GOOD))
    place = document
    for name in path[:-1]:
        place = place[name]
    change(place, path[-1])
    return document


@pytest.mark.parametrize("path", _PATHS)
def test_read_session__a_missing_field__is_named(path: tuple[str, ...]) -> None:
    """A response without a documented field is not used, and the error says which one it is."""
    with pytest.raises(LedgerUnavailable, match=r"cannot be used: " + r"\.".join(path)):
        read_session(changed(path, dict.pop))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("plan",), 1),
        (("sdk_enabled",), "yes"),
        (("paused",), 1),
        (("paused_reason",), 1),
        (("plan_config",), []),
        (("billing_period",), "now"),
        (("billing_period", "start"), "2024-10-01"),
        (("billing_period", "end"), "2024-10-01T00:00:00Z"),
        (("current_usage", "period_cost"), "0.1"),
        (("current_usage", "period_cost"), True),
        (("current_usage", "period_cost"), float("nan")),
        (("current_usage", "period_cost"), 1e300),
        (("current_usage", "period_cost_nano"), 0.5),
        (("current_usage", "period_tokens_total"), 0.5),
        (("current_usage", "period_tokens_total"), float("inf")),
        (("current_usage", "period_tokens_by_model", "gpt-4o"), None),
        (("current_usage", "period_cost_by_model"), []),
    ],
)
def test_read_session__a_value_of_another_kind__is_named(path: tuple[str, ...], value: Any) -> None:
    """A value that cannot be what the field means makes the response unusable."""
    with pytest.raises(LedgerUnavailable, match=r"cannot be used: " + r"\.".join(path)):
        read_session(changed(path, lambda place, name: place.update({name: value})))


def test_read_session__whole_floats__are_counts() -> None:
    """A server with one type of number sends tokens as `10.0`."""
    document = changed(
        ("current_usage", "period_tokens_total"), lambda place, name: place.update({name: 12.0})
    )
    assert (read_session(document).tokens, type(read_session(document).tokens)) == (12, int)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([name for path in _PATHS for name in path]) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(_PATHS), value=_JSON, whole=st.booleans())
def test_read_session__any_json__is_read_or_unavailable(
    path: tuple[str, ...], value: Any, whole: bool, swallowed: Swallowed
) -> None:
    """Nothing that a server may send raises anything else, and what is read can be applied."""
    document = value if whole else changed(path, lambda place, name: place.update({name: value}))
    try:
        session = read_session(document)
    except LedgerUnavailable:
        return
    finally:
        swallowed.seen = [each for each in swallowed.seen if each[0] != "plan_document"]
    assert session.by_model.keys() >= set()
    assert type(session.spend_nano) is type(session.tokens) is int
    if session.own is not None:
        assert plan_to_json(plan_from_json(session.own)) == session.own


# -- against the application of this product


def test_polling__the_products_own_backend__is_understood(tmp_path: Path) -> None:
    """Without its own routes, this product's server books and shows what the adapter expects."""
    store = SqliteStore(str(tmp_path / "server.db"), readers=4, now_us=lambda: NOW_US)
    store.open()
    month = calendar_month(NOW_US)
    spend = SPEND._replace(start_us=month.start_us, end_us=month.end_us)
    tokens = period_key("tokens", "gpt-4o", NOW_US)
    user_id = "a/b é"
    with listening(store) as service:
        own_routes = ("/sync", "/leases")
        service.app.router.routes[:] = [
            route
            for route in service.app.router.routes
            if not (isinstance(route, APIRoute) and route.path.endswith(own_routes))
        ]
        assert service.post("/sync", {}, key="sdk").status_code == 404
        rates = {"gpt-4o": {"input": 0.0025, "output": 0.01}}
        service.plan("default", max_spend_per_period=0.3, cost_rates=rates)
        transport = HttpTransport(str(service.client.base_url), service.keys["sdk"])
        ledger = PollingLedger(transport)
        unknown = ledger.state(Batch(questions=ask(user_id, spend), at_us=NOW_US))
        events = [
            make_event(
                f"e{number}",
                user_id=user_id,
                at_us=NOW_US - HOUR_US,
                cost_tokens_nano=1_000_000 + number,
                details={"searches": 1},
                metadata={"team": "x"},
            )
            for number in range(120)
        ]
        asked = (Question(user_id, (spend, tokens, IN_SESSION), month.start_us),)
        batch = Batch(tuple(events), questions=asked, at_us=NOW_US, holder="h", number=1)
        first, again = ledger.settle(batch), ledger.settle(batch)
        probe = ledger.state(Batch())
        wrong_key = PollingLedger(HttpTransport(str(service.client.base_url), "wrong"))
        with pytest.raises(LedgerUnauthorised):
            wrong_key.state(question(spend))
        with pytest.raises(LedgerRefused):
            ledger.settle(batch_of(events[0]._replace(event_id="")))
        for each in (ledger, wrong_key):
            each.close()
    store.close()
    assert unknown.users[user_id].is_unknown
    assert first.counted == {event.event_id for event in events}
    assert again.counted == frozenset()
    assert again.users == first.users
    assert probe == Answer()
    state = first.users[user_id]
    total = sum(event.cost_nano for event in events)
    assert state.spent == {spend: total, tokens: 3_600, IN_SESSION: total}
    assert state.by_model == {"gpt-4o": (3_600, total)}
    assert state.plan == "default"
    assert own_plan(state) == PlanConfig(max_spend_per_period="0.3", cost_rates=rates)
    assert state.subscription == Subscription(*month)
    assert to_datetime(state.period_start_us).day == 1
