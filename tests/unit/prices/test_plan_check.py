"""Which names and rates of a plan are pointed out: misspelt and misplaced ones, and no others."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from paygent import Limit, ModelCostRate, PlanConfig
from paygent.core.period import to_us
from paygent.prices.catalogue import Catalogue
from paygent.prices.plan_check import plan_warnings

NOW_US = to_us(datetime.now(timezone.utc))


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The price lists that come with the package."""
    return Catalogue()


def warnings_of(catalogue: Catalogue, **fields: object) -> list[str]:
    """What is pointed out of a plan."""
    return list(plan_warnings(PlanConfig(**fields), catalogue, NOW_US))  # type: ignore[arg-type]


def test_plan_warnings__every_listed_name__is_silent(catalogue: Catalogue) -> None:
    """A listed name is never called unlisted, by whichever provider it is listed."""
    assert catalogue._snapshot is not None
    names = [info.id for each in catalogue._snapshot.providers for info in each.models]
    assert len(names) > 1_000
    assert warnings_of(catalogue, model_limits=dict.fromkeys(names, 5)) == []


@pytest.mark.parametrize(
    "name",
    [
        "text-embedding-3-small",
        "chatgpt-4o-latest",
        "ft:gpt-4o-mini:acme::abc",
        "bedrock/anthropic.claude-3-5-sonnet-20240620-v1:0",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "openai/gpt-4o-2024-08-06",
        "GPT-4o",
    ],
)
def test_plan_warnings__a_name_of_a_listed_model__is_silent(
    catalogue: Catalogue, name: str
) -> None:
    """Prefixes, regions, dates, fine-tunes and letter case are spellings."""
    assert warnings_of(catalogue, model_limits={name: 5}) == []
    assert warnings_of(catalogue, limits=[Limit("calls", model=name, cap=5)]) == []


def test_plan_warnings__an_own_model__is_pointed_out_unless_it_has_a_rate(
    catalogue: Catalogue,
) -> None:
    """A rate is what makes a model known that no list has."""
    assert warnings_of(catalogue, model_limits={"our-llama": 5}) == [
        "model_limits names 'our-llama', which is in no price list: the limit counts no calls of a"
        " listed model"
    ]
    rates = {"our-llama": ModelCostRate(0, 0)}
    assert warnings_of(catalogue, model_limits={"our-llama": 5}, cost_rates=rates) == []


def test_plan_warnings__hundreds_of_odd_names__are_bounded(catalogue: Catalogue) -> None:
    """Ten are named, and the rest is counted, without a search for what may be meant."""
    started = time.perf_counter()
    found = warnings_of(catalogue, model_limits={f"gpt4o-mini{n}": 5 for n in range(400)})
    assert len(found) == 11
    assert found[-1] == "390 more names of its limits are in no price list"
    assert time.perf_counter() - started < 30  # a search for each takes no longer, but grows


@pytest.mark.parametrize("name", ["gpt-4o", "text-embedding-3-small"])
def test_plan_warnings__a_rate_a_hundred_times_off__is_pointed_out(
    catalogue: Catalogue, name: str
) -> None:
    """Also for models that only a provider's own list has."""
    (found,) = warnings_of(catalogue, cost_rates={name: ModelCostRate(2, 10)})
    assert "times above its list price" in found
    assert warnings_of(catalogue, cost_rates={name: ModelCostRate(0, 0)}) == []
