"""Reports of usage and cost: what each question takes, with the usage of a product stored.

Databases of both engines are filled by `dataset.load`. Each question is asked over and over, those
about a user for another user each time, by one reader that nothing competes with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

from tests.bench.backend import PRODUCT, databases
from tests.bench.dataset import MODELS, PLANS, Dataset, Size, load, progress_of
from tests.bench.figures import percentile

from paygent.core.limit import Limit
from paygent.core.plan import PlanConfig
from paygent.core.report_request import SpendRequest, read_request
from paygent.core.report_table import RULES_OF, TableKind
from paygent.core.validation import InvalidValue
from paygent.store.factory import open_store
from paygent.store.ledger import SqlStore

ONE_MS = 50.0
"""Budget for a user, a session or a day of the product: p95, in milliseconds."""

POPULATION_MS = 300.0
"""Budget for what is about all users."""

REPLAY_MS = 5_000.0
"""Budget for a replay of a plan edit, which compares all billing periods, or days, of all users."""

_ROUNDS = 200
_ROUNDS_S = 3.0  # after which a question is asked no more, but at least five times
_ROUNDS_MIN = 5
_PAGE = 100
_USERS_ASKED = 50
_PLAN = next(iter(PLANS))
_MB = 1_000_000


class Question(NamedTuple):
    """A question to measure.

    Attributes:
        name: What it is.
        budget_ms: p95.
        requests: Asked in turns.
        kind: Which report.
    """

    name: str
    budget_ms: float
    requests: Sequence[SpendRequest]
    kind: Literal["spend", "margin", "gates", "quality"] = "spend"

    def ask(self, store: SqlStore, request: SpendRequest) -> int:
        """Ask once; return the number of rows."""
        if self.kind == "spend":
            return len(store.spend(PRODUCT, request).page.rows)
        if self.kind == "margin":
            return len(store.margin(PRODUCT, request).page.rows)
        return len(store.tally(PRODUCT, self.kind, request).rows)


class Span(NamedTuple):
    """Days of the dataset, the last one not included, as the arguments of a report."""

    start: date
    end: date

    def about(self, by: str, *, rows_max: int | None = None, **where: Any) -> SpendRequest:
        """Return a request for this span."""
        return read_request(
            {"by": by, "start": self.start, "end": self.end, **where}, rows_max=rows_max
        )


class Spans(NamedTuple):
    """The spans of time that are asked for.

    Attributes:
        month: The last one that is over.
        current: The one that is not, until today.
        crossing: Thirty days around the end of `month`.
        day: A working day of `month`.
        whole: All days.
    """

    month: Span
    current: Span
    crossing: Span
    day: Span
    whole: Span


def spans_of(dataset: Dataset) -> Spans:
    """Return the spans of a dataset of at least two months."""
    last = dataset.size.last
    current = last.replace(day=1)
    month = (current - timedelta(days=1)).replace(day=1)
    workday = next(
        day for day in (month + timedelta(days=each) for each in range(9, 16)) if day.weekday() == 1
    )
    crossing = current - timedelta(days=21)
    return Spans(
        Span(month, current),
        Span(current, last + timedelta(days=1)),
        Span(crossing, crossing + timedelta(days=30)),
        Span(workday, workday + timedelta(days=1)),
        Span(dataset.days[0], last + timedelta(days=1)),
    )


def reports(calls: Sequence[int], engines: Sequence[str] = ("SQLite", "PostgreSQL")) -> None:
    """Measure each engine at each size, given in calls."""
    for count in calls:
        dataset = Dataset(Size(calls=count))
        with databases() as found:
            for name, url, _ in found:
                if name in engines:
                    print(f"{name}, reports, {count:,} calls of {dataset.size.users:,} users")
                    _measure(url, dataset)


def fill(url: str, dataset: Dataset) -> None:
    """Load a dataset into an empty database, and leave it as it is after some minutes of rest."""
    store = open_store(url, now_us=lambda: dataset.now_us)
    try:
        with progress_of("loading", dataset.size.calls) as progress:
            started = time.perf_counter()
            load(store, PRODUCT, dataset, progress)
            seconds = time.perf_counter() - started
    finally:
        store.close()
    _maintain(url)
    print(f"  loaded in {seconds:.0f} s, {dataset.size.calls / seconds:,.0f} events/s")


def _measure(url: str, dataset: Dataset) -> None:
    fill(url, dataset)
    store = open_store(url, now_us=lambda: dataset.now_us)
    try:
        rows = _rows_in_tables(store)
        print("  rows: " + ", ".join(f"{name} {count:,}" for name, count in rows.items()))
        for question in _questions(store, spans_of(dataset)):
            _ask(store, question)
        replay(store, spans_of(dataset).whole)
    finally:
        store.close()
    _measure_stream(url, dataset)


def _maintain(url: str) -> None:
    """Do what PostgreSQL does by itself within minutes."""
    if url.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")


def _rows_in_tables(store: SqlStore) -> dict[str, int]:
    with store.engine.transaction(PRODUCT) as sql:
        return {
            table: sql.connection.execute(f"SELECT COUNT(*) AS rows FROM {table}").fetchone()[
                "rows"
            ]
            for table in ("events", "rollup_user", "rollup_product", "sessions")
        }


# -- the questions


def _questions(store: SqlStore, spans: Spans) -> list[Question]:
    month, current = spans.month, spans.current
    ranked = _users(store, month)
    users = Random(1).sample(ranked, min(_USERS_ASKED, len(ranked)))
    busiest = ranked[0]
    sessions = [(user_id, _session(store, user_id, month)) for user_id in users]
    of_day = _session(store, _users(store, spans.day)[0], spans.day)
    top = current.about("user", rows_max=_PAGE)
    margins = _of_kind("margin", "user", current)
    return [
        Question("user by model, a month", ONE_MS, [month.about("model", user=u) for u in users]),
        Question("user by day, a month", ONE_MS, [month.about("day", user=u) for u in users]),
        Question("busiest user by model, a month", ONE_MS, [month.about("model", user=busiest)]),
        Question("busiest user by day, 90 days", ONE_MS, [spans.whole.about("day", user=busiest)]),
        Question(
            "session of a user, a month",
            ONE_MS,
            [month.about("session", user=user, session=session) for user, session in sessions],
        ),
        Question("session by its id, a day", ONE_MS, [spans.day.about("model", session=of_day)]),
        Question("product by model, a day", ONE_MS, [spans.day.about("model")]),
        Question("product by day and model, 90 days", ONE_MS, [spans.whole.about("day,model")]),
        Question("users by cost, this month, first 100", POPULATION_MS, [top]),
        Question("  page 50", POPULATION_MS, _page_of(store, top, 50)),
        Question(
            "users by cost, 30 days of two months",
            POPULATION_MS,
            [spans.crossing.about("user", rows_max=_PAGE)],
        ),
        Question("users by cost, a month", POPULATION_MS, [month.about("user", rows_max=_PAGE)]),
        Question(
            "user and model, a month", POPULATION_MS, [month.about("user,model", rows_max=_PAGE)]
        ),
        Question("plans, a month", POPULATION_MS, [month.about("plan")]),
        Question("tag, 90 days", ONE_MS, [spans.whole.about("tag:team")]),
        Question(
            "tag and user, a day", POPULATION_MS, [spans.day.about("tag:team,user", rows_max=_PAGE)]
        ),
        Question("margins, this month, the worst 100", POPULATION_MS, [margins], "margin"),
        *(
            Question(f"gates, {name}", budget, [_of_kind("gates", by, span, **where)], "gates")
            for name, by, budget, span, where in (
                ("a user by reason, a month", "reason", ONE_MS, month, {"user": busiest}),
                ("by day, 90 days", "day", POPULATION_MS, spans.whole, {}),
                ("users, a month", "user", POPULATION_MS, month, {}),
                ("users and reasons, 90 days", "user,reason", POPULATION_MS, spans.whole, {}),
            )
        ),
        *(
            Question(
                f"quality, {by}, 90 days", ONE_MS, [_of_kind("quality", by, spans.whole)], "quality"
            )
            for by in ("model", "day")
        ),
    ]


def _of_kind(kind: TableKind, by: str, span: Span, **where: Any) -> SpendRequest:
    given = {"by": by, "start": span.start, "end": span.end, **where}
    return read_request(given, rules=RULES_OF[kind], rows_max=_PAGE)


def _users(store: SqlStore, span: Span) -> list[str]:
    """Return users with usage, the one with the most calls first."""
    request = read_request({"by": "user", "start": span.start, "end": span.end, "sort": "-calls"})
    return [row.keys[0] for row in store.spend(PRODUCT, request).page.rows]


def _session(store: SqlStore, user_id: str, span: Span) -> str:
    page = store.spend(PRODUCT, span.about("session", user=user_id)).page
    return page.rows[0].keys[0]


def _page_of(store: SqlStore, request: SpendRequest, number: int) -> list[SpendRequest]:
    """Return the request for a later page, without reading those before it one by one; none if
    there are fewer.
    """
    rows_max = (number - 1) * _PAGE
    following = store.spend(PRODUCT, replace(request, rows_max=rows_max)).page.following
    return [] if following is None else [replace(request, after=following)]


def _ask(store: SqlStore, question: Question) -> None:
    """Print p50 and p95 of a question, or that it is refused."""
    if not question.requests:
        print(f"  {question.name:<40} not in so small a dataset")
        return
    try:
        rows = question.ask(store, question.requests[0])  # the first one also warms up
    except InvalidValue as error:
        print(f"  {question.name:<40} refused: {error}")
        return
    requests = cycle(question.requests)
    readings = _times(lambda: question.ask(store, next(requests)))
    _show(question.name, readings, question.budget_ms, f"{rows:>5,} rows")


def replay(store: SqlStore, span: Span) -> None:
    """Print p50 and p95 of replays of edits of the plan with the most users."""
    tokens = {model.key: 200_000 for model in MODELS}
    for name, plan in (
        ("a cap per period", PlanConfig(max_spend_per_period=1)),
        ("caps per period, also by model", PlanConfig(max_spend_per_period=1, model_limits=tokens)),
        ("a cap per day", PlanConfig(limits=(Limit(window="day", cap="0.1"),))),
        (
            "caps per day and period",
            PlanConfig(
                max_spend_per_period=5,
                model_limits=tokens,
                limits=(Limit(window="day", cap=1),),
            ),
        ),
    ):
        report = store.replay(PRODUCT, _PLAN, plan, *span, _PAGE)

        def ask(plan: PlanConfig = plan) -> None:
            store.replay(PRODUCT, _PLAN, plan, *span, _PAGE)

        found = f"{report.stopped_users:,} of {report.totals.users:,} users stopped"
        _show(f"replay, {name}", _times(ask), REPLAY_MS, found)


def _show(name: str, readings: list[int], budget_ms: float, found: str) -> None:
    p50, p95 = (percentile(readings, share) / 1_000 for share in (0.5, 0.95))
    verdict = "" if p95 <= budget_ms else "  MISSED"
    print(
        f"  {name:<40} p50 {p50:8.1f} ms   p95 {p95:8.1f} ms   ≤ {budget_ms:.0f} ms"
        f"   {found}{verdict}",
        flush=True,
    )


def _times(action: Callable[[], object]) -> list[int]:
    readings: list[int] = []
    end = time.perf_counter() + _ROUNDS_S
    while len(readings) < _ROUNDS and (len(readings) < _ROUNDS_MIN or time.perf_counter() < end):
        started = time.perf_counter_ns()
        action()
        readings.append(time.perf_counter_ns() - started)
    return readings


# -- all rows of a report, in a process of its own


def _measure_stream(url: str, dataset: Dataset) -> None:
    whole = spans_of(dataset).whole
    arguments = [url, whole.start.isoformat(), whole.end.isoformat(), str(dataset.now_us)]
    output = subprocess.run(
        [sys.executable, "-m", "tests.bench.reports", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(output.stdout)
    print(
        f"  export by day, user and model, 90 days: {found['rows']:,} rows in"
        f" {found['seconds']:.1f} s; memory {found['before_mb']:.0f} MB before,"
        f" {found['peak_mb']:.0f} MB at most (≤ 64 more)"
    )


def stream(url: str, start: str, end: str, now_us: str) -> dict[str, Any]:
    """Read all rows by day, user, model and provider; return how many, the time and the memory."""
    store = open_store(url, now_us=lambda: int(now_us))
    span = Span(date.fromisoformat(start), date.fromisoformat(end))
    store.spend(PRODUCT, span.about("plan"))  # connects
    before_mb = _peak_mb()
    started = time.perf_counter()
    rows = sum(1 for _ in store.daily_rows(PRODUCT, span.about("user")))
    seconds = time.perf_counter() - started
    store.close()
    return {"rows": rows, "seconds": seconds, "before_mb": before_mb, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """Return the most memory that this process has had. `ru_maxrss` would be that of the process
    that started it, where that is more.
    """
    status = Path("/proc/self/status").read_text()
    line = next(each for each in status.splitlines() if each.startswith("VmHWM:"))
    return int(line.split()[1]) * 1_024 / _MB


if __name__ == "__main__":
    print(json.dumps(stream(*sys.argv[1:5])))
