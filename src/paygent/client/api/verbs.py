"""The verbs that applications call: plans and users, questions, other code, entries, callbacks.

Each reads its arguments and hands on to the part that knows: `directory`, `asking`, `wrapping`,
`manual`, `sync.callbacks`. `Paygent` puts those parts together (`client/api/paygent.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from paygent.client.api.arguments import read_advice, read_entry, valid_question, valid_user
from paygent.client.api.composition import Parts
from paygent.client.context.identity import Identity
from paygent.client.context.propagation import bind
from paygent.client.context.scopes import current_identity
from paygent.client.context.track import paygent_track
from paygent.client.runtime.settings import MISSING_USER_ID, Settings
from paygent.core.gate import CONTENTION
from paygent.core.plan import PlanConfig
from paygent.core.report import UsageRow
from paygent.core.validation import ValidationErrors
from paygent.failopen import diagnostics
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
    """What an application asks of its `Paygent`. All methods are thread-safe."""

    _parts: Parts
    _now_us: Callable[[], int]
    _settings: Settings
    _is_shut_down: bool

    # -- plans and users

    def configure_plan(self, name: str, config: PlanConfig) -> None:
        """Set what users of a plan may spend and what their calls cost; kept over restarts.

        Args:
            name: 1 to 255 characters.
            config: The plan; what was spent stays.

        Raises:
            InvalidValue: naming what breaks a rule.
        """
        self._parts.plans.configure(name, config)

    def assign_plan(
        self, user_id: Any, plan: str, billing_period: BillingPeriod | None = None
    ) -> UserState:
        """Put a user on a plan; kept over restarts, and what was spent stays.

        Args:
            user_id: The application's id of the user.
            plan: Name of the plan.
            billing_period: The current period; it renews by its own length. None is the UTC
                calendar month.

        Raises:
            InvalidValue: naming what breaks a rule.
        """
        return self._parts.plans.assign("assign_plan", user_id, plan, None, billing_period)

    def start_session(
        self, user_id: Any, plan: str = "default", plan_config: PlanConfig | None = None
    ) -> UserState:
        """Put a user on a plan and open a session if none is open; may stand before every request.

        Args:
            user_id: The application's id of the user.
            plan: Name of the plan.
            plan_config: This user's own version of the plan, never another's.

        Raises:
            InvalidValue: naming what breaks a rule.
        """
        return self._parts.plans.assign(
            "start_session", user_id, plan, plan_config, None, opens_session=True
        )

    def refresh_user(self, user_id: Any) -> UserState:
        """Read a user anew from the ledger, waiting a quarter second at most, and return the state;
        what is known stays where the ledger does not answer.
        """
        return self._parts.queries.state(
            self._parts.queries.refresh(valid_user("refresh_user", user_id))
        )

    def reset_user(self, user_id: Any) -> None:
        """Forget what this process has read and learned of a user, so that the next call reads it
        anew. What was spent, and what calls in flight hold, stays.
        """
        whose = valid_user("reset_user", user_id)
        self._parts.accounts.registry.forget(
            self._parts.accounts.registry.user(whose, self._now_us())
        )

    def remove_session(self, user_id: Any) -> None:
        """Close the user's open session; the next call without a session id opens another."""
        self._parts.plans.close_session(valid_user("remove_session", user_id))

    # -- asking

    def get_usage(self, user_id: Any) -> CurrentUsage:
        """Return what a user has used in the current period and session; an unknown user has used
        nothing.
        """
        return self._parts.queries.usage(
            self._parts.queries.known(valid_user("get_usage", user_id))
        )

    def get_model_usage(self, user_id: Any) -> list[ModelUsage]:
        """Return what a user has used of each model in the current period, dearest first; models
        that the plan limits are listed also where they were not used.
        """
        return self._parts.queries.model_usage(
            self._parts.queries.known(valid_user("get_model_usage", user_id))
        )

    def get_remaining_budget(self, user_id: Any) -> BudgetRemaining:
        """Return what a further call of a user could still use, by limit."""
        user = self._parts.queries.known(valid_user("get_remaining_budget", user_id))
        return self._parts.queries.remaining(user)

    def get_session(self, user_id: Any) -> UserState:
        """Return a user's state; the same as `get_user_state`."""
        return self._parts.queries.state(
            self._parts.queries.known(valid_user("get_session", user_id))
        )

    def get_user_state(self, user_id: Any) -> UserState:
        """Return a user with plan, usage, session and period; an unknown user is on the default
        plan.
        """
        return self._parts.queries.state(
            self._parts.queries.known(valid_user("get_user_state", user_id))
        )

    def check_guard(self, user_id: Any, model: str | None = None) -> GuardResult:
        """Say what the gate would say to a call now, without making one.

        Args:
            user_id: The application's id of the user.
            model: Also look at the limits of this model; None looks at those of all models together
                only.

        Raises:
            InvalidValue: naming what breaks a rule.
        """
        whose = valid_question("check_guard", user_id, model)
        return self._parts.queries.guard(self._parts.queries.known(whose), model)

    def is_within_limit(self, user_id: Any, model: str | None = None) -> bool:
        """Tell whether no limit of a user is used up; a warning is within.

        Calls in flight that hold what is left do not count: a call waits for them.

        Args:
            user_id: The application's id of the user.
            model: Also look at the limits of this model.

        Raises:
            InvalidValue: naming what breaks a rule.
        """
        whose = valid_question("is_within_limit", user_id, model)
        result = self._parts.queries.guard(self._parts.queries.known(whose), model)
        return result.status != "hard_gate" or result.gate_reason == CONTENTION

    def get_max_tokens(
        self,
        user_id: Any,
        model: str,
        *,
        estimated_input_tokens: int = 0,
        messages: list[Any] | None = None,
        hard_cap: int = 4096,
    ) -> MaxTokensAdvice:
        """Return the largest `max_tokens` that fits what is left, and which limit binds.

        Args:
            user_id: The application's id of the user.
            model: Which model the call is for.
            estimated_input_tokens: What it sends, if the application knows; wins over `messages`.
            messages: Its messages, from which the input is estimated.
            hard_cap: Upper bound on the answer, 1 or more.

        Returns:
            The advice; 0 tokens say that the call would be refused or cannot fit.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
        """
        whose = read_advice(locals())
        user = self._parts.queries.known(whose)
        input_tokens = estimated_input_tokens
        if not input_tokens and messages:
            input_tokens = self._parts.queries.input_tokens(user, model, {"messages": messages})
        return self._parts.queries.max_tokens(user, model, input_tokens, hard_cap)

    def report(
        self,
        by: str | tuple[str, ...] = "user",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> tuple[UsageRow, ...]:
        """Return usage and cost over a range of UTC days, dearest first.

        Args:
            by: One or two of "user", "model" and "tag:KEY", where KEY is one of `init(tag_keys=…)`;
                rows have the value of that metadata key in `tag`, "" for events without it.
            start: The first day is that of this aware moment; None is the first of this month.
            end: The last day is the one before or of this aware moment; None is now.

        Raises:
            InvalidValue: naming what breaks a rule.
            LedgerUnavailable: if the ledger cannot be read.
        """
        return self._parts.reports.read(by, start, end)

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
        """Call a function of any code as one gated and metered call. Calls of a metered SDK that it
        makes count themselves, and this one does not then.

        Args:
            fn: Called without arguments. Its answer's usage counts, where it can be read.
            user_id: Whose call it is, and whose calls are made inside.
            model: The model that is called; the answer's own name wins. None tells no price.
            session_id: In which session; None is the user's open one.
            metadata: Up to 16 keys and 1 kB.
            provider: Who is called: "openai", "anthropic", a registered name, …
            estimated_input_tokens: What it is held for until it ends; booked if nothing can be
                read.
            estimated_max_tokens: The same of its output, the most that it can be.

        Returns:
            What `fn` returned, the very object.

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
        """Await what a function returns, or an awaitable, as one call; otherwise as `wrap`. A
        coroutine that is refused is closed.
        """
        answer: _T = await self._parts.wrapper.run_async(locals())
        return answer

    # -- by hand

    def record_event(
        self,
        user_id: Any = None,
        *,
        cost: Any = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        model: str | None = None,
        description: str | None = None,
        idempotency_key: str | None = None,
        session_id: str | None = None,
        tool_calls: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        corrects: str | None = None,
    ) -> UsageEvent:
        """Book something that costs and is no call that we see: a tool, another service. Never
        refused.

        Args:
            user_id: Whose; None is the context's user.
            cost: Dollars, 0 to 1,000,000; wins over what tokens and tools would cost. None computes
                it.
            input_tokens, output_tokens: Counted, and priced by `model` when no cost is given.
            model: Model of the tokens.
            description: Up to 1,000 characters.
            idempotency_key: The same key of the same user books once, ever.
            session_id: In which session; None is the context's, else the user's open one.
            tool_calls: Names of tools, priced by the plan's `tool_costs`, else its
                `default_tool_cost`.
            metadata: Up to 16 keys and 1 kB.
            corrects: Id of an earlier event of this user. Then `cost` and tokens are what is to be
                added to it, also negative, and they count where it counts: in its model, session
                and period.

        Returns:
            The event; for a key that was booked before by this process, that earlier event.

        Raises:
            InvalidValue: naming every argument that breaks a rule; nothing is booked then.
        """
        entry = read_entry(locals())
        if self._is_shut_down:
            diagnostics.warn_once("shut_down", "Paygent is shut down; events wait in the journal")
        identity = self._identity(user_id, session_id, metadata)
        user = self._parts.queries.known(identity.user_id or MISSING_USER_ID)
        if entry.corrects is None:
            return self._parts.recorder.book(user, identity, entry)
        original = self._parts.queries.event(user, entry.corrects)
        return self._parts.recorder.correct(user, original, identity, entry)

    def _identity(
        self, user_id: Any, session_id: Any, metadata: Mapping[str, Any] | None
    ) -> Identity:
        """Return whose event it is; without a user it goes to the reserved one, never refused."""
        given = Identity(user_id, session_id, None, metadata).merged_with(current_identity())
        if given.user_id is not None:
            return given
        policy = self._settings.on_missing_user
        if policy not in ("warn", "ignore", "block"):
            return Identity(policy).merged_with(given)
        if policy != "ignore":
            diagnostics.warn_once(
                "no_user", "an event has no user; it is counted on %s", MISSING_USER_ID
            )
        return Identity(MISSING_USER_ID).merged_with(given)

    # -- callbacks and decorators

    def on_soft_gate(self, callback: _C) -> _C:
        """Have a function called with a `GuardResult` when a limit's warn line is passed; also a
        decorator.
        """
        return self._on("soft_gate", callback)

    def on_hard_gate(self, callback: _C) -> _C:
        """Have a function called with a `GuardResult` when a call is refused; also a decorator."""
        return self._on("hard_gate", callback)

    def on_usage(self, callback: _C) -> _C:
        """Have a function called with the `UsageEvent` of each call and entry; also a decorator."""
        return self._on("usage", callback)

    def on_session_start(self, callback: _C) -> _C:
        """Have a function called with a `UserState` when `start_session` opens a session; also a
        decorator.
        """
        return self._on("session_start", callback)

    def _on(self, kind: str, callback: _C) -> _C:
        if not callable(callback):
            findings = ValidationErrors(f"on_{kind}")
            findings.add("callback", callback, "must be callable")
            findings.raise_if_any()
        self._parts.callbacks.register(kind, callback)
        return callback

    track = staticmethod(paygent_track)

    # -- other threads

    def bind(self, fn: _T) -> _T:
        """Return `fn` with the user of this moment, for whatever carries it elsewhere.

        Threads, executors, pools and tasks keep the user by themselves. This is for the rest: a
        queue that workers read, a callback of another library, a generator that is read after the
        block, a coroutine that another loop runs.

        Args:
            fn: A function or coroutine function, a generator function, or a generator or coroutine
                that has been made. A plain function can be pickled afterwards if it could before.

        Returns:
            The same kind of thing; `fn` itself where there is no user.

        Raises:
            InvalidValue: if `fn` is nothing of the kind.
        """
        bound: _T = bind(fn)
        return bound
