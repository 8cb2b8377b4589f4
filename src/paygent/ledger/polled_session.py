"""What a backend with only the documented routes answers about a user, read and validated.

A field that is missing or cannot be read makes the whole response unusable, and the error names
it; of a plan, what can be read applies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from paygent.core.account import AccountKey
from paygent.core.event_json import read_time
from paygent.core.messages import Question, UserLedger
from paygent.core.money import CAP_NANO_MAX, NANO_PER_USD, read_decimal, scale
from paygent.core.period import Subscription, Window, calendar_month
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_arguments, plan_to_json
from paygent.core.validation import FieldError, InvalidValue
from paygent.failopen import attempt, diagnostics
from paygent.ledger.port import LedgerUnavailable
from paygent.ledger.process_sums import Total
from paygent.prices.model_names import canonical, plain

_NAME_CHARS_SHOWN = 100
_USD_MAX = CAP_NANO_MAX // NANO_PER_USD

_UNASSIGNED_USER_ID = "(none)"
"""The reserved user of calls without one, who has no limits unless a plan is assigned to them; a
response shows the default plan in the same way as an assigned one.
"""

_Reader = Callable[[Any], "int | None"]


def _read_dollars(given: Any) -> int | None:
    """Return a number of dollars as nano-dollars, exactly as it is written; None if it is none."""
    number = None if isinstance(given, str) else read_decimal(given)
    if number is None or not number.is_finite() or number.copy_abs() > _USD_MAX:
        return None
    return scale(number, NANO_PER_USD)


def _read_whole(given: Any) -> int | None:
    """Return a whole number of 64 bits; None if it is none."""
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # some servers have one type of number
    return given if type(given) is int and abs(given) <= CAP_NANO_MAX else None


class PolledSession(NamedTuple):
    """What the backend has of a user.

    Attributes:
        plan: Name of the plan; None without one.
        own: The plan as it applies to the user; None if there is none, or if it cannot be read.
        sdk_enabled, paused, paused_reason: As in `UserLedger`.
        period: The billing period; None is the calendar month.
        spend_nano, tokens: Of the whole period.
        spend_by_model, tokens_by_model: The same by model, as the backend names it; "" is none.
    """

    plan: str | None
    own: dict[str, Any] | None
    sdk_enabled: bool
    paused: bool
    paused_reason: str | None
    period: Window | None
    spend_nano: int
    tokens: int
    spend_by_model: dict[str, int]
    tokens_by_model: dict[str, int]

    def figure(self, key: AccountKey, now_us: int) -> int | None:
        """Return what an account has spent; None if the response does not show that."""
        limit = key.limit
        is_of_period = limit.window == "period" and self.window(now_us) == (
            key.start_us,
            key.end_us,
        )
        if not is_of_period or limit.metric == "calls":
            return None
        is_spend = limit.metric == "spend"
        if not limit.model:
            return self.spend_nano if is_spend else self.tokens
        figures = self.spend_by_model if is_spend else self.tokens_by_model
        # A snapshot that the backend counts under its canonical name is not in it: of that, this
        # process's sum is all that is known.
        names = [name for name in figures if limit.model in (plain(name), canonical(name))]
        return sum(figures[name] for name in names) if names else None

    def window(self, now_us: int) -> Window:
        """Return the billing period."""
        return self.period or calendar_month(now_us)

    @property
    def by_model(self) -> dict[str, tuple[int, int]]:
        """(tokens, nano-dollars) by canonical model name."""
        merged: dict[str, tuple[int, int]] = {}
        for name in {**self.tokens_by_model, **self.spend_by_model}:
            tokens, cost_nano = merged.get(canonical(name), (0, 0))
            tokens += self.tokens_by_model.get(name, 0)
            merged[canonical(name)] = tokens, cost_nano + self.spend_by_model.get(name, 0)
        return merged


def answer_about(
    question: Question, session: PolledSession | None, sums: Mapping[AccountKey, Total], now_us: int
) -> UserLedger:
    """Return the state of a user from the response, or from the lack of one, and from this
    process's sums.
    """
    spent = {key: total.whole for key, total in sums.items()}
    shadow = {key: total.blocked for key, total in sums.items() if total.blocked}
    if session is None:
        start_us = question.period_start_us
        return UserLedger(spent=spent, shadow=shadow, period_start_us=start_us, is_unknown=True)
    for key in question.accounts:
        figure = session.figure(key, now_us)
        if figure is not None:
            spent[key] = figure
    window = session.window(now_us)
    # A backend that is behind, or that renews no periods, shows figures of another one.
    is_current = window.contains(now_us) or window.start_us == question.period_start_us
    is_assigned = question.user_id != _UNASSIGNED_USER_ID
    return UserLedger(
        plan=session.plan if is_assigned else None,
        own=session.own if is_assigned else None,
        # It renews by its own length until the backend shows the next period: a subscription that
        # only ended would leave the user without limits up to the next reading.
        subscription=session.period and Subscription(*session.period),
        sdk_enabled=session.sdk_enabled,
        paused=session.paused,
        paused_reason=session.paused_reason,
        spent=spent,
        shadow=shadow,
        period_start_us=window.start_us if is_current else question.period_start_us,
        by_model=session.by_model if is_current else {},
    )


def read_session(given: Any) -> PolledSession:
    """Read the response about a user.

    Raises:
        LedgerUnavailable: Names the field that is missing or cannot be read.
    """
    fields = Fields(given, "")
    usage = Fields(fields.value("current_usage"), "current_usage.")
    spend = usage.table("period_cost_by_model", _read_dollars)
    spend.update(usage.table("period_cost_by_model_nano", _read_whole, is_optional=True))
    spend_nano = usage.number("period_cost", _read_dollars, "a number of dollars")
    if usage.has("period_cost_nano"):  # the exact twin
        spend_nano = usage.whole("period_cost_nano")
    document = fields.value("plan_config")
    if document is not None and not isinstance(document, dict):
        raise fields.bad("plan_config", "an object or null")
    return PolledSession(
        plan=fields.text("plan", may_be_null=True),
        own=None if document is None else attempt("plan_document", _read_plan, document),
        sdk_enabled=fields.flag("sdk_enabled"),
        paused=fields.flag("paused") if fields.has("paused") else False,
        paused_reason=fields.text("paused_reason") if fields.has("paused_reason") else None,
        period=_read_period(fields),
        spend_nano=spend_nano,
        tokens=usage.whole("period_tokens_total"),
        spend_by_model=spend,
        tokens_by_model=usage.table("period_tokens_by_model", _read_whole),
    )


def _read_period(fields: Fields) -> Window | None:
    """Read the billing period."""
    given = fields.value("billing_period")
    if given is None:
        return None
    part = Fields(given, "billing_period.")
    edges = []
    for name in ("start", "end"):
        at_us = read_time(part.value(name))
        if at_us is None:
            raise part.bad(name, "an ISO 8601 time with a time zone")
        edges.append(at_us)
    if edges[0] >= edges[1]:
        raise part.bad("end", "after the start")
    return Window(*edges)


def _read_plan(document: dict[str, Any]) -> dict[str, Any]:
    """Return a plan in the form of the directory. What this version does not know of it is counted
    and left out: to leave out the whole plan would remove every limit of the user.
    """
    arguments, unknown = plan_arguments(document)
    unknown.pop("name", None)  # shown by plans beside their fields
    if unknown:
        findings = (FieldError(name, document[name], rule) for name, rule in unknown.items())
        diagnostics.record_error("plan_document", InvalidValue("plan_config", tuple(findings)))
    return plan_to_json(PlanConfig(**arguments))


class Fields:
    """Reads the fields of an object, and names the one that is missing or cannot be read."""

    def __init__(self, given: Any, path: str) -> None:
        self._path = path
        if not isinstance(given, dict):
            raise _unusable(path.rstrip(".") or "it", "an object")
        self._given = given

    def bad(self, name: str, expected: str) -> LedgerUnavailable:
        """Return the error about a field."""
        return _unusable(self._path + name, expected)

    def has(self, name: str) -> bool:
        """Return whether an optional field is given."""
        return self._given.get(name) is not None

    def value(self, name: str) -> Any:
        """Return a field that is given."""
        if name not in self._given:
            raise self.bad(name, "given")
        return self._given[name]

    def text(self, name: str, *, may_be_null: bool = False) -> str | None:
        """Return a text."""
        value = self.value(name)
        if isinstance(value, str) or (value is None and may_be_null):
            return value
        raise self.bad(name, "a text")

    def flag(self, name: str) -> bool:
        """Return a truth value."""
        value = self.value(name)
        if isinstance(value, bool):
            return value
        raise self.bad(name, "true or false")

    def number(self, name: str, read: _Reader, expected: str) -> int:
        """Return a number as an integer."""
        value = read(self.value(name))
        if value is None:
            raise self.bad(name, expected)
        return value

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return self.number(name, _read_whole, "a whole number")

    def count(self, name: str) -> int:
        """Return a whole number from 0 up."""
        value = self.whole(name)
        if value < 0:
            raise self.bad(name, "0 or more")
        return value

    def table(self, name: str, read: _Reader, *, is_optional: bool = False) -> dict[str, int]:
        """Return numbers by name."""
        if is_optional and not self.has(name):
            return {}
        part = Fields(self.value(name), f"{self._path}{name}.")
        return {each: part.number(each, read, "a number") for each in part._given}


def _unusable(what: str, expected: str) -> LedgerUnavailable:
    shown = what[:_NAME_CHARS_SHOWN]  # a name from outside may be long
    return LedgerUnavailable(f"the backend's answer cannot be used: {shown} must be {expected}")
