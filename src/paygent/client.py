"""`Paygent`: the composition root, and the verbs that applications call.

`init` reads settings and puts the parts together; everything that a part needs, the clock included,
is handed to it here and nowhere else. One `Paygent` at a time is the process's: calls that begin go
through it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from paygent import ids
from paygent.arguments import read_entry, valid_seconds, valid_user
from paygent.asking import Asking
from paygent.context import Identity, current, paygent_track
from paygent.core.errors import Findings
from paygent.core.plan import PlanConfig
from paygent.core.report import UsageRow
from paygent.directory import Directory
from paygent.failopen import attempt, failures, warn
from paygent.instrument.funnel import active, set_active
from paygent.instrument.registry import instrumentation
from paygent.ledger.accounts import Accounts
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import Ledger
from paygent.manual import Manual
from paygent.meter import Meter
from paygent.models import (
    BillingPeriod,
    CurrentUsage,
    GuardResult,
    UsageEvent,
    UserState,
)
from paygent.prices.catalogue import Catalogue
from paygent.probe import Probe
from paygent.process import EXIT_WAIT_S, watch
from paygent.providers import ProviderRegistry
from paygent.settings import (
    MISSING_USER_ID,
    SYNC_INTERVAL_S,
    Settings,
    is_disabled,
    read_settings,
)
from paygent.sync.callbacks import Callbacks
from paygent.sync.journal import Journal
from paygent.sync.worker import Worker
from paygent.wrapping import Wrapping

_MEMORY = ":memory:"

_T = TypeVar("_T")
_C = TypeVar("_C", bound=Callable[..., Any])


def system_clock() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


class Paygent:
    """The process's Paygent: metering, gating and reporting of its LLM calls.

    Made by `init`. All methods are thread-safe.
    """

    _instance: ClassVar[Paygent | None] = None
    _installing: ClassVar[threading.RLock] = threading.RLock()

    # -- composition

    @classmethod
    def init(
        cls,
        api_key: str | None = None,
        base_url: str | None = None,
        db_path: str | os.PathLike[str] | None = None,
        flush_interval: float = 5.0,
        max_batch_size: int = 100,
        max_queue_size: int = 10_000,
        raise_on_hard_gate: bool = True,
        auto_instrument: bool = True,
        registry: ProviderRegistry | None = None,
        refresh_interval: float = 60.0,
        strict_backend: bool = False,
        default_plan: str = "default",
        on_missing_user: str = "warn",
        soft_gate: Literal["once", "every_call"] = "once",
        tag_keys: tuple[str, ...] = (),
    ) -> Paygent:
        """Start Paygent in this process; a second call shuts the first one down.

        Args:
            api_key: Key of a backend's product; None (and no PAYGENT_API_KEY) is local mode.
            base_url: Address of the backend (PAYGENT_BASE_URL, else http://127.0.0.1:8790).
            db_path: File of the local store, or ":memory:" (PAYGENT_DB_PATH, else
                ~/.paygent/local.db).
            flush_interval: Upper bound on the delay of deliveries, in seconds.
            max_batch_size: Events per request to a backend, at most.
            max_queue_size: Events kept in memory where no journal can be written, at most.
            raise_on_hard_gate: False lets refused calls run, marked `blocked`.
            auto_instrument: Patch the provider SDKs now and when they are imported later.
            registry: Providers of the application's own, metered beside those that are known.
            refresh_interval: Age in seconds at which what is known of a user is read anew.
            strict_backend: Raise when the backend cannot be used, rather than warn.
            default_plan: Plan of users that nobody assigned.
            on_missing_user: What a call without a user is: "warn", "block", "ignore" or a user id.
            soft_gate: Whether the warning fires "once" per limit and window, or on "every_call".
            tag_keys: Metadata keys that reports group by, at most five.

        Returns:
            The process's `Paygent`.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
            PaygentBackendUnreachable, PaygentAuthInvalid: with `strict_backend` only; warnings
                otherwise.
        """
        arguments = {name: value for name, value in locals().items() if name != "cls"}
        settings = read_settings(arguments, os.environ)
        return cls.launch(settings, disabled=is_disabled(os.environ))

    @classmethod
    def launch(
        cls,
        settings: Settings,
        *,
        now_us: Callable[[], int] = system_clock,
        ledger: Ledger | None = None,
        disabled: bool = False,
    ) -> Paygent:
        """Start Paygent with settings that are read already, reading no environment: `init` without
        its first step, for simulations and tests that bring their own clock or ledger.

        Args:
            settings: Read and checked settings.
            now_us: The clock, microseconds since 1970 UTC.
            ledger: Where plans and spend are kept; None is the local store at `settings.db_path`.
            disabled: Whether everything is switched off: no patch, no file, no thread.

        Returns:
            The process's `Paygent`; one that was there before is shut down.

        Raises:
            PaygentBackendUnreachable, PaygentAuthInvalid: with `strict_backend` only.
        """
        with cls._installing:
            previous = cls._instance
            made = cls(settings, now_us=now_us, ledger=ledger, disabled=disabled)
            made._start()  # first, so that no call passes between the two
            cls._instance = made
            if previous is not None:
                previous.shutdown(EXIT_WAIT_S)
        made._greet_backend()
        return made

    def __init__(
        self,
        settings: Settings,
        *,
        now_us: Callable[[], int] = system_clock,
        ledger: Ledger | None = None,
        catalogue: Catalogue | None = None,
        disabled: bool = False,
    ) -> None:
        """Put the parts together; applications call `init`.

        Args:
            settings: Read and checked settings.
            now_us: The clock, microseconds since 1970 UTC.
            ledger: Where plans and spend are kept; None is the local store at `settings.db_path`.
            catalogue: Prices; None is the bundled catalogue.
            disabled: Whether everything is switched off: no patch, no file, no thread.
        """
        self._settings = settings
        self._now_us = now_us
        self._disabled = disabled
        self._is_shut_down = False
        self._probe = None if disabled or settings.is_local else Probe(settings)
        self._product = _product_of(settings)
        path = _MEMORY if disabled else settings.db_path
        self._ledger = ledger if ledger is not None else _local_ledger(self._product, path)
        self._catalogue = catalogue if catalogue is not None else Catalogue()
        self._accounts = Accounts(
            default_plan=settings.default_plan,
            new_id=ids.new_id,
            warn_every_call=settings.soft_gate == "every_call",
            refresh_us=int(settings.refresh_interval_s * 1_000_000),
        )
        self._journal = Journal(
            None if path == _MEMORY else Path(path + ".journal") / self._product,
            owner=_owner_name(),
            records_in_memory_max=settings.max_queue_size,
        )
        self._worker = Worker(
            self._ledger,
            self._accounts,
            self._journal,
            now_us=now_us,
            interval_s=min(SYNC_INTERVAL_S, settings.flush_interval_s) / 2,
            enabled=not disabled,
        )
        self._callbacks = Callbacks()
        self._meter = Meter(
            settings,
            self._accounts,
            self._catalogue,
            self._journal,
            self._worker,
            self._callbacks,
            now_us,
        )
        self._worker.before_round = self._meter.end_late
        self._asking = Asking(
            self._accounts,
            self._catalogue,
            self._worker,
            now_us,
            enabled=not disabled,
            end_late=self._meter.end_late,
        )
        meter = None if disabled else self._meter
        self._directory = Directory(
            settings.default_plan, self._accounts, self._asking, self._callbacks, meter, now_us
        )
        self._wrapping = Wrapping(meter, settings.registry)
        self._manual = Manual(self._product, self._accounts, self._catalogue, meter, now_us)

    def _start(self) -> None:
        """Become the process's Paygent: calls that begin go through this one from now on."""
        watch(self)
        attempt("patch", instrumentation.provide, self._settings.registry)
        if self._disabled:
            attempt("patch", instrumentation.install, True)
            return
        if self._settings.db_path != _MEMORY:
            attempt("data_folder", _make_folder, self._settings.db_path)
        set_active(self._meter)
        # An application may name the user of a single call, which the SDKs would refuse.
        attempt("patch", instrumentation.install, not self._settings.auto_instrument)

    def _greet_backend(self) -> None:
        """Ask the backend whether it is there; warn, or raise (`strict_backend`), if not."""
        if self._probe is None:
            return
        problem = self._probe.run(wants_answer=self._settings.strict_backend)
        if problem is None:
            return
        if self._settings.strict_backend:
            self.shutdown()
            raise problem
        warn(problem)

    @classmethod
    def get_instance(cls) -> Paygent | None:
        """Return the process's Paygent, or None before `init` and after `shutdown`."""
        return cls._instance

    # -- plans and users

    def configure_plan(self, name: str, config: PlanConfig) -> None:
        """Set what users of a plan may spend and what their calls cost; kept over restarts.

        Args:
            name: 1 to 255 characters.
            config: The plan; what was spent stays.

        Raises:
            InvalidValue: naming what breaks a rule.
        """
        self._directory.configure(name, config)

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
        return self._directory.assign("assign_plan", user_id, plan, None, billing_period)

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
        return self._directory.assign(
            "start_session", user_id, plan, plan_config, None, opens_session=True
        )

    # -- asking

    def get_usage(self, user_id: Any) -> CurrentUsage:
        """Return what a user has used in the current period and session; an unknown user has used
        nothing.
        """
        return self._asking.usage(self._asking.known(valid_user("get_usage", user_id)))

    def check_guard(self, user_id: Any, model: str | None = None) -> GuardResult:
        """Say what the gate would say to a call now, without making one.

        Args:
            user_id: The application's id of the user.
            model: Also look at the limits of this model; None looks at those of all models together
                only.
        """
        return self._asking.guard(self._asking.known(valid_user("check_guard", user_id)), model)

    def report(
        self,
        by: str | tuple[str, ...] = "user",
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> tuple[UsageRow, ...]:
        """Return usage and cost of a span of UTC days, dearest first.

        Args:
            by: "user", "model" or ("user", "model").
            start: Its day is the first; None is the first of this month. Aware.
            end: Days before it count; None is now. Aware.

        Raises:
            InvalidValue: naming what breaks a rule.
            LedgerUnavailable: if the ledger cannot be read.
        """
        return self._asking.report(by, start, end)

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
        answer: _T = self._wrapping.run(locals())
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
        answer: _T = await self._wrapping.run_async(locals())
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

        Returns:
            The event; for a key that was booked before by this process, that earlier event.

        Raises:
            InvalidValue: naming every argument that breaks a rule; nothing is booked then.
        """
        entry = read_entry(locals())
        if self._is_shut_down:
            failures.say("shut_down", "Paygent is shut down; events wait in the journal")
        identity = self._identity(user_id, session_id, metadata)
        user = self._asking.known(identity.user_id or MISSING_USER_ID)
        return self._manual.book(user, identity, entry)

    def _identity(
        self, user_id: Any, session_id: Any, metadata: Mapping[str, Any] | None
    ) -> Identity:
        """Return whose event it is; without a user it goes to the reserved one, never refused."""
        given = Identity(user_id, session_id, None, metadata).over(current.get())
        if given.user_id is not None:
            return given
        policy = self._settings.on_missing_user
        if policy not in ("warn", "ignore", "block"):
            return Identity(policy).over(given)
        if policy != "ignore":
            failures.say("no_user", "an event has no user; it is counted on %s", MISSING_USER_ID)
        return Identity(MISSING_USER_ID).over(given)

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
            findings = Findings(f"on_{kind}")
            findings.add("callback", callback, "must be callable")
            findings.raise_if_any()
        self._callbacks.register(kind, callback)
        return callback

    track = staticmethod(paygent_track)

    # -- life

    def flush(self) -> int:
        """Deliver everything to the ledger, ten seconds at most, and wait for callbacks that are
        under way. Takes in what processes that died have left.

        Returns:
            How many events were delivered while this waited.
        """
        before = self._worker.flushed
        self._meter.end_late()
        self._callbacks.flush(EXIT_WAIT_S)
        if self._journal.has_unread or self._worker.is_running:
            self._worker.flush(10.0)
        return self._worker.flushed - before

    def shutdown(self, timeout: float = 10.0) -> None:
        """Deliver what there is, within a time, and stop; calls go on unmetered, which is said
        once.

        Args:
            timeout: Seconds; what could not be delivered waits in the journal for the
                next start.

        Raises:
            InvalidValue: if `timeout` is no such number.
        """
        timeout = valid_seconds("shutdown", "timeout", timeout)
        with type(self)._installing:
            if self._is_shut_down:
                return
            self._is_shut_down = True
            self._wrapping.stop()
            if active() is self._meter:
                set_active(None)
            if type(self)._instance is self:
                type(self)._instance = None
        deadline = time.monotonic() + timeout
        self._meter.end_late()
        self._callbacks.flush(timeout / 2)
        self._callbacks.stop()
        if self._worker.stop(max(deadline - time.monotonic(), 0.0)):
            self._journal.close()
            self._ledger.close()

    def instrument(self) -> None:
        """Patch the provider SDKs, now and when they are imported later; idempotent."""
        if not self._disabled:
            instrumentation.install()

    def uninstrument(self) -> None:
        """Take the patches out again; calls pass unmetered until `instrument`.

        The `paygent_*` arguments of single calls are still taken out, since the SDKs refuse them.
        """
        instrumentation.uninstall()
        instrumentation.install(arguments_only=True)

    # -- properties

    @property
    def api_key(self) -> str | None:
        """The backend's key, or None in local mode."""
        return self._settings.api_key

    @property
    def base_url(self) -> str:
        """Where the backend is."""
        return self._settings.base_url

    @property
    def backend_reachable(self) -> bool | None:
        """Whether the backend answered; None until known, and in local mode."""
        return self._probe.is_reachable if self._probe is not None else None

    @property
    def is_connected(self) -> bool:
        """Whether a backend answered and took the key."""
        return self._probe is not None and self._probe.is_welcome

    @property
    def is_initialized(self) -> bool:
        """Whether this is the process's Paygent."""
        return type(self)._instance is self

    @property
    def is_instrumented(self) -> bool:
        """Whether the provider SDKs are patched."""
        return instrumentation.is_installed and not self._disabled

    @property
    def is_local_mode(self) -> bool:
        """Whether there is no backend."""
        return self._settings.is_local

    @property
    def pending_events(self) -> int:
        """How many events the ledger does not have yet."""
        return sum(len(user.pending) for user in list(self._accounts.users.values()))

    @property
    def queue_stats(self) -> dict[str, Any]:
        """Counts of records since `init`: total_pushed, total_flushed, total_dropped, pending,
        is_running.
        """
        return {
            "total_pushed": self._worker.flushed + self.pending_events,
            "total_flushed": self._worker.flushed,
            "total_dropped": self._journal.dropped,
            "pending": self.pending_events,
            "is_running": self._worker.is_running,
        }

    @property
    def session_count(self) -> int:
        """How many users of this process have an open session."""
        return sum(user.open_session is not None for user in list(self._accounts.users.values()))

    def health(self) -> dict[str, Any]:
        """Return how Paygent itself is: what was swallowed or said (by kind), and the state of the
        journal.
        """
        return {
            "mode": "off" if self._disabled else "local",
            "backend_reachable": self.backend_reachable,
            "journal_durable": self._journal.is_durable and self._journal.folder is not None,
            "queue": self.queue_stats,
            "counts": dict(failures.counts),
            "catalogue": self._catalogue.as_of,
        }

    def renew_after_fork(self) -> None:
        """Start anew in a forked child: its own journal, threads and connections, no calls in
        flight.
        """
        self._journal.renew_after_fork(_owner_name())
        self._ledger.forget_after_fork()
        self._accounts.forget_after_fork()
        self._worker.renew_after_fork()
        self._meter.renew_after_fork()
        self._callbacks.renew_after_fork()
        self._manual.renew_after_fork()
        type(self)._installing = threading.RLock()


# -- small parts


def _local_ledger(product: str, path: str) -> Ledger:
    """Return a ledger over a store in this process, a connection for each thread that uses it."""
    from paygent.store.sqlite import SqliteStore  # with sqlite3, 5 ms

    writer = SqliteStore(path)
    return LocalLedger(product, writer, writer if path == _MEMORY else SqliteStore(path))


def _owner_name() -> str:
    return f"{os.getpid()}-{os.urandom(4).hex()}"


def _make_folder(db_path: str) -> None:
    Path(db_path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _product_of(settings: Settings) -> str:
    """Return under which product the local store keeps figures; a key is never written down."""
    if settings.api_key is None:
        return settings.product
    import hashlib  # 5 ms, and only with a backend

    return "key-" + hashlib.sha256(settings.api_key.encode()).hexdigest()[:16]
