"""What a new user meets in the first hour: nothing that is wrong stays silent, and each message
names the remedy. A test is named after the row of the list of what was found; rows that are about
types, messages, pages and commands are tested beside those.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Swallowed
from tests.ledgers import AwayLedger
from tests.promises.scripts import read_line, run, start

import paygent
from paygent import (
    BillingPeriod,
    GuardResult,
    InvalidValue,
    LedgerUnavailable,
    Limit,
    ModelCostRate,
    Paygent,
    PaygentBackendUnreachable,
    PaygentLimitExceeded,
    PaygentWarning,
    PlanConfig,
    UsageEvent,
    UsageReport,
    UsageRow,
    paygent_context,
    paygent_track,
)
from paygent.client.runtime import lifecycle
from paygent.client.runtime.settings import Settings
from paygent.integrations import PaygentMiddleware
from paygent.ledger.port import LedgerBusy
from paygent.store.sqlite import SqliteStore
from paygent.testing import current_user

Init = Callable[..., Paygent]

ANSWER = {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}


def call(pg: Paygent, user_id: str = "ann", model: str = "gpt-4o") -> Any:
    """Make one call of 120 tokens."""
    return pg.wrap(lambda: ANSWER, user_id, model)


# -- row 1: a backend that takes nothing


class HealthyServer(ThreadingHTTPServer):
    """A server on loopback that answers `/health` and takes nothing.

    Attributes:
        is_open_to_all: Whether every other path has the same answer; otherwise it has 404.
        health: The answer.
    """

    daemon_threads = True

    def __init__(self, health: dict[str, Any], *, is_open_to_all: bool) -> None:
        self.health, self.is_open_to_all = health, is_open_to_all
        super().__init__(("127.0.0.1", 0), HealthyHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HealthyServer:
        threading.Thread(target=self.serve_forever, args=(0.02,)).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class HealthyHandler(BaseHTTPRequestHandler):
    """Answers the requests of a `HealthyServer`."""

    server: HealthyServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_found = self.server.is_open_to_all or self.path.endswith("/health")
        body = json.dumps(self.server.health if is_found else {"detail": "Not Found"}).encode()
        self.send_response(200 if is_found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Answer like to a GET."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


HEALTHY_BACKENDS = pytest.mark.parametrize(
    ("health", "is_open_to_all"),
    [
        ({"status": "ok"}, True),
        ({"status": "ok"}, False),
        ({"status": "ok", "capabilities": ["sync"]}, True),
        ({"status": "ok", "capabilities": ["sync"]}, False),
    ],
    ids=["200 to all", "404", "sync and 200 to all", "sync and 404"],
)


@HEALTHY_BACKENDS
def test_row_1__a_backend_that_takes_nothing__keeps_every_event_and_is_not_connected(
    init: Init, caplog: pytest.LogCaptureFixture, health: dict[str, Any], is_open_to_all: bool
) -> None:
    """An answer to `/health` delivers nothing: what it did not take is pending, and is logged."""
    with HealthyServer(health, is_open_to_all=is_open_to_all) as server:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            pg = init(api_key="pg_live_x", base_url=server.url)
        for _ in range(3):
            call(pg)
        flushed = pg.flush()
        stats = pg.queue_stats
        assert (flushed, stats["total_flushed"], stats["pending"]) == (0, 0, 3)
        assert stats["total_dropped"] == 0
        assert (pg.is_connected, pg.health()["mode"]) == (False, "offline")
        logged = "".join([*map(str, (each.message for each in warned)), *caplog.messages])
        assert "events wait" in logged
        pg.shutdown(timeout=0.5)


@HEALTHY_BACKENDS
def test_row_1__a_backend_that_has_taken_nothing_yet__is_not_called_connected(
    init: Init, health: dict[str, Any], is_open_to_all: bool
) -> None:
    """Right after `init`, too, before the first event has failed to arrive."""
    with HealthyServer(health, is_open_to_all=is_open_to_all) as server:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pg = init(api_key="pg_live_x", base_url=server.url)
        assert (pg.is_connected, pg.queue_stats["total_flushed"]) == (False, 0)
        assert pg.health()["mode"] != "connected"


# -- row 2: a process without `init`


def enter_context() -> None:
    """Enter a block of a user."""
    with paygent_context("ann"):
        pass


def call_tracked() -> None:
    """Call a decorated function."""
    paygent_track("ann")(lambda: None)()


def serve_request() -> None:
    """Serve a web request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Answer nothing."""

    served = PaygentMiddleware(app, user_id=lambda scope: "ann")
    asyncio.run(served({"type": "http", "headers": []}, None, None))


@pytest.mark.parametrize("work", [enter_context, call_tracked, serve_request])
def test_row_2__a_user_in_a_process_without_init__is_logged_once(
    work: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A forgotten `init` would leave every call unmetered and unlimited, in silence."""
    monkeypatch.setattr(lifecycle, "_installed", [])
    work()
    work()
    (message,) = caplog.messages
    assert "Paygent.init was not called" in message
    assert "Call it once when the process starts" in message


