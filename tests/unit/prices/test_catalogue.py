"""What a model costs: the order of its prices, their variants, their dates, and who is asked."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Swallowed

from paygent import ModelCostRate, PlanConfig
from paygent.core.limit import ModelLimitConfig
from paygent.core.period import to_us
from paygent.core.pricing import cost_nano
from paygent.core.usage import Usage
from paygent.failopen import diagnostics
from paygent.prices import catalogue as catalogue_module
from paygent.prices.catalogue import Catalogue, Resolved, plan_rate

PLAN = PlanConfig()
_PICO_PER_USD = 10**12


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    """A moment in UTC, in microseconds since 1970."""
    return to_us(datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc))


NOW_US = at(2026, 11, 24)


@pytest.fixture(scope="module")
def bundled() -> Catalogue:
    """The catalogue that the package brings."""
    return Catalogue()


def dollars(found: Resolved) -> tuple[float, float]:
    """Input and output in dollars per million tokens."""
    return found.rates.prices.input / _PICO_PER_USD, found.rates.prices.output / _PICO_PER_USD


# -- names


@pytest.mark.parametrize(
    ("provider", "model", "key", "price"),
    [
        # Public price lists of OpenAI and Anthropic, 2026-11, dollars per million tokens.
        ("openai", "gpt-4o", "gpt-4o", (2.5, 10.0)),
        ("openai", "gpt-4o-mini", "gpt-4o-mini", (0.15, 0.6)),
        ("openai", "GPT-4O", "gpt-4o", (2.5, 10.0)),
        ("openai", "gpt-4o-2024-08-06", "gpt-4o", (2.5, 10.0)),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o", (5.0, 15.0)),
        ("openai", "openai/gpt-4o", "gpt-4o", (2.5, 10.0)),
        ("", "gpt-4o", "gpt-4o", (2.5, 10.0)),
        ("a-host-of-ours", "gpt-4o", "gpt-4o", (2.5, 10.0)),
        ("openai", "ft:gpt-4o-2024-08-06:acme::x", "gpt-4o", (3.75, 15.0)),
        ("openai", "anthropic/claude-sonnet-4-5", "claude-sonnet-4-5", (3.0, 15.0)),
        ("", "anthropic/claude-sonnet-4-5", "claude-sonnet-4-5", (3.0, 15.0)),
        ("anthropic", "claude-sonnet-4-5-20250929", "claude-sonnet-4-5", (3.0, 15.0)),
        ("google", "claude-sonnet-4-5@20250929", "claude-sonnet-4-5", (3.0, 15.0)),
        ("openrouter", "openai/gpt-4o", "gpt-4o", (2.5, 10.0)),
        ("azure", "gpt-4o-2024-08-06", "gpt-4o", (2.5, 10.0)),
        # Bedrock: the global profile costs the list price, a region's own a tenth more.
        (
            "aws",
            "global.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "claude-sonnet-4-5",
            (3.0, 15.0),
        ),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5", (3.3, 16.5)),
    ],
)
def test_resolve__a_known_name__has_the_public_price(
    bundled: Catalogue, provider: str, model: str, key: str, price: tuple[float, float]
) -> None:
    """Names resolve exactly or by rules, and count under their canonical name."""
    found = bundled.resolve(provider, model, NOW_US, PLAN)
    assert (found.model_key, dollars(found), found.rates.source) == (key, price, "catalogue")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini-foo"),
        ("openai", "gpt-4ofoo"),
        ("anthropic", "claude-sonnet-4-5-turbo"),
        ("anthropic", "claude-opus-4-15"),
        ("openai", "ft:gpt-9:acme::x"),
        ("openai", ""),
        ("openai", "ft:"),
        ("openai", "/"),
        ("openai", "gpt-4o/"),
        ("", "x" * 100_000),
        ("\x00", "\ud800"),
    ],
)
def test_resolve__an_unknown_or_odd_name__has_no_price_and_never_raises(
    bundled: Catalogue, provider: str, model: str
) -> None:
    """A name that merely begins like a known one is not that one."""
    found = bundled.resolve(provider, model, NOW_US, PLAN)
    assert (found.rates.is_known, found.is_free) == (False, False)


def test_resolve__an_azure_model__comes_from_azures_list_first(bundled: Catalogue) -> None:
    """Azure's own entries win; what it does not list costs what OpenAI's costs."""
    own = bundled.resolve("azure", "o3", NOW_US, PLAN)
    lent = bundled.resolve("azure", "gpt-4o", NOW_US, PLAN)
    assert own.rates.price_id.startswith("genai-prices:azure/")
    assert lent.rates.price_id.startswith("genai-prices:openai/gpt-4o@")


def test_resolve__a_catalogue_price__names_its_list_and_day(bundled: Catalogue) -> None:
    """An event can be traced to the price list that it was booked with."""
    rates = bundled.resolve("openai", "gpt-5", NOW_US, PLAN, "flex").rates
    name, _, digest = rates.price_id.partition("~")
    assert name == f"genai-prices:openai/gpt-5@{bundled.as_of}#flex"
    assert len(digest) == 8  # its prices have dates
    assert rates.as_of == bundled.as_of


# -- the order


def rate(input_price: float, output_price: float, **more: Any) -> ModelCostRate:
    """A plan's rate, in dollars per million tokens."""
    return ModelCostRate.per_million(input=input_price, output=output_price, **more)


