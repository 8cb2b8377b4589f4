"""The table of providers: lookups, and that its names and hosts are unambiguous."""

from __future__ import annotations

from collections import Counter

import pytest
from genai_prices.data_snapshot import get_snapshot

from paygent.core.providers import (
    PROVIDERS,
    canonical_provider,
    is_shared,
    max_output_tokens,
    provider_at,
    provider_facts,
    provider_of_client,
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.openai.com", "openai"),
        ("api.x.ai", "x-ai"),
        ("acme.openai.azure.com", "azure"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws"),
        ("aiplatform.googleapis.com", "google"),
        ("us-central1-aiplatform.googleapis.com", "google"),
        ("openai.azure.com.example.com", None),
        ("example.com", None),
        ("", None),
    ],
)
def test_provider_at__a_host__is_exact_or_below_a_suffix(host: str, name: str | None) -> None:
    """A host is known by its whole name, or by the suffix of a provider's hosts."""
    provider = provider_at(host)
    assert (provider and provider.name) == name


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("AsyncAzureOpenAI", "azure"),
        ("AnthropicFoundry", "azure"),
        ("AnthropicBedrock", "aws"),
        ("AsyncAnthropicVertex", "google"),
        ("AnthropicAWS", None),
        ("AnthropicGoogleCloud", None),
        ("OpenAI", None),
    ],
)
def test_provider_of_client__a_class_name__shows_who_sells_the_tokens(
    class_name: str, name: str | None
) -> None:
    """A client of another seller is known by its class; Anthropic's own platform has no word."""
    provider = provider_of_client(class_name)
    assert (provider and provider.name) == name


def test_canonical_provider__an_alias_or_a_name__is_the_name_in_events() -> None:
    """LiteLLM's and LangChain's names are translated; all others are kept."""
    names = ("xai", "amazon_bedrock", "text-completion-openai", "openai", "acme")
    assert tuple(map(canonical_provider, names)) == ("x-ai", "aws", "openai", "openai", "acme")


def test_provider_facts__an_unknown_name__has_none() -> None:
    """An unknown provider has no special behaviour."""
    facts = provider_facts("acme")
    assert not (facts.hosts or facts.reports_stream_usage or facts.caches_on_request)
    assert provider_facts("openrouter").reports_bill


def test_providers__names_aliases_and_hosts__are_unambiguous() -> None:
    """Each names one provider."""
    for field in ("hosts", "aliases", "client_words"):
        counts = Counter(value for each in PROVIDERS for value in getattr(each, field))
        assert max(counts.values()) == 1
    names = [provider.name for provider in PROVIDERS]
    assert len(set(names)) == len(names)


def test_providers__with_a_host__have_a_price_list() -> None:
    """A provider that is recognized by its host is priced by its own list."""
    listed = {provider.id for provider in get_snapshot().providers}
    assert [each.name for each in PROVIDERS if each.hosts and each.name not in listed] == []


def test_is_shared__a_host__is_true_where_others_serve_any_api() -> None:
    """A gateway's host says little about what is called there."""
    assert is_shared("acme.azure-api.net")
    assert not is_shared("acme.openai.azure.com")
    assert not is_shared("example.com")


@pytest.mark.parametrize(
    ("model_key", "tokens"), [("gpt-4o", 16_384), ("gpt-5-mini", 128_000), ("unknown", None)]
)
def test_max_output_tokens__a_model__is_known_or_not(model_key: str, tokens: int | None) -> None:
    """A whole name has to match."""
    assert max_output_tokens(model_key) == tokens