def test_row_2__a_job_that_calls_init_itself__is_not_accused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The block is judged at its end."""
    monkeypatch.setattr(lifecycle, "_installed", [])

    @paygent_track("ann")
    def job() -> None:
        lifecycle._installed.append(True)  # as `init` does

    job()
    assert caplog.messages == []


def test_row_2__switched_off__says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`PAYGENT_DISABLED` means that nothing is to be metered."""
    monkeypatch.setattr(lifecycle, "_installed", [])
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    enter_context()
    assert caplog.messages == []


def test_row_2__a_spawned_worker_whose_job_sets_its_own_user__is_logged(tmp_path: Path) -> None:
    """The worker process has not called `init`, though its parent has."""
    (tmp_path / "jobs.py").write_text(
        "from paygent import paygent_context\n"
        "def job(user):\n"
        "    with paygent_context(user):\n"
        "        return user\n"
    )
    script = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from jobs import job
from paygent import Paygent
if __name__ == "__main__":
    Paygent.init(db_path=":memory:", carry_user=False)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        print(pool.submit(job, "ann").result())
"""
    (tmp_path / "main.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "ann\n"
    assert done.stderr.count("paygent: Work of a user ran in a process in which") == 1


# -- row 3: a misspelt model


@pytest.mark.parametrize(
    "plan",
    [
        PlanConfig(model_limits={"gpt4o-mini": 10}),
        PlanConfig(limits=[Limit("calls", model="gpt4o-mini", cap=1)]),
        PlanConfig(cost_rates={"gpt4o-mini": ModelCostRate.per_million(1, 2)}),
    ],
)
def test_row_3__a_misspelt_model_in_a_plan__is_pointed_out_with_what_may_be_meant(
    init: Init, plan: PlanConfig
) -> None:
    """Such a limit never limits, and such a rate never applies."""
    pg = init()
    with pytest.warns(PaygentWarning, match=r"no price list \(did you mean 'gpt-4o-mini'\?\)"):
        pg.configure_plan("free", plan)
    with pytest.warns(PaygentWarning, match="plan_config of 'ann': .*'gpt-4o-mini'"):
        pg.start_session("ann", "free", plan_config=plan)


def test_row_3__models_that_are_listed_or_rated__are_not_pointed_out(init: Init) -> None:
    """Snapshots, other spellings, fine-tunes, and models to which the plan gives a price."""
    names = ("gpt-4o", "GPT-4o", "openai/gpt-4o", "gpt-4o-2024-08-06", "claude-sonnet-4-5")
    own = ModelCostRate(0, 0)
    plan = PlanConfig(
        model_limits={**dict.fromkeys(names, 5), "our-llama": 5},
        cost_rates={"our-llama": own, "gpt-4o": ModelCostRate.per_million(3, 12)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init().configure_plan("free", plan)


# -- row 4: the default plan of other processes

_OTHER = """
import sys
from paygent import Paygent, PaygentLimitExceeded
from paygent.client.metering import wait
wait.FIRST_TOUCH_WAIT_S = 30.0  # a busy machine must not be taken for a slow ledger
pg = Paygent.init(db_path=sys.argv[1])
answer = {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}
for _ in range(3):
    try:
        pg.wrap(lambda: answer, "bob", "gpt-4o")
        print("answered", flush=True)
    except PaygentLimitExceeded as refusal:
        print(refusal.guard_result.plan, flush=True)
pg.flush()
print(pg.get_user_state("bob").plan, flush=True)
"""


def test_row_4__a_default_plan_of_one_process__holds_in_all(db_path: str, tmp_path: Path) -> None:
    """The web process names it, the worker does not, and both gate by it."""
    pg = Paygent.init(db_path=db_path, default_plan="free")
    pg.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 200}))
    pg.flush()
    out, err = run(_OTHER, db_path, HOME=str(tmp_path))
    assert (out.split(), err) == (["answered", "answered", "free", "free"], "")


def start_elsewhere(db_path: str, default_plan: str) -> None:
    """Start a Paygent with another default plan, as another process would, and end it."""
    other = Paygent._make(Settings(db_path=db_path, default_plan=default_plan))
    other._parts.plans.choose_default()
    other.configure_plan(default_plan, PlanConfig())
    other.flush()
    other.shutdown()


def test_row_4__init__writes_nothing_yet(db_path: str) -> None:
    """`init` is safe at import, before a server forks: it opens no file and starts no thread."""
    pg = Paygent.init(db_path=db_path, default_plan="free")
    assert not pg.queue_stats["is_running"]
    assert not list(Path(db_path).parent.rglob("*.seg"))


def test_row_4__a_default_plan__is_kept_for_later_starts_and_changed_by_the_last_one(
    db_path: str,
) -> None:
    """A process without one follows the product's, also while it runs."""
    earlier = Paygent.init(db_path=db_path, default_plan="free")
    call(earlier)
    earlier.shutdown()
    first = Paygent.init(db_path=db_path)
    assert first.get_user_state("ann").plan == "free"
    start_elsewhere(db_path, "pro")
    assert first.refresh_user("ann").plan == "pro"
    assert first.get_user_state("new").plan == "pro"


