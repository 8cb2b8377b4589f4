"""`Paygent` as applications use it: names, verbs, properties, gates and its end."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered, drain
from tests.promises.scripts import start

import paygent
from paygent import (
    BillingPeriod,
    GuardResult,
    InvalidValue,
    Limit,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    UsageEvent,
    UserState,
    paygent_context,
)
from paygent.client.api import paygent as paygent_module
from paygent.client.api import plans as directory_module
from paygent.client.api import queries, reports
from paygent.client.instrument.registry import instrumentation
from paygent.client.metering import wait
from paygent.client.metering.call import Call, Request
from paygent.client.metering.wait import Wait, WaitEnd
from paygent.client.runtime.event_loops import runs_loop
from paygent.client.runtime.lifecycle import _after_fork_in_child, _at_exit, _before_fork
from paygent.client.runtime.settings import FIRST_TOUCH_WAIT_S, Settings
from paygent.core.messages import Answer as LedgerAnswer
from paygent.core.messages import Batch, BookedEvent
from paygent.core.period import to_us
from paygent.core.report import SpendReport
from paygent.core.report_request import SpendRequest
from paygent.core.report_table import ReportTable
from paygent.core.usage import Usage
from paygent.errors import PaygentWarning
from paygent.failopen import diagnostics
from paygent.ledger.port import LedgerUnavailable
from paygent.testing import Answer, FakeProvider, Tokens

Init = Callable[..., Paygent]

CALL_NANO = 450_000  # gpt-4o: 100 input at 2.50 and 20 output at 10.00 dollars per million


class Clock:
    """A clock that is set."""

    def __init__(self, *moment: int) -> None:
        self.at = datetime(*moment, tzinfo=timezone.utc)  # type: ignore[misc, arg-type]

    def __call__(self) -> int:
        return to_us(self.at)


class AbsentLedger:
    """A ledger that is away, or that never answers (`hangs`)."""

    keeps_plans = False
    heartbeat_s: float | None = None

    def __init__(self, hangs: threading.Event | None = None) -> None:
        self._hangs = hangs

    def _fail(self) -> Any:
        if self._hangs is not None:
            self._hangs.wait(30)
        raise LedgerUnavailable("away")

    def open(self) -> None:
        self._fail()

    def settle(self, batch: Batch) -> LedgerAnswer:
        found: LedgerAnswer = self._fail()
        return found

    def state(self, batch: Batch) -> LedgerAnswer:
        found: LedgerAnswer = self._fail()
        return found

    def report(self, request: SpendRequest) -> SpendReport:
        found: SpendReport = self._fail()
        return found

    def table(self, kind: str, request: SpendRequest) -> ReportTable:
        found: ReportTable = self._fail()
        return found

    def event(self, event_id: str) -> BookedEvent | None:
        found: BookedEvent | None = self._fail()
        return found

    def close(self) -> None:
        """Have nothing to close."""

    def pause_for_fork(self) -> None:
        """Have nothing that a child must not inherit."""

    def resume_after_fork(self) -> None:
        """Have nothing to go on with."""

    def forget_after_fork(self) -> None:
        """Have nothing to forget."""


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """For a ledger that hangs until it is set; callers wait as long as in production."""
    monkeypatch.setattr(wait, "FIRST_TOUCH_WAIT_S", FIRST_TOUCH_WAIT_S)
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A client of the fake provider, without retries."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def call(client: openai.OpenAI, user: str = "u1", **more: Any) -> Any:
    """Make one call of $0.00045 that holds what it costs."""
    with paygent_context(user):
        return client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, max_tokens=20, **more
        )


# -- names


@pytest.mark.parametrize("name", paygent.__all__)
def test_paygent__each_public_name__can_be_used_and_is_listed(name: str) -> None:
    """What is promised is there, and completion in a shell shows it."""
    assert getattr(paygent, name).__name__ == name
    assert name in dir(paygent)


def test_paygent__a_name_that_is_none__is_an_attribute_error() -> None:
    """Typing slips are told as Python tells them."""
    with pytest.raises(AttributeError, match="module 'paygent' has no attribute 'Paygnt'"):
        _ = paygent.Paygnt


def test_paygent__a_name_loaded_anew__is_the_same_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are loaded when they are used, and kept."""
    monkeypatch.delitem(vars(paygent), "PlanConfig", raising=False)
    assert paygent.PlanConfig is PlanConfig
    assert vars(paygent)["PlanConfig"] is PlanConfig


# -- the process's instance and its properties


def test_init__then_shutdown__is_the_processs_instance_in_between(init: Init) -> None:
    """One at a time, and none after the end."""
    assert Paygent.get_instance() is None
    pg = init()
    assert Paygent.get_instance() is pg
    assert (pg.is_initialized, pg.is_instrumented, pg.is_local_mode) == (True, True, True)
    pg.shutdown()
    assert Paygent.get_instance() is None
    assert pg.is_initialized is False


def test_properties__of_local_mode__say_so(init: Init) -> None:
    """No key, no backend, no question open."""
    pg = init()
    assert (pg.api_key, pg.base_url) == (None, "http://127.0.0.1:8790")
    assert (pg.backend_reachable, pg.is_connected) == (None, False)
    assert (pg.pending_events, pg.session_count) == (0, 0)


def test_queue_stats__has_the_documented_keys_and_counts(init: Init) -> None:
    """Pushed is what was delivered and what waits."""
    pg = init()
    keys = ["total_pushed", "total_flushed", "total_dropped", "pending", "is_running"]
    assert list(pg.queue_stats) == keys
    assert pg.queue_stats["is_running"] is False
    pg.record_event("u1", cost=1)
    pg.record_event("u1", cost=1)
    assert pg.queue_stats["total_pushed"] == 2
    pg.flush()
    assert list(pg.queue_stats.values()) == [2, 2, 0, 0, True]


def test_health__of_a_fresh_start__is_well(init: Init) -> None:
    """Nothing swallowed, a journal on disk, prices of a day."""
    health = init().health()
    assert (health["mode"], health["journal_durable"], health["counts"]) == ("local", True, {})
    assert set(health) >= {"backend_reachable", "queue", "catalogue"}
    assert health["catalogue"]


