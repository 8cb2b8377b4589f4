"""`Paygent.report`: its arguments, what they limit and sort, and how errors name them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest

from paygent import BillingPeriod, InvalidValue, Paygent, PlanConfig, UsageRow, paygent_context
from paygent.client.api import reports
from paygent.client.runtime.settings import Settings
from paygent.core.period import to_us
from paygent.core.report_request import SpendRequest
from paygent.core.validation import FieldError
from paygent.failopen import diagnostics
from paygent.ledger.port import LedgerUnavailable
from paygent.store.tags import tag_days_of

Init = Callable[..., Paygent]

DOLLAR_NANO = 10**9
LONG = "x" * 256
TEXT_RULE = "must be a string of at most 255 characters"
TAG_RULE = "must be a string of at most 1000 characters"

USAGE = [
    # user, session, model, team, dollars, input tokens
    ("ann", "s1", "gpt-4o", "search", 1, 50),
    ("ann", "s2", "claude-sonnet-4-5", "chat", 2, 40),
    ("bob", "s3", "gpt-4o", "search", 4, 30),
    ("bob", "s3", "gpt-4o", None, 8, 20),
    ("cleo", "s4", None, "chat", 16, 0),
]


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.at = datetime(2026, 2, 20, 12, tzinfo=timezone.utc)

    def __call__(self) -> int:
        return to_us(self.at)


@pytest.fixture
def used(init: Init) -> Paygent:
    """A Paygent that has booked usage of three users; `bob` is on a plan of his own."""
    pg = init(auto_instrument=False, tag_keys=("team",))
    pg.configure_plan("pro", PlanConfig())
    pg.assign_plan("bob", "pro")
    for user_id, session_id, model, team, dollars, tokens in USAGE:
        metadata = {"team": team} if team else None
        with paygent_context(user_id, session_id=session_id, metadata=metadata):
            pg.record_event(model=model, cost=dollars, input_tokens=tokens)
    return pg


@pytest.mark.parametrize(
    ("arguments", "dollars"),
    [
        ({}, 31),
        ({"user_id": "ann"}, 3),
        ({"user_id": "nowhere"}, 0),
        ({"model": "gpt-4o"}, 13),
        ({"model": ""}, 16),
        ({"provider": ""}, 31),
        ({"plan": "pro"}, 12),
        ({"plan": "default", "user_id": "ann"}, 3),
        ({"session_id": "s3"}, 12),
        ({"session_id": "s3", "user_id": "ann"}, 0),
        ({"tags": {"team": "search"}}, 5),
        ({"tags": {"team": ""}}, 8),
        ({"tags": {}}, 31),
        ({"tags": {"team": "search"}, "user_id": "bob", "model": "gpt-4o"}, 4),
        ({"period": "current"}, 31),
        ({"period": "previous"}, 0),
        ({"start": date(2020, 1, 1), "end": "2020-01-02"}, 0),
    ],
)
@pytest.mark.parametrize("by", ["user", "session"])
def test_report__its_filters__limit_rows_and_total(
    used: Paygent, by: str, arguments: dict[str, Any], dollars: int
) -> None:
    """Each by the name of its argument, from the rollups and from the events."""
    report = used.report(by, **arguments)
    assert report.total.cost_nano == dollars * DOLLAR_NANO
    assert sum(row.cost_nano for row in report) == dollars * DOLLAR_NANO
    assert all(row.calls for row in report)


@pytest.mark.parametrize("by", ["user", "session"])
def test_report__of_a_provider__is_limited_to_its_calls(used: Paygent, by: str) -> None:
    """Manual entries have no provider."""
    usage = {"usage": {"prompt_tokens": 100, "completion_tokens": 20}}
    for provider, model in (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5")):
        used.wrap(lambda: usage, "ann", model, provider=provider)
    (row,) = used.report(by, provider="openai")
    assert (row.calls, row.input_tokens, row.cost_nano) == (1, 100, 450_000)
    total = used.report(by, provider="anthropic", model="gpt-4o").total
    assert total == UsageRow()


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        (None, ["cleo", "bob", "ann"]),
        ("-cost", ["cleo", "bob", "ann"]),
        ("cost", ["ann", "bob", "cleo"]),
        ("-input_tokens", ["ann", "bob", "cleo"]),
        ("input_tokens", ["cleo", "bob", "ann"]),
        ("-calls", ["ann", "bob", "cleo"]),  # equal ones by their key
        ("user", ["ann", "bob", "cleo"]),
    ],
)
def test_report__sort_and_limit__choose_the_first_rows(
    used: Paygent, sort: str | None, expected: list[str]
) -> None:
    """The total is of all rows, also of those that a limit leaves out."""
    assert [row.user_id for row in used.report(sort=sort)] == expected
    report = used.report(sort=sort, limit=2)
    assert [row.user_id for row in report] == expected[:2]
    assert (report.total.calls, report.total.cost_nano) == (5, 31 * DOLLAR_NANO)
    assert len(used.report(sort=sort, limit=5)) == 3


def test_report__of_a_period__is_the_users_billing_period_or_the_calendar_month(
    db_path: str,
) -> None:
    """The current and the previous one of a user, whose period begins on a day of its own."""
    clock = Clock()
    settings = Settings(db_path=db_path, auto_instrument=False)
    pg = Paygent.launch(settings, now_us=clock)
    begin = datetime(2026, 2, 10, tzinfo=timezone.utc)
    pg.assign_plan("ann", "default", BillingPeriod(begin, begin + timedelta(days=28)))
    for cost, number, day in ((1, 2, 20), (2, 2, 28), (16, 3, 5), (4, 3, 12)):
        clock.at = datetime(2026, number, day, 12, tzinfo=timezone.utc)
        pg.record_event("ann", cost=cost)
    spans = [
        pg.report(user_id=user_id, period=period).total.cost_nano // DOLLAR_NANO
        for user_id in ("ann", None)
        for period in ("current", "previous")
    ]
    assert spans == [4, 19, 20, 3]
    report = pg.report(user_id="ann", period="previous")
    assert (report.start, report.end) == (begin, begin + timedelta(days=28))
    month = pg.report(period="previous")
    assert (month.start.day, month.end.month) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "field", "rule"),
    [
        ({"user_id": LONG}, "user_id", TEXT_RULE),
        ({"user_id": 5}, "user_id", TEXT_RULE),
        ({"session_id": LONG}, "session_id", TEXT_RULE),
        ({"session_id": b"s1"}, "session_id", TEXT_RULE),
        ({"model": LONG}, "model", TEXT_RULE),
        ({"provider": 5}, "provider", TEXT_RULE),
        ({"plan": LONG}, "plan", TEXT_RULE),
        ({"tags": {"team": 4 * LONG}}, "tags.team", TAG_RULE),
        ({"tags": "team"}, "tags", "must be a dict with names as keys"),
        ({"tags": {5: "a"}}, "tags", "must have names (non-empty strings) as keys"),
        ({"period": "next"}, "period", "must be current or previous"),
        (
            {"period": "current", "start": date(2026, 1, 1)},
            "period",
            "takes the place of start and end",
        ),
        ({"limit": 0}, "limit", "must be a whole number from 1, or None"),
        ({"limit": True}, "limit", "must be a whole number from 1, or None"),
        ({"limit": "5"}, "limit", "must be a whole number from 1, or None"),
        ({"start": "2026-01-02", "end": "2026-01-02"}, "end", "must be after start"),
        (
            {"start": "2010-01-02", "end": "2026-01-02"},
            "end",
            "must be at most 10 years after start",
        ),
    ],
)
@pytest.mark.parametrize("is_disabled", [False, True], ids=["enabled", "disabled"])
def test_report__an_argument_that_breaks_a_rule__is_named_as_in_python(
    init: Init,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    field: str,
    rule: str,
    is_disabled: bool,
) -> None:
    """Also where the ledger refuses it, and the same while Paygent is disabled."""
    if is_disabled:
        monkeypatch.setenv("PAYGENT_DISABLED", "1")
    pg = init(auto_instrument=False, tag_keys=("team",))
    with pytest.raises(InvalidValue, match=r"^report: ") as raised:
        pg.report(**arguments)
    assert [(each.field, each.rule) for each in raised.value.findings] == [(field, rule)]


def test_report__a_sort_that_is_none__is_refused_with_those_that_are(init: Init) -> None:
    """Those depend on the keys."""
    with pytest.raises(InvalidValue) as raised:
        init(auto_instrument=False).report(("model", "day"), sort="user")
    figures = "cost, calls, input_tokens, output_tokens, cached_input_tokens"
    rule = f"must be one of {figures}, day, model; a - before it is descending"
    assert raised.value.findings == (FieldError("sort", "user", rule),)


def test_report__several_broken_rules__are_all_named(init: Init) -> None:
    """Those of the arguments together, in one error."""
    pg = init(auto_instrument=False)
    arguments: dict[str, Any] = {"user_id": 1, "session_id": 2, "tags": {"team": 3}, "limit": -1}
    with pytest.raises(InvalidValue) as raised:
        pg.report("colour", **arguments)
    assert {each.field: each.value for each in raised.value.findings} == {
        "by": "colour",
        "limit": -1,
        "session_id": 2,
        "tags": "team",
        "tags.team": 3,
        "user_id": 1,
    }


def test_report__refused_by_the_ledger__names_the_arguments(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend names the parameters of its query."""
    pg = init(auto_instrument=False)
    findings = tuple(FieldError(name, 1, "rule") for name in ("by", "user", "session", "model"))
    refused: Future[Any] = Future()
    refused.set_exception(InvalidValue("report", findings))
    monkeypatch.setattr(pg._parts.worker, "read", lambda reading: refused)
    with pytest.raises(InvalidValue) as raised:
        pg.report()
    fields = [each.field for each in raised.value.findings]
    assert fields == ["by", "user_id", "session_id", "model"]