def test_row_4__processes_that_differ__are_logged_in_the_one_that_is_overruled(
    db_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each keeps its own, so that a deployment can go on; the difference is said once."""
    pg = Paygent.init(db_path=db_path, default_plan="free")
    pg.configure_plan("free", PlanConfig())
    pg.flush()
    start_elsewhere(db_path, "pro")
    assert caplog.messages == []
    for _ in range(2):
        assert pg.refresh_user("ann").plan == "free"
    (message,) = caplog.messages
    assert "default_plan 'free', another one of this product with 'pro'" in message
    assert "Pass the same default_plan everywhere" in message


def test_row_4__a_session_without_a_plan__is_on_the_default_plan_of_the_product(
    db_path: str,
) -> None:
    """`start_session(user)` names no plan, and must not lift the cap."""
    pg = Paygent.init(db_path=db_path, default_plan="free")
    pg.configure_plan("free", PlanConfig(max_spend_per_period=1))
    assert pg.start_session("ann").plan == "free"
    pg.configure_plan("default", PlanConfig(max_spend_per_period=2))
    assert pg.start_session("bob").plan == "default"  # there is such a plan


def test_row_4__a_paygent_that_is_put_back__does_not_choose_again(db_path: str) -> None:
    """Tests set the process's Paygent aside for a while."""
    first = Paygent.init(db_path=db_path, default_plan="old")
    first.configure_plan("old", PlanConfig())
    first.flush()
    start_elsewhere(db_path, "new")
    aside = Paygent.exchange(None)
    Paygent.exchange(aside)
    call(first)
    first.shutdown()
    assert Paygent.init(db_path=db_path).get_user_state("ann").plan == "new"


# -- row 8: reports by every key


def use_some(pg: Paygent, period: BillingPeriod) -> list[UsageEvent]:
    """Make a call of a user on a plan and one of another user, who also has a cost without a model;
    return the events.
    """
    events: list[UsageEvent] = []
    pg.on_usage(events.append)
    pg.configure_plan("default", PlanConfig())
    pg.configure_plan("pro", PlanConfig())
    pg.assign_plan("ann", "pro", billing_period=period)
    for user_id, model, team in (("ann", "gpt-4o", "search"), ("bob", "gpt-4o-mini", "chat")):
        with paygent_context(user_id, session_id=f"{user_id}-1", metadata={"team": team}):
            answer: dict[str, object] = {**ANSWER, "model": model}
            pg.wrap(answer.copy, user_id, model, provider="openai")
    pg.record_event("bob", cost="1.5", session_id="bob-1", metadata={"team": "search"})
    pg.flush()
    return events


@pytest.mark.parametrize(
    ("by", "field", "expected"),
    [
        ("user", "user_id", {"bob": (2, 1_500_027_000), "ann": (1, 450_000)}),
        (
            "model",
            "model",
            {"": (1, 1_500_000_000), "gpt-4o": (1, 450_000), "gpt-4o-mini": (1, 27_000)},
        ),
        ("provider", "provider", {"": (1, 1_500_000_000), "openai": (2, 477_000)}),
        ("plan", "plan", {"default": (2, 1_500_027_000), "pro": (1, 450_000)}),
        ("session", "session_id", {"bob-1": (2, 1_500_027_000), "ann-1": (1, 450_000)}),
        ("tag:team", "tag", {"search": (2, 1_500_450_000), "chat": (1, 27_000)}),
    ],
)
def test_row_8__a_report_by_any_key__has_exact_figures_in_local_mode(
    init: Init, by: str, field: str, expected: dict[str, tuple[int, int]]
) -> None:
    """All of these but user, model and tag raised; rows are sorted by cost, which has one name."""
    now = datetime.now(timezone.utc)
    pg = init(tag_keys=("team",))
    use_some(pg, BillingPeriod(now - timedelta(days=3), now + timedelta(days=27)))
    report = pg.report(by=by)
    found = [(getattr(row, field), (row.calls, row.cost_nano)) for row in report]
    assert found == list(expected.items())
    rows = [*report, report.total]
    assert [row.cost for row in rows] == [row.cost_nano / 1e9 for row in rows]
    assert (report.total.calls, report.total.cost) == (3, 1.500477)


def test_row_8__a_report_by_time__has_exact_figures_in_local_mode(init: Init) -> None:
    """Days and months are those of the events, and a period is that of the user."""
    now = datetime.now(timezone.utc)
    period = BillingPeriod(now - timedelta(days=3), now + timedelta(days=27))
    pg = init()
    events = use_some(pg, period)
    report = partial(pg.report, start=now - timedelta(days=1), end=now + timedelta(days=1))
    days: dict[str, int] = {}
    months: dict[str, int] = {}
    for event in events:
        day = event.timestamp.date().isoformat()
        days[day] = days.get(day, 0) + event.cost_total_nano
        months[day[:7]] = months.get(day[:7], 0) + event.cost_total_nano
    assert sum(days.values()) == 1_500_477_000
    assert {row.day: row.cost_nano for row in report(by="day")} == days
    assert {row.month: row.cost_nano for row in report(by="month")} == months
    ann, *others = report(by=("user", "period"), sort="user")
    assert (ann.period_start, ann.cost_nano) == (period.start, 450_000)
    assert {row.period_start and row.period_start.day for row in others} == {1}
    assert sum(row.cost_nano for row in others) == 1_500_027_000
    current = pg.report(user_id="ann", period="current")
    assert (current.start, current.end, current.total.cost) == (period.start, period.end, 0.00045)


def test_row_8__what_a_report_returns_and_raises__is_exported(init: Init) -> None:
    """An application annotates its functions with the row and catches the error."""
    pg = init()
    pg.record_event("ann", cost=1)
    report: UsageReport = pg.report()
    assert [type(row) for row in report] == [UsageRow]
    assert {"UsageRow", "UsageReport", "LedgerUnavailable"} <= set(paygent.__all__)
    pg.shutdown()
    with pytest.raises(LedgerUnavailable):
        pg.report()


# -- row 9: a policy taken for a user id


@pytest.mark.parametrize("word", ["raise", "error", "deny", "Block", "WARN", " ignore", "none"])
def test_row_9__a_word_that_looks_like_a_policy__is_refused(word: str) -> None:
    """All calls without a user would count on a user of that name, unlimited."""
    with pytest.raises(InvalidValue, match=r"on_missing_user.*looks like a misspelt policy"):
        Paygent.init(db_path=":memory:", on_missing_user=word)


@pytest.mark.parametrize("word", ["warn", "block", "ignore", "anonymous", "system"])
def test_row_9__a_policy_and_a_user_id__are_taken(word: str) -> None:
    """Any other string is the user of calls without one."""
    assert Paygent.init(db_path=":memory:", on_missing_user=word).is_initialized


# -- row 11: who is warned


def test_row_11__a_callback__knows_whom_to_write_to(init: Init) -> None:
    """User, model, plan and the time of the reset are in what callbacks and refusals carry."""
    pg = init()
    pg.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 240}, soft_gate_at=0.5))
    pg.assign_plan("ann", "free")
    heard: list[GuardResult] = []
    pg.on_soft_gate(heard.append)
    pg.on_hard_gate(heard.append)
    for _ in range(2):
        call(pg)
    with pytest.raises(PaygentLimitExceeded) as refused:
        call(pg)
    pg.flush()
    assert [result.status for result in heard] == ["soft_gate", "hard_gate"]
    assert heard[1] == refused.value.guard_result
    period = pg.get_user_state("ann").billing_period
    assert period is not None
    for result in heard:
        assert (result.user_id, result.model, result.plan) == ("ann", "gpt-4o", "free")
        assert result.resets_at == period.end
        assert result.estimate_value > 0
    assert f"resets {period.end:%Y-%m-%d} 00:00 UTC" in str(refused.value)


