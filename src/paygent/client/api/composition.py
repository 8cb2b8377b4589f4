"""The composition root: passes each part of one `Paygent` what it needs, the clock included, and
registers parts that hold locks or belong to one process for forks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.registry import UserRegistry
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
from paygent.client.metering.gate_log import GateLog
from paygent.client.metering.meter import Meter, MeterParts
from paygent.client.metering.policy import CallPolicy
from paygent.client.metering.records import RecordWriter
from paygent.client.metering.unmetered import UnmeteredCalls
from paygent.client.runtime import ids
from paygent.client.runtime.callbacks import Callbacks
from paygent.client.runtime.lifecycle import on_fork_child
from paygent.client.runtime.settings import SYNC_INTERVAL_S, Settings
from paygent.failopen import attempt
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import Ledger
from paygent.prices.catalogue import Catalogue

if TYPE_CHECKING:
    from paygent.ledger.connected import ConnectedLedger

MEMORY = ":memory:"
"""The `db_path` of a store that ends with the process."""

_BATCH_MAX = 1_000  # records of the journal in one transaction of a store, or one message
_READERS = 2  # one for questions, one for reports
_CHECK_EVERY_S = 2.0  # verifying every patch takes less than half a millisecond


@dataclass(frozen=True)
class Parts(MeterParts):
    """The parts of one `Paygent`: those that the meter works with, and the others."""

    ledger: Ledger
    meter: Meter
    queries: UserQueries
    connected: ConnectedLedger | None  # None in local mode, and with a ledger of a test's own
    reports: UsageReports
    plans: PlanRegistry
    recorder: EventRecorder
    wrapper: CallableWrapper


def compose(
    settings: Settings, *, now_us: Callable[[], int], ledger: Ledger | None, disabled: bool
) -> Parts:
    """Make the parts; nothing is started, and no file is opened. For the arguments see `launch`."""
    product, path = settings.ledger_product, MEMORY if disabled else settings.db_path
    # Only a backend with the documented routes alone has requests to bound; large batches are fast.
    max_batch_size = _BATCH_MAX if ledger is None else settings.max_batch_size
    connected: ConnectedLedger | None = None
    if ledger is None and settings.api_key is not None and not disabled:
        ledger = connected = _connected_ledger(settings, path)
    elif ledger is None:
        ledger = _local_ledger(product, path)
    catalogue, callbacks, deferred_ends = Catalogue(), Callbacks(), DeferredEnds()
    accounts = Accounts(
        default_plan=settings.default_plan,
        new_id=ids.new_id,
        warn_every_call=settings.soft_gate == "every_call",
        refresh_us=int(settings.refresh_interval_s * 1_000_000),
    )
    journal = _journal(path, product, settings.max_queue_size, accounts.registry)
    gate_log = GateLog(callbacks, now_us, lambda: journal.owner)
    worker = Worker(
        ledger,
        accounts,
        journal,
        now_us=now_us,
        interval_s=min(SYNC_INTERVAL_S, settings.flush_interval_s) / 2,
        max_batch_size=max_batch_size,
        before_round=_housekeeping(deferred_ends),
        write_waiting=lambda: gate_log.write(journal),
        enabled=not disabled,
    )
    gate_log.wake = worker.nudge
    policy = CallPolicy(accounts.sync, refuses=settings.raise_on_hard_gate)
    queries = UserQueries(
        accounts, catalogue, worker, policy, now_us, not disabled, deferred_ends.run
    )
    # Passed in, because the records are in a layer below the queries.
    session_opened = partial(queries.report_session, callbacks)
    records = RecordWriter(accounts, journal, worker, callbacks, gate_log, session_opened)
    attribution = Attribution(settings.on_missing_user, gate_log)
    metering = MeterParts(
        accounts,
        catalogue,
        journal,
        worker,
        callbacks,
        attribution,
        policy,
        gate_log,
        records,
        BackgroundJobs(product, catalogue),
        UnmeteredCalls(
            settings.on_unmetered, policy, attribution, accounts.registry, gate_log, now_us
        ),
        deferred_ends,
        now_us,
    )
    meter = Meter(metering)
    written = None if disabled else records  # without records nothing is booked
    parts = Parts(
        **vars(metering),
        ledger=ledger,
        meter=meter,
        connected=connected,
        queries=queries,
        reports=UsageReports(worker, now_us, settings.tag_keys, not disabled, deferred_ends.run),
        plans=PlanRegistry(accounts, catalogue, queries, written, now_us),
        recorder=EventRecorder(product, accounts, catalogue, written, now_us),
        wrapper=CallableWrapper(None if disabled else meter, settings.registry),
    )
    if connected is not None:
        _prepare_for_outages(connected, parts)
    _register_for_forks(parts)
    return parts


def _prepare_for_outages(connected: ConnectedLedger, parts: Parts) -> None:
    """Pass in what a ledger needs of layers above it while the backend is away."""
    connected.known = parts.accounts.sync.known
    connected.is_urgent = lambda: parts.worker.is_ending
    connected.quarantine = parts.journal.quarantine


def _register_for_forks(parts: Parts) -> None:
    # The journal first: records of a child must not go into its parent's files.
    for renew in (
        parts.journal.renew_after_fork,
        parts.ledger.forget_after_fork,
        parts.accounts.renew_after_fork,
        parts.meter.renew_after_fork,
        parts.worker.renew_after_fork,
        parts.deferred_ends.renew_after_fork,
        parts.gate_log.renew_after_fork,
        parts.records.renew_after_fork,
        parts.policy.renew_after_fork,
        parts.callbacks.renew_after_fork,
        parts.recorder.renew_after_fork,
        instrumentation.renew_after_fork,
    ):
        on_fork_child(renew)


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


def _journal(path: str, product: str, max_queue_size: int, registry: UserRegistry) -> Journal:
    folder = None if path == MEMORY else Path(path + ".journal") / product  # beside the store
    records_max = 2 * max_queue_size  # a call begins and ends
    return Journal(
        folder,
        owner=new_owner_name(),
        records_in_memory_max=records_max,
        in_flight=lambda: registry.calls_in_flight,
    )


def _connected_ledger(settings: Settings, path: str) -> ConnectedLedger:
    """Return a ledger over a backend, and the local store while that is away."""
    from paygent.ledger.backend import BackendLedger  # only where there is one
    from paygent.ledger.connected import ConnectedLedger
    from paygent.ledger.transport import HttpTransport
    from paygent.store.outage import OutageStore  # with sqlite3, 5 ms

    assert settings.api_key is not None  # the caller has checked
    transport = HttpTransport(settings.base_url, settings.api_key)
    # A store in memory is no place for what memory must not hold.
    outages = None if path == MEMORY else OutageStore(path, settings.ledger_product)

    def polling(transport: HttpTransport) -> Ledger:
        from paygent.ledger.polling import PollingLedger  # only where the backend needs it

        return PollingLedger(transport, events_max=settings.max_batch_size)

    return ConnectedLedger(BackendLedger(transport, polling), outages)


def _local_ledger(product: str, path: str) -> Ledger:
    """Return a ledger over a store in this process."""
    from paygent.store.sqlite import SqliteStore  # with sqlite3, 5 ms

    writer = SqliteStore(path)
    # Connections of their own keep a question from waiting for a delivery or a report; memory has
    # only one.
    reader = writer if path == MEMORY else SqliteStore(path, readers=_READERS)
    return LocalLedger(product, writer, reader)