def test_health__of_a_store_in_memory__is_not_durable(init: Init) -> None:
    """What is lost with the process is shown."""
    pg = init(db_path=":memory:")
    pg.record_event("u1", cost=1)
    pg.flush()
    assert pg.health()["journal_durable"] is False
    assert pg.get_usage("u1").period_cost == 1.0


def test_init__without_auto_instrument__patches_on_demand(
    init: Init, client: openai.OpenAI
) -> None:
    """`instrument` and `uninstrument` put the patches in and take them out, any time."""
    bare = openai.OpenAI.request
    pg = init(auto_instrument=False)
    metered = Metered(pg)
    assert (pg.is_instrumented, openai.OpenAI.request) == (False, bare)
    call(client)
    pg.instrument()
    pg.instrument()
    assert pg.is_instrumented is True
    call(client)
    pg.uninstrument()
    assert openai.OpenAI.request is bare
    call(client)
    assert len(metered.events) == 1


@pytest.mark.usefixtures("patient_probe")
def test_init__with_a_key__keeps_a_products_figures_apart(init: Init, db_path: str) -> None:
    """The local store of a key is named by the key's hash; the key itself is written nowhere."""
    with pytest.warns(UserWarning, match="cannot be reached"):
        pg = init(api_key="pg_live_secret", base_url="http://127.0.0.1:9")
    pg.record_event("u1", cost=1)
    pg.shutdown()
    local = init()
    assert local.report() == ()
    local.shutdown()
    for path in Path(db_path).parent.rglob("*"):
        assert "pg_live_secret" not in path.name
        assert path.is_dir() or b"pg_live_secret" not in path.read_bytes()


