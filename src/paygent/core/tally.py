"""The definition of reports that count: calls that reached a gate, and how calls were metered.

*Gates*: warnings, refusals and calls that were refused, from gate events; and, from usage events,
calls that ran past a hard gate, with their cost: what enforcement would have stopped and saved.

*Quality*: how many calls have exact figures, and how many do not, as in reports of usage; and calls
that no adapter could meter, which have no event.

Both count whole days of the product's time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

from paygent.core.event import Event
from paygent.core.messages import GateEvent, UnmeteredCount
from paygent.core.period import day_in_zone
from paygent.core.report import TIME_KEYS, Cursor, Fact, Figures, SpendQuery, facts_of

TallyKind = Literal["gates", "quality"]

GATE_KEYS: Final = ("user", "reason", "day", "month")
QUALITY_KEYS: Final = ("model", "provider", "operation", "day", "month")
"""What the reports group by. An operation is that of unmetered calls; metered ones have none."""

FIGURES_OF: Final[Mapping[TallyKind, tuple[str, ...]]] = {
    "gates": ("soft", "hard", "refused_calls", "shadow_calls", "shadow_cost_nano"),
    "quality": ("calls", "exact", "partial", "estimated", "unpriced", "unmetered"),
}
"""The figures of each report, in order. `calls` are metered ones: the sum of exact, partial,
estimated and unpriced.
"""

_NANO = "_nano"

Counts = tuple[int, ...]
"""Figures of a report, in the order of `FIGURES_OF`."""

Tallies = dict[tuple[str, ...], Counts]
"""Figures by keys."""


class TallyRow(NamedTuple):
    """The figures of one group.

    Attributes:
        keys: The values of `SpendQuery.by`; "" is none.
        figures: In the order of `FIGURES_OF`.
    """

    keys: tuple[str, ...]
    figures: Counts


class TallyReport(NamedTuple):
    """A page of a report, and what it is about; see `SpendReport`.

    Attributes:
        kind: Which report.
        rows: In the order that was asked for.
        total: The sums over all rows, also those of other pages.
        following: Where the next page begins; None on the last one.
    """

    kind: TallyKind
    rows: tuple[TallyRow, ...]
    total: Counts
    following: Cursor | None
    query: SpendQuery
    timezone: str
    as_of_us: int


def sorts_of(kind: TallyKind) -> tuple[str, ...]:
    """Return the figures that the rows of a report can be sorted by."""
    return tuple([name.removesuffix(_NANO) for name in FIGURES_OF[kind]])


def sorted_figure(kind: TallyKind, sort: str) -> str | None:
    """Return the figure that a sort is about; None where it is about a key."""
    for name in FIGURES_OF[kind]:
        if name.removesuffix(_NANO) == sort:
            return name
    return None


def add(tallies: Tallies, keys: tuple[str, ...], figures: Iterable[int]) -> None:
    """Add figures to a group."""
    known = tallies.get(keys)
    added = tuple(figures)
    if known is not None:
        added = tuple([a + b for a, b in zip(known, added, strict=True)])
    tallies[keys] = added


def tally_page(
    kind: TallyKind, tallies: Tallies, query: SpendQuery, zone: str, now_us: int
) -> TallyReport:
    """Return a page of all groups of a report."""
    total: Tallies = {(): (0,) * len(FIGURES_OF[kind])}
    ranked = []
    for keys, figures in tallies.items():
        add(total, (), figures)
        cursor = Cursor(_rank(kind, query, keys, figures), *keys)
        if cursor > query.after:
            ranked.append((cursor, TallyRow(keys, figures)))
    ranked.sort()
    page = ranked if query.rows_max is None else ranked[: query.rows_max]
    following = page[-1][0] if page and len(page) < len(ranked) else None
    rows = tuple([row for _, row in page])
    return TallyReport(kind, rows, total[()], following, query, zone, now_us)


def _rank(kind: TallyKind, query: SpendQuery, keys: tuple[str, ...], figures: Counts) -> int:
    figure = sorted_figure(kind, query.sort)
    if figure is not None:
        rank = figures[FIGURES_OF[kind].index(figure)]
    elif query.sort in TIME_KEYS:
        rank = int(keys[query.by.index(query.sort)].replace("-", ""))
    else:
        return 0
    return -rank if query.is_descending else rank


# -- the folds


def fold_gates(
    gate_events: Iterable[GateEvent], events: Iterable[Event], query: SpendQuery, zone: str
) -> Tallies:
    """Return the groups of a report of gates.

    Args:
        gate_events: Those of the product, each id once.
        events: As the ledger has booked them, with all corrections among them.
        query: What is asked for.
        zone: The product's time zone, an IANA name.
    """
    tallies: Tallies = {}
    for each in gate_events:
        values = _gate_keys(each.user_id, each.gate_reason, each.at_us, zone)
        is_soft = each.status == "soft_gate"
        refused = each.calls if each.blocked else 0
        figures = (each.calls * is_soft, each.calls * (not is_soft), refused, 0, 0)
        _add_to(tallies, values, each.at_us, figures, query)
    for event in events:
        if event.blocked:
            values = _gate_keys(event.user_id, event.gate_reason, event.at_us, zone)
            figures = (0, 0, 0, event.calls, event.cost_nano)
            _add_to(tallies, values, event.at_us, figures, query)
    return tallies


def _gate_keys(user_id: str, reason: str, at_us: int, zone: str) -> dict[str, str]:
    day = day_in_zone(at_us, zone)
    return {"user": user_id, "reason": reason, "day": day, "month": day[:7]}


def fold_quality(
    events: Iterable[Event], counts: Iterable[UnmeteredCount], query: SpendQuery, zone: str
) -> Tallies:
    """Return the groups of a report of quality.

    Args:
        events: As for `fold_gates`.
        counts: Of unmetered calls, the last of each process, time, operation and model.
        query: What is asked for.
        zone: The product's time zone, an IANA name.
    """
    tallies: Tallies = {}
    for fact in facts_of(events, zone):
        _add_to(tallies, _quality_keys(fact), fact.at_us, metered_counts(fact.figures), query)
    for each in counts:
        day = day_in_zone(each.since_us, zone)
        values = unmetered_keys(each.model, each.operation, day)
        _add_to(tallies, values, each.since_us, unmetered_counts(each.calls), query)
    return tallies


def _quality_keys(fact: Fact) -> dict[str, str]:
    names = [name for name in QUALITY_KEYS if name != "operation"]
    return {"operation": "", **{name: fact.key(name) for name in names}}


def unmetered_keys(model: str, operation: str, day: str) -> dict[str, str]:
    """Return the value of each key for unmetered calls; their provider is not known."""
    values = {"model": model, "provider": "", "operation": operation}
    return {**values, "day": day, "month": day[:7]}


def metered_counts(figures: Figures) -> Counts:
    """Return the figures of a report of quality of a group in a report of usage."""
    return (
        figures.calls,
        figures.calls - figures.doubtful_calls,
        figures.partial_calls,
        figures.estimated_calls,
        figures.unpriced_calls,
        0,
    )


def unmetered_counts(calls: int) -> Counts:
    """Return the figures of unmetered calls."""
    return (0, 0, 0, 0, 0, calls)


def _add_to(
    tallies: Tallies,
    values: Mapping[str, str],
    at_us: int,
    figures: Counts,
    query: SpendQuery,
) -> None:
    """Add figures to the group with these keys, unless the query leaves it out."""
    if query.start_us <= at_us < query.end_us and all(
        values[name] == value for name, value in query.where.items()
    ):
        add(tallies, tuple([values[name] for name in query.by]), figures)