@pytest.mark.parametrize(
    ("rates", "default", "model", "price", "source"),
    [
        ({"gpt-4o": rate(7, 8)}, rate(1, 1), "gpt-4o", (7, 8), "plan"),
        ({"gpt-4o": rate(7, 8)}, rate(1, 1), "gpt-4o-2024-08-06", (7, 8), "plan"),
        ({"gpt-4o": rate(7, 8)}, rate(1, 1), "openai/GPT-4o", (7, 8), "plan"),
        ({"GPT-4o": rate(7, 8)}, rate(1, 1), "gpt-4o", (7, 8), "plan"),
        ({"gpt-4o": rate(7, 8)}, rate(1, 1), "gpt-4o-mini", (1, 1), "plan-default"),
        ({"gpt-4o": rate(7, 8)}, None, "gpt-4o-mini", (0.15, 0.6), "catalogue"),
        ({"gpt-4o": rate(7, 8)}, None, "ft:gpt-4o-2024-08-06:a::x", (3.75, 15.0), "catalogue"),
        ({"ft:gpt-4o-2024-08-06:a::x": rate(7, 8)}, None, "ft:gpt-4o-2024-08-06:a::x", (7, 8),
         "plan"),
        ({"gpt-4o-2024-08-06": rate(9, 9), "gpt-4o": rate(7, 8)}, None, "gpt-4o-2024-08-06",
         (9, 9), "plan"),
        ({}, None, "nobody-knows", (0.0, 0.0), "none"),
    ],
)  # fmt: skip
def test_resolve__with_rates_of_the_plan__plan_then_default_then_catalogue_then_unknown(
    bundled: Catalogue,
    rates: dict[str, ModelCostRate],
    default: ModelCostRate | None,
    model: str,
    price: tuple[float, float],
    source: str,
) -> None:
    """The nearest word on a price wins; a base's rate is not its fine-tune's."""
    plan = PlanConfig(cost_rates=rates, default_cost_rate=default)
    found = bundled.resolve("openai", model, NOW_US, plan)
    assert (dollars(found), found.rates.source) == (price, source)


def test_plan_rate__without_any__is_none() -> None:
    """A plan without rates says nothing about prices."""
    assert plan_rate(PLAN, "gpt-4o") == (None, "")


def test_resolve__components_that_a_rate_does_not_name__keep_the_catalogues_ratio(
    bundled: Catalogue,
) -> None:
    """gpt-4o at $3: cached input at half, as listed; claude at $6: reads 0.1, writes 1.25 and 2."""
    plan = PlanConfig(
        cost_rates={"gpt-4o": rate(3, 12), "claude-opus-5": rate(6, 30), "mine": rate(2, 4)}
    )
    openai = bundled.resolve("openai", "gpt-4o", NOW_US, plan).rates.prices
    assert openai.cached_input == 1_500_000_000_000
    anthropic = bundled.resolve("anthropic", "claude-opus-5", NOW_US, plan).rates.prices
    assert anthropic.cached_input == 600_000_000_000
    assert (anthropic.cache_write, anthropic.cache_write_long) == (
        7_500_000_000_000,
        12_000_000_000_000,
    )
    assert anthropic.web_search == 10_000_000_000_000  # the provider's own fee
    unlisted = bundled.resolve("", "mine", NOW_US, plan).rates
    assert unlisted.prices.cached_input == 2_000_000_000_000
    assert "web_search" in unlisted.unpriced