def test_disabled__every_verb_answers_and_nothing_is_kept(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`PAYGENT_DISABLED=1`: no patch, no thread, no file, and no verb that waits."""
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    threads = threading.active_count()
    pg = init()
    pg.instrument()
    pg.configure_plan("p", PlanConfig(max_spend_per_period=1))
    assert pg.assign_plan("u1", "p").plan == "p"
    assert pg.start_session("u1", "p").plan == "p"
    assert pg.record_event("u1", cost=5).cost_total == 5.0
    assert pg.get_usage("u1").period_cost == 0.0
    assert pg.check_guard("u1").status == "ok"
    assert (pg.flush(), pg.is_instrumented, pg.health()["mode"]) == (0, False, "off")
    assert threading.active_count() == threads


def test_report__while_switched_off__is_empty_at_once(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nobody to wait for."""
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    monkeypatch.setattr(reports, "REPORT_WAIT_S", 0.2)
    assert init().report() == ()


# -- plans, users, sessions


def test_configure_plan__again__changes_the_caps_and_keeps_what_was_spent(init: Init) -> None:
    """Users of a plan follow at once."""
    pg = init()
    pg.configure_plan("p", PlanConfig(max_spend_per_period=1))
    pg.assign_plan("u1", "p")
    pg.record_event("u1", cost=1)
    assert pg.check_guard("u1").status == "hard_gate"
    pg.configure_plan("p", PlanConfig(max_spend_per_period=10))
    assert pg.check_guard("u1").status == "ok"
    assert pg.get_usage("u1").period_cost == 1.0


def test_configure_plan__too_large_for_the_journal__is_refused_by_name(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan that could not be kept is not taken."""
    monkeypatch.setattr(directory_module, "RECORD_BYTES_MAX", 10_000)
    pg = init()
    limits: Any = {f"model-{number:06}": 1 for number in range(1_000)}
    with pytest.raises(InvalidValue, match="bytes as JSON") as caught:
        pg.configure_plan("big", PlanConfig(model_limits=limits))
    assert [each.field for each in caught.value.findings] == ["config"]
    assert pg.assign_plan("u1", "big").plan_config == PlanConfig()


def test_assign_plan__with_a_billing_period__renews_by_its_length(db_path: str) -> None:
    """Ten days from the 5th: the spend of one period does not count in the next."""
    clock = Clock(2026, 1, 6)
    pg = Paygent.launch(Settings(db_path=db_path, auto_instrument=False), now_us=clock)
    start = datetime(2026, 1, 5, tzinfo=timezone.utc)
    pg.configure_plan("p", PlanConfig(max_spend_per_period=1))
    state = pg.assign_plan("u1", "p", BillingPeriod(start, start + timedelta(days=10)))
    assert state.billing_period == BillingPeriod(start, start + timedelta(days=10))
    pg.record_event("u1", cost=1)
    assert pg.check_guard("u1").status == "hard_gate"
    clock.at += timedelta(days=10)
    assert pg.check_guard("u1").status == "ok"
    again = pg.start_session("u1", "p")
    assert again.billing_period == BillingPeriod(
        start + timedelta(days=10), start + timedelta(days=20)
    )


def test_assign_plan__without_a_period__is_the_utc_calendar_month(db_path: str) -> None:
    """The month that contains now."""
    settings = Settings(db_path=db_path, auto_instrument=False)
    pg = Paygent.launch(settings, now_us=Clock(2026, 2, 14))
    state = pg.assign_plan("u1", "default")
    assert state.billing_period == BillingPeriod(
        datetime(2026, 2, 1, tzinfo=timezone.utc), datetime(2026, 3, 1, tzinfo=timezone.utc)
    )
    assert (state.user_id, state.plan, state.sdk_enabled) == ("u1", "default", True)


@pytest.mark.parametrize("user", [7, "7"])
def test_verbs__int_ids__are_their_text(init: Init, user: Any) -> None:
    """An application's numbers are the same user as their digits."""
    pg = init()
    pg.record_event(7, cost=1)
    assert pg.get_usage(user).period_cost == 1.0


def test_start_session__before_every_request__opens_one_session(db_path: str) -> None:
    """Only where none is open; after its idle time-out the next one opens."""
    clock = Clock(2026, 1, 1)
    pg = Paygent.launch(Settings(db_path=db_path, auto_instrument=False), now_us=clock)
    started: list[UserState] = []
    pg.on_session_start(started.append)
    first = pg.start_session("u1")
    clock.at += timedelta(minutes=29)
    second = pg.start_session("u1")
    clock.at += timedelta(minutes=31)
    third = pg.start_session("u1")
    pg.flush()
    sessions = [state.current_usage.session_id for state in (first, second, third)]
    assert sessions[0] == sessions[1] != sessions[2]
    assert [state.current_usage.session_id for state in started] == [sessions[0], sessions[2]]
    assert first.current_usage.session_started_at == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert pg.session_count == 1


def test_start_session__spend__is_never_reset(init: Init) -> None:
    """Neither a new session nor a new plan forgives what was spent."""
    pg = init()
    pg.record_event("u1", cost=1)
    state = pg.start_session("u1", "other", PlanConfig(max_spend_per_period=1))
    assert state.current_usage.period_cost == 1.0
    assert pg.check_guard("u1").gate_reason == "total_spend"


def test_start_session__keeps_the_subscription(init: Init) -> None:
    """A session does not change how the user pays."""
    pg = init()
    now = datetime.now(timezone.utc)
    period = BillingPeriod(now - timedelta(days=1), now + timedelta(days=6))
    pg.assign_plan("u1", "a", period)
    assert pg.start_session("u1", "b").billing_period == period
    assert pg.start_session("u1", "b").plan == "b"


def test_start_session__a_plan_config__is_this_users_own(init: Init) -> None:
    """Another user of the plan keeps the plan as it is configured."""
    pg = init()
    pg.configure_plan("p", PlanConfig(max_spend_per_period=100))
    own = PlanConfig(max_spend_per_period=5)
    assert pg.start_session("u1", "p", own).plan_config == own
    assert pg.start_session("u2", "p").plan_config.max_spend_per_period == 100
    pg.shutdown()
    again = init()
    assert again._parts.queries.state(again._parts.queries.known("u1")).plan_config == own
    assert (
        again._parts.queries.state(
            again._parts.queries.known("u2")
        ).plan_config.max_spend_per_period
        == 100
    )


def test_start_session__the_same_again__writes_nothing_new(init: Init) -> None:
    """A verb that stands before every request may not fill the journal."""
    pg = init()
    pg.start_session("u1", "p", PlanConfig(max_spend_per_period=5))
    pg.flush()
    pg.start_session("u1", "p", PlanConfig(max_spend_per_period=5))
    assert pg._parts.journal.has_unread is False


def test_get_usage__in_a_context__is_about_its_session(init: Init) -> None:
    """The session is the context's, else the one used last."""
    pg = init()
    pg.record_event("u1", cost=1, session_id="s1")
    pg.record_event("u1", cost=2, session_id="s2")
    assert (pg.get_usage("u1").session_id, pg.get_usage("u1").session_cost) == ("s2", 2.0)
    with paygent_context("u1", "s1"):
        assert (pg.get_usage("u1").session_id, pg.get_usage("u1").session_cost) == ("s1", 1.0)
        assert pg.get_usage("u2").session_id is None
    assert pg.get_usage("u1").period_cost == 3.0


def test_check_guard__with_a_model__looks_at_its_limit_too(init: Init) -> None:
    """A model's limit counts only where that model is asked about, by any of its names."""
    pg = init()
    limits: Any = {"gpt-4o": 100}
    pg.configure_plan("p", PlanConfig(model_limits=limits))
    pg.assign_plan("u1", "p")
    pg.record_event("u1", model="gpt-4o", input_tokens=100)
    assert pg.check_guard("u1").status == "ok"
    assert pg.check_guard("u1", "gpt-4o-mini").status == "ok"
    assert pg.check_guard("u1", "openai/gpt-4o-2024-08-06").gate_reason == "model_limit:gpt-4o"


# -- reports


@pytest.fixture
def spent(init: Init) -> Paygent:
    """A Paygent that has booked a few entries of two users and two models."""
    pg = init(auto_instrument=False)
    for user, model, cost in [("a", "m", 1), ("a", "n", 2), ("b", "m", 4), ("b", "m", 1)]:
        pg.record_event(user, model=model, cost=cost, input_tokens=1)
    return pg


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("user", [("b", "", 2, 5), ("a", "", 2, 3)]),
        ("model", [("", "m", 3, 6), ("", "n", 1, 2)]),
        (("user",), [("b", "", 2, 5), ("a", "", 2, 3)]),
        (["model", "user"], [("b", "m", 2, 5), ("a", "n", 1, 2), ("a", "m", 1, 1)]),
    ],
)
def test_report__by_user_model_or_both__sums_dearest_first(
    spent: Paygent, by: Any, expected: list[tuple[str, str, int, int]]
) -> None:
    """Each figure stands once; what is not grouped by is empty."""
    rows = spent.report(by)
    found = [(row.user_id, row.model, row.calls, row.cost_nano // 10**9) for row in rows]
    assert found == expected


def test_report__of_a_span__counts_its_days(db_path: str) -> None:
    """From the day of `start` up to before `end`; without them this month until now."""
    clock = Clock(2026, 1, 31, 12)
    pg = Paygent.launch(Settings(db_path=db_path, auto_instrument=False), now_us=clock)
    pg.record_event("u1", cost=1)
    clock.at = datetime(2026, 2, 1, 12, tzinfo=timezone.utc)
    pg.record_event("u1", cost=2)
    day = datetime(2026, 2, 1, tzinfo=timezone.utc)
    earlier = pg.report(start=day - timedelta(days=5), end=day)
    assert [row.cost_nano for row in pg.report()] == [2 * 10**9]
    assert [row.cost_nano for row in earlier] == [10**9]
    assert [row.cost_nano for row in pg.report(start=day - timedelta(days=1))] == [3 * 10**9]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("tag:team", [("", "", "b", 2, 7), ("", "", "", 1, 4), ("", "", "a", 2, 3)]),
        (["tag:team", "user"], [("v", "", "b", 2, 7), ("u", "", "", 1, 4), ("u", "", "a", 2, 3)]),
        (
            ("model", "tag:team"),
            [
                ("", "m", "b", 1, 5),
                ("", "m", "", 1, 4),
                ("", "m", "a", 2, 3),
                ("", "n", "b", 1, 2),
            ],
        ),
        ("user", [("u", "", "", 3, 7), ("v", "", "", 2, 7)]),
    ],
)
def test_report__by_a_declared_tag__sums_by_the_value_of_that_metadata_key(
    init: Init, by: Any, expected: list[tuple[str, str, str, int, int]]
) -> None:
    """Events without the key are the row ""; metadata comes from the context or the event."""
    pg = init(auto_instrument=False, tag_keys=("feature", "team"))
    with paygent_context("u", metadata={"team": "a", "feature": "chat"}):
        pg.record_event(model="m", cost=1)
        pg.record_event(model="m", cost=2)
    pg.record_event("u", model="m", cost=4)
    for model, cost in (("m", 5), ("n", 2)):
        pg.record_event("v", model=model, cost=cost, metadata={"team": "b"})
    assert [
        (row.user_id, row.model, row.tag, row.calls, row.cost_nano // 10**9)
        for row in pg.report(by)
    ] == expected


def test_report__by_a_declared_tag__includes_metered_calls(
    init: Init, client: openai.OpenAI
) -> None:
    """A call has the metadata of its context."""
    pg = init(tag_keys=("team",))
    with paygent_context("u1", metadata={"team": "search"}):
        call(client, "u1")
    assert [(row.tag, row.cost_nano) for row in pg.report("tag:team")] == [("search", CALL_NANO)]


@pytest.mark.parametrize(
    "by",
    [
        *((), "sessions", ("user", "user"), None, 5, [["user"]], [None], "user,"),
        *("tag", "tag:", "team", ("user", "model", "tag:team")),
    ],
)
def test_report__by_something_else__is_refused_by_name(init: Init, by: Any) -> None:
    """The error names the argument, its value and what would have been accepted."""
    pg = init(auto_instrument=False, tag_keys=("team", "feature"))
    with pytest.raises(InvalidValue) as caught:
        pg.report(by)
    (error,) = caught.value.findings
    assert (error.field, error.value) == ("by", by)
    assert error.rule == (
        "must be one or two of user, model, provider, plan, session, day, month, period and tag:KEY"
    )


@pytest.mark.parametrize(
    ("declared", "rule"),
    [
        (("team", "feature"), "must be a tag that init(tag_keys=…) declares: team, feature"),
        ((), "is no tag: declare metadata keys in init(tag_keys=…)"),
    ],
)
def test_report__by_a_tag_that_is_not_declared__is_refused_with_those_that_are(
    init: Init, declared: tuple[str, ...], rule: str
) -> None:
    """Among the keys and among the filters."""
    pg = init(auto_instrument=False, tag_keys=declared)
    with pytest.raises(InvalidValue) as caught:
        pg.report(("user", "tag:color"), tags={"shape": "round"}, limit=0)
    assert [(each.field, each.value, each.rule) for each in caught.value.findings] == [
        ("by", ("user", "tag:color"), rule),
        ("tags", "shape", rule),
        ("limit", 0, "must be a whole number from 1, or None"),
    ]


def test_report__of_what_is_no_moment__is_refused_by_name(init: Init) -> None:
    """A text is a day or a time in ISO 8601."""
    moment: Any = "2026-13-01"
    with pytest.raises(InvalidValue) as caught:
        init().report(start=moment, end=moment)
    assert [each.field for each in caught.value.findings] == ["start", "end"]


def test_report__of_naive_moments__takes_them_as_utc(init: Init) -> None:
    """As a `BillingPeriod` does."""
    pg = init()
    pg.record_event("u1", cost=1)
    today = datetime.now(timezone.utc).replace(tzinfo=None)
    (row,) = pg.report(start=today - timedelta(days=1), end=today + timedelta(days=1))
    assert row.cost_nano == 10**9
    assert pg.report(start=today - timedelta(days=9), end=today - timedelta(days=8)) == ()


def test_report__with_the_ledger_away__says_so(db_path: str) -> None:
    """A report is a question to the ledger; there is no answer to make up."""
    pg = Paygent.launch(Settings(db_path=db_path, auto_instrument=False), ledger=AbsentLedger())
    with pytest.raises(LedgerUnavailable):
        pg.report()
    pg.shutdown(timeout=0.3)


def test_report__a_ledger_that_does_not_answer__is_given_up(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report waits for a bounded time."""
    monkeypatch.setattr(reports, "REPORT_WAIT_S", 0.05)
    pg = init(auto_instrument=False)
    monkeypatch.setattr(pg._parts.worker, "read", lambda reading: Future())
    with pytest.raises(LedgerUnavailable, match=r"did not answer in 0\.05 s"):
        pg.report()


def test_report__after_shutdown__says_that_the_ledger_is_gone(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is there to answer, so nobody waits for one."""
    monkeypatch.setattr(reports, "REPORT_WAIT_S", 0.2)
    pg = init()
    pg.record_event("u1", cost=1)
    pg.shutdown()
    with pytest.raises(LedgerUnavailable):
        pg.report()


# -- delivery and the end


def test_flush__right_after_a_start__takes_in_what_a_dead_process_left(
    init: Init, db_path: str
) -> None:
    """Also where this process has nothing of its own to deliver."""
    process = start(
        "import os, sys, paygent\n"
        "paygent.Paygent.init(db_path=sys.argv[1]).record_event('u1', cost=1)\n"
        "os.kill(os.getpid(), 9)\n",
        db_path,
    )
    assert process.wait(30) == -9
    process.communicate()
    pg = init()
    pg.flush()
    with sqlite3.connect(db_path) as connection:
        assert connection.execute("SELECT sum(cost_tokens_nano) FROM events").fetchone() == (10**9,)
    connection.close()


def test_flush__delivers_and_counts_what_it_delivered(init: Init) -> None:
    """The ledger has everything afterwards; a second time there is nothing."""
    pg = init()
    for _ in range(3):
        pg.record_event("u1", cost=1)
    assert 0 <= pg.flush() <= 3  # the thread may have been faster
    assert (pg.pending_events, pg.flush(), pg.queue_stats["total_flushed"]) == (0, 0, 3)


def test_shutdown__twice__is_once(init: Init) -> None:
    """Idempotent; verbs that ask still answer from memory."""
    pg = init()
    pg.record_event("u1", cost=1)
    pg.shutdown()
    pg.shutdown()
    assert pg.get_usage("u1").period_cost == 1.0
    assert pg.get_usage("nobody").period_cost == 0.0


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_shutdown__while_the_ledger_hangs__takes_no_longer_than_its_timeout(
    db_path: str, timeout: float, hangs: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be delivered waits in the journal for the next start."""
    monkeypatch.setattr(paygent_module, "EXIT_WAIT_S", 30.0)  # that of an exit is another one
    settings = Settings(db_path=db_path, auto_instrument=False)
    pg = Paygent.launch(settings, ledger=AbsentLedger(hangs))
    pg.record_event("u1", cost=1)
    started = time.monotonic()
    pg.shutdown(timeout=timeout)
    took_s = time.monotonic() - started
    hangs.set()
    assert took_s < 5  # on a busy machine; the ledger hangs for longer
    assert list(Path(db_path + ".journal").rglob("*.seg"))


def test_shutdown__while_a_callback_hangs__takes_no_longer_than_its_timeout(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's callback can keep a process from ending."""
    monkeypatch.setattr(paygent_module, "EXIT_WAIT_S", 30.0)  # that of an exit is another one
    pg = init()
    release = threading.Event()
    pg.on_usage(lambda event: release.wait(30))
    pg.record_event("u1", cost=1)
    started = time.monotonic()
    pg.shutdown(timeout=0.4)
    took_s = time.monotonic() - started
    release.set()
    assert took_s < 5  # on a busy machine; the callback hangs for longer


def test_launch__a_second_one__shuts_the_first_down(init: Init) -> None:
    """One Paygent per process; the new one knows what the old one booked."""
    first = init()
    first.record_event("u1", cost=1)
    second = init()
    assert (first.is_initialized, second.is_initialized) == (False, True)
    assert second.get_usage("u1").period_cost == 1.0
    first.shutdown()
    assert Paygent.get_instance() is second


def test_exit__of_the_process__delivers_what_is_left(init: Init, db_path: str) -> None:
    """What `atexit` runs delivers, and lets later exit handlers go on; a shutdown is not undone."""
    pg = init()
    pg.record_event("u1", cost=1)
    _at_exit()
    with closing(sqlite3.connect(db_path)) as store:
        assert store.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)
    pg.record_event("u1", cost=2)
    assert pg.is_initialized
    pg.shutdown()
    _at_exit()
    assert init().report()[0].cost_nano == 3 * 10**9


def test_fork__in_the_child__starts_anew_without_the_parents_calls(
    init: Init, client: openai.OpenAI
) -> None:
    """Threads and connections of its own; what was spent before is read from the ledger again."""
    pg = init()
    call(client)
    pg.flush()
    parents = pg._parts.worker._threads
    _before_fork()
    _after_fork_in_child()
    call(client)
    pg.flush()
    assert pg.get_usage("u1").period_cost_nano == 2 * CALL_NANO
    assert not set(parents) & set(pg._parts.worker._threads)


# -- callbacks


def test_callbacks__as_decorators__stay_the_functions_they_were(init: Init) -> None:
    """`@pg.on_usage` leaves the name usable."""
    pg = init()

    @pg.on_usage
    @pg.on_soft_gate
    @pg.on_hard_gate
    @pg.on_session_start
    def listen(value: Any) -> None:
        """Hear of everything."""

    assert listen.__doc__ == "Hear of everything."


async def test_callbacks__async_on_a_loop__run_as_its_tasks(init: Init) -> None:
    """An async callback of an async app runs on the app's own loop."""
    pg = init()
    heard: list[tuple[Any, Any]] = []
    called = asyncio.Event()

    @pg.on_usage
    async def listen(event: UsageEvent) -> None:
        heard.append((event.user_id, asyncio.get_running_loop()))
        called.set()

    pg.record_event("u1", cost=1)
    await asyncio.wait_for(called.wait(), 5)
    assert heard == [("u1", asyncio.get_running_loop())]


def test_callbacks__async_without_a_loop__run_on_ours(init: Init) -> None:
    """A sync app may register async callbacks too."""
    pg = init()
    heard: list[str] = []

    @pg.on_usage
    async def listen(event: UsageEvent) -> None:
        heard.append(event.user_id)

    pg.record_event("u1", cost=1)
    pg.flush()
    assert heard == ["u1"]


# -- gates around calls


def tight(pg: Paygent, cap: float, **more: Any) -> None:
    """Put `u1` on a plan with a cap per period."""
    pg.configure_plan("tight", PlanConfig(max_spend_per_period=cap, **more))
    pg.assign_plan("u1", "tight")


def test_call__past_a_hard_gate_with_raise_off__runs_marked_and_fires(
    init: Init, client: openai.OpenAI
) -> None:
    """`raise_on_hard_gate=False`: the call runs, its event is `blocked`, callbacks fire."""
    pg = init(raise_on_hard_gate=False)
    tight(pg, 0.0004)
    refusals: list[GuardResult] = []
    pg.on_hard_gate(refusals.append)
    metered = Metered(pg)
    call(client)
    assert call(client).id == "chatcmpl-fake"
    events = metered.events
    assert [event.blocked for event in events] == [False, True]
    assert [result.gate_reason for result in refusals] == ["total_spend"]
    usage = pg.get_usage("u1")
    assert (usage.period_cost_nano, usage.reserved_cost_nano) == (2 * CALL_NANO, 0)


@pytest.mark.usefixtures("patient_callbacks")
def test_call__past_a_hard_gate__fires_before_it_raises(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The callback and the exception tell the same."""
    pg = init()
    tight(pg, 0)
    refusals: list[GuardResult] = []
    pg.on_hard_gate(refusals.append)
    with pytest.raises(PaygentLimitExceeded) as caught:
        call(client)
    assert refusals == [caught.value.guard_result]
    assert fake.requests == []


@pytest.mark.parametrize(("mode", "fired"), [("once", 1), ("every_call", 3)])
def test_call__past_the_warn_line__fires_once_or_on_every_call(
    init: Init, client: openai.OpenAI, mode: str, fired: int
) -> None:
    """Once per limit and window, or on every call, as `soft_gate` says."""
    pg = init(soft_gate=mode)
    tight(pg, 0.0045, soft_gate_at=0.1)
    warned: list[GuardResult] = []
    pg.on_soft_gate(warned.append)
    for _ in range(4):
        call(client)
    pg.flush()
    assert [result.status for result in warned] == ["soft_gate"] * fired
    assert warned[0].current_value == 0.00045


@pytest.mark.usefixtures("patient_callbacks")
def test_call__past_the_warn_line__fires_before_it_leaves(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """The application hears of the warning while it can still act."""
    pg = init()
    tight(pg, 1, soft_gate_at=0.0001)
    seen: list[int] = []
    pg.on_soft_gate(lambda result: seen.append(len(fake.requests)))
    call(client)
    call(client)
    pg.flush()
    assert seen == [1]


def test_call__of_a_user_who_is_switched_off__passes_unmetered(
    init: Init, client: openai.OpenAI, db_path: str
) -> None:
    """`sdk_enabled=False` in the ledger: no gate, no event."""
    pg = init()
    tight(pg, 0)
    pg.shutdown()
    with closing(sqlite3.connect(db_path)) as store, store:
        store.execute("UPDATE users SET sdk_enabled = 0")
    pg = init()
    metered = Metered(pg)
    assert call(client).id == "chatcmpl-fake"
    assert len(drain(call(client, stream=True))) > 1
    assert metered.events == []
    assert pg.start_session("u1", "tight").sdk_enabled is False


async def test_call__of_a_user_who_is_switched_off__passes_unmetered_async(
    init: Init, fake: FakeProvider, db_path: str
) -> None:
    """The async funnel lets such a user through as well."""
    pg = init()
    tight(pg, 0)
    pg.shutdown()
    with closing(sqlite3.connect(db_path)) as store, store:
        store.execute("UPDATE users SET sdk_enabled = 0")
    pg = init()
    url = fake.openai_url
    async with (
        openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client,
        paygent_context("u1"),
    ):
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert pg.report() == ()


def test_call__on_a_thread_that_runs_a_loop__does_not_wait_for_the_ledger(
    db_path: str, client: openai.OpenAI, hangs: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync call inside a coroutine would stop the loop, so the first touch is not waited for."""
    monkeypatch.setattr(wait, "FIRST_TOUCH_WAIT_S", 20.0)
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AbsentLedger(hangs))

    async def app() -> float:
        started = time.monotonic()
        call(client)
        return time.monotonic() - started

    took_s = asyncio.run(app())
    hangs.set()
    assert took_s < 10
    assert "ledger_slow" not in diagnostics.counts
    pg.shutdown(timeout=0.5)


def test_call__while_the_ledger_does_not_answer__waits_a_quarter_second_once(
    db_path: str, client: openai.OpenAI, hangs: threading.Event
) -> None:
    """The first call of a user waits, is said, and goes on; later ones go at once."""
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AbsentLedger(hangs))
    started = time.monotonic()
    call(client)
    assert time.monotonic() - started >= 0.25
    for _ in range(2):
        call(client)
    hangs.set()
    assert diagnostics.counts["ledger_slow"] == 1  # each wait in vain is counted
    assert pg.get_usage("u1").period_cost_nano == 3 * CALL_NANO
    pg.shutdown(timeout=0.5)


def test_get_usage__while_the_ledger_does_not_answer__tells_what_is_known(
    db_path: str, hangs: threading.Event
) -> None:
    """A verb that asks waits a quarter of a second at most."""
    settings = Settings(db_path=db_path, auto_instrument=False)
    pg = Paygent.launch(settings, ledger=AbsentLedger(hangs))
    started = time.monotonic()
    assert pg.get_usage("u1").period_cost == 0.0
    assert time.monotonic() - started < 10
    hangs.set()
    assert diagnostics.counts["ledger_slow"] == 1
    pg.shutdown(timeout=0.5)


@pytest.mark.parametrize("raises", [True, False])
def test_call__with_the_ledger_away_and_a_plan_that_blocks__is_refused_as_offline(
    db_path: str, client: openai.OpenAI, fake: FakeProvider, raises: bool
) -> None:
    """`when_offline="block"`: nothing leaves, and trying again may help."""
    settings = Settings(db_path=db_path, raise_on_hard_gate=raises)
    pg = Paygent.launch(settings, ledger=AbsentLedger())
    pg.configure_plan("p", PlanConfig(when_offline="block"))
    pg.assign_plan("u1", "p")
    heard: list[GuardResult] = []
    pg.on_hard_gate(heard.append)
    if raises:
        with pytest.raises(PaygentLimitExceeded):
            call(client)
    else:
        call(client)
    assert pg._parts.callbacks.flush(5)
    assert [(each.gate_reason, each.retryable) for each in heard] == [("offline", True)]
    assert len(fake.requests) == (0 if raises else 1)
    pg.shutdown(timeout=0.3)


def offline_allowance(db_path: str, dollars: float) -> Paygent:
    """A Paygent without a ledger, whose user `u1` may spend so much until it is back."""
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AbsentLedger())
    pg.configure_plan("p", PlanConfig(when_offline={"allow_up_to": dollars}))
    pg.assign_plan("u1", "p")
    return pg


