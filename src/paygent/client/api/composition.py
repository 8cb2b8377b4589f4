"""The composition root: puts the parts of one `Paygent` together.

Everything that a part needs, the clock included, is passed to it here and nowhere else. Parts that
hold locks or belong to one process are registered for forks here too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.api.plans import PlanRegistry
from paygent.client.api.queries import UserQueries
from paygent.client.api.record_event import EventRecorder
from paygent.client.api.reports import UsageReports
from paygent.client.api.wrap import CallableWrapper
from paygent.client.instrument.registry import instrumentation
from paygent.client.journal.delivery import Worker
from paygent.client.journal.journal import Journal
from paygent.client.journal.ownership import new_owner_name
from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.metering.attribution import Attribution
from paygent.client.metering.background_jobs import BackgroundJobs
from paygent.client.metering.meter import Meter, MeterParts
from paygent.client.metering.policy import CallPolicy
from paygent.client.metering.records import RecordWriter
from paygent.client.runtime import ids
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.lifecycle import on_fork_child
from paygent.client.runtime.settings import SYNC_INTERVAL_S, Settings
from paygent.failopen import attempt
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import Ledger
from paygent.prices.catalogue import Catalogue

MEMORY = ":memory:"
"""The `db_path` of a store that ends with the process."""

_LOCAL_BATCH_MAX = 1_000  # records of the journal per transaction of a local store
_CHECK_EVERY_S = 2.0  # verifying every patch takes less than half a millisecond


@dataclass(frozen=True)
class Parts:
    """The parts of one `Paygent`.

    Attributes:
        ledger: Where plans and spend are kept.
        catalogue: Prices of models.
        accounts: What this process knows of its users.
        journal: Durable records on their way to the ledger.
        worker: Delivers them.
        callbacks: The application's callbacks.
        records: Writes records other than calls.
        attribution: Resolves the users of calls and events.
        meter: The flow of a call.
        queries, reports, plans, recorder, wrapper: Behind the methods that applications call.
    """

    ledger: Ledger
    catalogue: Catalogue
    accounts: Accounts
    journal: Journal
    worker: Worker
    callbacks: Callbacks
    records: RecordWriter
    attribution: Attribution
    meter: Meter
    queries: UserQueries
    reports: UsageReports
    plans: PlanRegistry
    recorder: EventRecorder
    wrapper: CallableWrapper


def compose(
    settings: Settings, *, now_us: Callable[[], int], ledger: Ledger | None, disabled: bool
) -> Parts:
    """Make the parts; nothing is started, and no file is opened.

    Args:
        settings: Read and checked settings.
        now_us: The clock, microseconds since 1970 UTC.
        ledger: Where plans and spend are kept; None is the local store at `settings.db_path`.
        disabled: Whether Paygent is disabled: no file, no thread.
    """
    product = settings.ledger_product
    path = MEMORY if disabled else settings.db_path
    # A store in this process has no requests to bound; large batches are what keeps it fast.
    max_batch_size = _LOCAL_BATCH_MAX if ledger is None else settings.max_batch_size
    ledger = ledger if ledger is not None else _local_ledger(product, path)
    catalogue = Catalogue()
    journal = _journal(path, product, settings.max_queue_size)
    accounts = Accounts(
        default_plan=settings.default_plan,
        new_id=ids.new_id,
        warn_every_call=settings.soft_gate == "every_call",
        refresh_us=int(settings.refresh_interval_s * 1_000_000),
    )
    deferred_ends = DeferredEnds()
    worker = Worker(
        ledger,
        accounts,
        journal,
        now_us=now_us,
        interval_s=min(SYNC_INTERVAL_S, settings.flush_interval_s) / 2,
        max_batch_size=max_batch_size,
        before_round=_housekeeping(deferred_ends),
        enabled=not disabled,
    )
    callbacks = Callbacks()
    queries = UserQueries(
        accounts, catalogue, worker, now_us, enabled=not disabled, before_read=deferred_ends.run
    )

    report_session = _session_callback(callbacks, accounts, queries, now_us)
    records = RecordWriter(accounts, journal, worker, callbacks, report_session)
    attribution = Attribution(settings.on_missing_user, callbacks)
    policy = CallPolicy(accounts.sync, refuses=settings.raise_on_hard_gate)
    meter = Meter(
        MeterParts(
            accounts,
            catalogue,
            journal,
            worker,
            callbacks,
            attribution,
            policy,
            records,
            BackgroundJobs(product, catalogue),
            deferred_ends,
            now_us,
        )
    )
    written = None if disabled else records  # without records nothing is booked
    parts = Parts(
        ledger,
        catalogue,
        accounts,
        journal,
        worker,
        callbacks,
        records,
        attribution,
        meter,
        queries,
        UsageReports(
            worker,
            now_us,
            tag_keys=settings.tag_keys,
            enabled=not disabled,
            before_read=deferred_ends.run,
        ),
        PlanRegistry(settings.default_plan, accounts, queries, written, now_us),
        EventRecorder(product, accounts, catalogue, written, now_us),
        CallableWrapper(None if disabled else meter, settings.registry),
    )
    _register_for_forks(parts, deferred_ends, policy)
    return parts


def _register_for_forks(parts: Parts, deferred_ends: DeferredEnds, policy: CallPolicy) -> None:
    # The journal first: records of a child must not go into its parent's files.
    for renew in (
        parts.journal.renew_after_fork,
        parts.ledger.forget_after_fork,
        parts.accounts.renew_after_fork,
        parts.worker.renew_after_fork,
        deferred_ends.renew_after_fork,
        parts.records.renew_after_fork,
        policy.renew_after_fork,
        parts.callbacks.renew_after_fork,
        parts.recorder.renew_after_fork,
        instrumentation.renew_after_fork,
    ):
        on_fork_child(renew)


def _session_callback(
    callbacks: Callbacks, accounts: Accounts, queries: UserQueries, now_us: Callable[[], int]
) -> Callable[[str], None]:
    """Return the function that reports an opened session to the application."""

    # Called by the records, which are in a layer below the queries.
    def session_opened(user_id: str) -> None:
        if callbacks.wants("session_start"):  # the state of a user takes time to assemble
            user = accounts.registry.user(user_id, now_us())
            callbacks.fire("session_start", queries.state(user))

    return session_opened


def _housekeeping(deferred_ends: DeferredEnds) -> Callable[[], None]:
    """Return the function that the delivery thread calls before each round."""
    next_check_s = 0.0

    def before_round() -> None:
        nonlocal next_check_s
        deferred_ends.run()
        now_s = time.monotonic()
        if now_s >= next_check_s:
            next_check_s = now_s + _CHECK_EVERY_S
            attempt("self_check", instrumentation.check)

    return before_round


def _journal(path: str, product: str, max_queue_size: int) -> Journal:
    """Return a product's journal, in a folder beside the store or in memory."""
    return Journal(
        None if path == MEMORY else Path(path + ".journal") / product,
        owner=new_owner_name(),
        records_in_memory_max=2 * max_queue_size,  # a call begins and ends
    )


def _local_ledger(product: str, path: str) -> Ledger:
    """Return a ledger over a store in this process."""
    from paygent.store.sqlite import SqliteStore  # with sqlite3, 5 ms

    writer = SqliteStore(path)
    # A connection for each thread, so that a question does not wait for a delivery; a store in
    # memory is its one connection.
    return LocalLedger(product, writer, writer if path == MEMORY else SqliteStore(path))
