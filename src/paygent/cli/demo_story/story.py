"""The demo's scenario: a month of users and calls as data, and functions that run it.

The calls are those of a real application: real provider SDKs, one thread and one client per user,
each inside its `paygent_context`. Only the clock and the provider are simulated; the provider
returns the usage requested in the header `x-fake-usage`. Every figure of an `Outcome` is read back
from the backend, or without one from Paygent's report. Nothing here prints, reads the environment
or writes outside a temporary folder.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

import anthropic
import openai

from paygent import (
    GuardResult,
    ModelLimitConfig,
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    paygent_context,
)
from paygent.cli.demo_story.backend import Tenant
from paygent.cli.demo_story.margins import Margin, margins
from paygent.cli.demo_story.provider import ProviderProcess
from paygent.cli.options import CommandError
from paygent.client.runtime.settings import Settings
from paygent.core.period import Window, calendar_month, to_datetime
from paygent.core.report_rows import UsageRow
from paygent.testing import FakeProvider, Tokens

Provider = ProviderProcess | FakeProvider  # the target of the calls; tests use one in the process

PLAN_NAME = "pro"
CAPPED_MODEL = "gpt-4o"
CAP_TOKENS = 50_000

WITHOUT_LIMITS = PlanConfig(price=49)
WITH_LIMITS = PlanConfig(price=49, model_limits={CAPPED_MODEL: ModelLimitConfig(CAP_TOKENS)})

_ANSWER_TOKENS_MAX = 10_000  # required by Anthropic; above every answer of the scenario
_REQUEST_WAIT_S = 30.0  # loopback takes a millisecond; any longer means the provider has died
_POLL_S = 0.05
_PLAN_WAIT_S = 30.0  # a backend on this machine answers in milliseconds
_REFRESH_S = 86_400.0  # a simulated day: calls are hours apart, and no plan changes in between


@dataclass(frozen=True)
class Step:
    """One kind of call that a user makes.

    Attributes:
        sdk: "anthropic" streams a message, "openai" requests a chat completion, "openai-stream"
            streams one.
        model: The requested model.
        prompt: A short text; its usage is given by `tokens`.
        tokens: The usage that the provider reports.
        fallback: The model the application falls back to when this one is refused; None lets
            the refusal through.
    """

    sdk: Literal["anthropic", "openai", "openai-stream"]
    model: str
    prompt: str
    tokens: Tokens
    fallback: str | None = None


@dataclass(frozen=True)
class DemoUser:
    """A user of the scenario.

    Attributes:
        user_id: The user's name.
        steps: One round of calls, in order.
        rounds: Number of rounds in the month.
    """

    user_id: str
    steps: tuple[Step, ...]
    rounds: int

    @property
    def calls(self) -> int:
        """Number of calls in the month."""
        return len(self.steps) * self.rounds


_INTERVIEWS = Tokens(input=40_000, output=8_000)
_POSTS = Tokens(input=14_000, output=4_000, reasoning=2_500)
_PAGE = Tokens(input=8_140, cached=2_000, output=2_200)
_TICKET = Tokens(input=3_000, output=1_000)
_RESEARCH = Step("anthropic", "claude-sonnet-5", "Sum up these interviews.", _INTERVIEWS)
_PLANNING = Step("openai-stream", "gpt-5", "Plan next week's posts.", _POSTS)
_WRITING = Step("openai", CAPPED_MODEL, "Write the product page.", _PAGE, "gpt-4o-mini")
_TAGGING = Step("openai", "gpt-4o-mini", "Tag this ticket.", _TICKET)

# One user far below the price of the plan, one near half of it, and one far above.
USERS = (
    DemoUser("light", (_RESEARCH,), 50),
    DemoUser("typical", (_PLANNING,), 400),
    DemoUser("power", (*(_WRITING,) * 7, _TAGGING), 500),
)


class Watch(Protocol):
    """Observes a run as it happens. Called from several threads."""

    def called(self, user_id: str) -> None:
        """Record that a user's call is done."""

    def warned(self, at: datetime, result: GuardResult) -> None:
        """Record that a user has passed the warn line of a limit, at a simulated time."""

    def refused(self, at: datetime, result: GuardResult) -> None:
        """Record that a call was refused, at a simulated time."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
        margins: By user, in the order of the scenario.
        refused: Number of calls refused before they were sent.
    """

    margins: tuple[Margin, ...]
    refused: int

    @property
    def calls(self) -> int:
        """Number of calls that Paygent metered."""
        return sum(margin.calls for margin in self.margins)

    @property
    def capped_tokens(self) -> int:
        """The most tokens any user used of the model that the second plan limits."""
        rows = [row for margin in self.margins for row in margin.by_model]
        capped = [row for row in rows if row.model == CAPPED_MODEL]
        return max((row.input_tokens + row.output_tokens for row in capped), default=0)

    @property
    def cost_nano(self) -> int:
        """Total cost of all users, in nano-dollars."""
        return sum(margin.cost_nano for margin in self.margins)

    @property
    def margin_nano(self) -> int:
        """Total margin over all users, in nano-dollars."""
        return sum(margin.margin_nano for margin in self.margins)