def test_call__that_waits_for_others_with_the_ledger_away__takes_its_allowance_once(
    db_path: str,
) -> None:
    """Each look at the gate takes it anew, and gives it back before the next."""
    pg = offline_allowance(db_path, 100.0)
    pg.configure_plan(
        "p", PlanConfig(when_offline={"allow_up_to": 100}, limits=(Limit("calls", cap=1),))
    )
    go, begun = threading.Event(), threading.Event()

    def provider() -> None:
        begun.set()
        go.wait(10)

    first = threading.Thread(target=lambda: pg.wrap(provider, "u1", "gpt-4o"))
    first.start()
    assert begun.wait(10)
    refused: list[str | None] = []

    def another() -> None:
        with pytest.raises(PaygentLimitExceeded) as raised:
            pg.wrap(lambda: None, "u1", "gpt-4o")
        refused.append(raised.value.guard_result.gate_reason)

    second = threading.Thread(target=another)
    second.start()
    while pg.health()["calls_waiting"] == 0:
        time.sleep(0.001)
    go.set()
    for thread in (first, second):
        thread.join(10)
    assert refused == ["calls:period"]
    assert pg._parts.meter._policy._allowance._held_nano == 0
    pg.shutdown(timeout=0.3)


@pytest.mark.parametrize(
    ("dollars", "input_tokens", "most"),
    [(0.001, 100, 3), (0.3, 80_000, 2)],  # calls of $0.00045, and of $0.2002: one may straddle
)
def test_call__with_the_ledger_away_and_an_allowance__goes_on_up_to_it(
    db_path: str,
    client: openai.OpenAI,
    fake: FakeProvider,
    dollars: float,
    input_tokens: int,
    most: int,
) -> None:
    """`allow_up_to` bounds what a process really spends unseen, but for one straddling call."""
    fake.default = Answer(tokens=Tokens(input=input_tokens))
    pg = offline_allowance(db_path, dollars)
    done = 0
    with pytest.raises(PaygentLimitExceeded) as caught:
        for _ in range(20):
            call(client)
            done += 1
    assert caught.value.guard_result.gate_reason == "offline"
    assert 1 <= done <= most
    pg.shutdown(timeout=0.3)


