"""Reports as they are asked for: every rule of the arguments, and how a request becomes a query."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.contract.samples import DAY_US, MONTH, NOON_US, make_event

from paygent.core.period import Subscription, to_datetime, to_us
from paygent.core.report import Cursor, Figures
from paygent.core.report_request import (
    Names,
    SpendRequest,
    fold_report,
    read_request,
    request_to_query,
    resolve,
)
from paygent.core.validation import InvalidValue

REST = Names(by="--by", start="from", end="to")
KEYS_RULE = (
    "must be one or two of user, model, provider, plan, session, day, month, period and tag:KEY"
)
TIME_RULE = "must be a day (YYYY-MM-DD), or a time with a time zone, from 1970 to 9998"


def test_read_request__every_argument__is_read() -> None:
    """Names become keys, texts times, and a sign a direction; None is not given."""
    given = {
        "by": "user,tag:team",
        "start": "2026-10-01",
        "end": datetime(2026, 11, 1, tzinfo=timezone.utc),
        "period": None,
        "user": "ann",
        "model": None,
        "tag:team": "",
        "sort": "-calls",
    }
    assert read_request(given, rows_max=5, now_us=7) == SpendRequest(
        by=("user", "tag:team"),
        start=date(2026, 10, 1),
        end=to_us(datetime(2026, 11, 1, tzinfo=timezone.utc)),
        where={"user": "ann", "tag:team": ""},
        sort="calls",
        is_descending=True,
        rows_max=5,
        now_us=7,
    )


@pytest.mark.parametrize(
    ("moment", "read"),
    [
        (date(2026, 10, 3), date(2026, 10, 3)),
        ("2026-10-03", date(2026, 10, 3)),
        (datetime(1970, 1, 1, 0, 0, 1), 10**6),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        ("1970-01-01T00:00:01Z", 10**6),
        ("1970-01-01T01:00:01 01:00", 10**6),  # a `+` that a query lost
        (None, None),
    ],
)
def test_read_request__moments__are_days_or_times(moment: Any, read: Any) -> None:
    """A naive datetime is taken as UTC."""
    assert read_request({"by": ("user",), "start": moment}).start == read


@pytest.mark.parametrize(
    ("given", "field", "rule"),
    [
        *(({"by": by}, "--by", KEYS_RULE) for by in (None, 5, "", "x", (), ("user", 1), "tag:")),
        ({"by": "user,user"}, "--by", KEYS_RULE),
        ({"by": "user,model,day"}, "--by", KEYS_RULE),
        *(
            ({"by": "user", "start": moment}, "from", TIME_RULE)
            for moment in (5, "2026-02-30", "later", "1969-12-31", date(1969, 1, 1), True)
        ),
        ({"by": "user", "end": datetime.min.replace(tzinfo=timezone.utc)}, "to", TIME_RULE),
        (
            {"by": "user", "end": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))},
            "to",
            TIME_RULE,
        ),
        ({"by": "user", "period": "next"}, "period", "must be current or previous"),
        (
            {"by": "user", "period": "current", "start": "2026-10-01"},
            "period",
            "takes the place of from and to",
        ),
        ({"by": "user", "user": 5}, "user", "must be a string of at most 255 characters"),
        (
            {"by": "user", "tag:a": "x" * 1_001},
            "tag:a",
            "must be a string of at most 1000 characters",
        ),
        ({"by": "user", "tag:": "x"}, "tag:", "must have the name of a metadata key"),
        (
            {"by": "user,day", "sort": "model"},
            "sort",
            "must be one of cost, calls, input_tokens, output_tokens, cached_input_tokens, day, "
            "user; a - before it is descending",
        ),
        (
            {"by": "day", "sort": 5},
            "sort",
            "must be one of cost, calls, input_tokens, output_tokens, cached_input_tokens, day; "
            "a - before it is descending",
        ),
        (
            {"by": "user", "sort": "-user"},
            "sort",
            "must be one of cost, calls, input_tokens, output_tokens, cached_input_tokens, user; "
            "a - before it is descending",
        ),
    ],
)
def test_read_request__a_rule_that_is_broken__names_the_argument(
    given: dict[str, Any], field: str, rule: str
) -> None:
    """By the name that the caller has for it."""
    with pytest.raises(InvalidValue) as caught:
        read_request(given, REST)
    assert [(each.field, each.rule) for each in caught.value.findings] == [(field, rule)]


def test_read_request__several_rules_that_are_broken__are_named_at_once() -> None:
    """A caller mends them in one go."""
    with pytest.raises(InvalidValue) as caught:
        read_request({"by": "x", "start": "x", "end": "x", "period": "x", "model": 1, "sort": "x"})
    fields = [each.field for each in caught.value.findings]
    assert fields == ["by", "start", "end", "period", "model", "sort"]


@pytest.mark.parametrize(
    ("by", "sort", "expected"),
    [
        ("user", None, ("cost", True)),
        ("day,user", None, ("day", False)),
        ("user,month", "-month", ("month", True)),
        ("period", "period", ("period", False)),
        ("model", "model", ("model", False)),
    ],
)
def test_read_request__sorts__default_to_cost_or_time(
    by: str, sort: str | None, expected: tuple[str, bool]
) -> None:
    """The dearest first, or the earliest."""
    request = read_request({"by": by, "sort": sort})
    assert (request.sort, request.is_descending) == expected


def span(request: SpendRequest, zone: str = "UTC", **more: Any) -> tuple[str, str]:
    """Return the span of time of a request, on 2024-10-04 at noon UTC."""
    query = resolve(request, zone, NOON_US, **more)
    start, end = to_datetime(query.start_us), to_datetime(query.end_us)
    return start.isoformat(), end.isoformat()


def test_resolve__without_times__is_this_month_until_the_end_of_today() -> None:
    """In the product's time zone."""
    request = SpendRequest(("user",))
    assert span(request) == ("2024-10-01T00:00:00+00:00", "2024-10-05T00:00:00+00:00")
    berlin = ("2024-09-30T22:00:00+00:00", "2024-10-04T22:00:00+00:00")
    assert span(request, "Europe/Berlin") == berlin


