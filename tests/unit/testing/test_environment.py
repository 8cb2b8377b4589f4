"""What the fake leads to itself: clients for every cloud, and OpenAI's module client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from tests.conftest import Closing

from paygent import paygent_context
from paygent.testing import PaygentFake

MESSAGES: Any = [{"role": "user", "content": "Hello."}]

CLIENTS: dict[str, Callable[[], Any]] = {
    "AzureOpenAI": openai.AzureOpenAI,
    "BedrockOpenAI": openai.BedrockOpenAI,
    "AnthropicBedrock": anthropic.AnthropicBedrock,
    "AnthropicBedrockMantle": anthropic.AnthropicBedrockMantle,
    "AnthropicAWS": anthropic.AnthropicAWS,
    "AnthropicVertex": lambda: anthropic.AnthropicVertex(access_token="t"),
    "AnthropicGoogleCloud": lambda: anthropic.AnthropicGoogleCloud(skip_auth=True),
    "AnthropicFoundry": anthropic.AnthropicFoundry,
}

OF_MACHINE = {
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "needed by clients for Bedrock",
    "AWS_SECRET_ACCESS_KEY": "needed by clients for Bedrock",
    "AZURE_OPENAI_AD_TOKEN": "of the machine",
    "AZURE_OPENAI_ENDPOINT": "https://unreachable.invalid",
    "ANTHROPIC_AUTH_TOKEN": "of the machine",
    "ANTHROPIC_BEDROCK_BASE_URL": "https://unreachable.invalid",
    "ANTHROPIC_FOUNDRY_RESOURCE": "unreachable",
    "OPENAI_API_BASE": "https://unreachable.invalid",
}

MODULE_SETTINGS = (
    *("_client", "api_key", "api_type", "api_version"),
    *("azure_ad_token", "azure_endpoint", "base_url"),
)

OWN_PROCESS = f"""
import os, sys

from paygent import paygent_context
from paygent.testing import PaygentFake

for expected in os.environ.pop("EXPECTED").split():
    with PaygentFake() as fake, paygent_context("ada"):
        import openai

        openai.chat.completions.create(model="gpt-4o", messages=[])
        assert [request.path for request in fake.requests] == [expected], fake.requests
        assert len(fake.events("ada")) == 1
    settings = {{name: getattr(openai, name) for name in {MODULE_SETTINGS!r}}}
    assert settings.pop("api_type") == os.environ.get("OPENAI_API_TYPE")
    assert not any(settings.values()), settings
"""


def ask(client: Any) -> None:
    """Make one call with a client of either SDK, or with OpenAI's module."""
    if hasattr(client, "chat"):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    else:
        client.messages.create(model="claude-sonnet-5-5", max_tokens=5, messages=MESSAGES)


@pytest.mark.parametrize("name", CLIENTS)
def test_paygent_fake__a_client_for_another_cloud__reaches_the_provider(
    name: str, monkeypatch: pytest.MonkeyPatch, closing: Closing
) -> None:
    """Made without an address, whatever the machine's environment says; its call is booked."""
    for variable, value in OF_MACHINE.items():
        monkeypatch.setenv(variable, value)
    before = dict(os.environ)
    with PaygentFake() as fake, paygent_context("ada"):
        ask(closing(CLIENTS[name]()))
        assert len(fake.requests) == 1
        assert "of the machine" not in str(fake.requests[0].headers)
        assert [event.total_tokens for event in fake.events("ada")] == [120]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("api_type", "path"),
    [
        (None, "/v1/chat/completions"),
        ("openai", "/v1/chat/completions"),
        ("azure", "/openai/deployments/gpt-4o/chat/completions"),
    ],
)
def test_paygent_fake__the_module_client__reaches_each_tests_provider(
    api_type: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK keeps the client that it makes; that and its settings are as before afterwards."""
    monkeypatch.setattr(openai, "api_type", api_type)
    monkeypatch.setattr(openai, "azure_endpoint", "https://unreachable.invalid")
    monkeypatch.setattr(openai, "base_url", "https://unreachable.invalid/v1")
    monkeypatch.setattr(openai, "_client", object())
    before = [getattr(openai, name) for name in MODULE_SETTINGS]
    for _ in range(2):
        with PaygentFake() as fake, paygent_context("ada"):
            ask(openai)
            with PaygentFake() as inner:
                ask(openai)
                assert len(inner.requests) == 1
            ask(openai)
            assert [request.path for request in fake.requests] == [path, path]
            assert len(fake.events("ada")) == 2
        assert [getattr(openai, name) for name in MODULE_SETTINGS] == before


def test_paygent_fake__a_module_setting_of_the_applications_own__stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what the fake and the SDK have set is undone."""
    monkeypatch.setattr(openai, "api_key", None)
    with PaygentFake():
        openai.api_key = "of the application"
    assert openai.api_key == "of the application"


@pytest.mark.parametrize(
    ("api_type", "path"),
    [(None, "/v1/chat/completions"), ("azure", "/openai/deployments/gpt-4o/chat/completions")],
)
def test_paygent_fake__an_sdk_that_is_imported_in_the_test__keeps_nothing_of_it(
    api_type: str | None, path: str
) -> None:
    """What its import has read from the environment is what it reads outside."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    chosen = {} if api_type is None else {"OPENAI_API_TYPE": api_type}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", OWN_PROCESS],
        env={**kept, **chosen, "EXPECTED": f"{path} {path}"},
        check=True,
        timeout=60,
    )
