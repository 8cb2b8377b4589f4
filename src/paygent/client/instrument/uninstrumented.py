"""Known SDKs of providers that have no hook here: noticed when they are imported, and said once.

Their calls are neither gated nor metered, which must not go unseen. `pg.wrap` or a registered
provider meters them; one that is registered is not said. The name of a package says little where
most of its users call something else: for AWS it is the client for Bedrock that is noticed.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.failopen import attempt, diagnostics

_MODULES = {
    "azure.ai.inference": "Azure AI inference",
    "google.cloud.aiplatform": "Vertex AI (google-cloud-aiplatform)",
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
    "bedrock-runtime": "Bedrock (botocore)",
    "bedrock-agent-runtime": "Bedrock agents (botocore)",
}

_MESSAGE = (
    "%s was imported; calls that it makes are neither gated nor metered: put them into pg.wrap, or"
    " register the SDK"
)


class NoticedHook:
    """Says that an SDK has been imported; see `patches.Hook`."""

    def __init__(self, module: str, shown: str, package: str = "") -> None:
        """Name the SDK.

        Args:
            module: Whose import is waited for.
            shown: What it is called in the log.
            package: What it is counted as; "" is the module.
        """
        self.name = f"noticed:{module}"
        self.module = module
        self._shown = shown
        self._package = package or module

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Say it; see `patches.Hook`."""
        if not arguments_only and not patches.has_provider(self.module):
            _say(self._package, self._shown)


class BedrockHook:
    """Says that a client for Bedrock is made; see `patches.Hook`."""

    def __init__(self, module: str, creator: str) -> None:
        """Name what makes clients.

        Args:
            module: Where its class is.
            creator: The class.
        """
        self.name = f"noticed:{creator}"
        self.module = module
        self._creator = creator

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Look at the clients that are made from now on; see `patches.Hook`."""
        kind = getattr(module, self._creator)
        original = vars(kind)["create_client"]
        if arguments_only or patches.is_ours(original):
            return

        @functools.wraps(original)
        def create_client(creator: Any, *args: Any, **kwargs: Any) -> Any:
            attempt("noticed", _notice_service, args, kwargs, patches)
            return original(creator, *args, **kwargs)

        @functools.wraps(original)
        async def create_client_async(creator: Any, *args: Any, **kwargs: Any) -> Any:
            attempt("noticed", _notice_service, args, kwargs, patches)
            return await original(creator, *args, **kwargs)

        is_async = inspect.iscoroutinefunction(original)
        patches.put(kind, "create_client", create_client_async if is_async else create_client)


HOOKS: tuple[Hook, ...] = (
    *(NoticedHook(*each) for each in _MODULES.items()),
    NoticedHook("mistralai.client", "Mistral", "mistralai"),  # its package has no module of its own
    BedrockHook("botocore.client", "ClientCreator"),
    BedrockHook("aiobotocore.client", "AioClientCreator"),
)


def _notice_service(args: tuple[Any, ...], kwargs: dict[str, Any], patches: Patches) -> None:
    service_name: Any = args[0] if args else kwargs.get("service_name")
    shown = _AWS_SERVICES.get(service_name)
    if shown is not None and patches.switch.is_on and not patches.has_provider("botocore"):
        _say(service_name, shown)


def _say(what: str, shown: str) -> None:
    diagnostics.warn_once(f"unmetered_sdk:{what}", _MESSAGE, shown)
