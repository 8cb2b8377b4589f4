"""Known SDKs of providers that have no hook here: noticed when they are imported, and said once.

Their calls are neither gated nor metered, which must not go unseen. `pg.wrap` or a registered
provider meters them; one that is registered is not said. The name of a package says little where
most of its users call something else: for AWS it is the client for Bedrock that is noticed.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from paygent.failopen import attempt, failures
from paygent.instrument.patches import Hook, Patches

_MODULES = {
    "google.genai": "Gemini (google-genai)",
    "google.generativeai": "Gemini (google-generativeai)",
    "vertexai": "Vertex AI",
    "mistralai": "Mistral",
    "cohere": "Cohere",
    "groq": "Groq",
    "together": "Together",
    "fireworks": "Fireworks",
    "replicate": "Replicate",
    "ollama": "Ollama",
    "ai21": "AI21",
    "cerebras.cloud.sdk": "Cerebras",
    "xai_sdk": "xAI",
    "writerai": "Writer",
    "voyageai": "Voyage",
    "dashscope": "DashScope",
    "zhipuai": "Zhipu",
    "volcenginesdkarkruntime": "Volcengine Ark",
    "ibm_watsonx_ai": "watsonx",
    "huggingface_hub.inference._client": "Hugging Face inference",
    "portkey_ai": "Portkey",
    "aleph_alpha_client": "Aleph Alpha",
    "llama_api_client": "Llama API",
    "perplexity": "Perplexity",
    "openrouter": "OpenRouter",
}

_AWS_SERVICES = {
    "bedrock-runtime": "Bedrock (boto3)",
    "bedrock-agent-runtime": "Bedrock agents (boto3)",
}

_MESSAGE = (
    "%s is in use, and its calls are neither gated nor metered; put them into pg.wrap, or register"
    " the SDK"
)


class NoticedHook:
    """Says that an SDK has been imported; see `patches.Hook`."""

    def __init__(self, module: str, shown: str) -> None:
        """Name the SDK.

        Args:
            module: Whose import is waited for.
            shown: What it is called in the log.
        """
        self.name = f"noticed:{module}"
        self.module = module
        self._shown = shown

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Say it; see `patches.Hook`."""
        if not arguments_only and not patches.has_provider(self.module):
            _say(self.module, self._shown)


class BedrockHook:
    """Says that a client for Bedrock is made; see `patches.Hook`."""

    name = "noticed:bedrock"
    module = "botocore.client"

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Look at the clients that are made from now on; see `patches.Hook`."""
        original = vars(module.ClientCreator)["create_client"]
        if arguments_only or patches.is_ours(original):
            return

        @functools.wraps(original)
        def create_client(creator: Any, service_name: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.switch.is_on:
                attempt("noticed", _notice_service, service_name, patches)
            return original(creator, service_name, *args, **kwargs)

        patches.put(module.ClientCreator, "create_client", create_client)


HOOKS: tuple[Hook, ...] = (*(NoticedHook(*each) for each in _MODULES.items()), BedrockHook())


def _notice_service(service_name: Any, patches: Patches) -> None:
    shown = _AWS_SERVICES.get(service_name)
    if shown is not None and not patches.has_provider("botocore"):
        _say(service_name, shown)


def _say(what: str, shown: str) -> None:
    failures.say(f"unmetered_sdk:{what}", _MESSAGE, shown)