def test_report__its_arguments__reach_the_ledger(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one request; the time is the process's."""
    pg = init(auto_instrument=False, tag_keys=("team",))
    seen: list[SpendRequest] = []

    class Ledger:
        """Keeps a request, and answers none."""

        def report(self, request: SpendRequest) -> None:
            """Keep it."""
            seen.append(request)
            raise LedgerUnavailable("enough")

    def read(reading: Callable[[Any], Any]) -> Any:
        return reading(Ledger())

    monkeypatch.setattr(pg._parts.worker, "read", read)
    with pytest.raises(LedgerUnavailable, match="enough"):
        pg.report(
            ["tag:team", "day"],
            start=date(2026, 1, 1),
            end="2026-02-01T00:00:00Z",
            user_id="ann",
            model="m",
            provider="p",
            plan="pro",
            session_id="s1",
            tags={"team": "search"},
            sort="-day",
            limit=7,
        )
    (request,) = seen
    assert request.now_us is not None
    assert request == SpendRequest(
        by=("tag:team", "day"),
        start=date(2026, 1, 1),
        end=to_us(datetime(2026, 2, 1, tzinfo=timezone.utc)),
        where={
            "user": "ann",
            "model": "m",
            "provider": "p",
            "plan": "pro",
            "session": "s1",
            "tag:team": "search",
        },
        sort="day",
        is_descending=True,
        rows_max=7,
        now_us=request.now_us,
    )


@pytest.mark.parametrize("by", ["user", ("session", "day"), "tag:team", "period"])
def test_report__while_disabled__is_empty_with_a_total_of_zero(
    init: Init, monkeypatch: pytest.MonkeyPatch, by: Any
) -> None:
    """It has a span and a time zone like any other; nothing is waited for."""
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    monkeypatch.setattr(reports, "REPORT_WAIT_S", 0.0)
    pg = init(tag_keys=("team",))
    pg.record_event("ann", cost=5)
    report = pg.report(by, user_id="ann", tags={"team": "search"}, period="current", limit=3)
    assert (report, report.total) == ((), UsageRow())
    assert report.by == ((by,) if isinstance(by, str) else by)
    assert (report.timezone, report.start.day) == ("UTC", 1)
    assert report.start <= report.as_of < report.end


def test_report__of_a_process_that_cannot_deliver__is_without_its_own_events(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of the others is still shown, and what is missing is logged once."""
    pg = init(auto_instrument=False)
    pg.record_event("ann", cost=1)
    assert pg.report().total.cost_nano == DOLLAR_NANO
    monkeypatch.setattr(pg._parts.worker, "flush", lambda *_, **__: False)
    for _ in range(2):
        assert pg.report().total.cost_nano == DOLLAR_NANO
    assert diagnostics.counts == {"report_incomplete": 2}


def test_report__after_shutdown_or_without_an_answer__is_unavailable(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end within a bounded time."""
    monkeypatch.setattr(reports, "REPORT_WAIT_S", 0.05)
    pg = init(auto_instrument=False)
    with monkeypatch.context() as patch:
        patch.setattr(pg._parts.worker, "read", lambda reading: Future())
        patch.setattr(pg._parts.worker, "flush", lambda *_, **__: True)
        with pytest.raises(LedgerUnavailable, match=r"did not answer in 0\.05 s"):
            pg.report()
    pg.shutdown()
    with pytest.raises(LedgerUnavailable, match="shut down"):
        pg.report()


def test_report__a_tag_that_is_not_declared__is_refused_with_those_that_are(init: Init) -> None:
    """As a key, and as a filter."""
    for declared, rule in (
        (("team",), "must be a tag that init(tag_keys=…) declares: team"),
        ((), "is no tag: declare metadata keys in init(tag_keys=…)"),
    ):
        pg = init(auto_instrument=False, tag_keys=declared)
        with pytest.raises(InvalidValue) as raised:
            pg.report("user,tag:color", tags={"shape": "round"})
        assert raised.value.findings == (
            FieldError("by", "user,tag:color", rule),
            FieldError("tags", "shape", rule),
        )
        pg.shutdown()


def test_tag_keys__of_init__are_the_products(init: Init) -> None:
    """The ledger sums them up from then on, for all processes; five of all that are declared."""
    first = init(auto_instrument=False, tag_keys=("team", "feature"))
    first.record_event("ann", cost=1)
    first.shutdown()
    pg = init(auto_instrument=False, tag_keys=("feature", "area"))
    pg.record_event("ann", cost=1)
    pg.flush()
    store = pg._parts.ledger._reader  # type: ignore[attr-defined]
    with store.engine.transaction("default") as sql:
        assert list(tag_days_of(sql.product())) == ["team", "feature", "area"]
