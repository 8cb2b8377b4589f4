"""The comparison of a provider's usage or cost export with Paygent's own figures.

Both sides are sums by UTC day and model. The provider's rows are folded first, one at a time, so
that an export of any length takes the memory of its days and models; they also decide which figures
can be compared. An API key is a breakdown of the provider's side alone: Paygent stores no provider
keys.

Counts and nano-dollars are integers, and ratios are exact; nothing here is a float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, NamedTuple

from paygent.core.report import Figures

METRICS: Final = ("cost_nano", "input_tokens", "output_tokens", "cached_input_tokens", "calls")
"""What is compared, as far as an export has it: names of `Figures` and `ProviderRow`."""

FLOORS: Final[Mapping[str, int]] = {
    "cost_nano": 10_000_000,
    "input_tokens": 100,
    "output_tokens": 100,
    "cached_input_tokens": 100,
    "calls": 0,
}
"""Differences up to these are explained, whatever their ratio: a cent, 100 tokens, no call."""

TOLERANCE_PPM: Final = 5_000
"""Half a per cent, in parts per million of the provider's figure."""

_PPM = 10**6

CellKey = tuple[str | None, str | None]
"""Day and model; None is all of them, and "" is usage without a model."""


class ProviderRow(NamedTuple):
    """One row of an export. A figure that the export does not have is None.

    Attributes:
        day: The UTC day, ISO 8601.
        model: As the provider names it; "" for usage of no model, None if it is not named.
        key: The API key or project; "" if it is not named.
        cost_rounding_nano: How far the provider may have rounded the cost.
    """

    day: str
    model: str | None = None
    key: str = ""
    cost_nano: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int | None = None
    calls: int | None = None
    cost_rounding_nano: int = 0


class Amounts(NamedTuple):
    """Sums of the provider's figures; one that is not compared may be incomplete.

    Attributes:
        cost_rounding_nano: By how much rounding may have changed the cost.
    """

    cost_nano: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    calls: int = 0
    cost_rounding_nano: int = 0

    def plus(self, other: Amounts) -> Amounts:
        """Return the sums of both."""
        return Amounts(*[a + b for a, b in zip(self, other, strict=True)])


@dataclass(frozen=True)
class ProviderUsage:
    """The provider's side.

    Attributes:
        days: The first and the last day, both included; None without any row.
        metrics: Those of `METRICS` that every row with figures has.
        has_models: Whether any row names its model; otherwise days are compared as a whole.
        cells: Sums by day and model.
        keys: Sums by API key or project.
    """

    days: tuple[str, str] | None
    metrics: tuple[str, ...]
    has_models: bool
    cells: Mapping[CellKey, Amounts]
    keys: Mapping[str, Amounts]


class OurRow(NamedTuple):
    """Paygent's figures of a UTC day and a model; "" is no model."""

    day: str
    model: str
    figures: Figures


class Comparison(NamedTuple):
    """Both sides of a day and a model.

    Attributes:
        day: The UTC day; None for all days.
        model: The canonical name, "" without a model; None for all models.
        ours: Paygent's figures.
        theirs: The provider's.
        unexplained: The metrics that differ by more than the tolerance.
    """

    day: str | None
    model: str | None
    ours: Figures
    theirs: Amounts
    unexplained: tuple[str, ...] = ()

    def difference(self, metric: str) -> int:
        """Return Paygent's figure less the provider's; negative if Paygent has less."""
        ours: int = getattr(self.ours, metric)
        theirs: int = getattr(self.theirs, metric)
        return ours - theirs

    def coverage_ppm(self, metric: str) -> int | None:
        """Return Paygent's figure in parts per million of the provider's; None if that is 0.

        The ratio is rounded away from equality: 1,000,000 means that both figures are the same.
        """
        ours: int = getattr(self.ours, metric)
        theirs: int = getattr(self.theirs, metric)
        if theirs == 0:
            return None
        return ours * _PPM // theirs if ours < theirs else -(-ours * _PPM // theirs)


@dataclass(frozen=True)
class Reconciliation:
    """The result of a comparison.

    Attributes:
        metrics: What was compared, the most telling one first.
        tolerance_ppm: In parts per million of the provider's figure.
        cells: Every day and model, sorted.
        by_day, by_model: Their sums.
        total: The sum of all.
        unexplained: What differs by more than the tolerance, the largest part of the total first.
            A model without such a day is listed for all days if its sum differs.
        keys: The provider's figures by API key or project, largest first; empty if the export
            names none.
    """

    metrics: tuple[str, ...]
    tolerance_ppm: int
    cells: tuple[Comparison, ...]
    by_day: tuple[Comparison, ...]
    by_model: tuple[Comparison, ...]
    total: Comparison
    unexplained: tuple[Comparison, ...]
    keys: tuple[tuple[str, Amounts], ...]


