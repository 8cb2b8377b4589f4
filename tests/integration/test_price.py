"""Prices of usages by the bundled catalogue: who answered, what was billed, assumed or added."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from paygent import ModelCostRate, PlanConfig
from paygent.core.period import to_us
from paygent.core.usage import Usage
from paygent.failopen import diagnostics
from paygent.prices.catalogue import Catalogue
from paygent.prices.usage_cost import Priced, PriceQuery, price

AT_US = to_us(datetime(2026, 11, 20, tzinfo=timezone.utc))
PLAN = PlanConfig()


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The bundled catalogue, read once."""
    return Catalogue()


def priced(
    catalogue: Catalogue,
    usage: Usage,
    *,
    provider: str = "openai",
    model: str = "gpt-5",
    plan: PlanConfig = PLAN,
) -> Priced:
    """Price a usage of a model."""
    return price(catalogue, PriceQuery(provider, model, plan, AT_US), usage)


MILLION = Usage(10**6, 10**6)


@pytest.mark.parametrize(
    ("provider", "usage", "nano", "quality"),
    [
        # OpenAI's price list, 2026-11: gpt-5 1.25/10, flex and batch half, priority double.
        ("openai", MILLION, 11_250_000_000, "exact"),
        ("openai", MILLION._replace(tier="flex"), 5_625_000_000, "exact"),
        ("openai", MILLION._replace(tier="batch"), 5_625_000_000, "exact"),
        ("openai", MILLION._replace(tier="priority"), 22_500_000_000, "exact"),
        ("openai", MILLION._replace(tier="ultrafast"), 11_250_000_000, "estimated"),
        # Reasoning costs what output costs, in the same variant.
        ("openai", MILLION._replace(tier="priority", reasoning_tokens=10**6), 22_500_000_000,
         "exact"),
        ("openai", Usage(0, 0, model="gpt-5", web_searches=3), 30_000_000, "exact"),
        ("openai", Usage(0, 0, model="gpt-5", file_searches=2), 5_000_000, "exact"),
        ("openai", Usage(0, 0, model="whisper-1", audio_ms=60_000), 6_000_000, "exact"),
        ("openai", Usage(0, 0, model="tts-1-hd", characters=1_000), 30_000_000, "exact"),
        ("openai", Usage(0, 0, model="gpt-5", characters=1), 0, "unpriced"),
        ("openai", Usage(10**6, 0, model="gpt-5", unlisted_units=1), 1_250_000_000, "unpriced"),
        # The list has no price for its audio; the text's is taken, and said.
        ("openai", Usage(10**6, 0, audio_input_tokens=10**6, model="gpt-4o-audio-preview"),
         2_500_000_000, "estimated"),
        ("openai", Usage(10**6, 0, audio_input_tokens=10**6, model="gpt-audio"),
         32_000_000_000, "exact"),
        # Perplexity's sonar: 1 and 1, and 12 a thousand calls.
        ("perplexity", Usage(10**6, 0, model="sonar"), 1_012_000_000, "exact"),
        # Models that search in each call, for a fee that no list has.
        ("openai", Usage(10**6, 0, web_searches=1, model="gpt-5-search-api"), 1_250_000_000,
         "unpriced"),
        # Cached images cost their own price where the list has one.
        ("openai", Usage(10**6, 0, cached_image_tokens=10**6, model="gpt-image-1"),
         2_500_000_000, "exact"),
        # A spoken turn: 300 and 100 cached of text, 400 and 200 cached of audio, 100 of text and
        # 200 of audio out, at 0.60, 0.06, 10, 0.30, 2.40 and 20.
        ("openai", Usage(1_000, 300, 100, audio_input_tokens=400, cached_audio_tokens=200,
         audio_output_tokens=200, model="gpt-realtime-mini"), 8_486_000, "exact"),
        # Anthropic's price list, 2026-11: claude-opus-5 5/25, fast 10/50, batch half, in the US
        # 1.1 times; searches 10 a thousand everywhere.
        ("anthropic", MILLION._replace(model="claude-opus-5"), 30_000_000_000, "exact"),
        ("anthropic", MILLION._replace(model="claude-opus-5", tier="fast"), 60_000_000_000,
         "exact"),
        ("anthropic", MILLION._replace(model="claude-opus-5", tier="batch"), 15_000_000_000,
         "exact"),
        ("anthropic", MILLION._replace(model="claude-opus-5", tier="us"), 33_000_000_000, "exact"),
        ("anthropic", MILLION._replace(model="claude-opus-5", tier="fast+us"), 66_000_000_000,
         "exact"),
        ("anthropic", MILLION._replace(model="claude-opus-5", tier="us", web_searches=1),
         33_010_000_000, "exact"),
        ("anthropic", MILLION._replace(model="claude-opus-5", tier="priority"), 30_000_000_000,
         "estimated"),
    ],
)  # fmt: skip
def test_price__a_variant_or_a_unit__costs_what_its_list_says(
    catalogue: Catalogue, provider: str, usage: Usage, nano: int, quality: str
) -> None:
    """Exact where the list has it, marked where something had to be assumed or has no price."""
    found = priced(catalogue, usage, provider=provider)
    assert (found.cost_nano, found.quality) == (nano, quality)


