"""The methods that applications call: plans, users, usage, other code, manual events, callbacks.

Each checks its arguments and delegates to one of the parts made in `composition.py`. `Paygent` adds
the start, the end and the state of the process (`paygent.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import date
from typing import Any, Literal, TypeVar

from paygent.client.accounts.user_state import User
from paygent.client.api.arguments import check_advice_arguments, read_manual_event, valid_user
from paygent.client.api.composition import Parts
from paygent.client.context.identity import Identity
from paygent.client.context.propagation import bind
from paygent.client.context.track import paygent_track
from paygent.core.gate import CONTENTION
from paygent.core.messages import MISSING_USER_ID
from paygent.core.money import Number
from paygent.core.notices import Notice
from paygent.core.plan import PlanConfig
from paygent.core.report_rows import UsageReport
from paygent.core.report_table import ReportTable
from paygent.core.validation import FieldError, InvalidValue
from paygent.errors import PaygentWarning
from paygent.failopen import diagnostics, warn
from paygent.types import (
    BillingPeriod,
    BudgetRemaining,
    CurrentUsage,
    GuardResult,
    MaxTokensAdvice,
    ModelUsage,
    UsageEvent,
    UserState,
)

_T = TypeVar("_T")
_C = TypeVar("_C", bound=Callable[..., Any])


class Verbs:
    """The methods of `Paygent` that applications call. All are thread-safe.

    `user_id` is the application's id of a user: a string, an int or a UUID.
    """

    # Set by `Paygent.__init__`.
    _parts: Parts
    _now_us: Callable[[], int]
    _is_shut_down: bool

    # -- plans and users

    def configure_plan(self, name: str, config: PlanConfig) -> None:
        """Set a plan's limits and prices; survives restarts, and usage is kept.

        Args:
            name: 1 to 255 characters.
            config: The plan.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        self._warn_if_shut_down("configure_plan")
        self._parts.plans.configure(name, config)

    def assign_plan(
        self, user_id: Any, plan: str, billing_period: BillingPeriod | None = None
    ) -> UserState:
        """Assign a plan to a user; survives restarts, and usage is kept.

        Args:
            plan: Name of the plan.
            billing_period: The current period; it renews by its own length. None is the UTC
                calendar month.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        self._warn_if_shut_down("assign_plan")
        return self._parts.plans.assign(user_id, plan, None, billing_period)

    def start_session(
        self, user_id: Any, plan: str = "default", plan_config: PlanConfig | None = None
    ) -> UserState:
        """Assign a plan to a user and open a session if none is open; may precede every request.

        Args:
            plan: Name of the plan.
            plan_config: The plan as it applies to this user alone.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        self._warn_if_shut_down("start_session")
        return self._parts.plans.assign(user_id, plan, plan_config, None, opens_session=True)

    def _warn_if_shut_down(self, verb: str) -> None:
        if self._is_shut_down:
            text = (
                f"{verb} has no effect: this Paygent was shut down, perhaps by a second init. Use"
                " Paygent.get_instance()."
            )
            warn(PaygentWarning(text))

    def refresh_user(self, user_id: Any) -> UserState:
        """Read a user from the ledger again, within a quarter second, and return the state; without
        an answer the known state stays.
        """
        user = self._parts.queries.refresh(valid_user("refresh_user", user_id))
        return self._parts.queries.state(user)

    def reset_user(self, user_id: Any) -> None:
        """Forget what this process has read and learned of a user, so that the next call reads it
        again. Spend, and the holds of calls in flight, stay.
        """
        valid_id = valid_user("reset_user", user_id)
        registry = self._parts.accounts.registry
        registry.forget(registry.user(valid_id, self._now_us()))

    def remove_session(self, user_id: Any) -> None:
        """Close the user's open session; the next call without a session id opens another."""
        self._parts.plans.close_session(valid_user("remove_session", user_id))

    # -- usage, limits and advice

    def get_usage(self, user_id: Any) -> CurrentUsage:
        """Return a user's usage in the current period and session; 0 for an unknown user."""
        return self._parts.queries.usage(self._known("get_usage", user_id))

    def get_model_usage(self, user_id: Any) -> list[ModelUsage]:
        """Return a user's usage of each model in the current period, dearest first; models that the
        plan limits are listed even if they were not used.
        """
        return self._parts.queries.model_usage(self._known("get_model_usage", user_id))

    def get_remaining_budget(self, user_id: Any) -> BudgetRemaining:
        """Return what is left of a user's limits."""
        return self._parts.queries.remaining(self._known("get_remaining_budget", user_id))

    def get_session(self, user_id: Any) -> UserState:
        """Return a user's state; the same as `get_user_state`."""
        return self._parts.queries.state(self._known("get_session", user_id))

    def get_user_state(self, user_id: Any) -> UserState:
        """Return a user with plan, usage, session and period; an unknown user is on the default
        plan.
        """
        return self._parts.queries.state(self._known("get_user_state", user_id))

    def check_guard(self, user_id: Any, model: str | None = None) -> GuardResult:
        """Return the gate's decision on a call now, without making one.

        Args:
            model: Also check the limits of this model; None checks only those that apply to all
                models.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        return self._parts.queries.guard(self._known("check_guard", user_id, model), model)

    def is_within_limit(self, user_id: Any, model: str | None = None) -> bool:
        """Return whether none of a user's limits is used up; a warning is within.

        A limit that only calls in flight fill is not used up: a call waits for their holds.

        Args:
            model: Also check the limits of this model.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        user = self._known("is_within_limit", user_id, model)
        result = self._parts.queries.guard(user, model)
        return result.status != "hard_gate" or result.gate_reason == CONTENTION

    def get_max_tokens(
        self,
        user_id: Any,
        model: str,
        *,
        estimated_input_tokens: int = 0,
        messages: list[Any] | tuple[Any, ...] | None = None,
        hard_cap: int = 4096,
    ) -> MaxTokensAdvice:
        """Return the largest `max_tokens` that fits what is left, and which limit binds.

        Args:
            model: The model of the call.
            estimated_input_tokens: Tokens of its input, if known; takes precedence over `messages`.
            messages: Its messages, from which the input is estimated.
            hard_cap: Upper bound on the answer, 1 or more.

        Returns:
            The advice; 0 tokens mean that the call would be refused or cannot fit.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        valid_id = check_advice_arguments(locals())
        user = self._parts.queries.known(valid_id)
        input_tokens = estimated_input_tokens
        if not input_tokens and messages:
            input_tokens = self._parts.queries.input_tokens(user, model, {"messages": messages})
        return self._parts.queries.max_tokens(user, model, input_tokens, hard_cap)

    def report(
        self,
        by: str | tuple[str, ...] | list[str] = "user",
        *,
        start: date | str | None = None,
        end: date | str | None = None,
        period: Literal["current", "previous"] | None = None,
        user_id: str | None = None,
        model: str | None = None,
        provider: str | None = None,
        plan: str | None = None,
        session_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> UsageReport:
        """Return usage and cost of all processes and hosts, dearest first.

        Args:
            by: One or two of "user", "model", "provider", "plan", "session", "day", "month",
                "period" (the user's billing period) and "tag:KEY", where KEY is one of
                `init(tag_keys=…)`.
            start: The first day, in the product's time zone, or a moment; None is the first of this
                month. A naive datetime is taken as UTC, a text is ISO 8601.
            end: The day or moment after the last one; None is the end of today.
            period: In place of `start` and `end`: the billing period of `user_id`; without one, the
                calendar month.
            user_id, model, provider, plan, session_id: Only usage of these; "" is usage without
                one. A model is named as in the rows.
            tags: Only usage with these values of metadata keys.
            sort: "cost", "calls", "input_tokens", "output_tokens", "cached_input_tokens", a day,
                month or period among `by`, each with a "-" before it for descending; or the first
                of `by`. None is "-cost", and by time where the first of `by` is one.
            limit: Rows to return, the first ones; None is all. The total is always of all.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
            LedgerUnavailable: if the ledger cannot be read.
        """
        return self._parts.reports.spend(locals())

    def report_margin(
        self,
        by: Literal["user", "plan", "month"] = "user",
        *,
        start: date | str | None = None,
        end: date | str | None = None,
        period: Literal["current", "previous"] | None = None,
        user_id: str | None = None,
        plan: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> ReportTable:
        """Return what users pay less what they cost, the smallest margin first. With a backend the
        API key needs the scope admin.

        Args:
            by: What to group by.
            start, end, period: As of `report`, but the end that is not given is that of the month,
                so that the prices of whole billing periods are compared.
            user_id, plan: Only revenue and cost of these.
            sort: "margin", "cost", "revenue", "projected_cost", "projected_margin", "calls" or the
                key, with a "-" before it for descending. None is "margin", and by time for months.
            limit: Rows to return, the first ones; None is all. The total is always of all.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
            LedgerUnavailable: if the ledger cannot be read.
        """
        return self._parts.reports.table("margin", locals())

    def report_gates(
        self,
        by: str | tuple[str, ...] | list[str] = "user",
        *,
        start: date | str | None = None,
        end: date | str | None = None,
        period: Literal["current", "previous"] | None = None,
        user_id: str | None = None,
        reason: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> ReportTable:
        """Return calls that reached a gate: warnings, refusals, and calls that ran past a limit
        without enforcement, with their cost.

        Args:
            by: One or two of "user", "reason", "day" and "month".
            start, end, period: As of `report`, in whole days.
            user_id, reason: Only calls of these; a reason is a `gate_reason`.
            sort: "soft", "hard", "refused_calls", "shadow_calls", "shadow_cost", a day or month
                among `by`, each with a "-" before it for descending; or the first of `by`. None is
                "-refused_calls", and by time where the first of `by` is one.
            limit: Rows to return, the first ones; None is all. The total is always of all.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
            LedgerUnavailable: if the ledger cannot be read.
        """
        return self._parts.reports.table("gates", locals())

    def report_quality(
        self,
        by: str | tuple[str, ...] | list[str] = "model",
        *,
        start: date | str | None = None,
        end: date | str | None = None,
        period: Literal["current", "previous"] | None = None,
        model: str | None = None,
        provider: str | None = None,
        operation: str | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> ReportTable:
        """Return how calls were metered: with exact, partial, estimated or unpriced figures, or not
        at all.

        Args:
            by: One or two of "model", "provider", "operation" (of unmetered calls), "day", "month".
            start, end, period: As of `report`, in whole days.
            model, provider, operation: Only calls of these; the operation "" is metered calls.
            sort: "calls", "exact", "partial", "estimated", "unpriced", "unmetered", a day or month
                among `by`, each with a "-" before it for descending; or the first of `by`. None is
                "-calls", and by time where the first of `by` is one.
            limit: Rows to return, the first ones; None is all. The total is always of all.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
            LedgerUnavailable: if the ledger cannot be read.
        """
        return self._parts.reports.table("quality", locals())

    def _known(self, verb: str, user_id: Any, model: str | None = None) -> User:
        return self._parts.queries.known(valid_user(verb, user_id, model))

    # -- any other code

    def wrap(
        self,
        fn: Callable[[], _T],
        user_id: Any,
        model: str | None = None,
        session_id: Any = None,
        metadata: Mapping[str, Any] | None = None,
        provider: str | None = None,
        estimated_input_tokens: int | None = None,
        estimated_max_tokens: int | None = None,
    ) -> _T:
        """Call a function as one gated and metered call. If it calls an instrumented SDK, those
        calls are counted instead.

        Args:
            fn: Called without arguments. Its answer's usage is counted if it can be read.
            user_id: The user of this call and of the calls inside.
            model: The model; the name in the answer takes precedence. None has no price.
            session_id: The session; None is the user's open one.
            metadata: Up to 16 keys and 1 kB.
            provider: "openai", "anthropic", a registered name, …
            estimated_input_tokens: Held until the call ends; booked if no usage can be read.
            estimated_max_tokens: The same for its output, as an upper bound.

        Returns:
            The very object that `fn` returned.

        Raises:
            PaygentLimitExceeded: if a limit refuses the call; `fn` is not called then.
            InvalidValue: if `fn` is not callable. Whatever `fn` raises arrives unchanged.
        """
        answer: _T = self._parts.wrapper.run(locals())
        return answer

    async def awrap(
        self,
        fn: Callable[[], Awaitable[_T]] | Awaitable[_T],
        user_id: Any,
        model: str | None = None,
        session_id: Any = None,
        metadata: Mapping[str, Any] | None = None,
        provider: str | None = None,
        estimated_input_tokens: int | None = None,
        estimated_max_tokens: int | None = None,
    ) -> _T:
        """Await an awaitable, or the one that a function returns, as one call; otherwise as `wrap`.
        A coroutine that is refused is closed.
        """
        answer: _T = await self._parts.wrapper.run_async(locals())
        return answer

    # -- manual events

    def record_event(
        self,
        user_id: Any = None,
        *,
        cost: Number | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        description: str | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        tool_calls: list[str] | tuple[str, ...] | None = None,
        metadata: Mapping[str, Any] | None = None,
        corrects: str | None = None,
    ) -> UsageEvent:
        """Book a cost that is not a metered call: a tool, another service. Never refused.

        Args:
            user_id: The user who is charged; None is the context's user.
            cost: Dollars, 0 to 1,000,000; takes precedence over the prices of tokens and tools.
                None computes it.
            input_tokens, output_tokens: Counted, and priced by `model` when no cost is given.
            model: Model of the tokens.
            description: Up to 1,000 characters.
            idempotency_key: The same key of the same user books once, ever.
            session_id: The session; None is the context's, else the user's open one.
            tool_calls: Names of tools, priced by the plan's `tool_costs`, else its
                `default_tool_cost`.
            metadata: Up to 16 keys and 1 kB.
            corrects: Id of an earlier event of this user. Then `cost` and tokens are differences,
                also negative ones, and count where it counts: in its model, session and period.

        Returns:
            The event; for a key that this process has booked before, that earlier event.

        Raises:
            InvalidValue: naming every argument that breaks a rule; nothing is booked then.
        """
        entry = read_manual_event(locals())
        if self._is_shut_down:
            diagnostics.warn_once(Notice.SHUT_DOWN_EVENT)
        given = Identity(user_id, session_id, None, metadata)
        identity = self._parts.attribution.resolve_event(given)
        user = self._parts.queries.known(identity.user_id or MISSING_USER_ID)
        if entry.corrects is None:
            return self._parts.recorder.book(user, identity, entry)
        original = self._parts.queries.event(user, entry.corrects)
        return self._parts.recorder.correct(user, original, identity, entry)

    # -- callbacks and decorators

    def on_soft_gate(self, callback: _C) -> _C:
        """Call a function with a `GuardResult` when a warn line is passed; also a decorator."""
        return self._on("soft_gate", callback)

    def on_hard_gate(self, callback: _C) -> _C:
        """Call a function with a `GuardResult` when a call is refused; also a decorator."""
        return self._on("hard_gate", callback)

    def on_usage(self, callback: _C) -> _C:
        """Call a function with the `UsageEvent` of each call and manual event; also a decorator."""
        return self._on("usage", callback)

    def on_session_start(self, callback: _C) -> _C:
        """Call a function with a `UserState` when a session is opened; also a decorator."""
        return self._on("session_start", callback)

    def _on(self, kind: str, callback: _C) -> _C:
        if not callable(callback):
            error = FieldError("callback", callback, "must be callable")
            raise InvalidValue(f"on_{kind}", (error,))
        self._warn_if_shut_down(f"on_{kind}")
        self._parts.callbacks.register(kind, callback)
        return callback  # so that it can decorate

    track = staticmethod(paygent_track)  # `@pg.track` and `@paygent_track` are the same

    # -- other threads

    def bind(self, fn: _T) -> _T:
        """Return `fn` bound to the current user, for code that runs it elsewhere.

        Threads, executors, pools and tasks propagate the user themselves. This is for the rest: a
        queue that workers read, a callback of another library, a generator that is read after the
        block, a coroutine that another loop runs.

        Args:
            fn: A function or coroutine function, a generator function, or a generator or coroutine
                object. A bound plain function can be pickled if the function can.

        Returns:
            An object of the same kind; `fn` itself if there is no user.

        Raises:
            InvalidValue: if `fn` is of another kind.
        """
        bound: _T = bind(fn)
        return bound
