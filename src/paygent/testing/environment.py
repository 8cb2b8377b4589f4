"""What leads an application to a test's parts: environment variables, and OpenAI's module client.

Variables that configure other things too, such as AWS credentials, stay as they are. The names were
read in openai 1.60 and 3.57, anthropic 0.40 and 2.14, LiteLLM 1.110 and langchain-openai 1.7.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paygent.testing.provider import FakeProvider

Variables = dict[str, str | None]  # None: not set

_KEY = "fake"

_HIDDEN = (
    # Addresses that LangChain and LiteLLM prefer to the SDKs' own variables.
    *("OPENAI_API_BASE", "ANTHROPIC_API_BASE", "ANTHROPIC_API_URL"),
    # Credentials that SDKs prefer to the key, or refuse beside it.
    *("ANTHROPIC_AUTH_TOKEN", "AZURE_OPENAI_AD_TOKEN"),
    "ANTHROPIC_FOUNDRY_RESOURCE",  # refused beside an address
)

_DEFAULTS = {
    # Clients need them, but they do not decide what is reached.
    "OPENAI_API_VERSION": "2024-10-21",
    "CLOUD_ML_REGION": "us-east5",
    "ANTHROPIC_VERTEX_PROJECT_ID": _KEY,
    "ANTHROPIC_AWS_WORKSPACE_ID": _KEY,
    # Beside Azure's variables, OpenAI's module client cannot infer which of the two is meant.
    "OPENAI_API_TYPE": "openai",
}


def variables_for(provider: FakeProvider, db_path: str) -> Variables:
    """Return what leads SDKs to a provider, and every `Paygent` to a store."""
    of_machine = (name for name in os.environ if name.startswith("PAYGENT_"))
    # A proxy of the machine would otherwise be asked for loopback.
    bypassed = {
        name: ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
        for name in ("NO_PROXY", "no_proxy")
    }
    return {
        **dict.fromkeys((*of_machine, *_HIDDEN)),
        **bypassed,
        **{name: os.environ.get(name, default) for name, default in _DEFAULTS.items()},
        "OPENAI_BASE_URL": provider.openai_url,
        "OPENAI_API_KEY": _KEY,
        "AZURE_OPENAI_ENDPOINT": provider.url,
        "AZURE_OPENAI_API_KEY": _KEY,
        "AWS_BEDROCK_BASE_URL": provider.openai_url,  # of OpenAI's client for Bedrock
        "AZURE_API_BASE": provider.url,  # LiteLLM's name
        "AZURE_API_KEY": _KEY,
        "ANTHROPIC_BASE_URL": provider.url,
        "ANTHROPIC_API_KEY": _KEY,
        "ANTHROPIC_BEDROCK_BASE_URL": provider.url,
        "ANTHROPIC_BEDROCK_MANTLE_BASE_URL": provider.url,
        "ANTHROPIC_AWS_BASE_URL": provider.url,
        "ANTHROPIC_AWS_API_KEY": _KEY,
        "ANTHROPIC_VERTEX_BASE_URL": provider.url + "/v1",
        "ANTHROPIC_GOOGLE_CLOUD_BASE_URL": provider.url,
        "ANTHROPIC_FOUNDRY_BASE_URL": provider.url,
        "ANTHROPIC_FOUNDRY_API_KEY": _KEY,
        "PAYGENT_DB_PATH": db_path,
    }


@contextmanager
def environment(variables: Variables) -> Iterator[None]:
    """Set variables of the process's environment, or remove those that are None, for a while."""
    previous = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(previous)


def _set(variables: Variables) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def module_client(variables: Variables) -> Iterator[None]:
    """Lead OpenAI's module client (`openai.chat.completions.create`) where these variables lead.

    The SDK makes this client at its first call and keeps it, and keeps in its module what it has
    read from the environment. Afterwards both are as before, but for settings that somebody else
    has changed meanwhile. To be entered before the variables are set, and left after them.
    """
    inside = {
        # The environment's apply instead, and so does the key.
        "base_url": None,
        "azure_ad_token": None,
        "azure_endpoint": variables["AZURE_OPENAI_ENDPOINT"],
        # A client that is made inside writes these.
        "api_key": variables["OPENAI_API_KEY"],
        "api_type": variables["OPENAI_API_TYPE"],
        "api_version": variables["OPENAI_API_VERSION"],
    }
    before = dict.fromkeys(("_client", *inside))
    sdk: Any = sys.modules.get("openai")
    if sdk is not None:
        before = {name: getattr(sdk, name, None) for name in before}
        sdk._client = None
        for name in ("base_url", "azure_ad_token", "azure_endpoint"):
            setattr(sdk, name, inside[name])
        sdk.api_type = before["api_type"] or inside["api_type"]
    else:
        before["api_type"] = os.environ.get("OPENAI_API_TYPE")  # read by the import alone
    try:
        yield
    finally:
        sdk = sys.modules.get("openai")
        if sdk is not None:
            sdk._client = before["_client"]
            for name, value in inside.items():
                if getattr(sdk, name, None) == value:
                    setattr(sdk, name, before[name])
