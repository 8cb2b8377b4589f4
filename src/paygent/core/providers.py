"""Facts about providers, in one table: names, hosts, SDKs, and how they report and bill.

Pure data and lookups; the modules that need a fact read it here. Hosts, client classes and SDK
modules were read from the SDKs and API references of 2026-11, price-list ids from genai-prices
0.1.13, other names from litellm 1.60 and 1.110 and from langchain-core 1.8 (2026-11). A fact with
another source names it.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Provider(NamedTuple):
    """One provider.

    Attributes:
        name: Its name in events; also the id of its price list in genai-prices, if that has one.
        hosts: Host names of its API; one that begins with "." or "-" is a suffix of host names.
        shared_hosts: Those of `hosts` that also serve other APIs, of any kind and of anyone.
        client_words: Parts of the class names of SDK clients that call it, whatever their host.
        aliases: Its other names, in LiteLLM and LangChain.
        sdks: Modules of its own SDKs, which have no hook here, with their names for the log.
        reports_stream_usage: Honours `stream_options.include_usage`; others may reject the option.
        caches_on_request: Writes a prompt cache only if the request asks for it (`cache_control`,
            `cachePoint`); others may write one unasked.
        reports_bill: Reports the billed dollars in the usage (`usage.cost`); the meaning of a
            `cost` from other hosts is not documented.
    """

    name: str
    hosts: tuple[str, ...] = ()
    shared_hosts: tuple[str, ...] = ()
    client_words: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    sdks: tuple[tuple[str, str], ...] = ()
    reports_stream_usage: bool = False
    caches_on_request: bool = False
    reports_bill: bool = False


PROVIDERS = (
    Provider("openai", ("api.openai.com",), reports_stream_usage=True,
             aliases=("custom_openai", "text-completion-openai")),
    Provider("anthropic", ("api.anthropic.com",), caches_on_request=True),
    Provider("azure", (".openai.azure.com", ".cognitiveservices.azure.com",
                       ".services.ai.azure.com", ".azure-api.net"),
             shared_hosts=(".azure-api.net",),  # Azure API Management
             client_words=("Azure", "Foundry"), aliases=("azure_ai", "azure_text"),
             sdks=(("azure.ai.inference", "Azure AI inference"),), reports_stream_usage=True),
    # `AnthropicAWS` and `AnthropicGoogleCloud` reach Anthropic's own platform, at its prices.
    Provider("aws", (".amazonaws.com", ".api.aws"), client_words=("Bedrock",),
             aliases=("bedrock", "bedrock_converse", "amazon_bedrock"), caches_on_request=True),
    Provider("google", ("generativelanguage.googleapis.com", "aiplatform.googleapis.com",
                        "-aiplatform.googleapis.com"), client_words=("Vertex",),
             aliases=("gemini", "vertex_ai", "vertex_ai_beta", "google_genai", "google_vertexai"),
             sdks=(("google.cloud.aiplatform", "Vertex AI (google-cloud-aiplatform)"),
                   ("google.genai", "Gemini (google-genai)"),
                   ("google.generativeai", "Gemini (google-generativeai)"),
                   ("vertexai", "Vertex AI"))),
    Provider("openrouter", ("openrouter.ai",), sdks=(("openrouter", "OpenRouter"),),
             reports_stream_usage=True, reports_bill=True),
    Provider("groq", ("api.groq.com",), sdks=(("groq", "Groq"),), reports_stream_usage=True),
    Provider("deepseek", ("api.deepseek.com",)),
    Provider("mistral", ("api.mistral.ai",), aliases=("mistralai",),
             sdks=(("mistralai", "Mistral"),)),
    Provider("x-ai", ("api.x.ai",), aliases=("xai",), sdks=(("xai_sdk", "xAI"),)),
    Provider("together", ("api.together.xyz",), aliases=("together_ai",),
             sdks=(("together", "Together"),)),
    Provider("fireworks", ("api.fireworks.ai",), aliases=("fireworks_ai",),
             sdks=(("fireworks", "Fireworks"),)),
    Provider("perplexity", ("api.perplexity.ai",), sdks=(("perplexity", "Perplexity"),)),
    Provider("cerebras", ("api.cerebras.ai",), sdks=(("cerebras.cloud.sdk", "Cerebras"),)),
    Provider("moonshotai", ("api.moonshot.ai",), aliases=("moonshot",)),
    # Providers below are known by their SDK only, to warn that it is not metered.
    Provider("cohere", aliases=("cohere_chat",), sdks=(("cohere", "Cohere"),)),
    Provider("replicate", sdks=(("replicate", "Replicate"),)),
    Provider("ollama", sdks=(("ollama", "Ollama"),)),
    Provider("ai21", sdks=(("ai21", "AI21"),)),
    Provider("writer", sdks=(("writerai", "Writer"),)),
    Provider("voyageai", sdks=(("voyageai", "Voyage"),)),
    Provider("dashscope", sdks=(("dashscope", "DashScope"),)),
    Provider("zhipuai", sdks=(("zhipuai", "Zhipu"),)),
    Provider("volcengine", sdks=(("volcenginesdkarkruntime", "Volcengine Ark"),)),
    Provider("watsonx", sdks=(("ibm_watsonx_ai", "watsonx"),)),
    Provider("huggingface",
             sdks=(("huggingface_hub.inference._client", "Hugging Face inference"),)),
    Provider("portkey", sdks=(("portkey_ai", "Portkey"),)),
    Provider("aleph_alpha", sdks=(("aleph_alpha_client", "Aleph Alpha"),)),
    Provider("meta", sdks=(("llama_api_client", "Llama API"),)),
)  # fmt: skip

BEDROCK_SERVICES = {
    "bedrock-runtime": "Bedrock (botocore)",
    "bedrock-agent-runtime": "Bedrock agents (botocore)",
}
"""Services of AWS's general SDK that call models, with their names for the log."""