def test_row_11__a_refusal_of_no_limit__names_user_model_and_plan(init: Init) -> None:
    """Also where a policy refuses."""
    pg = init()
    pg.configure_plan("default", PlanConfig(unknown_model="block"))
    with pytest.raises(PaygentLimitExceeded) as refused:
        call(pg, model="gpt-next-voice")
    result = refused.value.guard_result
    assert (result.user_id, result.model, result.plan) == ("ann", "gpt-next-voice", "default")
    assert (result.resets_at, result.estimate_value) == (None, 0.0)
    assert "give it a rate in cost_rates" in str(refused.value)


# -- row 13: exceptions of callbacks


def test_row_13__a_callback_that_raises__is_named_with_its_traceback_once(
    init: Init, caplog: pytest.LogCaptureFixture, swallowed: Swallowed
) -> None:
    """Each function is logged once, at WARNING, as its author needs it."""
    pg = init()
    pg.configure_plan("default", PlanConfig())

    @pg.on_usage
    def mail_the_user(event: Any) -> None:
        raise KeyError("address")

    @pg.on_usage
    def count_the_call(event: Any) -> None:
        raise ValueError("counter")

    swallowed.expect("callback:usage")
    for _ in range(2):
        call(pg)
    pg.flush()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "mail_the_user raised an exception; calls are not affected" in caplog.messages[0]
    assert "count_the_call" in caplog.messages[1]
    assert "KeyError: 'address'" in caplog.text
    assert 'raise KeyError("address")' in caplog.text
    assert pg.health()["counts"]["callback:usage"] == 4