def fold_provider(
    rows: Iterable[ProviderRow],
    canonical: Callable[[str], str],
    *,
    start: str = "",
    end: str = "",
) -> ProviderUsage:
    """Return the sums of an export.

    Args:
        rows: Its rows, read one by one. A row without any figure states that its day is covered.
        canonical: Returns the name under which Paygent counts a model.
        start: The first day, ISO 8601; rows before it are left out.
        end: The day after the last one; rows from it on are left out. "" is no bound.
    """
    metrics, has_models = set(METRICS), False
    days: list[str] = []  # the first and the last one
    cells: dict[CellKey, Amounts] = {}
    keys: dict[str, Amounts] = {}
    for row in rows:
        if row.day < start or (end and row.day >= end):
            continue
        days = [min([row.day, *days]), max([row.day, *days])]
        present = {name for name in METRICS if getattr(row, name) is not None}
        if not present:
            continue
        metrics &= present
        has_models = has_models or row.model is not None
        amounts = Amounts(
            row.cost_nano or 0,
            row.input_tokens or 0,
            row.output_tokens or 0,
            row.cached_input_tokens or 0,
            row.calls or 0,
            row.cost_rounding_nano,
        )
        place = (row.day, canonical(row.model) if row.model else row.model)
        cells[place] = cells.get(place, Amounts()).plus(amounts)
        keys[row.key] = keys.get(row.key, Amounts()).plus(amounts)
    if has_models:  # rows without a model are of no model there, such as searches
        cells = _summed(cells, lambda day, model: (day, model or ""))
    return ProviderUsage(
        days=(days[0], days[1]) if days else None,
        metrics=tuple(name for name in METRICS if cells and name in metrics),
        has_models=has_models,
        cells=cells,
        keys=keys,
    )


def _summed(
    cells: Mapping[CellKey, Amounts], place_of: Callable[[str | None, str | None], CellKey]
) -> dict[CellKey, Amounts]:
    """Return the sums of cells that have one place."""
    sums: dict[CellKey, Amounts] = {}
    for place, amounts in cells.items():
        other = place_of(*place)
        sums[other] = sums.get(other, Amounts()).plus(amounts)
    return sums


def reconcile(
    theirs: ProviderUsage, ours: Iterable[OurRow], tolerance_ppm: int = TOLERANCE_PPM
) -> Reconciliation:
    """Compare both sides.

    Args:
        theirs: The provider's side.
        ours: Paygent's, of the same days; rows of one day and model are added up.
        tolerance_ppm: A difference above this part of the provider's figure is unexplained, if it
            is also above `FLOORS` and above what the provider may have rounded.
    """
    own: dict[CellKey, Figures] = {}
    for row in ours:
        place = (row.day, row.model if theirs.has_models else None)
        own[place] = own.get(place, Figures()).plus(row.figures)
    judge = _Judge(theirs.metrics, tolerance_ppm)
    cells = judge.compare(own, theirs.cells, lambda day, model: (day, model))
    by_model = judge.compare(own, theirs.cells, lambda _, model: (None, model))
    total = judge.one((None, None), own, theirs.cells)
    listed = [cell for cell in cells if cell.unexplained]
    # Many small differences may add up to a large one.
    with_days = {cell.model for cell in listed}
    listed += [each for each in by_model if each.unexplained and each.model not in with_days]
    listed.sort(key=lambda each: (-_weight(each, total), each.day or "", each.model or ""))
    names = sorted(theirs.keys, key=lambda key: (_rank(theirs.keys[key], theirs.metrics), key))
    return Reconciliation(
        metrics=theirs.metrics,
        tolerance_ppm=tolerance_ppm,
        cells=cells,
        by_day=judge.compare(own, theirs.cells, lambda day, _: (day, None)),
        by_model=by_model,
        total=total,
        unexplained=tuple(listed),
        keys=tuple((key, theirs.keys[key]) for key in names) if any(names) else (),
    )


class _Judge(NamedTuple):
    """Compares sums."""

    metrics: tuple[str, ...]
    tolerance_ppm: int

    def compare(
        self,
        own: Mapping[CellKey, Figures],
        theirs: Mapping[CellKey, Amounts],
        place_of: Callable[[str | None, str | None], CellKey],
    ) -> tuple[Comparison, ...]:
        """Compare the sums of both sides by place, sorted."""
        groups: dict[CellKey, tuple[dict[CellKey, Figures], dict[CellKey, Amounts]]] = {}
        for place, figures in own.items():
            groups.setdefault(place_of(*place), ({}, {}))[0][place] = figures
        for place, amounts in theirs.items():
            groups.setdefault(place_of(*place), ({}, {}))[1][place] = amounts
        order = sorted(groups, key=lambda place: (place[0] or "", place[1] or ""))
        return tuple(self.one(place, *groups[place]) for place in order)

    def one(
        self, place: CellKey, own: Mapping[CellKey, Figures], theirs: Mapping[CellKey, Amounts]
    ) -> Comparison:
        """Compare the sums of all that is given."""
        ours, others = Figures(), Amounts()
        for figures in own.values():
            ours = ours.plus(figures)
        for amounts in theirs.values():
            others = others.plus(amounts)
        compared = Comparison(*place, ours, others)
        above = [metric for metric in self.metrics if self._is_unexplained(compared, metric)]
        return compared._replace(unexplained=tuple(above))

    def _is_unexplained(self, compared: Comparison, metric: str) -> bool:
        difference = abs(compared.difference(metric))
        rounding = compared.theirs.cost_rounding_nano if metric == "cost_nano" else 0
        if difference <= FLOORS[metric] + rounding:
            return False
        theirs: int = getattr(compared.theirs, metric)
        return difference * _PPM > theirs * self.tolerance_ppm


def _weight(compared: Comparison, total: Comparison) -> Fraction:
    """Return the largest part that an unexplained difference is of its total."""
    return max(
        Fraction(
            abs(compared.difference(metric)),
            max(getattr(total.ours, metric), getattr(total.theirs, metric), 1),
        )
        for metric in compared.unexplained
    )


def _rank(amounts: Amounts, metrics: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(-getattr(amounts, metric) for metric in metrics)