def test_resolve__days_and_times__are_half_open() -> None:
    """A day begins at its midnight in the product's time zone; a time is exact."""
    request = SpendRequest(("user",), start=date(2024, 10, 2), end=NOON_US + 1)
    expected = ("2024-10-01T22:00:00+00:00", "2024-10-04T12:00:00.000001+00:00")
    assert span(request, "Europe/Berlin") == expected


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("current", ("2024-10-01T00:00:00+00:00", "2024-11-01T00:00:00+00:00")),
        ("previous", ("2024-09-01T00:00:00+00:00", "2024-10-01T00:00:00+00:00")),
    ],
)
def test_resolve__a_period_without_a_user__is_the_calendar_month(
    period: Any, expected: tuple[str, str]
) -> None:
    """Billing periods of users differ."""
    assert span(SpendRequest(("user",), period=period)) == expected


def test_resolve__a_period_of_a_user__is_their_billing_period() -> None:
    """With its start as a filter: usage of another period on its days does not count."""
    week = Subscription(NOON_US - 3 * DAY_US, NOON_US + 4 * DAY_US)
    request = SpendRequest(("user",), period="current", where={"user": "ann"})
    query = resolve(request, "UTC", NOON_US, week)
    assert (query.start_us, query.end_us) == (week.start_us, week.end_us)
    assert query.where == {"user": "ann", "period": str(week.start_us)}
    earlier = SpendRequest(("user",), period="previous", where={"user": "ann"})
    query = resolve(earlier, "UTC", NOON_US, week)
    assert (query.start_us, query.end_us) == (week.start_us - 7 * DAY_US, week.start_us)
    ended = Subscription(0, DAY_US, "none")
    assert resolve(request, "UTC", NOON_US, ended).start_us == MONTH.start_us
    assert resolve(earlier, "UTC", NOON_US, ended).end_us == MONTH.start_us


@pytest.mark.parametrize(
    ("start", "end", "rule"),
    [
        (date(2024, 10, 4), date(2024, 10, 4), "must be after from"),
        (date(2014, 1, 1), date(2024, 10, 4), "must be at most 10 years after from"),
    ],
)
def test_resolve__a_span_that_is_none__names_its_end(start: date, end: date, rule: str) -> None:
    """Empty, or longer than ten years."""
    request = SpendRequest(("user",), start=start, end=end, names=REST)
    with pytest.raises(InvalidValue) as caught:
        resolve(request, "UTC", NOON_US)
    (error,) = caught.value.findings
    assert (error.field, error.value, error.rule) == ("to", end.isoformat(), rule)


@pytest.mark.parametrize(
    ("start", "rule"),
    [
        (date(2024, 10, 5), "must be before the end"),
        (date(2014, 1, 1), "must be at most 10 years ago"),
    ],
)
def test_resolve__a_span_without_an_end__names_its_start(start: date, rule: str) -> None:
    """The end is not the caller's value."""
    with pytest.raises(InvalidValue) as caught:
        resolve(SpendRequest(("user",), start=start, names=REST), "UTC", NOON_US)
    (error,) = caught.value.findings
    assert (error.field, error.value, error.rule) == ("from", start.isoformat(), rule)


def test_request_to_query__read_again__is_the_same_request() -> None:
    """What one process asks for is what the server reads."""
    for request in (
        SpendRequest(("user",), rows_max=5),
        SpendRequest(
            ("day", "tag:team"),
            start=date(2026, 10, 1),
            end=NOON_US,
            where={"user": "a&b", "tag:team": "x", "tag:tag:": "y"},
            sort="day",
            is_descending=False,
            rows_max=5,
        ),
        SpendRequest(("user",), period="previous", rows_max=5),
    ):
        query = request_to_query(request, 5, None)
        given = {
            {"from": "start", "to": "end"}.get(name, name).replace("tag.", "tag:", 1): value
            for name, value in query.items()
        }
        assert read_request(given, rows_max=int(query["limit"])) == request
    assert request_to_query(SpendRequest(("user",)), 7, "next")["cursor"] == "next"


def test_fold_report__of_events__is_a_report_in_utc() -> None:
    """For products without a store."""
    report = fold_report((make_event("a"),), SpendRequest(("user",)), NOON_US)
    assert (report.timezone, report.as_of_us) == ("UTC", NOON_US)
    assert [row.keys for row in report.page.rows] == [("ann",)]
    expected = Figures(calls=1, input_tokens=20, output_tokens=10, cost_nano=1_000)
    assert report.page.total == expected
    assert report.query.after == Cursor(-(2**63))