def test_resolve__a_component_that_the_rate_names__is_taken_as_written(bundled: Catalogue) -> None:
    """A named component wins over the ratio."""
    plan = PlanConfig(cost_rates={"gpt-4o": rate(3, 12, cached_input=1)})
    prices = bundled.resolve("openai", "gpt-4o", NOW_US, plan).rates.prices
    assert prices.cached_input == _PICO_PER_USD


def test_resolve__the_dearest_rate__prices_what_is_unknown(bundled: Catalogue) -> None:
    """`unknown_model="dearest"` takes the plan's dearest rate and names it so."""
    plan = PlanConfig(
        cost_rates={"a": rate(1, 2), "b": rate(9, 30), "c": rate(10, 3)}, unknown_model="dearest"
    )
    found = bundled.resolve("", "nobody-knows", NOW_US, plan)
    assert (dollars(found), found.rates.source) == ((9.0, 30.0), "plan-dearest")
    assert bundled.resolve("", "gpt-4o", NOW_US, plan).rates.source == "catalogue"


def test_resolve__a_rate_of_nothing__is_free_and_known(bundled: Catalogue) -> None:
    """A local model whose rates are all 0 is free because the plan says so."""
    found = bundled.resolve("", "llama", NOW_US, PlanConfig(cost_rates={"llama": rate(0, 0)}))
    assert (found.is_free, found.rates.is_known) == (True, True)


def test_resolve__a_limit_on_a_snapshot__counts_that_snapshot_by_its_own_name(
    bundled: Catalogue,
) -> None:
    """A fine-tune or a snapshot counts toward its base unless the plan names it."""
    tuned = "ft:gpt-4o-2024-08-06:acme::x"
    named = PlanConfig(model_limits={tuned: ModelLimitConfig(5)})
    by_limit = PlanConfig(limits=({"metric": "tokens", "model": tuned, "cap": 5},))
    assert bundled.resolve("openai", tuned, NOW_US, named).model_key == tuned
    assert bundled.resolve("openai", tuned, NOW_US, by_limit).model_key == tuned
    assert bundled.resolve("openai", tuned, NOW_US, PLAN).model_key == "gpt-4o"


# -- tiers, variants and dates of the bundled list


@pytest.mark.parametrize(
    ("input_tokens", "amount"),
    [
        (200_000, 200_000 * 3_000 + 1_000 * 15_000),
        (200_001, 200_001 * 6_000 + 1_000 * 22_500),
    ],
)
def test_resolve__a_long_input__costs_the_tier_of_the_whole_call(
    bundled: Catalogue, input_tokens: int, amount: int
) -> None:
    """claude-sonnet-4-5 above 200k: $6.00 in, $22.50 out per million, for every token."""
    rates = bundled.resolve("anthropic", "claude-sonnet-4-5", NOW_US, PLAN).rates
    assert cost_nano(Usage(input_tokens, 1_000), rates) == amount


@pytest.mark.parametrize(
    ("tier", "price"),
    [
        ("", (1.25, 10.0)),
        ("flex", (0.625, 5.0)),
        ("priority", (2.5, 20.0)),
        ("batch", (0.625, 5.0)),
        ("a-tier-of-tomorrow", (1.25, 10.0)),
    ],
)
def test_resolve__a_service_tier__has_its_own_price(
    bundled: Catalogue, tier: str, price: tuple[float, float]
) -> None:
    """gpt-5: flex and batch cost half, priority twice as much; an unknown tier as standard."""
    assert dollars(bundled.resolve("openai", "gpt-5", NOW_US, PLAN, tier)) == price


@pytest.mark.parametrize(
    ("at_us", "price"),
    [
        (at(2025, 6, 9, 23, 59, 59), (10.0, 40.0)),
        (at(2025, 6, 10), (2.0, 8.0)),
    ],
)
def test_resolve__a_dated_price__is_the_one_of_the_calls_begin(
    at_us: int, price: tuple[float, float]
) -> None:
    """o3 fell from $10/$40 to $2/$8 on 2025-06-10."""
    assert dollars(Catalogue().resolve("openai", "o3", at_us, PLAN)) == price


