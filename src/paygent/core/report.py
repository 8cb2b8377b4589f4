"""The definition of reports: usage and cost by up to two keys, as a fold over events.

Every surface answers with these figures. The store computes them from rollups, which are the same
sums kept up to date, and from the events themselves where the rollups do not hold what is asked;
property tests compare both with the fold.

An event counts on the day on which its call began, in the product's time zone. A call is
*partial*, *estimated* or *unpriced* while neither its own figures nor those of a correction are
exact; a correction is no call, and adds its differences where its original counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any, Final, NamedTuple

from paygent.core.event import Event
from paygent.core.period import day_in_zone

TAG = "tag:"
"""Prefix of the key that stands for the value of a metadata key."""

KEYS: Final = ("user", "model", "provider", "plan", "session", "day", "month", "period")
"""What a report groups by, besides `tag:KEY`."""

TIME_KEYS: Final = ("day", "month", "period")
"""Those that are sorted by time unless something else is asked for."""

FIGURE_SORTS: Final[Mapping[str, str]] = {
    "cost": "cost_nano",
    "calls": "calls",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cached_input_tokens",
}
"""Name of a sort -> the figure."""

_RANK_MIN = -(2**63)


class Figures(NamedTuple):
    """Sums of events.

    Attributes:
        calls: Number of calls; a correction is none.
        input_tokens, output_tokens: Inclusive totals, after corrections.
        cached_input_tokens: The part of the input that was read from a cache.
        cost_nano: In nano-dollars, after corrections.
        partial_calls, estimated_calls, unpriced_calls: Calls without exact figures, by quality.
        shadow_calls: Calls that ran past a hard gate: in shadow mode (`PlanConfig.enforce`), or
            with `raise_on_hard_gate=False`.
        shadow_cost_nano: Their part of the cost: what enforcement would have saved.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cost_nano: int = 0
    partial_calls: int = 0
    estimated_calls: int = 0
    unpriced_calls: int = 0
    shadow_calls: int = 0
    shadow_cost_nano: int = 0

    @property
    def doubtful_calls(self) -> int:
        """Calls without exact figures."""
        return self.partial_calls + self.estimated_calls + self.unpriced_calls

    def plus(self, other: Iterable[int]) -> Figures:
        """Return the sums of both."""
        return Figures(*[a + b for a, b in zip(self, other, strict=True)])


class Fact(NamedTuple):
    """What one event adds to reports.

    Attributes:
        day: Its day in the product's time zone, ISO 8601.
        at_us: When its call began.
        model: The canonical name; "" without a model.
        metadata: The context's metadata, as it was sent; that of its original for a correction.
        figures: What is added.
    """

    day: str
    at_us: int
    user_id: str
    session_id: str
    period_start_us: int
    model: str
    provider: str
    plan: str
    metadata: Mapping[str, Any] | None
    figures: Figures

    def key(self, name: str) -> str:
        """Return the value of a key; "" is none."""
        if name.startswith(TAG):
            return tag_of(self.metadata or {}, name)
        return _KEY_OF[name](self)


_KEY_OF: Final[Mapping[str, Callable[[Fact], str]]] = {
    "user": lambda fact: fact.user_id,
    "model": lambda fact: fact.model,
    "provider": lambda fact: fact.provider,
    "plan": lambda fact: fact.plan,
    "session": lambda fact: fact.session_id,
    "day": lambda fact: fact.day,
    "month": lambda fact: fact.day[:7],
    "period": lambda fact: str(fact.period_start_us),
}


def tag_of(metadata: Mapping[str, Any], name: str) -> str:
    """Return the value of a tag as reports show it; "" is none.

    Args:
        metadata: Of an event.
        name: `tag:KEY`.
    """
    value = metadata.get(name[len(TAG) :])
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


class Cursor(NamedTuple):
    """The place of a row in the order of a report; a page begins after one."""

    rank: int
    first: str = ""
    second: str = ""


START: Final = Cursor(_RANK_MIN)
"""Before every row."""


@dataclass(frozen=True)
class SpendQuery:
    """What a report of usage and cost is asked for.

    Attributes:
        by: One or two keys; none is the total alone.
        start_us, end_us: Half-open span of time, in microseconds since 1970 UTC.
        where: The value that a key must have, by the name of the key.
        sort: A name of `FIGURE_SORTS`, or one of `by`.
        is_descending: Whether the greatest is first. Keys that are no times are sorted ascending.
        rows_max: Rows of a page; None is all.
        after: Where the page begins.
    """

    by: tuple[str, ...]
    start_us: int
    end_us: int
    where: Mapping[str, str] = field(default_factory=dict)
    sort: str = "cost"
    is_descending: bool = True
    rows_max: int | None = None
    after: Cursor = START

    @property
    def is_by_time(self) -> bool:
        """Whether rows are sorted by a day, month or period."""
        return self.sort in TIME_KEYS

    def rank(self, keys: tuple[str, ...], figures: Figures) -> int:
        """Return the number that rows are sorted by, ascending; keys decide between equal ones."""
        if self.sort in FIGURE_SORTS:
            rank: int = getattr(figures, FIGURE_SORTS[self.sort])
        elif self.is_by_time:
            rank = int(keys[self.by.index(self.sort)].replace("-", ""))
        else:
            return 0
        return -rank if self.is_descending else rank


