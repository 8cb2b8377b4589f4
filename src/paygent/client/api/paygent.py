"""`Paygent`: the composition root, its life, and what can be read off it.

`init` reads settings and puts the parts together; everything that a part needs, the clock included,
is handed to it here and nowhere else. One `Paygent` at a time is the process's: calls that begin go
through it. What applications ask of it is in `client/api/verbs.py`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from paygent.client.accounts.admission import waiting_count
from paygent.client.api.arguments import valid_seconds
from paygent.client.api.composition import MEMORY, compose
from paygent.client.api.verbs import Verbs
from paygent.client.instrument.http_sdks.wrapper import active, set_active
from paygent.client.instrument.registry import instrumentation
from paygent.client.runtime.lifecycle import EXIT_WAIT_S, watch
from paygent.client.runtime.providers import ProviderRegistry
from paygent.client.runtime.settings import (
    Settings,
    is_disabled,
    read_settings,
)
from paygent.failopen import attempt, diagnostics, warn
from paygent.ledger.handshake import Probe
from paygent.ledger.port import Ledger


def system_clock() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


class Paygent(Verbs):
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
        carry_user: bool = True,
    ) -> Paygent:
        """Start Paygent in this process; a second call shuts the first one down.

        Args:
            api_key: Key of a backend's product; None (and no PAYGENT_API_KEY) is local mode.
            base_url: Address of the backend (PAYGENT_BASE_URL, else http://127.0.0.1:8790).
            db_path: File of the local store, or ":memory:" (PAYGENT_DB_PATH, else
                ~/.paygent/local.db).
            flush_interval: Upper bound on the delay of deliveries, in seconds.
            max_batch_size: Events per delivery request, at most.
            max_queue_size: Events queued in memory where no journal can be written, at most; what
                comes beyond is delivered later.
            raise_on_hard_gate: False lets refused calls run, marked `blocked`.
            auto_instrument: Patch the provider SDKs now and when they are imported later.
            registry: Providers of the application's own, metered beside those that are known.
            refresh_interval: Age in seconds at which what is known of a user is read anew.
            strict_backend: Raise when the backend cannot be used, rather than warn.
            default_plan: Plan of users that nobody assigned.
            on_missing_user: What a call without a user is: "warn", "block", "ignore" or a user id.
            soft_gate: Whether the warning fires "once" per limit and window, or on "every_call".
            tag_keys: Metadata keys that reports group by, at most five.
            carry_user: Have threads, executors and pools take the user along who starts them or
                gives them work. False patches none of them; `auto_instrument=False` neither.

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
        disabled: bool = False,
    ) -> None:
        """Put the parts together; applications call `init`.

        Args:
            settings: Read and checked settings.
            now_us: The clock, microseconds since 1970 UTC.
            ledger: Where plans and spend are kept; None is the local store at `settings.db_path`.
            disabled: Whether everything is switched off: no patch, no file, no thread.
        """
        self._settings = settings
        self._now_us = now_us
        self._disabled = disabled
        self._is_shut_down = False
        self._probe = (
            None if disabled or not settings.api_key else Probe(settings.base_url, settings.api_key)
        )
        self._parts = compose(settings, now_us=now_us, ledger=ledger, disabled=disabled)

    def _start(self) -> None:
        """Become the process's Paygent: calls that begin go through this one from now on."""
        watch(self)
        attempt("patch", self._provide)
        if self._disabled:
            attempt("patch", instrumentation.install, True)
            return
        if self._settings.db_path != MEMORY:
            attempt("data_folder", _make_folder, self._settings.db_path)
        set_active(self._parts.meter)
        # An application may name the user of a single call, which the SDKs would refuse.
        attempt("patch", instrumentation.install, not self._settings.auto_instrument)

    def _provide(self) -> None:
        settings = self._settings
        instrumentation.provide(settings.registry, propagates_user=settings.carry_user)

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

    # -- life

    def flush(self) -> int:
        """Deliver everything to the ledger, ten seconds at most, and wait for callbacks that are
        under way. Takes in what processes that died have left.

        Returns:
            How many events were delivered while this waited.
        """
        before = self._parts.worker.flushed
        self._parts.meter.deferred_ends.run()
        self._parts.callbacks.flush(EXIT_WAIT_S)
        if self._parts.worker.is_running or self._parts.journal.has_any:
            self._parts.worker.flush(10.0)
        return self._parts.worker.flushed - before

    def sync_pending(self) -> int:
        """Deliver what waits in the journal to the ledger now; the same as `flush`.

        Returns:
            How many events were delivered while this waited.
        """
        return self.flush()

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
            self._parts.wrapper.stop()
            if active() is self._parts.meter:
                set_active(None)
            if type(self)._instance is self:
                type(self)._instance = None
        deadline = time.monotonic() + timeout
        self._parts.meter.deferred_ends.run()
        self._parts.callbacks.flush(timeout / 2)
        self._parts.callbacks.stop()
        if self._parts.worker.stop(max(deadline - time.monotonic(), 0.0)):
            self._parts.journal.close()
            self._parts.ledger.close()

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
        return sum(len(user.pending) for user in list(self._parts.accounts.registry.users.values()))

    @property
    def queue_stats(self) -> dict[str, Any]:
        """Counts of records since `init`: total_pushed, total_flushed, total_dropped, pending,
        is_running.
        """
        return {
            "total_pushed": self._parts.worker.flushed + self.pending_events,
            "total_flushed": self._parts.worker.flushed,
            "total_dropped": self._parts.journal.dropped,
            "pending": self.pending_events,
            "is_running": self._parts.worker.is_running,
        }

    @property
    def session_count(self) -> int:
        """How many users of this process have an open session."""
        return sum(
            user.open_session is not None
            for user in list(self._parts.accounts.registry.users.values())
        )

    def health(self) -> dict[str, Any]:
        """Return how Paygent itself is.

        Returns:
            `mode` ("local", "off"), `backend_reachable`, `calls_in_flight`, `calls_waiting` (for
            holds of others), `journal_durable`, `queue` (as `queue_stats`), `counts` (what was
            swallowed or said, by kind), `catalogue` (the price list's release and date).
        """
        attempt("self_check", instrumentation.check)
        return {
            "mode": "off" if self._disabled else "local",
            "backend_reachable": self.backend_reachable,
            "calls_in_flight": self._parts.journal.calls_in_flight,
            "calls_waiting": waiting_count(list(self._parts.accounts.registry.users.values())),
            "journal_durable": self._parts.journal.is_durable
            and self._parts.journal.folder is not None,
            "queue": self.queue_stats,
            "counts": dict(diagnostics.counts),
            "catalogue": self._parts.catalogue.as_of,
        }

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit."""
        self._parts.ledger.pause_for_fork()

    def resume_after_fork(self) -> None:
        """Go on in the parent of a fork."""
        self._parts.ledger.resume_after_fork()


def _make_folder(db_path: str) -> None:
    Path(db_path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