def test_price__an_assumed_or_absent_price__is_said_once(
    catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the model and what its list lacks, once each."""
    for _ in range(3):
        priced(catalogue, MILLION._replace(tier="ultrafast"))
        priced(catalogue, Usage(1, 1, audio_ms=5))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "gpt-5 lacks variant ultrafast" in said[0]
    assert "No price for model gpt-5 (audio_hour)" in said[1]
    assert diagnostics.counts["unpriced:gpt-5"] == 3


def test_price__what_the_provider_has_billed__is_the_cost(catalogue: Catalogue) -> None:
    """OpenRouter's own figure wins, over the list and over the absence of one."""
    usage = Usage(100, 20, billed_nano=777, model="vendor/unheard-of")
    found = priced(catalogue, usage, provider="openrouter", model="vendor/unheard-of")
    assert (found.cost_nano, found.quality, found.price_id) == (777, "exact", "billed:openrouter")
    assert found.rates is None
    assert not diagnostics.counts


def test_price__a_cost_that_another_host_names__is_not_a_bill(catalogue: Catalogue) -> None:
    """Only of OpenRouter it is known what its `cost` means."""
    found = priced(catalogue, MILLION._replace(billed_nano=1))
    assert found.cost_nano == 11_250_000_000


def test_price__other_models__cost_by_their_own_lists(catalogue: Catalogue) -> None:
    """Images drawn for a response are gpt-image-1's: 100 text at 5, 200 output at 40 dollars."""
    drawn = Usage(100, 200, image_output_tokens=200, model="gpt-image-1")
    found = priced(catalogue, Usage(0, 0, web_searches=1, others=(drawn,)))
    assert found.cost_nano == 10_000_000 + 500_000 + 8_000_000
    assert found.details == {"web_searches": 1, "others_nano": 8_500_000}
    assert (found.quality, found.model) == ("exact", "gpt-5")


def test_price__another_model_without_a_price__marks_the_call(catalogue: Catalogue) -> None:
    """A part that costs nobody knows what makes the whole uncertain."""
    other = Usage(1, 1, model="unheard-of")
    found = priced(catalogue, Usage(10**6, 0, others=(other,)))
    assert (found.cost_nano, found.quality) == (1_250_000_000, "unpriced")


def test_price__a_plan_that_names_the_model__keeps_the_fees_of_the_list(
    catalogue: Catalogue,
) -> None:
    """A rate in tokens says nothing about searches and audio; those keep their price."""
    plan = PlanConfig(cost_rates={"gpt-5": ModelCostRate(1, 1), "whisper-1": ModelCostRate(1, 1)})
    searched = priced(catalogue, Usage(1_000, 0, web_searches=1, file_searches=1), plan=plan)
    assert (searched.cost_nano, searched.quality) == (10**9 + 12_500_000, "exact")
    heard = priced(catalogue, Usage(audio_ms=60_000), model="whisper-1", plan=plan)
    assert (heard.cost_nano, heard.quality) == (6_000_000, "exact")


def test_price__a_usage_of_nothing__needs_no_price(catalogue: Catalogue) -> None:
    """A batch that has just begun has no model yet, and nobody has to be warned of that."""
    found = priced(catalogue, Usage(quality="estimated"), model="")
    assert (found.cost_nano, found.quality) == (0, "estimated")
    assert not diagnostics.counts


@pytest.mark.parametrize(
    ("usage", "nano", "quality"),
    [
        # claude-haiku-5-5: 0.10 below 100,000 input tokens, 0.50 above; batch half.
        (Usage(200_000, 0, tier="batch"), 50_000_000, "exact"),
        (Usage(200_000, 0, tier="batch", largest_input_tokens=32_768), 10_000_000, "exact"),
        (Usage(200_000, 0, tier="batch", largest_input_tokens=0), 10_000_000, "estimated"),
        (Usage(90_000, 0, tier="batch", largest_input_tokens=0), 4_500_000, "exact"),
    ],
)
def test_price__a_sum_of_requests__is_tiered_by_each_of_them(
    catalogue: Catalogue, usage: Usage, nano: int, quality: str
) -> None:
    """Many small requests never reach the tier of one large one."""
    usage = usage._replace(model="claude-haiku-5-5")
    found = priced(catalogue, usage, provider="anthropic", model="claude-haiku-5-5")
    assert (found.cost_nano, found.quality) == (nano, quality)


def test_price__the_answers_model_without_a_price__is_the_one_asked_for(
    catalogue: Catalogue,
) -> None:
    """A host that answers with a name of its own is priced by what was asked."""
    found = priced(catalogue, MILLION._replace(model="my-deployment"))
    assert (found.model, found.cost_nano) == ("gpt-5", 11_250_000_000)


def test_price__an_azure_deployment__is_priced_by_what_answered(catalogue: Catalogue) -> None:
    """The request names a deployment; the answer names the model."""
    usage: Any = MILLION._replace(model="gpt-4o-2024-08-06")
    found = priced(catalogue, usage, provider="azure", model="prod-chat")
    assert (found.model, found.model_key, found.cost_nano) == (
        "gpt-4o-2024-08-06",
        "gpt-4o",
        12_500_000_000,
    )
