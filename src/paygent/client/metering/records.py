"""Journal records other than calls: manual events, plans, assignments, sessions, price lists.

Each is appended to the journal, and wakes the delivery thread. Nothing here is gated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress

from paygent.client.accounts.process_accounts import Accounts
from paygent.client.accounts.user_state import User
from paygent.client.journal.delivery import Worker
from paygent.client.journal.journal import Journal
from paygent.client.metering.gate_log import GateLog
from paygent.client.runtime.callbacks import Callbacks
from paygent.core.event import Event, encode_event
from paygent.core.explain import rates_to_json
from paygent.core.gate import warning
from paygent.core.messages import LedgerRecord, PriceRecord
from paygent.core.pricing import Rates
from paygent.core.record_json import encode_record
from paygent.failopen import attempt
from paygent.types import guard_result, usage_event


class RecordWriter:
    """Writes the records of one `Paygent`. Thread-safe."""

    def __init__(
        self,
        accounts: Accounts,
        journal: Journal,
        worker: Worker,
        callbacks: Callbacks,
        gate_log: GateLog,
        session_opened: Callable[[str], None],
    ) -> None:
        self._accounts = accounts
        self._journal = journal
        self._worker = worker
        self._callbacks = callbacks
        self._gate_log = gate_log
        self._session_opened = session_opened  # called with the user id of each opened session
        self._listed: set[str] = set()
        self._deferred: deque[LedgerRecord] = deque()

    def defer(self, record: LedgerRecord) -> None:
        """Write a record before the next one or the first call: `init` opens no file and starts no
        thread.
        """
        self._deferred.append(record)

    def book(self, user: User, event: Event) -> None:
        """Book an event that is not a call: the money is spent, so no limit is checked."""
        self.write_sessions()
        payload = encode_event(event)
        try:
            self._accounts.admission.book(user, event)
        finally:  # the money is spent
            self._journal.append(payload)
        self._worker.nudge()
        for reading in self._accounts.admission.warnings_after(user, event):
            result = guard_result(
                warning(reading), user.user_id, plan=user.plan_name, model=event.model
            )
            self._gate_log.warn(result, event.session_id)
        if self._callbacks.wants("usage"):
            self._callbacks.fire("usage", usage_event(event))

    def record_price_list(self, rates: Rates, at_us: int) -> None:
        """Record a price list once, so that events priced with it can be explained."""
        if rates.price_id not in self._listed:
            self._listed.add(rates.price_id)
            if rates.price_id:
                attempt("price_list", self._write_prices, rates, at_us)

    def _write_prices(self, rates: Rates, at_us: int) -> None:
        self.write(PriceRecord(rates.price_id, rates_to_json(rates), at_us))

    def write_sessions(self) -> None:
        """Write the sessions opened and rotated since the last call, and report the opened ones;
        with the first call also what was deferred.
        """
        self._write_deferred()
        for record in self._accounts.sessions.take_records():
            self.write(record)
            if not record.ended_us:
                self._session_opened(record.user_id)

    def write(self, record: LedgerRecord) -> None:
        """Write a plan, an assignment, a session or a price list into the journal."""
        self._write_deferred()
        self._journal.append(encode_record(record))
        self._worker.nudge()

    def _write_deferred(self) -> None:
        while self._deferred:
            with suppress(IndexError):  # another thread has taken it
                self._journal.append(encode_record(self._deferred.popleft()))

    def renew_after_fork(self) -> None:
        """Forget which price lists were recorded: those records are the parent's to deliver."""
        self._listed = set()
