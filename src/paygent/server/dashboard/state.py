"""What a page shows, as its address says it: the range of days, the comparison and the filters.

The state is read from the query of an address and written back into every link, so it survives a
change of page, a reload and a copied address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Final, Literal, get_args
from urllib.parse import urlencode

from paygent.core.period import day_in_zone
from paygent.core.validation import NAME_CHARS_MAX, ValidationErrors

RangeName = Literal["month", "previous", "7d", "30d", "90d", "custom"]

RANGE_NAMES: Final[Mapping[str, str]] = {
    "month": "This month",
    "previous": "Last month",
    "7d": "Last 7 days",
    "30d": "Last 30 days",
    "90d": "Last 90 days",
}
"""Ranges that have a name, in words."""

FILTERS: Final = ("plan", "model", "provider")
"""Filters that every page keeps, by the name of the key in reports."""

GROUPS: Final = ("model", "provider", "plan")
"""What charts are stacked by; the first unless another is chosen."""

NONE_TEXT: Final = "(none)"
"""In an address and on a page, the value of a key that a call does not have."""

_DAYS_MAX = 3_660
_YEAR_MIN, _YEAR_MAX = 1971, 9_990
_FIRST_DAY = date(1970, 1, 1)  # of reports; a year before `_YEAR_MIN`, for the range before


@dataclass(frozen=True)
class PageState:
    """The state of a page.

    Attributes:
        range_name: The range as it was chosen.
        start, end: Its days in the product's time zone; `end` is the first one after it.
        compares: Whether the previous range is shown beside it.
        today: The day in the product's time zone.
        where: Filters: the value that a key must have; "" is calls without one.
        group: What charts are stacked by.
    """

    range_name: RangeName
    start: date
    end: date
    today: date
    compares: bool = False
    where: Mapping[str, str] = field(default_factory=dict)
    group: str = GROUPS[0]

    @property
    def last_day(self) -> date:
        """The last day of the range."""
        return self.end - timedelta(days=1)

    @property
    def days(self) -> int:
        """Number of days in the range."""
        return (self.end - self.start).days

    @property
    def is_running(self) -> bool:
        """Whether today is in the range, so that its figures still grow."""
        return self.start <= self.today < self.end

    @property
    def in_words(self) -> str:
        """The range as a heading."""
        if self._is_month:
            return f"{self.start:%B %Y}"
        if self.range_name in RANGE_NAMES:
            return RANGE_NAMES[self.range_name]
        return f"{self.start} to {self.last_day}"

    @property
    def _is_month(self) -> bool:
        return self.start.day == 1 and self.end == _next_month(self.start)

    def previous(self) -> PageState:
        """Return the state with the range before: the month before a month, otherwise as many
        days.
        """
        if self._is_month:
            start = (self.start - timedelta(days=1)).replace(day=1)
        else:
            start = self.start - (self.end - self.start)
        start = max(start, _FIRST_DAY)
        return replace(self, range_name="custom", start=start, end=self.start, compares=False)

    def values(self) -> dict[str, str]:
        """Return the state as values of a query; defaults are left out."""
        values: dict[str, str] = {}
        if self.range_name == "custom":
            values |= {"from": self.start.isoformat(), "to": self.end.isoformat()}
        elif self.range_name != "month":
            values["range"] = self.range_name
        if self.compares:
            values["compare"] = "previous"
        if self.group != GROUPS[0]:
            values["group"] = self.group
        for name in FILTERS:
            if name in self.where:
                values[name] = self.where[name] or NONE_TEXT
        return values

    def link(self, path: str, /, **values: str | int | None) -> str:
        """Return an address with this state.

        Args:
            path: Of the page.
            **values: Further values of the query; None takes one out of the state. A trailing
                underscore is dropped, for names that Python reserves.
        """
        query = self.values()
        for name, value in values.items():
            name = name.rstrip("_")
            if value is None:
                query.pop(name, None)
            else:
                query[name] = str(value)
        if "range" in values:  # a named range takes the place of days, and the other way round
            query.pop("from", None)
            query.pop("to", None)
        elif "from_" in values:
            query.pop("range", None)
        return f"{path}?{urlencode(query)}" if query else path

    def link_to_span(self, path: str, span: str, /, **values: str | int | None) -> str:
        """Return an address about one day or month of the range.

        Args:
            path: Of the page.
            span: The day or month, in ISO 8601.
            **values: As for `link`.
        """
        if len(span) == len("2026-10"):
            start = max(date.fromisoformat(f"{span}-01"), self.start)
            end = min(_next_month(start.replace(day=1)), self.end)
        else:
            start = date.fromisoformat(span)
            end = start + timedelta(days=1)
        return self.link(path, from_=start.isoformat(), to=end.isoformat(), **values)

    def report(self, **own: Any) -> dict[str, Any]:
        """Return the arguments of a report about this range; see `report_request.read_request`."""
        return {"start": self.start, "end": self.end, **own}


def read_state(query: Mapping[str, str], zone: str, now_us: int) -> PageState:
    """Read the state of a page.

    Args:
        query: Of its address.
        zone: The product's time zone.
        now_us: The time, in microseconds since 1970 UTC.

    Raises:
        InvalidValue: Names every value that breaks a rule.
    """
    errors = ValidationErrors("page")
    today = date.fromisoformat(day_in_zone(now_us, zone))
    name, start, end = _read_range(errors, query, today)
    compare = query.get("compare", "")
    if compare not in ("", "previous"):
        errors.add("compare", compare, "must be previous")
    group = query.get("group", "") or GROUPS[0]
    if group not in GROUPS:
        errors.add("group", group, f"must be one of {', '.join(GROUPS)}")
    where = {}
    for key in FILTERS:
        value = query.get(key, "")
        if len(value) > NAME_CHARS_MAX or "\0" in value:
            errors.add(key, value, f"must have at most {NAME_CHARS_MAX} characters, and no NUL")
        elif value:
            where[key] = "" if value == NONE_TEXT else value
    errors.raise_if_any()
    return PageState(name, start, end, today, compare == "previous", where, group)


def default_state(zone: str, now_us: int) -> PageState:
    """Return the state of a page without values in its address."""
    return read_state({}, zone, now_us)


def _read_range(
    errors: ValidationErrors, query: Mapping[str, str], today: date
) -> tuple[RangeName, date, date]:
    given = {name: query.get(name, "") for name in ("from", "to")}
    name: Any = query.get("range", "")
    month = today.replace(day=1)
    default: tuple[RangeName, date, date] = ("month", month, _next_month(month))
    if any(given.values()) and name in ("", "custom"):
        start, end = (read_day(errors, each, given[each]) for each in ("from", "to"))
        if start is None or end is None:
            return default
        if not start < end:
            errors.add("to", given["to"], "must be after from")
        elif (end - start).days > _DAYS_MAX:
            errors.add("to", given["to"], f"must be at most {_DAYS_MAX} days after from")
        return "custom", start, end
    if name in ("", "custom"):
        return default
    if name not in get_args(RangeName):
        errors.add("range", name, f"must be one of {', '.join(get_args(RangeName))}")
        return default
    if name == "previous":
        return name, (month - timedelta(days=1)).replace(day=1), month
    if name == "month":
        return default
    tomorrow = today + timedelta(days=1)
    return name, tomorrow - timedelta(days=int(name.removesuffix("d"))), tomorrow


def read_day(errors: ValidationErrors, name: str, given: str) -> date | None:
    """Read a day as a field of a form sends it; record the rule that it breaks."""
    try:
        day = date.fromisoformat(given)
        # `fromisoformat` takes 20261003 and 2026-W40-6, too.
        if day.isoformat() != given or not _YEAR_MIN <= day.year <= _YEAR_MAX:
            raise ValueError
    except ValueError:
        errors.add(name, given, f"must be a day (YYYY-MM-DD) from {_YEAR_MIN} to {_YEAR_MAX}")
        return None
    return day


def _next_month(first: date) -> date:
    return (first + timedelta(days=32)).replace(day=1)
