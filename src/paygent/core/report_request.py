"""A report as it is asked for: in a query of REST, on the command line or in Python.

Nothing here knows the product: `resolve` turns what was asked for into a `SpendQuery`, once its
time zone and the user's billing period are known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import Any, Final, Literal, NamedTuple, get_args

from paygent.core.event import Event
from paygent.core.event_json import REASON_CHARS_MAX, read_time
from paygent.core.margin import MARGIN_KEYS, MARGIN_SORTS
from paygent.core.period import (
    Subscription,
    Window,
    billing_period,
    calendar_month,
    day_in_zone,
    start_of_day,
    to_datetime,
    to_us,
)
from paygent.core.report import (
    FIGURE_SORTS,
    KEYS,
    START,
    TAG,
    TIME_KEYS,
    Cursor,
    SpendQuery,
    SpendReport,
    fold_spend,
)
from paygent.core.tally import GATE_KEYS, QUALITY_KEYS, sorts_of
from paygent.core.validation import NAME_CHARS_MAX, FieldError, InvalidValue, ValidationErrors

Period = Literal["current", "previous"]


class Rules(NamedTuple):
    """What a report takes.

    Attributes:
        keys: What it groups by.
        keys_max: How many of them at once.
        has_tags: Whether `tag:KEY` is one, and a filter.
        filters: Keys that it can be limited to one value of, besides tags.
        sorts: Figures that rows are sorted by.
        sort: The sort where none is asked for and the first key is no time.
        has_whole_month: Whether the end that is not given is that of the month, and not of today.
        has_whole_days: Whether it begins and ends with a day.
    """

    keys: tuple[str, ...]
    keys_max: int
    has_tags: bool
    filters: tuple[str, ...]
    sorts: tuple[str, ...]
    sort: str
    has_whole_month: bool = False
    has_whole_days: bool = False

    @property
    def keys_rule(self) -> str:
        """What the keys must be, in words."""
        listed = ", ".join(self.keys)
        if self.keys_max == 1:
            return f"must be one of {listed}"
        return f"must be one or two of {listed}{' and tag:KEY' if self.has_tags else ''}"


FILTERS: Final = ("user", "model", "provider", "plan", "session")
"""Keys that a report can be limited to one value of, besides `tag:KEY`."""

SPEND: Final = Rules(KEYS, 2, True, FILTERS, tuple(FIGURE_SORTS), "-cost")
MARGIN: Final = Rules(
    MARGIN_KEYS, 1, False, ("user", "plan"), MARGIN_SORTS, "margin", has_whole_month=True
)
GATES: Final = Rules(
    GATE_KEYS,
    2,
    False,
    ("user", "reason"),
    sorts_of("gates"),
    "-refused_calls",
    has_whole_days=True,
)
QUALITY: Final = Rules(
    QUALITY_KEYS,
    2,
    False,
    ("model", "provider", "operation"),
    sorts_of("quality"),
    "-calls",
    has_whole_days=True,
)

PAGE_ROWS_MAX: Final = 10_000
"""Rows of a page over REST."""

_TIME_RULE = "must be a day (YYYY-MM-DD), or a time with a time zone, from 1970 to 9998"
_VALUE_CHARS_MAX = 1_000  # metadata is at most a kilobyte
_YEARS_MAX = 10
_YEAR_9999_US = 253_370_764_800 * 10**6  # the last year, which no month follows
_DAY = len("2026-10-03")


@dataclass(frozen=True)
class Names:
    """How a surface calls the arguments, for its messages."""

    by: str = "by"
    start: str = "start"
    end: str = "end"


PYTHON: Final = Names()


@dataclass(frozen=True)
class SpendRequest:
    """What is asked for, with every value checked; see `SpendQuery`.

    Attributes:
        start, end: A day in the product's time zone, or microseconds since 1970 UTC. None is the
            first of this month, and the end of today.
        has_whole_month: The end is that of this month in place of that of today.
        has_whole_days: Start and end must be those of days.
        period: In their place: the user's billing period; without a user in `where`, the calendar
            month of the product's time zone.
        names: What the caller calls the arguments.
        now_us: The caller's time; None is the ledger's.
    """

    by: tuple[str, ...]
    start: date | int | None = None
    end: date | int | None = None
    period: Period | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    sort: str = "cost"
    is_descending: bool = True
    rows_max: int | None = None
    after: Cursor = START
    has_whole_month: bool = False
    has_whole_days: bool = False
    names: Names = PYTHON
    now_us: int | None = None


def read_request(
    given: Mapping[str, Any],
    names: Names = PYTHON,
    *,
    rules: Rules = SPEND,
    rows_max: int | None = None,
    now_us: int | None = None,
) -> SpendRequest:
    """Read the arguments of a report.

    Args:
        given: Values by name, None where one is not given: `by` (a text with commas, or names),
            `start`, `end` (a text, a date or a datetime), `period`, `sort`, those of `FILTERS`, and
            `tag:KEY`.
        names: What the caller calls them.
        rules: Of the report; what it does not take is not read.
        rows_max: Rows of a page.
        now_us: The caller's time; None is the ledger's.

    Raises:
        InvalidValue: Names every argument that breaks a rule.
    """
    errors = ValidationErrors("report")
    by = _read_keys(errors, names.by, given.get("by"), rules)
    start = _read_moment(errors, names.start, given.get("start"))
    end = _read_moment(errors, names.end, given.get("end"))
    period = given.get("period")
    if period is not None and period not in get_args(Period):
        errors.add("period", period, "must be current or previous")
    elif period is not None and any(given.get(name) is not None for name in ("start", "end")):
        errors.add("period", period, f"takes the place of {names.start} and {names.end}")
    where = {}
    for name, value in given.items():
        if value is not None and (
            name in rules.filters or (rules.has_tags and name.startswith(TAG))
        ):
            if name == TAG:
                errors.add(name, value, "must have the name of a metadata key")
            elif not isinstance(value, str) or len(value) > _chars_max(name):
                errors.add(
                    name, value, f"must be a string of at most {_chars_max(name)} characters"
                )
            else:
                where[name] = value
    sort, is_descending = _read_sort(errors, given.get("sort"), by, rules)
    errors.raise_if_any()
    return SpendRequest(
        by=by,
        start=start,
        end=end,
        period=period,
        where=where,
        sort=sort,
        is_descending=is_descending,
        rows_max=rows_max,
        has_whole_month=rules.has_whole_month,
        has_whole_days=rules.has_whole_days,
        names=names,
        now_us=now_us,
    )


def _chars_max(name: str) -> int:
    if name == "reason":
        return REASON_CHARS_MAX
    return _VALUE_CHARS_MAX if name.startswith(TAG) else NAME_CHARS_MAX


def _read_keys(errors: ValidationErrors, name: str, given: Any, rules: Rules) -> tuple[str, ...]:
    keys = given.split(",") if isinstance(given, str) else given
    if not isinstance(keys, Collection) or not all(isinstance(key, str) for key in keys):
        errors.add(name, given, rules.keys_rule)
        return ()
    by = tuple(keys)
    known = all(
        key in rules.keys or (rules.has_tags and key.startswith(TAG) and len(key) > len(TAG))
        for key in by
    )
    if not known or not 1 <= len(by) <= rules.keys_max or len(set(by)) < len(by):
        errors.add(name, given, rules.keys_rule)
        return ()
    return by


def _read_moment(errors: ValidationErrors, name: str, given: Any) -> date | int | None:
    """Return a day, or a time in microseconds since 1970 UTC."""
    try:
        if given is None:
            return None
        if isinstance(given, datetime):
            aware = given if given.tzinfo else given.replace(tzinfo=timezone.utc)
            at_us = to_us(aware)
        elif isinstance(given, date):
            at_us = to_us(datetime(given.year, given.month, given.day, tzinfo=timezone.utc))
        elif isinstance(given, str) and len(given) == _DAY:
            given = date.fromisoformat(given)
            at_us = to_us(datetime(given.year, given.month, given.day, tzinfo=timezone.utc))
        else:
            # A `+` in a query is a space; it is meant as the sign of an offset.
            read = read_time(given.replace(" ", "+")) if isinstance(given, str) else None
            if read is None:
                raise ValueError
            at_us = read
    except (ValueError, OverflowError):
        errors.add(name, given, _TIME_RULE)
        return None
    if not 0 <= at_us < _YEAR_9999_US:
        errors.add(name, given, _TIME_RULE)
        return None
    is_day = isinstance(given, date) and not isinstance(given, datetime)
    return given if is_day else at_us


def _read_sort(
    errors: ValidationErrors, given: Any, by: tuple[str, ...], rules: Rules
) -> tuple[str, bool]:
    """Return what to sort by, and whether the greatest is first."""
    if given is None:
        given = by[0] if by and by[0] in TIME_KEYS else rules.sort
    name = given[1:] if isinstance(given, str) and given.startswith("-") else given
    is_descending = name != given
    times = [key for key in by if key in TIME_KEYS]
    if name in (*rules.sorts, *times) or (by and name == by[0] and not is_descending):
        return name, is_descending
    allowed = [*rules.sorts, *times, *([by[0]] if by and by[0] not in times else [])]
    errors.add("sort", given, f"must be one of {', '.join(allowed)}; a - before it is descending")
    return "", True


def resolve(
    request: SpendRequest,
    zone: str,
    now_us: int,
    subscription: Subscription | None = None,
) -> SpendQuery:
    """Return the query of a request.

    Args:
        request: What was asked for.
        zone: The product's time zone.
        now_us: The ledger's time.
        subscription: That of the user in `where`.

    Raises:
        InvalidValue: The span of time is empty, or longer than ten years.
    """
    where = dict(request.where)
    today = date.fromisoformat(day_in_zone(now_us, zone))
    if request.period is None:
        start_us = _us_of(request.start, today.replace(day=1), zone)
        tomorrow = today + timedelta(days=1)
        month_end = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        end = month_end if request.has_whole_month else tomorrow
        end_us = _us_of(request.end, end, zone)
        _check_span(start_us, end_us, request)
    elif "user" in where and not (request.has_whole_days and subscription is None):
        window = billing_period(subscription, now_us) or calendar_month(now_us)
        if request.period == "previous":
            earlier_us = window.start_us - 1
            window = billing_period(subscription, earlier_us) or calendar_month(earlier_us)
        if not request.has_whole_days:
            where["period"] = str(window.start_us)
        start_us, end_us = window
    else:
        start_us, end_us = month_in_zone(zone, today, is_previous=request.period == "previous")
    if request.has_whole_days:
        _check_days(start_us, end_us, request, zone)
    return SpendQuery(
        request.by,
        start_us,
        end_us,
        where,
        request.sort,
        request.is_descending,
        request.rows_max,
        request.after,
    )


def fold_report(events: Iterable[Event], request: SpendRequest, now_us: int) -> SpendReport:
    """Return a report over the events of a product in UTC without subscriptions."""
    query = resolve(request, "UTC", now_us)
    return SpendReport(fold_spend(events, query, "UTC"), query, "UTC", now_us)


def request_to_query(request: SpendRequest, rows_max: int, cursor: str | None) -> dict[str, str]:
    """Return the query of a request over REST, by name.

    Args:
        request: What is asked for; where its page begins is `cursor`.
        rows_max: Rows of the page.
        cursor: `next_cursor` of the page before.
    """
    sort = f"-{request.sort}" if request.is_descending else request.sort
    query = {"by": ",".join(request.by), "sort": sort, "limit": str(rows_max)}
    for name, moment in (("from", request.start), ("to", request.end)):
        if (shown := _shown(moment)) is not None:
            query[name] = shown
    if request.period is not None:
        query["period"] = request.period
    for name, value in request.where.items():
        query[name.replace(TAG, "tag.", 1)] = value
    if cursor is not None:
        query["cursor"] = cursor
    return query


def month_in_zone(zone: str, today: date, *, is_previous: bool = False) -> Window:
    """Return the calendar month of a day, or the one before, in a time zone."""
    first = today.replace(day=1)
    if is_previous:
        first = (first - timedelta(days=1)).replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return Window(start_of_day(first, zone), start_of_day(following, zone))


def _us_of(moment: date | int | None, otherwise: date, zone: str) -> int:
    if isinstance(moment, int):
        return moment
    return start_of_day(otherwise if moment is None else moment, zone)


def _shown(moment: date | int | None) -> str | None:
    """Return a moment as it is written."""
    if moment is None:
        return None
    return (to_datetime(moment) if isinstance(moment, int) else moment).isoformat()


def _check_days(start_us: int, end_us: int, request: SpendRequest, zone: str) -> None:
    """Check that a span of time begins and ends with a day."""
    names = request.names
    for name, moment, at_us in (
        (names.start, request.start, start_us),
        (names.end, request.end, end_us),
    ):
        if at_us != start_of_day(date.fromisoformat(day_in_zone(at_us, zone)), zone):
            if request.period is None:
                rule = f"must be the start of a day in {zone}: this report counts whole days"
                raise InvalidValue("report", (FieldError(name, _shown(moment), rule),))
            rule = f"must begin and end with a day in {zone}; give {names.start} and {names.end}"
            raise InvalidValue("report", (FieldError("period", request.period, rule),))


def _check_span(start_us: int, end_us: int, request: SpendRequest) -> None:
    names = request.names
    is_long = end_us - start_us > _YEARS_MAX * 366 * 86_400 * 10**6
    if start_us < end_us and not is_long:
        return
    if request.end is None:  # which is not the caller's
        rule = f"must be at most {_YEARS_MAX} years ago" if is_long else "must be before the end"
        raise InvalidValue("report", (FieldError(names.start, _shown(request.start), rule),))
    rule = f"at most {_YEARS_MAX} years after" if is_long else "after"
    error = FieldError(names.end, _shown(request.end), f"must be {rule} {names.start}")
    raise InvalidValue("report", (error,))