def test_resolve__calls_around_a_price_change__each_cost_the_price_of_their_begin() -> None:
    """A call that began before the change and is settled after it costs the old price."""
    prices = Catalogue()
    before, after = at(2025, 6, 9, 23, 59, 59), at(2025, 6, 10)
    seen = [dollars(prices.resolve("openai", "o3", each, PLAN)) for each in (before, after, before)]
    assert seen == [(10.0, 40.0), (2.0, 8.0), (10.0, 40.0)]


# -- a snapshot of our own


@dataclass
class FakeProviderList:
    """One provider of a fake snapshot."""

    id: str
    models: list[Any]
    model_match: Any = None
    fallback_model_providers: list[str] | None = None


@dataclass
class Listed:
    """One model of a fake snapshot."""

    id: str
    prices: Any
    context_window: Any = 1_000
    price_variants: list[Any] | None = None
    match: Any = field(default_factory=lambda: SimpleNamespace(equals=None))

    def get_prices(self, when: datetime) -> Any:
        """Return the prices in force, as the catalogue's own type does."""
        if not isinstance(self.prices, list):
            return self.prices
        for each in reversed(self.prices):
            if each.constraint is None or each.constraint.active(when):
                return each.prices
        return self.prices[0].prices


def prices_of(**values: Any) -> SimpleNamespace:
    """Prices by the catalogue's keys."""
    return SimpleNamespace(**values)


def tiered(base: str, *tiers: tuple[int, str]) -> SimpleNamespace:
    """A price with tiers."""
    return SimpleNamespace(
        base=Decimal(base),
        tiers=[SimpleNamespace(start=start, price=Decimal(price)) for start, price in tiers],
    )


def snapshot_of(*models: Listed, provider: str = "acme") -> Any:
    """A snapshot with one provider."""
    return SimpleNamespace(providers=[FakeProviderList(provider, list(models))])


def conditional(prices: Any, constraint: Any = None) -> SimpleNamespace:
    """A price that is in force while its constraint says so."""
    return SimpleNamespace(prices=prices, constraint=constraint)


def by_day(start: time, end: time) -> Any:
    """A price of a time of day, half-open."""
    from genai_prices.types import TimeOfDateConstraint

    return TimeOfDateConstraint(start_time=start, end_time=end)


def day_and_night(offset: timezone = timezone.utc) -> Catalogue:
    """A model at $2, and at $1 from 00:30 to 16:30."""
    constraint = by_day(time(0, 30, tzinfo=offset), time(16, 30, tzinfo=offset))
    usual = prices_of(input_mtok=Decimal(2), output_mtok=Decimal(2))
    cheap = prices_of(input_mtok=Decimal(1), output_mtok=Decimal(1))
    return Catalogue(
        snapshot_of(Listed("owl", [conditional(usual), conditional(cheap, constraint)]))
    )


def test_resolve__a_price_of_the_time_of_day__changes_on_the_minute() -> None:
    """One catalogue, asked all day long, follows the hours and says until when a price holds."""
    prices = day_and_night()
    seen = [
        (dollars(found)[0], found.valid_until_us)
        for found in (
            prices.resolve("acme", "owl", moment, PLAN)
            for moment in (
                at(2026, 1, 1, 0, 0),
                at(2026, 1, 1, 0, 29, 59),
                at(2026, 1, 1, 0, 30),
                at(2026, 1, 1, 16, 30),
                at(2026, 1, 2, 0, 30),
            )
        )
    ]
    first, noon, evening = at(2026, 1, 1, 0, 30), at(2026, 1, 1, 16, 30), at(2026, 1, 2, 0, 30)
    assert seen == [
        (2.0, first),
        (2.0, first),
        (1.0, noon),
        (2.0, evening),
        (1.0, at(2026, 1, 2, 16, 30)),
    ]


def test_resolve__a_time_of_day_elsewhere__is_converted_to_utc() -> None:
    """00:30 at UTC+8 is 16:30 UTC of the day before."""
    prices = day_and_night(timezone(timedelta(hours=8)))
    found = prices.resolve("acme", "owl", at(2026, 1, 1, 16, 29), PLAN)
    assert (dollars(found)[0], found.valid_until_us) == (2.0, at(2026, 1, 1, 16, 30))
    assert dollars(prices.resolve("acme", "owl", at(2026, 1, 1, 16, 30), PLAN))[0] == 1.0


