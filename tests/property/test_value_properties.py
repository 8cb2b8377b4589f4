"""Public values, for any amounts: field and exact twin stay in step through a copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.money import CAP_NANO_MAX, to_usd
from paygent.core.value import Value, exact_usd

AMOUNTS_NANO = st.integers(-CAP_NANO_MAX, CAP_NANO_MAX)


@dataclass(frozen=True)
class Figures(Value):
    """One amount and a dict of amounts."""

    total: float
    by_model: Mapping[str, float]
    total_nano: int = field(init=False)
    by_model_nano: Mapping[str, int] = field(init=False)


@settings(max_examples=120, deadline=None)
@given(AMOUNTS_NANO, st.dictionaries(st.text(max_size=5), AMOUNTS_NANO, max_size=3))
def test_model_copy__any_exact_amounts__stay_exact(total: int, by_model: dict[str, int]) -> None:
    """A value made of exact amounts has them as twins, and so has its copy."""
    total_usd: Any = exact_usd(total)
    figures = Figures(total_usd, exact_usd(by_model))
    for each in (figures, figures.model_copy()):
        assert each.total_nano == total
        assert each.by_model_nano == by_model
        assert each.total == to_usd(total)
        assert each.by_model == {name: to_usd(amount) for name, amount in by_model.items()}
    assert json.loads(figures.model_dump_json()) == figures.model_dump(mode="json")


@settings(max_examples=120, deadline=None)
@given(AMOUNTS_NANO)
def test_exact_usd__any_amount__is_the_exact_decimal(amount_nano: int) -> None:
    """An amount in dollars times 10⁹ is the amount in nano-dollars, with nothing lost."""
    assert exact_usd(amount_nano) == Decimal(amount_nano).scaleb(-9)