BEDROCK_VENDORS = ("anthropic", "openai", "meta", "amazon", "mistral", "cohere", "ai21", "deepseek")
"""Vendors that Bedrock writes in front of a model's name (`anthropic.claude-…`)."""

STANDARD_TIERS = frozenset({"", "default", "standard", "auto", "standard_only", "on_demand"})
"""Service tiers at the standard price; `standard_only` is Anthropic's, `on_demand` Groq's."""

US_ONLY = "us"
"""Price variant of Anthropic's US-only inference (`inference_geo`)."""

US_ONLY_TENTHS = 11
"""Factor of US-only inference on every token price, in tenths (Anthropic's price list, "data
residency", 2026-11; only models that have the premium accept the option).
"""

# The most output that a model gives to one request, by its canonical name; the first rule that
# matches the whole name counts. genai-prices lists context windows only, and those say little about
# output: gpt-4o takes 128,000 tokens and gives at most 16,384. Anthropic's API needs `max_tokens`
# in each request, so its models need no entry. Source: the model pages of OpenAI's documentation as
# collected in the model list of LiteLLM 1.110 (`max_output_tokens`), 2026-11; gpt-4 from OpenAI's
# page (the list splits its window in two).
_MAX_OUTPUT_TOKENS = (
    (re.compile(r"gpt-3\.5-turbo.*|gpt-4-turbo.*|gpt-4-(?:0125|1106)-.*"), 4_096),
    (re.compile(r"gpt-4(?:-0[36]1[34])?"), 8_192),
    (re.compile(r"(?:chat)?gpt-4o(?:-mini)?(?:-audio-preview|-search-preview)?"), 16_384),
    (re.compile(r"gpt-audio(?:-mini)?|gpt-5(?:\.\d)?-chat"), 16_384),
    (re.compile(r"gpt-4\.1(?:-mini|-nano)?"), 32_768),
    (re.compile(r"(?:o1|o3|o4)(?:-pro|-mini)?(?:-deep-research)?"), 100_000),
    (re.compile(r"gpt-5-pro"), 272_000),
    (re.compile(r"gpt-[56](?:\.\d)?(?:-[a-z]+)*"), 128_000),  # gpt-5-mini, gpt-5.1-codex-max, …
)

# Look-up tables, made once: hosts are looked up for each new client and socket.
_BY_NAME = {provider.name: provider for provider in PROVIDERS}
_BY_ALIAS = {alias: provider.name for provider in PROVIDERS for alias in provider.aliases}
_BY_HOST = {host: provider for provider in PROVIDERS for host in provider.hosts}
_BY_SUFFIX = tuple(pair for pair in _BY_HOST.items() if pair[0].startswith((".", "-")))
_UNKNOWN = Provider("")


def provider_facts(name: str) -> Provider:
    """Return the facts about a provider; for an unknown name, one without any."""
    return _BY_NAME.get(name, _UNKNOWN)


def canonical_provider(alias: str) -> str:
    """Return a provider's name in events for a name used by LiteLLM or LangChain."""
    return _BY_ALIAS.get(alias, alias)


def provider_at(host: str) -> Provider | None:
    """Return the provider at a host (in lower case), or None for an unknown host."""
    if host in _BY_HOST:  # few hosts need the scan over suffixes
        return _BY_HOST[host]
    # Suffixes begin with "." or "-", so "evil-openai.azure.com.example.com" never matches.
    return next((provider for suffix, provider in _BY_SUFFIX if host.endswith(suffix)), None)


def is_shared(host: str) -> bool:
    """Return whether a host (in lower case) of a known provider also serves other APIs."""
    provider = provider_at(host)
    return provider is not None and host.endswith(provider.shared_hosts)


def provider_of_client(class_name: str) -> Provider | None:
    """Return the provider that a client's class name shows, or None if it shows none."""
    words = ((word, provider) for provider in PROVIDERS for word in provider.client_words)
    return next((provider for word, provider in words if word in class_name), None)


def max_output_tokens(model_key: str) -> int | None:
    """Return the most output of a model by its canonical name; None where it is not known."""
    limits = (tokens for name, tokens in _MAX_OUTPUT_TOKENS if name.fullmatch(model_key))
    return next(limits, None)