def last_full_months(now_us: int) -> tuple[Window, Window]:
    """Return the last two complete calendar months, in microseconds since 1970 UTC."""
    last = calendar_month(calendar_month(now_us).start_us - 1)
    return calendar_month(last.start_us - 1), last


class Clock:
    """The simulated time, in microseconds since 1970 UTC.

    A user's thread, and code called on its behalf, is at the time of that user's current call;
    all other code is at the latest time that any user has reached.
    """

    def __init__(self, start_us: int) -> None:
        self._lock = threading.Lock()
        self._latest_us = start_us
        # A context variable and not a thread-local: callbacks run in a copy of the context.
        self._own_us: ContextVar[int] = ContextVar("paygent_demo_own_us")

    def __call__(self) -> int:
        """Return the time for the calling context."""
        return self._own_us.get(self._latest_us)

    def move(self, at_us: int) -> None:
        """Set the time of the calling thread's user."""
        self._own_us.set(at_us)
        with self._lock:
            self._latest_us = max(self._latest_us, at_us)


def run(
    plan: PlanConfig,
    users: Sequence[DemoUser],
    provider: Provider,
    month: Window,
    watch: Watch,
    tenant: Tenant | None = None,
) -> Outcome:
    """Run a month of all users on a plan; return the figures of the backend, or Paygent's own.

    Each user is on its own thread, with calls spread evenly over the month. The first exception
    that a call raises is raised, and the other users stop.

    Args:
        plan: The plan of all users.
        users: The users.
        provider: Answers their calls.
        month: The simulated month.
        watch: Observes the run.
        tenant: A product on a backend, which gets the plan and the users' payments for the month;
            None keeps everything in a temporary store.

    Raises:
        CommandError: if an event did not reach the backend.
    """
    clock = Clock(month.start_us)
    with TemporaryDirectory(prefix="paygent-demo-", ignore_cleanup_errors=True) as folder:
        pg = _launch(os.path.join(folder, "local.db"), clock, tenant)
        try:
            _set_plan(pg, plan, users, tenant)
            pg.on_soft_gate(lambda result: watch.warned(to_datetime(clock()), result))
            pg.on_hard_gate(lambda result: watch.refused(to_datetime(clock()), result))
            refused = _run_users(users, provider, month, clock, watch)
            rows = _read_usage(pg, month, tenant)
        finally:
            pg.shutdown()
    price_nano = plan.price_nano or 0
    if tenant is not None:
        tenant.record_payments((user.user_id for user in users), price_nano, month)
    by_user = margins(rows, price_nano=price_nano)
    order = {user.user_id: position for position, user in enumerate(users)}
    return Outcome(tuple(sorted(by_user, key=lambda margin: order[margin.user_id])), refused)


def _launch(db_path: str, clock: Clock, tenant: Tenant | None) -> Paygent:
    """Start Paygent, connected to a product on a backend or alone."""
    if tenant is None:
        settings = Settings(db_path=db_path, refresh_interval_s=_REFRESH_S, default_plan=PLAN_NAME)
    else:
        settings = Settings(
            api_key=tenant.sdk_key,
            base_url=tenant.url,
            db_path=db_path,
            refresh_interval_s=_REFRESH_S,
        )
    # Not `init`: the demo ignores the PAYGENT_* variables of the machine.
    return Paygent.launch(settings, now_us=clock)


def _set_plan(
    pg: Paygent, plan: PlanConfig, users: Sequence[DemoUser], tenant: Tenant | None
) -> None:
    """Put all users on the plan, on the backend if there is one."""
    if tenant is None:
        pg.configure_plan(PLAN_NAME, plan)
    else:
        tenant.configure(PLAN_NAME, plan, (user.user_id for user in users))
        _wait_for_plan(pg, plan, users)


