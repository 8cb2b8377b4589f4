"""The story: who calls what in a month, as data, and a run of that month, as functions.

The calls are those of an application: real provider SDKs, one thread and one client per user, each
inside its `paygent_context`. Simulated are the clock and the provider, which answers the usage that
the header `x-fake-usage` asks for. Every figure of an `Outcome` comes from Paygent's report or from
the provider's own count. Nothing here prints, reads the environment or writes outside a temporary
folder.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Literal, Protocol

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
from paygent.client.runtime.settings import Settings
from paygent.core.period import Window, calendar_month, to_datetime
from paygent.core.report import Margin, margins
from paygent.testing import Tokens

PLAN_NAME = "pro"
CAPPED_MODEL = "gpt-4o"
CAP_TOKENS = 50_000

WITHOUT_LIMITS = PlanConfig(price=49)
WITH_LIMITS = PlanConfig(price=49, model_limits={CAPPED_MODEL: ModelLimitConfig(CAP_TOKENS)})

_ANSWER_TOKENS_MAX = 10_000  # Anthropic wants a bound; above every answer of the story
_REQUEST_WAIT_S = 30.0  # loopback answers in a millisecond; longer means that the provider is gone
_REFRESH_S = 86_400.0  # a simulated day: calls are hours apart, and no plan changes in between


@dataclass(frozen=True)
class Step:
    """One kind of call that a user makes.

    Attributes:
        sdk: "anthropic" streams a message, "openai" asks for a chat completion, "openai-stream"
            streams one.
        model: Asked for.
        prompt: A short text; what it uses is told by `tokens`.
        tokens: What the provider says was used.
        instead: Model that the application goes on with when this one is refused; None lets the
            refusal through.
    """

    sdk: Literal["anthropic", "openai", "openai-stream"]
    model: str
    prompt: str
    tokens: Tokens
    instead: str | None = None


@dataclass(frozen=True)
class DemoUser:
    """A user of the story.

    Attributes:
        user_id: Their name.
        steps: One round of calls, in order.
        rounds: How often they go round in a month.
    """

    user_id: str
    steps: tuple[Step, ...]
    rounds: int

    @property
    def calls(self) -> int:
        """Calls in the month."""
        return len(self.steps) * self.rounds


_RESEARCH = Step(
    "anthropic",
    "claude-sonnet-5",
    "Sum up these interviews.",
    Tokens(input=40_000, output=8_000),
)
_PLANNING = Step(
    "openai-stream",
    "gpt-5",
    "Plan next week's posts.",
    Tokens(input=14_000, output=4_000, reasoning=2_500),
)
_WRITING = Step(
    "openai",
    CAPPED_MODEL,
    "Write the product page.",
    Tokens(input=8_140, cached=2_000, output=2_200),
    instead="gpt-4o-mini",
)
_TAGGING = Step("openai", "gpt-4o-mini", "Tag this ticket.", Tokens(input=3_000, output=1_000))

USERS = (
    DemoUser("light", (_RESEARCH,), 50),
    DemoUser("typical", (_PLANNING,), 400),
    DemoUser("power", (*(_WRITING,) * 7, _TAGGING), 500),
)


class Provider(Protocol):
    """Where the calls go: `ProviderProcess`, or a fake in this process."""

    @property
    def url(self) -> str:
        """Address for Anthropic's SDK."""

    @property
    def openai_url(self) -> str:
        """Address for OpenAI's SDK."""


class Watch(Protocol):
    """Who is told what happens, as it happens. Called on several threads."""

    def called(self, user_id: str) -> None:
        """Note that a user's call is done."""

    def warned(self, at: datetime, result: GuardResult) -> None:
        """Note that a user has passed the warn line of a limit, at a simulated moment."""

    def refused(self, at: datetime, result: GuardResult) -> None:
        """Note that a call has been refused, at a simulated moment."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        margins: Per user, in the order of the story.
        refused: Calls that were refused before they left.
    """

    margins: tuple[Margin, ...]
    refused: int

    @property
    def calls(self) -> int:
        """Calls that Paygent has metered."""
        return sum(margin.calls for margin in self.margins)

    @property
    def capped_tokens(self) -> int:
        """Most tokens that any user has used of the model that the second plan limits."""
        rows = [row for margin in self.margins for row in margin.by_model]
        return max(
            (row.input_tokens + row.output_tokens for row in rows if row.model == CAPPED_MODEL),
            default=0,
        )

    @property
    def cost_nano(self) -> int:
        """What all users cost together, in nano-dollars."""
        return sum(margin.cost_nano for margin in self.margins)

    @property
    def margin_nano(self) -> int:
        """What is left of all prices together, in nano-dollars."""
        return sum(margin.margin_nano for margin in self.margins)


def last_full_month(now_us: int) -> Window:
    """Return the last calendar month that is over, in microseconds since 1970 UTC."""
    return calendar_month(calendar_month(now_us).start_us - 1)


