"""`Paygent`: its start and end, and the properties that report its state.

`init` reads the settings; `composition.py` makes the parts. One `Paygent` at a time is the
process's: calls that begin go through it. The other methods are in `verbs.py`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from paygent.client.accounts.admission import waiting_count
from paygent.client.accounts.user_state import User
from paygent.client.api.arguments import valid_timeout
from paygent.client.api.composition import MEMORY, compose
from paygent.client.api.verbs import Verbs
from paygent.client.instrument.http_sdks.wrapper import active, set_active
from paygent.client.instrument.registry import instrumentation
from paygent.client.runtime.clock import system_clock
from paygent.client.runtime.lifecycle import (
    EXIT_WAIT_S,
    may_start_threads,
    on_fork_child,
    watch,
)
from paygent.client.runtime.providers import ProviderRegistry
from paygent.client.runtime.settings import (
    Settings,
    is_disabled,
    odd_variables,
    read_settings,
)
from paygent.errors import PaygentWarning
from paygent.failopen import attempt, diagnostics, warn
from paygent.ledger.handshake import Probe
from paygent.ledger.port import Ledger

_FLUSH_WAIT_S = 10.0


class Paygent(Verbs):
    """The process's Paygent: metering, gating and reporting of its LLM calls.

    Made by `init`. All methods are thread-safe.
    """

    _settings: Settings
    _disabled: bool
    _probe: Probe | None

    _instance: ClassVar[Paygent | None] = None
    # Reentrant: starting one shuts the previous one down.
    _installing: ClassVar[threading.RLock] = threading.RLock()

    # -- start

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
        default_plan: str | None = None,
        on_missing_user: str = "warn",
        on_unmetered: Literal["warn", "raise", "ignore"] = "warn",
        soft_gate: Literal["once", "every_call"] = "once",
        tag_keys: Iterable[str] = (),
        carry_user: bool = True,
    ) -> Paygent:
        """Start Paygent in this process; a second call shuts the first one down.

        Args:
            api_key: Key of a backend's product; None (and no PAYGENT_API_KEY) is local mode.
            base_url: Address of the backend (PAYGENT_BASE_URL, else http://127.0.0.1:8790).
            db_path: File of the local store, or ":memory:" (PAYGENT_DB_PATH, else
                ~/.paygent/local.db).
            flush_interval: Upper bound on the delay of deliveries, in seconds.
            max_batch_size: Events per request to a backend, at most; a local store has none.
            max_queue_size: Events queued in memory if no journal can be written, at most; later
                ones are delivered later.
            raise_on_hard_gate: False lets refused calls run, marked `blocked`.
            auto_instrument: Patch the provider SDKs now and when they are imported later.
            registry: The application's own providers, metered like the built-in ones.
            refresh_interval: Age in seconds at which a user is read from the ledger again.
            strict_backend: Raise, instead of warning, if the backend cannot be used.
            default_plan: Plan of users without an assigned one, kept for all processes of the
                product; None is what any process has chosen, else "default".
            on_missing_user: For calls without a user: "warn", "block", "ignore" or a user id.
            on_unmetered: For calls that may cost something and that no adapter can meter: "warn"
                logs them once per operation, "raise" refuses them before they are sent, "ignore"
                only counts them in `health()`.
            soft_gate: Whether the warning fires "once" per process, limit and window, or on
                "every_call".
            tag_keys: Metadata keys that reports can group by, at most five.
            carry_user: Propagate the current user to threads, executors and pools. Neither with
                False nor with `auto_instrument=False` is any of them patched.

        Returns:
            The process's `Paygent`.

        Raises:
            InvalidValue: naming every argument that breaks a rule.
            PaygentBackendUnreachable, PaygentAuthInvalid: with `strict_backend` only; warnings
                otherwise.
        """
        arguments = {name: value for name, value in locals().items() if name != "cls"}
        settings = read_settings(arguments, os.environ)
        for problem, remedy in odd_variables(os.environ):
            warn(PaygentWarning(f"{problem} ({remedy})"))
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
        """Start Paygent with given settings, without reading the environment: for simulations and
        tests that have their own clock or ledger.

        Args:
            settings: Read and checked settings.
            now_us: The clock, microseconds since 1970 UTC.
            ledger: Where plans and spend are kept; None is the local store at `settings.db_path`.
            disabled: Whether everything is switched off: no patch, no file, no thread.

        Raises:
            PaygentBackendUnreachable, PaygentAuthInvalid: with `strict_backend` only.
        """
        with cls._installing:
            previous = cls._instance
            drops_callbacks = previous is not None and previous._parts.callbacks.has_any
            paygent = cls._make(settings, now_us=now_us, ledger=ledger, disabled=disabled)
            if settings.default_plan is not None:
                attempt("default_plan", paygent._parts.plans.choose_default)
            if settings.tag_keys:
                attempt("tag_keys", paygent._parts.plans.declare_tags, settings.tag_keys)
            paygent._start()  # before the shutdown, so that no call passes between the two
            cls._instance = paygent
            if previous is not None:
                previous.shutdown(EXIT_WAIT_S)
        if drops_callbacks:
            warn(PaygentWarning(_CALLBACKS_DROPPED))
        paygent._probe_backend()  # outside the lock: it waits for the network
        return paygent

    def __init__(self, *_: object, **__: object) -> None:
        """Not called by applications: `Paygent.init` starts Paygent."""
        raise TypeError("Paygent is started by Paygent.init(…), once per process")

    @classmethod
    def _make(
        cls,
        settings: Settings,
        *,
        now_us: Callable[[], int] = system_clock,
        ledger: Ledger | None = None,
        disabled: bool = False,
    ) -> Paygent:
        """Make a `Paygent` of its parts, which is not the process's yet; see `launch`."""
        paygent = cls.__new__(cls)
        paygent._settings = settings
        paygent._now_us = now_us
        paygent._disabled = disabled
        paygent._is_shut_down = False
        key = None if disabled else settings.api_key
        paygent._probe = Probe(settings.base_url, key) if key else None
        paygent._parts = compose(settings, now_us=now_us, ledger=ledger, disabled=disabled)
        return paygent

    def _start(self) -> None:
        """Become the process's Paygent: calls that begin go through this one from now on."""
        watch(self)
        on_fork_child(Paygent._renew_lock)
        # A patch that fails must not keep the application from starting.
        registry, carry_user = self._settings.registry, self._settings.carry_user
        attempt("patch", partial(instrumentation.provide, registry, propagates_user=carry_user))
        if self._disabled:
            # Even then an application may name the user of a single call, which SDKs would refuse.
            attempt("patch", instrumentation.install, True)
            return
        path = self._settings.db_path
        if path != MEMORY:
            attempt("data_folder", _make_folder, path)
            problem = attempt("data_folder", _problem_of, path)
            if problem is not None:
                warn(PaygentWarning(f"db_path {path} cannot be used: {problem}. {_SET_DB_PATH}"))
        set_active(self._parts.meter)
        attempt("patch", instrumentation.install, not self._settings.auto_instrument)

    @classmethod
    def _renew_lock(cls) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        Paygent._installing = threading.RLock()

    def _probe_backend(self) -> None:
        """Probe the backend; warn, or raise with `strict_backend`, if it cannot be used."""
        is_strict = self._settings.strict_backend
        if self._probe is None or not may_start_threads():
            return
        problem = self._probe.run(wants_answer=is_strict)
        if problem is None:
            return
        if is_strict:
            self.shutdown()
            raise problem
        warn(type(problem)(f"{problem}; events wait on this machine until it accepts them"))

    @classmethod
    def get_instance(cls) -> Paygent | None:
        """Return the process's Paygent, or None before `init` and after `shutdown`."""
        return cls._instance

    @classmethod
    def exchange(cls, paygent: Paygent | None) -> Paygent | None:
        """Make another `Paygent`, or none, the process's, and return the previous one, which is not
        shut down: for tests that start one of their own. One that was shut down stays so.
        """
        with cls._installing:
            previous, cls._instance = cls._instance, None
            set_active(None)
            if paygent is not None and not paygent._is_shut_down:
                paygent._start()
                cls._instance = paygent
        return previous

    # -- delivery and end

    def flush(self) -> int:
        """Deliver all events to the ledger, within ten seconds, and wait for running callbacks.
        Also delivers the events of processes that died. Returns early if the ledger is unavailable:
        events then stay in the journal.

        Returns:
            The number of this process's own events delivered meanwhile.
        """
        before = self._parts.worker.flushed
        self._parts.meter.deferred_ends.run()  # they add events
        self._parts.callbacks.flush(EXIT_WAIT_S)
        # Without events of its own the process may still adopt those of others.
        # With a backend, this host may have kept events of an outage.
        is_connected = self._parts.connected is not None
        if is_connected or self._parts.worker.is_running or self._parts.journal.has_any:
            self._parts.worker.flush(_FLUSH_WAIT_S, gives_up=True)
        return self._parts.worker.flushed - before

    def sync_pending(self) -> int:
        """Deliver the journal to the ledger now; the same as `flush`."""
        return self.flush()

    def shutdown(self, timeout: float = 10.0) -> None:
        """Deliver all events, within a time, and stop; later calls run unmetered, which is logged
        once.

        Args:
            timeout: Seconds; events that were not delivered wait in the journal for the next start.

        Raises:
            InvalidValue: if `timeout` is not a number of seconds.
        """
        timeout = valid_timeout("shutdown", timeout)
        with type(self)._installing:
            if self._is_shut_down:
                return
            self._is_shut_down = True
            self._parts.wrapper.stop()
            # A later Paygent has taken these over if this is its shutdown of the previous one.
            if active() is self._parts.meter:
                set_active(None)
            if type(self)._instance is self:
                type(self)._instance = None
        self._stop(timeout)

    def end_process(self) -> None:
        """Deliver all events, within two seconds, before the process ends. Calls that daemon
        threads and later exit handlers still make are gated, and their events wait in the journal
        for the next start.
        """
        if not self._is_shut_down:
            self._stop(EXIT_WAIT_S)

    def _stop(self, timeout: float) -> None:
        """Deliver all events, within a time, and stop the threads."""
        deadline = time.monotonic() + timeout
        self._parts.meter.deferred_ends.run()
        self._parts.callbacks.flush(timeout / 2)  # a hanging callback must not prevent delivery
        self._parts.callbacks.stop()
        # A worker that is still delivering uses both; the end of the process closes them then.
        if self._parts.worker.stop(max(deadline - time.monotonic(), 0.0)):
            self._parts.journal.close()
            self._parts.ledger.close()

    def instrument(self) -> None:
        """Patch the provider SDKs, now and when they are imported later; idempotent."""
        if not self._disabled:
            instrumentation.install()

    def uninstrument(self) -> None:
        """Remove the patches; calls run unmetered until `instrument`.

        The `paygent_*` arguments of single calls are still removed, since the SDKs refuse them.
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
        """The address of the backend."""
        return self._settings.base_url

    @property
    def db_path(self) -> str:
        """The file of the local store, or ":memory:"."""
        return self._settings.db_path

    @property
    def backend_reachable(self) -> bool | None:
        """Whether the backend answers; None until known, and in local mode."""
        if self._probe is None:
            return None
        sync = self._parts.accounts.sync
        if sync.is_failing or sync.answered_us:
            return not sync.is_failing
        return self._probe.is_reachable

    @property
    def is_connected(self) -> bool:
        """Whether a backend accepts the key and takes events, as far as is known by now."""
        sync = self._parts.accounts.sync
        if self._probe is None or sync.is_failing:
            return False
        return self._probe.is_welcome or sync.answered_us > 0

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
        """The number of events that the ledger does not have yet; with a backend also those of
        other processes of this host that it was away for.
        """
        self._parts.accounts.admission.count_all()
        connected = self._parts.connected
        kept = 0 if connected is None else connected.unsent_events
        return kept + sum(len(user.pending) for user in self._users)

    @property
    def _users(self) -> list[User]:
        return list(self._parts.accounts.registry.users.values())  # other threads add users

    @property
    def queue_stats(self) -> dict[str, Any]:
        """Counts of records since `init`: total_pushed, total_flushed, total_dropped, pending,
        is_running.
        """
        connected = self._parts.connected
        flushed = self._parts.worker.flushed + (connected.sent_events if connected else 0)
        return {
            "total_pushed": flushed + self.pending_events,
            "total_flushed": flushed,
            "total_dropped": self._parts.journal.dropped,
            "pending": self.pending_events,
            "is_running": self._parts.worker.is_running,
        }

    @property
    def session_count(self) -> int:
        """The number of this process's users with an open session."""
        return sum(user.open_session is not None for user in self._users)

    @property
    def _mode(self) -> str:
        connected = self._parts.connected
        if self._disabled or self.is_local_mode:
            return "off" if self._disabled else "local"
        if not self.is_connected:
            return "offline"
        return "polling" if connected is not None and connected.is_polling else "connected"

    def health(self) -> dict[str, Any]:
        """Return the state of Paygent itself.

        Returns:
            `mode` ("local"; with an API key "connected", "polling" where the backend has only the
            documented routes, or "offline" until it takes events; "off"), `backend_reachable`,
            `calls_in_flight`, `calls_waiting` (for holds of others), `journal_durable`, `queue` (as
            `queue_stats`), `counts` (errors swallowed and warnings logged, by kind), `catalogue`
            (release and date of the prices).
        """
        attempt("self_check", instrumentation.check)  # its result is in the counts
        journal = self._parts.journal
        return {
            "mode": self._mode,
            "backend_reachable": self.backend_reachable,
            "calls_in_flight": self._parts.accounts.registry.calls_in_flight,
            "calls_waiting": waiting_count(self._users),
            "journal_durable": journal.is_durable and journal.folder is not None,
            "queue": self.queue_stats,
            "counts": dict(diagnostics.counts),
            "catalogue": self._parts.catalogue.as_of,
        }

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit."""
        self._parts.ledger.pause_for_fork()

    def resume_after_fork(self) -> None:
        """Resume in the parent of a fork."""
        self._parts.ledger.resume_after_fork()


_CALLBACKS_DROPPED = (
    "Paygent.init was called again: callbacks that were registered on the previous Paygent do not"
    " fire any more. Call init once, or register them on the new one."
)
_SET_DB_PATH = "Set db_path or PAYGENT_DB_PATH to a file in a writable folder."
_IN_MEMORY = "events are kept in memory and are lost when the process ends"
_IN_JOURNAL = "events wait in the journal beside it, and other processes do not see them"


def _make_folder(db_path: str) -> None:
    with suppress(OSError):  # `_problem_of` names what is in the way
        Path(db_path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def _problem_of(db_path: str) -> str | None:
    """Return why a database file cannot be used, as far as its place shows, and what follows."""
    path = Path(db_path)
    if not path.parent.is_dir():
        return f"{path.parent} is no folder and cannot be made one; {_IN_MEMORY}"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"{path.parent} is not writable; {_IN_MEMORY}"
    if path.is_dir():
        return f"it is a folder; {_IN_JOURNAL}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return f"it is not readable and writable; {_IN_JOURNAL}"
    return None