def test_call__with_the_ledger_away__failed_calls_use_no_allowance(
    db_path: str, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """A call that is void has spent nothing, offline as online."""
    pg = offline_allowance(db_path, 0.001)
    fake.script(*[Answer(status=500)] * 10)
    for _ in range(10):
        with pytest.raises(openai.InternalServerError):
            call(client)
    assert call(client).id == "chatcmpl-fake"
    pg.shutdown(timeout=0.3)


def test_call__of_a_strict_plan__never_passes_the_cap(init: Init, client: openai.OpenAI) -> None:
    """The worst case of a call is held before it leaves, so the second one does not fit."""
    pg = init()
    tight(pg, 0.0006, pre_call_estimate=True)
    call(client)
    with pytest.raises(PaygentLimitExceeded):
        call(client)
    assert pg.get_usage("u1").period_cost_nano == CALL_NANO


# -- usage of calls


def test_call__a_model_that_answers_for_another__is_priced_as_what_was_asked(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Where the answer's name has no price, the one asked for counts."""
    metered = Metered(init())
    fake.default = Answer(model="internal-deployment-7")
    call(client)
    assert (metered.only.model, metered.only.cost_total_nano) == ("gpt-4o", CALL_NANO)


def test_call__without_a_price_on_either_name__is_unpriced_under_the_answers(
    init: Init, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Two unknown names: the answer's is the better one."""
    metered = Metered(init())
    fake.default = Answer(model="internal-deployment-7")
    with paygent_context("u1"):
        client.chat.completions.create(model="my-alias", messages=MESSAGES)
    assert (metered.only.model, metered.only.quality) == ("internal-deployment-7", "unpriced")


def test_call__rarer_counts__are_kept_with_the_event(
    db_path: str, client: openai.OpenAI, fake: FakeProvider
) -> None:
    """Audio tokens and the like stay with the event, so that a price can be put right later."""
    pg = Paygent.launch(Settings(db_path=db_path), ledger=AbsentLedger())
    fake.default = Answer(tokens=Tokens(input=100, output=20, audio_input=10))
    with paygent_context("u1"):
        client.chat.completions.create(model="gpt-4o-audio-preview", messages=MESSAGES)
    (event,) = pg._parts.accounts.registry.users["u1"].pending.values()
    assert event.details == {"audio_input_tokens": 10}
    pg.shutdown(timeout=0.3)


def test_meter__a_call_that_has_ended__ends_no_second_time(init: Init) -> None:
    """Last chunk, close and collection may all end a call: the first counts."""
    pg = init(auto_instrument=False)
    pg.get_usage("u1")
    metered = Metered(pg)
    calls = []
    for _ in range(2):
        with paygent_context("u1"):
            made = pg._parts.meter.begin(Request("openai", "chat.completions", "gpt-4o", {}))
        assert isinstance(made, Call)
        calls.append(made)
    pg._parts.meter.settle(calls[0], Usage(100, 20))
    pg._parts.meter.void(calls[1], "a test")
    for each in calls:
        pg._parts.meter.settle(each, Usage(5, 5))
        pg._parts.meter.void(each, "again")
    assert metered.only.cost_total_nano == CALL_NANO
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_wait__awaited_without_a_loop_of_asyncio__goes_on_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another async framework is not blocked: its call goes on with what is known."""
    done: list[WaitEnd] = []
    wait = Wait(Future(), 5.0, done.append)
    monkeypatch.delitem(sys.modules, "asyncio", raising=False)
    assert runs_loop() is False
    assert list(wait.__await__()) == []
    assert done == ["passed"]


@pytest.mark.parametrize("is_async", [False, True])
def test_wait__whose_end_fails__does_not_reach_the_app(
    is_async: bool, swallowed: Swallowed
) -> None:
    """What is done after waiting is ours, and so is its failure."""

    def broken(end: WaitEnd) -> None:
        raise RuntimeError("a bug of ours")

    swallowed.expect("wait")
    answer: Future[bool] = Future()
    answer.set_result(True)
    wait = Wait(answer, 5.0, broken)

    async def main() -> None:
        await wait

    if is_async:
        asyncio.run(main())
    else:
        wait.block()


def test_call__models_without_end__are_remembered_within_bounds(
    init: Init, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is learned of models for estimates has a bound."""
    from paygent.client.accounts import forecasts, user_state

    monkeypatch.setattr(forecasts, "_HISTORIES_MAX", 3)
    monkeypatch.setattr(user_state, "HISTORIES_PER_USER_MAX", 2)
    pg = init()
    for number in range(5):
        with paygent_context("u1"):
            client.chat.completions.create(model=f"m{number}", messages=MESSAGES)
    user = pg._parts.accounts.registry.users["u1"]
    everyone = pg._parts.accounts.admission._forecasts._everyone
    assert (len(everyone), len(user.histories), len(user.forecasts)) == (3, 2, 2)


def test_call__whose_begin_cannot_be_written__holds_nothing_and_goes_on(
    init: Init, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """A call that did not begin leaves no hold behind."""
    pg = init()

    def broken(*args: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(pg._parts.journal, "write", broken)
    swallowed.expect("begin")
    assert call(client).id == "chatcmpl-fake"
    assert pg.get_usage("u1").reserved_cost_nano == 0


def test_instrumentation__of_the_process__outlives_a_paygent(init: Init) -> None:
    """Patches stay in place over a shutdown; the next Paygent finds them."""
    pg = init()
    pg.shutdown()
    assert instrumentation.is_installed is True
    assert init().is_instrumented is True


@pytest.mark.parametrize("how", ["disabled", "uninstrumented", "not instrumented"])
def test_call__with_its_user_named_while_switched_off__reaches_the_provider(
    init: Init, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The switch that is thrown in need must not make the SDK refuse the calls."""
    if how == "disabled":
        monkeypatch.setenv("PAYGENT_DISABLED", "1")
    pg = init(auto_instrument=how != "not instrumented")
    if how == "uninstrumented":
        pg.uninstrument()
    create: Any = client.chat.completions.create
    answer = create(model="gpt-4o", messages=MESSAGES, paygent_user_id="u1", paygent_metadata={})
    assert (answer.id, pg.is_instrumented) == ("chatcmpl-fake", False)
    assert pg.get_usage("u1").period_cost == 0.0
    pg.instrument()
    create(model="gpt-4o", messages=MESSAGES, paygent_user_id="u1")
    assert pg.get_usage("u1").period_cost_nano == (0 if how == "disabled" else CALL_NANO)


def test_init__again__never_lets_a_call_pass_between_the_two(
    init: Init, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first is being shut down, calls are gated by the second."""
    first = init(on_missing_user="block")
    shutdown = first.shutdown
    refused: list[bool] = []

    def call_meanwhile(timeout: float = 10.0) -> None:
        with pytest.raises(PaygentLimitExceeded):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        refused.append(True)
        shutdown(timeout)

    monkeypatch.setattr(first, "shutdown", call_meanwhile)
    init(on_missing_user="block")
    assert refused == [True]


def test_shutdown__afterwards__calls_and_entries_are_told_once(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """No silent bypass: what passes unmetered is said and counted."""
    pg = init()
    pg.shutdown()
    for _ in range(2):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    pg.record_event("u1", cost=1)
    assert caplog.text.count("calls pass unmetered") == 1
    assert caplog.text.count("events wait in the journal") == 1
    counts = pg.health()["counts"]
    assert (counts["shut_down"], counts["shut_down_event"]) == (2, 1)


@pytest.mark.parametrize("timeout", [None, "1", float("nan"), float("inf")])
def test_shutdown__with_no_number_of_seconds__is_refused_and_can_be_done_again(
    init: Init, timeout: Any
) -> None:
    """The argument is looked at before anything is stopped."""
    pg = init(auto_instrument=False)
    with pytest.raises(InvalidValue, match="timeout"):
        pg.shutdown(timeout)
    assert pg.is_initialized is True
    pg.shutdown(1)


def test_assign_plan__a_name_that_is_not_configured__warns(init: Init) -> None:
    """A slip of the pen lifts every limit; that is said where it is made."""
    pg = init(auto_instrument=False)
    pg.configure_plan("pro", PlanConfig(max_spend_per_period=1))
    with pytest.warns(
        PaygentWarning, match="plan 'Pro' is not configured .did you mean 'pro'.*configure_plan"
    ):
        pg.assign_plan("u1", "Pro")


def test_start_session__a_plan_of_its_own_that_is_too_large__is_refused_by_name(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is not taken."""
    monkeypatch.setattr(directory_module, "RECORD_BYTES_MAX", 1_000)
    pg = init(auto_instrument=False)
    limits: Any = {f"model-{number:06}": 1 for number in range(100)}
    with pytest.raises(InvalidValue, match="plan_config"):
        pg.start_session("u1", "default", PlanConfig(model_limits=limits))


async def test_verbs__on_a_loops_thread_with_the_ledger_away__do_not_wait(
    db_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop is never blocked, not even for a quarter of a second."""
    monkeypatch.setattr(queries, "wait_for", lambda *args: pytest.fail("the loop waits"))
    pg = Paygent.launch(Settings(db_path=db_path, auto_instrument=False), ledger=AbsentLedger())
    assert pg.get_usage("u1").period_cost == 0.0
    assert pg.start_session("u2").user_id == "u2"
    pg.shutdown(timeout=0.3)


def test_files__of_a_store_and_its_journal__are_their_owners_alone(
    init: Init, db_path: str
) -> None:
    """User ids and descriptions are nobody else's business on the machine."""
    pg = init(auto_instrument=False)
    pg.record_event("u1", cost=1)
    pg.flush()
    pg.record_event("u1", cost=1)
    found = [Path(db_path), *Path(db_path + ".journal").rglob("*"), Path(db_path + ".journal")]
    assert len(found) >= 5
    assert {each.stat().st_mode & 0o077 for each in found} == {0}
