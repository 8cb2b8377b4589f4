"""`UsageReports`: reports over a range of days, read from the ledger for all processes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from paygent.client.journal.delivery import Worker
from paygent.client.metering.wait import wait_for
from paygent.core.notices import Notice
from paygent.core.report import TAG, SpendReport
from paygent.core.report_request import SPEND, Rules, SpendRequest, fold_report, read_request
from paygent.core.report_rows import UsageReport
from paygent.core.report_table import RULES_OF, ReportTable, TableKind, empty_table
from paygent.core.validation import InvalidValue, ValidationErrors, read_items
from paygent.failopen import diagnostics
from paygent.ledger.port import Ledger, LedgerUnavailable

REPORT_WAIT_S = 30.0
"""Longest wait for a report; one over a year of a large store takes a second."""

_T = TypeVar("_T")

_ARGUMENTS = {"user": "user_id", "session": "session_id"}
"""A key of reports -> the argument that limits a report to one value of it."""


@dataclass(eq=False)
class UsageReports:
    """Reads the reports of one `Paygent`. Thread-safe."""

    worker: Worker
    now_us: Callable[[], int]
    tag_keys: tuple[str, ...]  # metadata keys that a report may group by
    enabled: bool  # False queries no ledger (Paygent is disabled): reports are empty
    before_read: Callable[[], None]  # called before the ledger is read; runs deferred ends

    def spend(self, arguments: dict[str, Any]) -> UsageReport:
        """Return usage and cost; see `Paygent.report`, whose `locals()` it takes, unchecked."""
        with _named_as_arguments():
            return UsageReport.of(self._spend(self._request(arguments, SPEND)))

    def table(self, kind: TableKind, arguments: dict[str, Any]) -> ReportTable:
        """Return another report; see `Paygent.report_margin` and those after it."""
        with _named_as_arguments():
            return self._table(kind, self._request(arguments, RULES_OF[kind]))

    def _spend(self, request: SpendRequest) -> SpendReport:
        if not self.enabled:
            return fold_report((), request, self.now_us())
        return self._read(lambda ledger: ledger.report(request))

    def _table(self, kind: TableKind, request: SpendRequest) -> ReportTable:
        if not self.enabled:
            return ReportTable.of(empty_table(kind, request, self.now_us()))
        return self._read(lambda ledger: ledger.table(kind, request))

    def _read(self, reading: Callable[[Ledger], _T]) -> _T:
        if self.worker.is_stopped:
            raise LedgerUnavailable("this Paygent has been shut down")
        self.before_read()
        # A report includes the caller's own events of a moment ago, so it delivers them first.
        if not self.worker.flush(REPORT_WAIT_S, gives_up=True):
            diagnostics.warn_once(Notice.REPORT_INCOMPLETE)
        report = self.worker.read(reading)
        if not wait_for(report, REPORT_WAIT_S):
            raise LedgerUnavailable(f"the ledger did not answer in {REPORT_WAIT_S:g} s")
        return report.result()

    def _request(self, arguments: dict[str, Any], rules: Rules) -> SpendRequest:
        """Check the arguments of a report by its rules.

        Raises:
            InvalidValue: Names every argument that breaks a rule.
        """
        errors = ValidationErrors("report")
        arguments = {name: value for name, value in arguments.items() if name != "self"}
        by, tags, limit = arguments["by"], arguments.pop("tags", None), arguments.pop("limit")
        names = by.split(",") if isinstance(by, str) else by if isinstance(by, Collection) else ()
        tags_of_names = [str(name)[len(TAG) :] for name in names if str(name).startswith(TAG)]
        if any(key and key not in self.tag_keys for key in tags_of_names):
            errors.add("by", by, self._tag_rule())
        arguments["user"] = arguments.pop("user_id", None)
        arguments["session"] = arguments.pop("session_id", None)
        for key, value in read_items(errors, "tags", {} if tags is None else tags):
            if key not in self.tag_keys:
                errors.add("tags", key, self._tag_rule())
            arguments[TAG + key] = value
        if limit is not None and (type(limit) is not int or limit < 1):
            errors.add("limit", limit, "must be a whole number from 1, or None")
            limit = None
        try:
            request = read_request(arguments, rules=rules, rows_max=limit, now_us=self.now_us())
        except InvalidValue as error:
            raise InvalidValue("report", (*errors.found, *error.findings)) from None
        errors.raise_if_any()
        return request

    def _tag_rule(self) -> str:
        if not self.tag_keys:
            return "is no tag: declare metadata keys in init(tag_keys=…)"
        declared = ", ".join(self.tag_keys)
        return f"must be a tag that init(tag_keys=…) declares: {declared}"


@contextmanager
def _named_as_arguments() -> Iterator[None]:
    """Name broken rules as an application calls what they are about."""
    try:
        yield
    except InvalidValue as error:
        findings = [replace(each, field=_argument(each.field)) for each in error.findings]
        raise InvalidValue("report", tuple(findings)) from None


def _argument(name: str) -> str:
    """Return how an application calls what a broken rule is about."""
    if name.startswith(TAG):
        return f"tags.{name[len(TAG) :]}"
    return _ARGUMENTS.get(name, name)