# -- row 14: a raised cap elsewhere

_WAITING = """
import sys, time
from paygent import Paygent, PaygentLimitExceeded
pg = Paygent.init(db_path=sys.argv[1])
def allowed():
    if sys.argv[2] == "asks":
        return pg.is_within_limit("ann")
    try:
        pg.wrap(lambda: None, "ann", "gpt-4o")
    except PaygentLimitExceeded:
        return False
    return True
while allowed():  # on a busy machine the ledger may not have answered the first one in time
    time.sleep(0.02)
print("refused", flush=True)
while not allowed():
    time.sleep(0.02)
print("allowed", flush=True)
"""


def test_row_14__polling_of_many_users__writes_nothing_and_stays_bounded(init: Init) -> None:
    """Each question is read on the asking thread, and few are queued that no call waits for."""
    pg = init()
    pg.configure_plan("default", PlanConfig(model_limits={"gpt-4o": 5}))
    pg.flush()
    for _ in range(2):
        for number in range(200):
            pg.check_guard(f"u{number}")
            assert len(pg._parts.worker._refresh._asked) <= 17
    assert pg.flush() == 0
    store = SqliteStore(pg.db_path, read_only=True)
    with store.engine.transaction("default") as sql:
        (accounts,) = sql.connection.execute("SELECT COUNT(*) FROM accounts").fetchone()
    store.close()
    assert accounts == 0


@pytest.mark.parametrize("how", ["asks", "calls"])
def test_row_14__a_cap_raised_in_another_process__is_known_within_seconds(
    db_path: str, tmp_path: Path, how: str
) -> None:
    """Whoever tries again, by a call or a question, sees the plan as it is now."""
    pg = Paygent.init(db_path=db_path)
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1))
    pg.record_event("ann", cost=1)
    pg.flush()
    other = start(_WAITING, db_path, how, HOME=str(tmp_path))
    assert read_line(other) == "refused"
    pg.configure_plan("default", PlanConfig(max_spend_per_period=5))
    began = time.monotonic()
    assert read_line(other) == "allowed"
    other.communicate(timeout=30)
    assert time.monotonic() - began < 20.0  # it was 60 s; one second where the machine is idle


# -- row 15: a file that cannot be used


@pytest.mark.parametrize("kind", ["a file for a folder", "a folder for a file"])
def test_row_15__a_bad_path__is_said_at_init_with_the_remedy_and_delays_nothing(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, swallowed: Swallowed
) -> None:
    """Path and remedy are in the warning, and `flush` does not wait for what cannot come."""
    path = tmp_path / "place"
    if kind == "a file for a folder":
        path.write_text("in the way")
        path /= "local.db"
        swallowed.expect("journal_folder")
    else:
        path.mkdir()
    with pytest.warns(PaygentWarning, match=f"db_path {path} cannot be used: .*PAYGENT_DB_PATH"):
        pg = Paygent.init(db_path=path)
    call(pg)
    began = time.monotonic()
    pg.flush()
    pg.shutdown()
    assert time.monotonic() - began < 8.0
    assert str(path) in caplog.text  # what the ledger reports names the file, too


def test_row_15__a_damaged_file__is_named_with_where_to_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the database says which one."""
    path = tmp_path / "local.db"
    path.write_bytes(b"this is no database" * 100)
    pg = Paygent.init(db_path=path)
    call(pg)
    pg.flush()
    assert f"SQLite, {path}: file is not a database" in caplog.text
    assert "`paygent doctor`" in caplog.text


# -- row 16: nonsense


def test_row_16__an_event_of_nothing__is_refused(init: Init) -> None:
    """It would be booked at $0."""
    pg = init()
    with pytest.raises(InvalidValue, match="cost = None: must be given, or else tokens, a"):
        pg.record_event("ann")
    assert pg.record_event("ann", cost=0).cost_total == 0
    # What an application's own figures may come to is data.
    assert pg.record_event("ann", tool_calls=[]).cost_total == 0
    assert pg.record_event("ann", model="gpt-4o", input_tokens=0).cost_total == 0


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (ModelCostRate(2.5, 10), r"\$2,500 per million input tokens, 1,000 times above"),
        (ModelCostRate.per_million("0.0025", "0.01"), "1,000 times below"),
    ],
)
def test_row_16__a_rate_in_the_wrong_unit__is_pointed_out(
    init: Init, rate: ModelCostRate, message: str
) -> None:
    """Prices are listed per million tokens, and rates are per thousand."""
    with pytest.warns(PaygentWarning, match=f"{message}.*ModelCostRate.per_million"):
        init().configure_plan("pro", PlanConfig(cost_rates={"gpt-4o": rate}))


@pytest.mark.parametrize("rate", [ModelCostRate.per_million(3, 12), ModelCostRate(0, 0)])
def test_row_16__a_rate_near_the_list_price_or_free__is_taken(
    init: Init, rate: ModelCostRate
) -> None:
    """A discount, a margin and a gift are prices."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init().configure_plan("pro", PlanConfig(cost_rates={"gpt-4o": rate}))