class Clock:
    """The simulated time, in microseconds since 1970 UTC.

    Each user's thread, and what is called on its behalf, is at the moment of the user's own call;
    everybody else is at the latest moment that any user has reached.
    """

    def __init__(self, start_us: int) -> None:
        self._lock = threading.Lock()
        self._latest_us = start_us
        self._own_us: ContextVar[int] = ContextVar("paygent_demo_own_us")

    def __call__(self) -> int:
        """Return the time for whoever asks."""
        return self._own_us.get(self._latest_us)

    def move(self, at_us: int) -> None:
        """Set the time of the calling thread's user."""
        self._own_us.set(at_us)
        with self._lock:
            self._latest_us = max(self._latest_us, at_us)


def run(
    plan: PlanConfig, users: Sequence[DemoUser], provider: Provider, month: Window, watch: Watch
) -> Outcome:
    """Live a month on a plan, on a store of its own that is gone afterwards.

    Args:
        plan: What every user pays, and may use.
        users: Whose calls are made, each on a thread, spread evenly over the month.
        provider: Where the calls go.
        month: When.
        watch: Who is told what happens.

    Returns:
        What Paygent reports at the end.

    Raises:
        Exception: whatever a call raised first; the other users stop then.
    """
    clock = Clock(month.start_us)
    with TemporaryDirectory(prefix="paygent-demo-", ignore_cleanup_errors=True) as folder:
        # `launch` and not `init`: the PAYGENT_* variables of the machine are not for the demo.
        settings = Settings(
            db_path=os.path.join(folder, "local.db"),
            refresh_interval_s=_REFRESH_S,
            default_plan=PLAN_NAME,
        )
        pg = Paygent.launch(settings, now_us=clock)
        try:
            pg.configure_plan(PLAN_NAME, plan)
            pg.on_soft_gate(lambda result: watch.warned(to_datetime(clock()), result))
            pg.on_hard_gate(lambda result: watch.refused(to_datetime(clock()), result))
            refused = _live_all(users, provider, month, clock, watch)
            rows = pg.report(
                ("user", "model"),
                start=to_datetime(month.start_us),
                end=to_datetime(month.end_us),
            )
        finally:
            pg.shutdown()
    found = margins(rows, price_nano=plan.price_nano or 0)
    order = {user.user_id: place for place, user in enumerate(users)}
    return Outcome(tuple(sorted(found, key=lambda margin: order[margin.user_id])), refused)


def _live_all(
    users: Sequence[DemoUser], provider: Provider, month: Window, clock: Clock, watch: Watch
) -> int:
    """Live the month of every user at once; return how many calls were refused."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(users), thread_name_prefix="paygent-demo") as pool:
        lives = [
            pool.submit(_live, user, provider, month, clock, watch, stop.is_set) for user in users
        ]
        try:
            return sum(life.result() for life in as_completed(lives))
        except BaseException:  # also Ctrl-C: leaving the pool waits for its threads
            stop.set()
            raise


def _live(
    user: DemoUser,
    provider: Provider,
    month: Window,
    clock: Clock,
    watch: Watch,
    is_stopped: Callable[[], bool],
) -> int:
    """Live the month of one user, as the code of an application; return the number of refusals."""
    refused = 0
    length_us = month.end_us - month.start_us
    with _Clients(provider) as clients, paygent_context(user_id=user.user_id):
        for number in range(user.calls):
            if is_stopped():
                break
            clock.move(month.start_us + (2 * number + 1) * length_us // (2 * user.calls))
            step = user.steps[number % len(user.steps)]
            try:
                clients.call(step, step.model)
            except PaygentLimitExceeded:
                if step.instead is None:
                    raise
                refused += 1
                clients.call(step, step.instead)
            watch.called(user.user_id)
    return refused


class _Clients:
    """The SDK clients of one thread.

    The keys are no keys, and a proxy of the environment is left aside: nothing leaves the machine.
    """

    def __init__(self, provider: Provider) -> None:
        self._openai = openai.OpenAI(
            api_key="demo",
            base_url=provider.openai_url,
            max_retries=0,
            timeout=_REQUEST_WAIT_S,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )
        self._anthropic = anthropic.Anthropic(
            api_key="demo",
            base_url=provider.url,
            max_retries=0,
            timeout=_REQUEST_WAIT_S,
            # This client of Anthropic's reads the proxy variables whatever `trust_env` says; a
            # mount of our own goes before theirs.
            http_client=anthropic.DefaultHttpxClient(trust_env=False, mounts={"http://": None}),
        )

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *error: object) -> None:
        self._openai.close()
        self._anthropic.close()

    def call(self, step: Step, model: str) -> None:
        """Make one call of a step and read its whole answer."""
        headers = usage_header(step.tokens)
        if step.sdk == "anthropic":
            for _ in self._anthropic.messages.create(
                model=model,
                max_tokens=_ANSWER_TOKENS_MAX,
                messages=[{"role": "user", "content": step.prompt}],
                stream=True,
                extra_headers=headers,
            ):
                pass
        elif step.sdk == "openai-stream":
            for _ in self._openai.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": step.prompt}],
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=headers,
            ):
                pass
        else:
            self._openai.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": step.prompt}],
                extra_headers=headers,
            )


def usage_header(tokens: Tokens) -> Mapping[str, str]:
    """Return the header that tells the fake provider what a call has used."""
    return {"x-fake-usage": json.dumps(asdict(tokens))}