class SpendRow(NamedTuple):
    """The sums of one group.

    Attributes:
        keys: The values of `SpendQuery.by`, as text: days and months in ISO 8601, a period as the
            microsecond of its start; "" is none.
        figures: The sums.
    """

    keys: tuple[str, ...]
    figures: Figures


class SpendPage(NamedTuple):
    """A page of a report.

    Attributes:
        rows: In the order that was asked for.
        total: The sums over all rows, also those of other pages.
        following: Where the next page begins; None on the last one.
    """

    rows: tuple[SpendRow, ...]
    total: Figures
    following: Cursor | None


class SpendReport(NamedTuple):
    """A page of a report, and what it is about.

    Attributes:
        page: The rows and the total.
        query: What was asked for, with the span of time.
        timezone: The product's, in which days and months begin.
        as_of_us: The ledger's time.
    """

    page: SpendPage
    query: SpendQuery
    timezone: str
    as_of_us: int


Groups = dict[tuple[str, ...], Figures]
"""Sums by keys."""


def facts_of(events: Iterable[Event], zone: str) -> Iterator[Fact]:
    """Yield what events add to reports.

    Args:
        events: As the ledger has booked them, with all corrections among them.
        zone: The product's time zone, an IANA name.
    """
    booked = list(events)
    exact = {
        (event.user_id, event.corrects)
        for event in booked
        if event.corrects is not None and event.quality == "exact"
    }
    # A correction that came before its original is at its own place, with its own tags.
    metadata = {
        (event.user_id, event.event_id, event.at_us): event.metadata
        for event in booked
        if event.corrects is None
    }
    for event in booked:
        is_doubtful = event.calls and (event.user_id, event.event_id) not in exact
        quality = event.quality if is_doubtful else "exact"
        yield Fact(
            day=day_in_zone(event.at_us, zone),
            at_us=event.at_us,
            user_id=event.user_id,
            session_id=event.session_id,
            period_start_us=event.period_start_us,
            model=event.model_key,
            provider=event.provider,
            plan=event.plan,
            metadata=metadata.get(
                (event.user_id, event.corrects or "", event.at_us), event.metadata
            ),
            figures=Figures(
                calls=event.calls,
                input_tokens=event.input_tokens,
                output_tokens=event.output_tokens,
                cached_input_tokens=event.cached_input_tokens,
                cost_nano=event.cost_nano,
                partial_calls=int(quality == "partial"),
                estimated_calls=int(quality == "estimated"),
                unpriced_calls=int(quality == "unpriced"),
                shadow_calls=event.calls if event.blocked else 0,
                shadow_cost_nano=event.cost_nano if event.blocked else 0,
            ),
        )


def group_facts(facts: Iterable[Fact], query: SpendQuery) -> Groups:
    """Return the sums of facts by keys, without those of another span of time, or that a filter
    leaves out.
    """
    groups: Groups = {}
    for fact in facts:
        if not query.start_us <= fact.at_us < query.end_us:
            continue
        if any(fact.key(name) != value for name, value in query.where.items()):
            continue
        keys = tuple([fact.key(name) for name in query.by])
        known = groups.get(keys)
        groups[keys] = fact.figures if known is None else known.plus(fact.figures)
    return groups


def page_of(groups: Groups, query: SpendQuery) -> SpendPage:
    """Return a page of groups, and the total of all."""
    total = Figures(*map(sum, zip(*groups.values(), strict=True)))
    # Plain tuples in the form of a cursor: there may be a group for each user.
    after = tuple(query.after)
    missing = ("",) * (2 - len(query.by))
    ranked: list[tuple[Any, ...]] = [
        place
        for keys, figures in groups.items()
        if (place := (query.rank(keys, figures), *keys, *missing)) > after
    ]
    rows_max = query.rows_max
    page = sorted(ranked) if rows_max is None else nsmallest(rows_max, ranked)
    found = [place[1 : 1 + len(query.by)] for place in page]
    following = Cursor(*page[-1]) if page and len(page) < len(ranked) else None
    return SpendPage(tuple([SpendRow(keys, groups[keys]) for keys in found]), total, following)


def fold_spend(events: Iterable[Event], query: SpendQuery, zone: str) -> SpendPage:
    """Return a report over events: what every other way to it must return."""
    return page_of(group_facts(facts_of(events, zone), query), query)