def _wait_for_plan(pg: Paygent, plan: PlanConfig, users: Sequence[DemoUser]) -> None:
    """Read every user's plan, until it is this version. A first call waits a quarter of a second
    for it and then goes on without limits, which on a busy machine would change the figures.
    """

    def plan_of(user: DemoUser) -> tuple[str, PlanConfig]:
        state = pg.refresh_user(user.user_id)
        return state.plan, state.plan_config

    deadline_s = time.monotonic() + _PLAN_WAIT_S
    for user in users:
        while plan_of(user) != (PLAN_NAME, plan):
            if time.monotonic() > deadline_s:
                raise CommandError(f"the backend at {pg.base_url} does not answer")
            time.sleep(_POLL_S)  # an address where nothing listens answers at once


def _read_usage(pg: Paygent, month: Window, tenant: Tenant | None) -> Sequence[UsageRow]:
    """Return the usage of the month by user and model, from where it is kept."""
    if tenant is not None:
        pg.flush()
        if pg.pending_events:
            left = f"{pg.pending_events} events did not reach the backend at {tenant.url}"
            raise CommandError(left)
    start, end = to_datetime(month.start_us), to_datetime(month.end_us)
    return pg.report(("user", "model"), start=start, end=end)


def _run_users(
    users: Sequence[DemoUser], provider: Provider, month: Window, clock: Clock, watch: Watch
) -> int:
    """Run all users concurrently; return the number of refused calls."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(users), thread_name_prefix="paygent-demo") as pool:
        shared = (provider, month, clock, watch, stop.is_set)
        try:
            runs = [pool.submit(_run_user, user, *shared) for user in users]
            return sum(run.result() for run in as_completed(runs))
        finally:  # on Ctrl-C leaving the pool waits for its threads
            stop.set()


def _run_user(
    user: DemoUser,
    provider: Provider,
    month: Window,
    clock: Clock,
    watch: Watch,
    is_stopped: Callable[[], bool],
) -> int:
    """Make one user's calls, like an application; return the number of refused calls."""
    refused = 0
    length_us = month.end_us - month.start_us
    with _Clients(provider) as clients, paygent_context(user_id=user.user_id):
        for number in range(user.calls):
            if is_stopped():
                break
            # In the middle of its share of the month, so that no call is on the boundary.
            clock.move(month.start_us + (2 * number + 1) * length_us // (2 * user.calls))
            step = user.steps[number % len(user.steps)]
            try:
                clients.call(step, step.model)
            except PaygentLimitExceeded:
                if step.fallback is None:
                    raise
                refused += 1
                clients.call(step, step.fallback)
            watch.called(user.user_id)
    return refused


class _Clients:
    """The SDK clients of one thread.

    The keys are dummies and proxy settings are ignored: nothing leaves the machine.
    """

    def __init__(self, provider: Provider) -> None:
        self._openai = openai.OpenAI(
            api_key="demo",
            base_url=provider.openai_url,
            max_retries=0,  # a retry would hide a failure and disturb the counts
            timeout=_REQUEST_WAIT_S,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )
        self._anthropic = anthropic.Anthropic(
            api_key="demo",
            base_url=provider.url,
            max_retries=0,
            timeout=_REQUEST_WAIT_S,
            # Anthropic's client reads the proxy variables even without `trust_env`; an explicit
            # mount takes precedence over them.
            http_client=anthropic.DefaultHttpxClient(trust_env=False, mounts={"http://": None}),
        )

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *error: object) -> None:
        self._openai.close()
        self._anthropic.close()

    def call(self, step: Step, model: str) -> None:
        """Make the call of a step and read its whole answer."""
        create: Any = self._openai.chat.completions.create
        options: dict[str, Any] = {}
        if step.sdk == "openai-stream":
            options = {"stream": True, "stream_options": {"include_usage": True}}
        elif step.sdk == "anthropic":
            create = self._anthropic.messages.create
            options = {"stream": True, "max_tokens": _ANSWER_TOKENS_MAX}
        messages = [{"role": "user", "content": step.prompt}]
        # The header sets the usage that the fake provider reports.
        headers = {"x-fake-usage": json.dumps(asdict(step.tokens))}
        answer = create(model=model, messages=messages, extra_headers=headers, **options)
        if "stream" in options:
            for _ in answer:
                pass
