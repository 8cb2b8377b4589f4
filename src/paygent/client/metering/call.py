"""The values of the flow: a request, the call that holds for it, and what a call may wait for."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

from paygent.client.accounts.forecasts import UsageForecast
from paygent.client.accounts.holds import Hold
from paygent.client.accounts.user_state import User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.context.identity import Identity
from paygent.client.runtime.event_loops import running_loop, runs_loop
from paygent.core.estimate import Estimate
from paygent.core.event import Event
from paygent.core.plan import PlanConfig
from paygent.core.request_size import Size
from paygent.core.usage import Usage
from paygent.failopen import attempt
from paygent.prices.catalogue import Resolved

if TYPE_CHECKING:
    from concurrent.futures import Future


class Request:
    """What the funnel knows of a call before it leaves.

    Attributes:
        provider: "openai", "anthropic", "azure", …
        route: Which operation, such as "chat.completions"; estimates are tuned per model and route.
        model: As the application asked for it; "" where it did not.
        body: The JSON body, read for its size only and never kept.
        generates: Whether the route has output (embeddings have none).
        max_tokens: Most output that the request allows in all its answers together, or None.
        identity: What the call's own `paygent_*` arguments say, or None.
        size: Size of a request whose body nobody sees; None measures `body`.
        input_tokens: The application's own estimate of its input, or None.
        told: What it will use, in every unit that a price list may have, where the request tells
            it (text to be spoken, audio to be written down); None for the others.
        requests: How many requests it holds, of which size and bound are sums (a batch).
        tier: Its price variant, where the route tells; as in `Usage`.
        has_run: Whether it is under way or over already: then it is metered and never refused.
        is_async: Whether whoever makes the call can await.
        waiter: Its place in line, once it had to wait for other calls.
        whose: Whose it is, once that was found; a request that has to wait is asked about once.
    """

    __slots__ = (
        "body",
        "declared_usage",
        "generates",
        "has_run",
        "identity",
        "input_tokens",
        "is_async",
        "max_tokens",
        "model",
        "provider",
        "requests",
        "resolved_identity",
        "route",
        "size",
        "tier",
        "waiter",
    )

    def __init__(
        self,
        provider: str,
        route: str,
        model: str,
        body: Mapping[str, Any] | None,
        *,
        generates: bool = True,
        max_tokens: int | None = None,
        identity: Identity | None = None,
        size: Size | None = None,
        input_tokens: int | None = None,
        declared_usage: Usage | None = None,
        requests: int = 1,
        tier: str = "",
        has_run: bool = False,
    ) -> None:
        self.provider = provider
        self.route = route
        self.model = model
        self.body = body
        self.generates = generates
        self.max_tokens = max_tokens
        self.identity = identity
        self.is_async = False
        self.waiter: Waiter | None = None
        self.resolved_identity: Identity | None = None
        self.size = size
        self.input_tokens = input_tokens
        self.declared_usage = declared_usage
        self.requests = requests
        self.tier = tier
        self.has_run = has_run


class Call:
    """A call between `begin` and its end. Carried by streams; never pickled, never shared with a
    fork. `booked_id` is the id of its event: that of its begin record, but for jobs.
    """

    __slots__ = (
        "at_us",
        "blocked",
        "booked_id",
        "dropped",
        "drops_usage_chunk",
        "ends",
        "event_id",
        "forecast",
        "head",
        "hold",
        "identity",
        "model_key",
        "offline_nano",
        "pid",
        "plan",
        "provisional",
        "request",
        "resolved",
        "session_id",
        "size",
        "started_ns",
        "user",
    )

    at_us: int
    blocked: bool
    booked_id: str
    dropped: Callable[[Call], None]
    drops_usage_chunk: bool
    ends: list[None]
    event_id: str
    forecast: UsageForecast
    head: str
    hold: Hold
    identity: Identity
    model_key: str
    pid: int
    plan: PlanConfig
    provisional: Event | None
    request: Request
    resolved: Resolved
    session_id: str
    size: Size
    started_ns: int
    offline_nano: int | None
    user: User

    def __del__(self) -> None:
        # Nobody is left to end it: an interruption came between the steps of who should have, or
        # already while it was being made.
        if getattr(self, "ends", None) and hasattr(self, "dropped"):
            self.dropped(self)

    def hand_over(self) -> None:
        """Leave the end to who carries the call from now on, and ends it better when dropped.

        The finalizers of what is collected together run in any order.
        """
        self.dropped = _ignore

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return not self.ends

    @property
    def is_provisional(self) -> bool:
        """Whether it was settled when its stream was left, and may be corrected."""
        return self.provisional is not None

    @property
    def wants_tools(self) -> bool:
        """Whether the names of the tools that the answer calls are wanted: the plan prices some."""
        return bool(self.plan.tool_costs_nano)

    @property
    def estimate(self) -> Estimate:
        """What it was held for."""
        return self.hold.use.estimate

    def claim_end(self) -> bool:
        """Take the right to end this call; true for the first who asks.

        Several threads may end a stream in the same moment, and `list.pop` is one step. A call that
        a forked child inherited is its parent's to end.
        """
        if self.pid != os.getpid():
            return False
        try:
            self.ends.pop()
        except IndexError:
            return False
        return True


def _ignore(call: Call) -> None:
    """Leave a dropped call to who carries it."""


class Wait:
    """What a call waits for: the ledger's word on its user, or its turn at a limit.

    A sync caller blocks, an async caller awaits; then both call `begin` again, which goes on with
    what is known by then. A sync call on a thread that runs an event loop does not wait: it would
    stop that loop.
    """

    __slots__ = ("_answer", "_done", "_timeout_s")

    def __init__(
        self, answer: Future[bool], timeout_s: float, done: Callable[[bool], None]
    ) -> None:
        """Wait for nothing yet.

        Args:
            answer: What is waited for.
            timeout_s: How long at most.
            done: Called once the waiting has ended, with whether the caller gives up (it was
                interrupted or cancelled, and will not try again).
        """
        self._answer = answer
        self._timeout_s = timeout_s
        self._done = done

    def block(self) -> None:
        """Wait on this thread, unless it runs an event loop."""
        gives_up = True
        try:
            if not runs_loop():
                wait_for(self._answer, self._timeout_s)
            gives_up = False
        finally:
            attempt("wait", self._done, gives_up)

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        gives_up = True
        try:
            if running_loop() is not None:
                import asyncio  # imported already, since a loop of it runs

                # `wait` does not cancel what it waits for: other calls may wait for the same
                # answer.
                await asyncio.wait({asyncio.wrap_future(self._answer)}, timeout=self._timeout_s)
            gives_up = False
        finally:
            attempt("wait", self._done, gives_up)


def wait_for(answer: Future[Any], timeout_s: float) -> bool:
    """Wait on this thread for an answer; false when it did not come in time."""
    from concurrent.futures import wait  # 8 ms; the first answer comes after `init`

    return bool(wait((answer,), timeout_s).done)