def test_resolve__a_variant_with_a_constraint__counts_while_it_is_in_force() -> None:
    """A variant that is not in force yet leaves the standard price, and ends it when it begins."""
    from genai_prices.types import StartDateConstraint

    late = StartDateConstraint(start_date=date(2026, 3, 1))
    own = prices_of(input_mtok=Decimal(9), output_mtok=None)
    both = {"service_tier": "flex", "region": "eu"}
    variants = [
        SimpleNamespace(when={"service_tier": "flex"}, prices=own, constraint=late),
        SimpleNamespace(when=both, prices=prices_of(input_mtok=Decimal(77)), constraint=None),
    ]
    standard = prices_of(input_mtok=Decimal(2), output_mtok=Decimal(4))
    prices = Catalogue(snapshot_of(Listed("m", standard, price_variants=variants)))
    before = prices.resolve("acme", "m", at(2026, 2, 28), PLAN, "flex")
    assert (dollars(before), before.valid_until_us) == ((2.0, 4.0), at(2026, 3, 1))
    assert dollars(prices.resolve("acme", "m", at(2026, 3, 1), PLAN, "flex")) == (9.0, 4.0)


def test_resolve__tiers_at_different_sizes__each_component_keeps_its_latest() -> None:
    """Output dearer from 100 and input from 100 and 200: at 300 tokens the output stays dearer."""
    listed = prices_of(
        input_mtok=tiered("1", (100, "2"), (200, "3")), output_mtok=tiered("5", (100, "7"))
    )
    rates = Catalogue(snapshot_of(Listed("m", listed))).resolve("acme", "m", NOW_US, PLAN).rates
    amounts = [cost_nano(Usage(tokens, 100), rates) for tokens in (100, 101, 201)]
    assert amounts == [100_000 + 500_000, 202_000 + 700_000, 603_000 + 700_000]


@pytest.mark.parametrize(
    ("listed", "price"),
    [
        (prices_of(input_mtok=Decimal("0.02")), (0.02, 0.0)),  # an embedding has no output
        (prices_of(output_mtok=Decimal(4)), (0.0, 4.0)),
        (prices_of(input_text_mtok=Decimal(1), output_text_mtok=Decimal(2)), (1.0, 2.0)),
    ],
)
def test_resolve__a_list_without_input_or_output__costs_nothing_for_it(
    listed: Any, price: tuple[float, float]
) -> None:
    """A side that a list leaves out is free, and the other keeps its price."""
    prices = Catalogue(snapshot_of(Listed("m", listed, context_window="?")))
    found = prices.resolve("acme", "m", NOW_US, PLAN)
    assert (dollars(found), found.context_tokens) == (price, None)
    assert "output" not in found.rates.unpriced


def test_resolve__a_price_per_request_only__leaves_tokens_unpriced() -> None:
    """A list without any token price is known, but its tokens are marked."""
    listed = prices_of(requests_kcount=Decimal(1))
    found = Catalogue(snapshot_of(Listed("m", listed))).resolve("acme", "m", NOW_US, PLAN)
    assert {"input", "output"} <= found.rates.unpriced


def test_resolve__a_price_that_cannot_be_read__is_left_out_and_counted(
    swallowed: Swallowed,
) -> None:
    """A broken number in the catalogue costs its component only."""
    swallowed.expect("catalogue_price")
    listed = prices_of(input_mtok=Decimal("NaN"), output_mtok=Decimal(2))
    found = Catalogue(snapshot_of(Listed("m", listed))).resolve("acme", "m", NOW_US, PLAN)
    assert dollars(found) == (0.0, 2.0)


