"""The values of the flow: a request, and the call that holds for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from paygent.client.accounts.user_state import Hold, Lane, User
from paygent.client.accounts.wait_queue import Waiter
from paygent.client.context.identity import Identity
from paygent.core.estimate import Estimate
from paygent.core.event import Event
from paygent.core.plan import PlanConfig
from paygent.core.request_size import Size
from paygent.core.usage import Usage


@dataclass(slots=True, eq=False)
class Request:
    """A call as it is known before it is sent.

    Attributes:
        max_tokens: Most output that the request allows in all its answers together, or None.
        declared_usage: What it will use, in every unit that a price list may have, where the
            request itself determines it (text to speak, audio to transcribe); otherwise None.
        has_run: Whether it is in progress or over already: it is metered and never refused.
        resolved_identity: The identity that it is attributed to, once that was resolved.
    """

    provider: str  # "openai", "anthropic", "azure", …
    route: str  # the operation, such as "chat.completions"; forecasts are per model and route
    model: str  # as the application named it; "" where it did not
    body: Mapping[str, Any] | None  # the JSON body; read for its size only, never kept
    _: KW_ONLY
    generates: bool = True  # whether the route has output (embeddings have none)
    max_tokens: int | None = None
    identity: Identity | None = None  # from the call's own `paygent_*` arguments, or None
    size: Size | None = None  # of a request without a visible body; None measures `body`
    input_tokens: int | None = None  # the application's own estimate of its input, or None
    declared_usage: Usage | None = None
    requests: int = 1  # number of requests in it (a batch); size and bound are sums over them
    tier: str = ""  # its price variant, where the route determines it; as in `Usage`
    has_run: bool = False
    has_asked: bool = False  # whether it has been to the ledger for its user, waited or not
    is_async: bool = False  # whether the caller can await
    waiter: Waiter | None = None  # its place in the queue, once it had to wait for other calls
    resolved_identity: Identity | None = None


@dataclass(slots=True, eq=False, init=False)
class Call:
    """A call between `begin` and its end; never pickled, never shared with a fork.

    Attributes:
        drops_usage_chunk: Whether the stream's usage chunk was requested by us, so that the
            application must not see it.
        gate_reason: Why it would have been refused; "" for a call that no gate was in the way of.
    """

    booked_id: str  # id of its event: the same as of its begin, except for background jobs
    dropped: Callable[[Call], None]  # called by the finalizer if nothing has ended the call
    drops_usage_chunk: bool
    ends: list[None]  # one item until the call has ended; taking it is the right to end the call
    event_id: str  # id of its begin record; "" before that is written
    gate_reason: str
    hold: Hold
    identity: Identity
    pid: int
    provisional: list[Event] | None  # the event booked when its stream was left, until corrected
    request: Request
    stream_ended: bool  # its stream was read to the end, closed or dropped, so no more will be seen
    offline_nano: int | None  # what it holds on the plan's offline allowance, or None

    def __del__(self) -> None:
        # Nothing is left to end it: an interruption came between two steps of its owner, or while
        # it was being made.
        if getattr(self, "ends", None) and hasattr(self, "dropped"):
            self.dropped(self)

    def hand_over(self) -> None:
        """Leave the end to the stream that carries the call from now on.

        Finalizers of objects that are collected together run in any order, and the stream's knows
        what was received.
        """
        self.dropped = _ignore

    @property
    def done(self) -> bool:
        """Whether the call has ended."""
        return not self.ends

    @property
    def is_provisional(self) -> bool:
        """Whether it was settled when its stream was left, and may be corrected: by the process
        that made the call alone.
        """
        return bool(self.provisional) and self.pid == os.getpid()

    @property
    def lane(self) -> Lane:
        """What it has in common with other calls: user, session, plan, price, forecast."""
        return self.hold.lane

    @property
    def user(self) -> User:
        """The user who pays."""
        return self.hold.lane.user

    @property
    def plan(self) -> PlanConfig:
        """The plan under which it runs."""
        return self.hold.lane.plan

    @property
    def at_us(self) -> int:
        """When it began."""
        return self.hold.at_us

    @property
    def wants_tools(self) -> bool:
        """Whether the plan prices tools, so that the names of called tools are needed."""
        return bool(self.plan.tool_costs_nano)

    @property
    def estimate(self) -> Estimate:
        """The tokens that it holds."""
        return self.hold.estimate_now()

    def claim_correction(self) -> Event | None:
        """Take the event that was booked when the stream was left, to correct it; None for the
        second caller, and where there is none.
        """
        if not self.is_provisional or self.provisional is None:
            return None
        try:
            return self.provisional.pop()
        except IndexError:  # another thread has taken it
            return None

    def claim_end(self) -> bool:
        """Take the right to end this call; True for the first caller.

        Several threads may end a stream at the same moment, and `list.pop` is one step. A call that
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
    """Leave a dropped call to the stream that carries it."""