# -- row 18: a second `init`


def test_row_18__a_second_init__says_that_callbacks_are_gone(init: Init) -> None:
    """They were registered on the first one."""
    init().on_usage(lambda event: None)
    with pytest.warns(PaygentWarning, match="callbacks that were registered .* do not fire"):
        init()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init()  # there were none this time


# -- row 20: a web framework's dependency


def test_row_20__a_call_without_a_user__is_logged_with_the_middleware_as_remedy(
    init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """A sync dependency runs in another context than the handler."""
    pg = init()
    call(pg, user_id=None)  # type: ignore[arg-type]
    assert "PaygentMiddleware in web applications" in caplog.text


# -- row 21: one prefix


@pytest.mark.parametrize(
    ("setup", "line"),
    [
        ("", "paygent: A call has no user"),
        ("import logging; logging.basicConfig()", "WARNING:paygent:A call has no user"),
    ],
)
def test_row_21__a_log_line__has_one_prefix(tmp_path: Path, setup: str, line: str) -> None:
    """Without a handler Python prints the bare message, which then names Paygent itself."""
    script = f"""
{setup}
from paygent import Paygent
Paygent.init(db_path=":memory:").wrap(lambda: None, None)
"""
    _, err = run(script, HOME=str(tmp_path))
    assert err.startswith(line)


# -- row 22: mode


def test_row_22__with_an_api_key__no_property_says_local(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`health()` and `is_local_mode` agree."""
    assert init().health()["mode"] == "local"
    with pytest.warns(PaygentBackendUnreachable, match="cannot be reached.*events wait"):
        pg = init(api_key="pg_live_x", base_url="http://127.0.0.1:9")
    assert (pg.health()["mode"], pg.is_local_mode, pg.is_connected) == ("offline", False, False)


def test_row_22__strict_backend__does_not_say_that_calls_are_metered(init: Init) -> None:
    """Nothing runs after the error."""
    with pytest.raises(PaygentBackendUnreachable) as raised:
        init(api_key="pg_live_x", base_url="http://127.0.0.1:9", strict_backend=True)
    assert "metered" not in str(raised.value)
    assert Paygent.get_instance() is None


# -- row 23: the soft gate of a manual event


def test_row_23__an_event_that_passes_the_warn_line__fires_the_warning_once(init: Init) -> None:
    """It is spend like any other; the next call does not warn again."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=25))
    heard: list[GuardResult] = []
    pg.on_soft_gate(heard.append)
    pg.record_event("ann", cost=19)
    pg.record_event("ann", cost="1.50")
    pg.record_event("ann", cost=1)
    call(pg)
    pg.flush()
    (result,) = heard
    assert (result.user_id, result.gate_reason, result.current_value) == (
        "ann",
        "total_spend",
        20.5,
    )
    assert str(result.message).startswith("ann has used $20.50 of $25.00 in this billing period")


def test_row_23__on_every_call__each_event_warns(init: Init) -> None:
    """As each call does."""
    pg = init(soft_gate="every_call")
    pg.configure_plan("default", PlanConfig(max_spend_per_period=25))
    heard: list[GuardResult] = []
    pg.on_soft_gate(heard.append)
    for _ in range(2):
        pg.record_event("ann", cost=11)
    pg.record_event("ann", cost=1)
    pg.flush()
    assert [result.current_value for result in heard] == [22.0, 23.0]


def test_row_23__after_a_change_of_plan__the_warning_is_of_the_plan_as_it_is(init: Init) -> None:
    """A raised cap, another plan and shadow mode count at once; a lowered cap warns."""
    pg = init()
    heard: list[GuardResult] = []
    pg.on_soft_gate(heard.append)

    def spend(plan: PlanConfig, cost: str) -> None:
        pg.configure_plan("default", plan)
        pg.record_event("ann", cost=cost)
        pg.flush()

    spend(PlanConfig(max_spend_per_period=1), "0.50")
    spend(PlanConfig(max_spend_per_period=10), "0.40")
    spend(PlanConfig(max_spend_per_period=1, enforce=False), "0.01")
    spend(PlanConfig(limits=[Limit("spend", window="day", cap=9)]), "0.01")
    assert heard == []
    spend(PlanConfig(max_spend_per_period=1), "0.01")
    (result,) = heard
    assert (result.current_value, result.limit_value) == (0.93, 1.0)


def test_row_23__an_event_that_jumps_past_the_cap__warns_all_the_same(init: Init) -> None:
    """No call may follow that would be refused."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=1))
    heard: list[GuardResult] = []
    pg.on_soft_gate(heard.append)
    pg.record_event("ann", cost="0.70")
    pg.record_event("ann", cost="0.50")
    pg.flush()
    assert [result.current_value for result in heard] == [1.2]


# -- row 25: a lock that is waited for

_WORKER = """
import sys
from paygent import Paygent, PlanConfig
from paygent.client.metering import wait
wait.FIRST_TOUCH_WAIT_S = 30.0  # a busy machine must not be taken for a slow ledger
pg = Paygent.init(db_path=sys.argv[1])
pg.configure_plan("default", PlanConfig())
assert not pg._parts.worker.flush(0.5)
print("waits", flush=True)
sys.stdin.readline()
pg.record_event("ann", cost=1)
pg.flush()
"""


def test_row_25__a_worker_that_starts_while_another_migrates__logs_nothing(
    db_path: str, tmp_path: Path
) -> None:
    """It waits for the lock on a fresh file, and then delivers."""
    Path(db_path).parent.mkdir()
    migrating = sqlite3.connect(db_path, isolation_level=None)
    migrating.execute("BEGIN EXCLUSIVE")
    worker = start(_WORKER, db_path, HOME=str(tmp_path))
    assert read_line(worker) == "waits"
    migrating.execute("ROLLBACK")
    migrating.close()
    _, err = worker.communicate("\n", timeout=60)
    assert (worker.returncode, err) == (0, "")
    store = SqliteStore(db_path)
    assert len(store.events("default", "ann")) == 1
    store.close()


class LockedLedger(AwayLedger):
    """A ledger that another process has locked."""

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def locked(*args: Any, **kwargs: Any) -> Any:
            raise LedgerBusy("database is locked")

        return locked


def test_row_25__a_lock_that_lasts__is_logged_after_a_while(
    db_path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Patience ends: then it is a problem like any other."""
    from paygent.client.journal import delivery

    pg = Paygent.launch(Settings(db_path=db_path), ledger=LockedLedger())
    pg.configure_plan("default", PlanConfig())
    assert not pg._parts.worker.flush(0.3)
    assert caplog.messages == []
    monkeypatch.setattr(delivery, "_BUSY_PATIENCE_S", 0.0)
    logged = threading.Event()
    monkeypatch.setattr(pg._parts.worker, "_finish_round", logged.set)
    pg._parts.worker.wake()
    assert logged.wait(10.0)
    assert "The ledger is unavailable (database is locked)" in caplog.text
    pg.shutdown(timeout=0.1)


def test_row_25__two_locks_far_apart__are_not_one_that_lasts(
    init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock at the start of the day does not make one at noon a problem."""
    worker = init()._parts.worker
    worker._note_away(LedgerBusy("database is locked"))
    worker._busy_s -= 600
    worker._busy_since_s -= 600
    worker._note_away(LedgerBusy("database is locked"))
    assert (caplog.messages, worker._is_away) == ([], False)


# -- found by trying the guides


def test_billing_period__that_has_not_begun__has_its_cap_before_it(init: Init) -> None:
    """A period assigned ahead of time, or in local time, must not lift the cap until it begins."""
    pg = init()
    pg.configure_plan("pro", PlanConfig(max_spend_per_period=0.001))
    now = datetime.now(timezone.utc)
    ahead = BillingPeriod(now + timedelta(hours=9), now + timedelta(days=30, hours=9))
    pg.assign_plan("ann", "pro", billing_period=ahead)
    for _ in range(3):
        call(pg)
    with pytest.raises(PaygentLimitExceeded) as refused:
        call(pg)
    assert refused.value.guard_result.resets_at == ahead.start
    assert pg.get_usage("ann").period_cost == 0.00135
    pg.flush()
    assert pg.refresh_user("ann").current_usage.period_cost == 0.00135


@pytest.mark.parametrize("cap", [1, 2, 3, 8])
def test_soft_gate__of_a_small_count__never_fires_below_its_fraction(init: Init, cap: int) -> None:
    """80 % of one call is one call."""
    pg = init()
    pg.configure_plan("default", PlanConfig(limits=[Limit("calls", window="day", cap=cap)]))
    heard: list[GuardResult] = []
    pg.on_soft_gate(heard.append)
    for _ in range(cap):
        call(pg)
    with pytest.raises(PaygentLimitExceeded):
        call(pg)
    pg.flush()
    assert all(result.usage_pct >= 0.8 for result in heard)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PAYGENT_DBPATH", "x.db", "PAYGENT_DBPATH is not read.*did you mean PAYGENT_DB_PATH"),
        ("PAYGENT_DISABLED", "y", "PAYGENT_DISABLED='y' has no effect"),
    ],
)
def test_init__an_odd_variable__is_pointed_out(
    init: Init, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """The application would write to another file than meant, or be limited against its will."""
    monkeypatch.setenv(name, value)
    with pytest.warns(PaygentWarning, match=message):
        init()


def test_init__a_path_for_a_key__is_refused() -> None:
    """The first argument is the key."""
    for path in ("my.db", "/var/lib/app/paygent"):
        with pytest.raises(InvalidValue, match="a file is db_path") as raised:
            Paygent.init(path)
        assert path not in str(raised.value)


def test_middleware__a_function_that_fails__is_named_with_its_traceback(
    caplog: pytest.LogCaptureFixture, swallowed: Swallowed
) -> None:
    """All calls of the application are without a user then."""
    swallowed.expect("ask_user")

    def signed_in_user(scope: Any) -> str:
        return str(scope["state"]["user_id"])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_user()

    served = PaygentMiddleware(app, user_id=signed_in_user)
    asyncio.run(served({"type": "http", "headers": []}, None, None))
    assert "raised an exception; its calls have no user" in caplog.messages[0]
    assert "signed_in_user" in caplog.text
    assert "KeyError: 'state'" in caplog.text


def test_track__without_its_arguments__says_how_to_write_it() -> None:
    """`@pg.track` alone would replace the function by a decorator."""
    with pytest.raises(TypeError, match="the decorator takes arguments"):

        @paygent_track
        def job() -> None:
            """Never made."""


def test_report__of_dates__takes_whole_days_and_refuses_none(init: Init) -> None:
    """Only whole days count, so dates are what is meant."""
    pg = init()
    pg.record_event("ann", cost=1)
    today = datetime.now(timezone.utc).date()
    (row,) = pg.report(start=today, end=today + timedelta(days=1))
    assert row.cost_nano == 10**9
    with pytest.raises(InvalidValue, match=r"end = .*: must be after start"):
        pg.report(start=today, end=today)


@pytest.mark.parametrize(
    "plan",
    [
        PlanConfig(cost_rates={"our-llama": ModelCostRate(2.5, 10)}),
        PlanConfig(default_cost_rate=ModelCostRate(2.5, 10)),
    ],
)
def test_rates__of_no_listed_model__are_pointed_out_beyond_any_price(
    init: Init, plan: PlanConfig
) -> None:
    """No model costs $2,500 per million tokens."""
    with pytest.warns(PaygentWarning, match=r"\$2,500 per million input tokens, more than any"):
        init().configure_plan("pro", plan)


def test_shut_down__verbs_that_configure__say_that_they_have_no_effect(init: Init) -> None:
    """A module may have kept the Paygent of before a second `init`."""
    old = init()
    init()
    for configure in (
        lambda: old.configure_plan("pro", PlanConfig()),
        lambda: old.assign_plan("ann", "pro"),
        lambda: old.on_usage(print),
    ):
        with pytest.warns(PaygentWarning, match="this Paygent was shut down"):
            configure()


def test_database__removed_while_it_is_used__is_made_anew_and_logged(
    init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """What follows is not written into a file that nobody sees."""
    pg = init()
    pg.configure_plan("default", PlanConfig())
    call(pg)
    pg.flush()
    for path in Path(pg.db_path).parent.glob("local.db*"):
        if path.is_file():
            path.unlink()
    for _ in range(2):
        call(pg)
        pg.flush()
    (message,) = caplog.messages
    assert f"The database {pg.db_path} was removed or replaced" in message
    store = SqliteStore(pg.db_path, read_only=True)
    assert len(store.events("default", "ann")) == 2
    store.close()


# -- weak messages


def test_weak_messages__of_verbs__name_the_remedy(init: Init) -> None:
    """What a reader of the message can do is in it."""
    pg = init()
    with pytest.raises(TypeError, match=r"started by Paygent\.init"):
        Paygent(api_key="pg_live_x")
    assert "Not called by applications" in str(Paygent.__init__.__doc__)
    with pytest.raises(InvalidValue, match="timeout = -1: must be a number of seconds from 0"):
        pg.shutdown(-1)
    with pytest.raises(InvalidValue, match=r"soft_gate_at = 80: .*0\.8 means 80 %"):
        PlanConfig(soft_gate_at=80)
    with pytest.raises(InvalidValue, match="'50k': must be a number, a ModelLimitConfig or"):
        PlanConfig(model_limits={"gpt-4o": "50k"})  # type: ignore[dict-item]
    pg.configure_plan("professional", PlanConfig(price=49))
    with pytest.warns(PaygentWarning, match="did you mean 'professional'"):
        pg.assign_plan("ann", "profesional")