def test_resolve__a_model_of_a_guessed_provider__is_found_by_its_name() -> None:
    """Without a provider the list that claims the name is looked in, and only that one."""
    match = SimpleNamespace(is_match=lambda name: name.startswith("zeta"))
    snapshot = SimpleNamespace(
        providers=[
            FakeProviderList("other", [Listed("zeta-1", prices_of(input_mtok=Decimal(9)))]),
            FakeProviderList("zeta", [Listed("zeta-1", prices_of(input_mtok=Decimal(3)))], match),
        ]
    )
    prices = Catalogue(snapshot)
    assert dollars(prices.resolve("", "zeta-1", NOW_US, PLAN)) == (3.0, 0.0)
    assert dollars(prices.resolve("other", "zeta-1", NOW_US, PLAN)) == (9.0, 0.0)
    for unknown in ("nobody", "zeta-9"):
        assert prices.resolve("", unknown, NOW_US, PLAN).rates.source == "none"


def test_resolve__a_fallback_that_is_not_listed__is_passed_over() -> None:
    """A provider may name another that the snapshot does not have."""
    provider = FakeProviderList("acme", [], fallback_model_providers=["gone"])
    prices = Catalogue(SimpleNamespace(providers=[provider]))
    assert prices.resolve("acme", "m", NOW_US, PLAN).rates.is_known is False


# -- the catalogue itself


@pytest.mark.parametrize("error", [ImportError, AttributeError, ValueError])
def test_catalogue__that_cannot_be_loaded__leaves_plans_their_rates_and_is_said(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """Without the bundled list no model has a catalogue price; nothing raises."""
    broken = ModuleType("genai_prices.data_snapshot")

    def get_snapshot() -> Any:
        raise error("damaged")

    broken.get_snapshot = get_snapshot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", broken)
    prices = Catalogue()
    swallowed.expect("catalogue")
    plan = PlanConfig(cost_rates={"gpt-4o": rate(7, 8)})
    assert prices.as_of == ""
    assert prices.resolve("openai", "gpt-4o-mini", NOW_US, plan).rates.is_known is False
    assert dollars(prices.resolve("openai", "gpt-4o", NOW_US, plan)) == (7.0, 8.0)
    assert diagnostics.counts["catalogue"] == 1


def test_catalogue__without_its_packages_version__still_says_its_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A vendored price list has no distribution; its newest day is told all the same."""
    import importlib.metadata as metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    from genai_prices.types import StartDateConstraint

    monkeypatch.setattr(metadata, "version", missing)
    price = prices_of(input_mtok=Decimal(1))
    days = [date(2025, 1, 2), date(2025, 5, 6), date(9999, 1, 1)]
    dated = [conditional(price, StartDateConstraint(start_date=day)) for day in days]
    assert Catalogue(snapshot_of(Listed("m", dated))).as_of == "?/2025-05-06"
    assert Catalogue(snapshot_of(Listed("m", price))).as_of == "?"


def test_resolve__more_names_than_are_kept__stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names made up by an application do not fill the memory."""
    monkeypatch.setattr(catalogue_module, "_RESOLVED_MAX", 10)
    prices = Catalogue(snapshot_of(Listed("m", prices_of(input_mtok=Decimal(1)))))
    for number in range(100):
        prices.resolve("acme", f"model-{number}", NOW_US, PlanConfig())
        assert len(prices._resolved) <= 10
        assert len(prices._plans) <= 10
    assert dollars(prices.resolve("acme", "m", NOW_US, PLAN)) == (1.0, 0.0)


def test_resolve__plans_that_come_and_go__are_never_mixed_up() -> None:
    """A plan that is gone leaves its memory address to the next one, but not its prices."""
    prices = Catalogue(snapshot_of())
    for number in range(1, 300):
        plan = PlanConfig(cost_rates={"m": rate(number, 1)})
        assert dollars(prices.resolve("acme", "m", NOW_US, plan)) == (number, 1.0)
        del plan


def test_resolve__a_known_model_again__is_the_remembered_answer(bundled: Catalogue) -> None:
    """Resolving costs once per model, plan and variant."""
    first = bundled.resolve("openai", "gpt-4o", NOW_US, PLAN)
    assert bundled.resolve("openai", "gpt-4o", NOW_US + 1, PLAN) is first


def test_similar_names__of_a_misspelt_model__are_listed_ones(bundled: Catalogue) -> None:
    """The bundled list knows what was meant; without a list there is nothing to suggest."""
    assert bundled.similar_names("gpt4o-mini") == ("gpt-4o-mini",)
    assert bundled.similar_names("no such model at all") == ()
    without = Catalogue(bundled._snapshot)
    without._snapshot = None
    assert without.similar_names("gpt4o-mini") == ()
