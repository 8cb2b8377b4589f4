"""`UsageReports`: usage and cost over a range of days, read from the ledger for all processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from typing import Any

from paygent.client.journal.delivery import Worker
from paygent.client.metering.wait import wait_for
from paygent.core.notices import Notice
from paygent.core.period import calendar_month, to_us
from paygent.core.report import UsageRow, group
from paygent.core.validation import ValidationErrors
from paygent.failopen import diagnostics
from paygent.ledger.port import LedgerUnavailable

REPORT_WAIT_S = 30.0
"""Longest wait for a report; one over a year of a large store takes a second."""

_TAG = "tag:"


@dataclass(eq=False)
class UsageReports:
    """Reads the reports of one `Paygent`. Thread-safe."""

    worker: Worker
    now_us: Callable[[], int]
    tag_keys: tuple[str, ...]  # metadata keys that a report may group by
    enabled: bool  # False queries no ledger (Paygent is disabled): reports are empty
    before_read: Callable[[], None]  # called before the ledger is read; runs deferred ends

    def read(self, by: Any, start: Any, end: Any) -> tuple[UsageRow, ...]:
        """Return usage and cost; see `Paygent.report`. Arguments are unchecked."""
        names = self._valid_groups(by, start, end)
        if not self.enabled:
            return ()
        now_us = self.now_us()
        # The end is exclusive.
        start_us, end_us = calendar_month(now_us).start_us, now_us + 1
        start_us = start_us if start is None else _us_of(start) or 0
        end_us = end_us if end is None else _us_of(end) or 0
        if self.worker.is_stopped:
            raise LedgerUnavailable("this Paygent has been shut down")
        self.before_read()
        # A report includes the caller's own events of a moment ago, so it delivers them first.
        if not self.worker.flush(REPORT_WAIT_S, gives_up=True):
            diagnostics.warn_once(Notice.REPORT_INCOMPLETE)
        tag_key = next((name[len(_TAG) :] for name in names if name.startswith(_TAG)), None)
        rows = self.worker.read(lambda ledger: ledger.report(start_us, end_us, tag_key))
        if not wait_for(rows, REPORT_WAIT_S):
            raise LedgerUnavailable(f"the ledger did not answer in {REPORT_WAIT_S:g} s")
        return group(rows.result(), tuple(name.partition(":")[0] for name in names))

    def _valid_groups(self, by: Any, start: Any, end: Any) -> tuple[str, ...]:
        """Check the arguments; return the names to group by."""
        errors = ValidationErrors("report")
        names = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, (tuple, list)) else ()
        tags = tuple(_TAG + key for key in self.tag_keys)
        allowed = ("user", "model", *tags)
        is_known = bool(names) and all(name in allowed for name in names)
        # The store reads one metadata key in its pass over the events.
        if not is_known or len(names) > 2 or sum(name in tags for name in names) > 1:
            options = ", ".join(f'"{name}"' for name in allowed)
            rule = f"must be one or two of {options}; at most one tag, declared in init(tag_keys=…)"
            errors.add("by", by, rule)
        for name, moment in (("start", start), ("end", end)):
            if moment is not None and _us_of(moment) is None:
                errors.add(name, moment, "must be a datetime, or a date, of the years 1 to 9999")
        edges = (_us_of(start), _us_of(end))
        if edges[0] is not None and edges[1] is not None and edges[1] <= edges[0]:
            errors.add("end", end, "must be after start")
        errors.raise_if_any()
        return names


def _us_of(moment: Any) -> int | None:
    """Return a datetime, in UTC if it is naive, or the start of a date in microseconds; None if UTC
    cannot express it.
    """
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime.combine(moment, time())
    if not isinstance(moment, datetime):
        return None
    try:
        return to_us(moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc))
    except OverflowError:  # its offset moves it out of the years 1 to 9999
        return None
