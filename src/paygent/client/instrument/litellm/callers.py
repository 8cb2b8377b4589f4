"""Calls inside a LiteLLM call: LiteLLM's own are parts of it, the application's count themselves.

LiteLLM calls SDKs, and its own functions again. It also runs callbacks, and whole providers that
the application has registered. A context variable (`http_sdks/layers.py`) shows that a LiteLLM call
is open here; the nearest frame of LiteLLM shows which of the two runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from paygent.client.context.identity import CALL_ARGUMENTS
from paygent.client.instrument.http_sdks.layers import Gateway, current_gateway
from paygent.client.instrument.litellm.functions import is_custom, resolve
from paygent.core.providers import canonical_provider

_RUNS_CALLBACKS = (
    "litellm.integrations.",
    "litellm.litellm_core_utils.litellm_logging",
    "litellm.litellm_core_utils.logging_worker",
    "litellm.proxy.",
    "litellm.utils",
)
"""Modules from which LiteLLM calls code of the application (litellm 1.60 and 1.110, 2026-11)."""

# LiteLLM's decorator adds this argument to a call, and passes it on to every function below, even
# on another thread, where no frame of LiteLLM is left.
_OWN_ARGUMENT = "litellm_logging_obj"
_PARTLY_CACHED = "aembedding"  # the async function calls the sync one for what its cache lacks
_CONTENT = ("messages", "input", "prompt", "query", "file", "image")


def _nearest_module() -> str:
    """Return the module of the nearest frame of LiteLLM; "" on a thread or task of others."""
    # Not the nearest frame of all: another instrumentation may be between LiteLLM and an SDK.
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if f"{name}.".startswith("litellm."):
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def is_in_callback() -> bool:
    """Return whether LiteLLM is running a callback of the application here."""
    return _nearest_module().startswith(_RUNS_CALLBACKS)


def _is_in_litellm() -> bool:
    module = _nearest_module()
    return bool(module) and not module.startswith(_RUNS_CALLBACKS)


class LiteLLMGateway(Gateway):
    """One run of a LiteLLM function. It is in front of every provider but the application's own
    (`CustomLLM`), which counts by the calls that it makes.

    Attributes:
        provider: After a fallback, the provider of the last request; "" before one.
        embeds: The input that was sent to be embedded, where a cache may have had the rest.
    """

    __slots__ = ("_content", "_layer", "_model", "_name", "embeds", "provider")

    def __init__(
        self, name: str = "", layer: object = None, body: Mapping[str, Any] | None = None
    ) -> None:
        """Open a run of a function, called through our wrapper `layer` with arguments by name."""
        super().__init__()
        self._name = name
        self._layer = layer
        self._model = (body or {}).get("model")
        self._content = _content_of(body or {})
        self.provider = ""  # as long as the answer comes from the requested model
        self.embeds: Any = None

    def sends(self) -> bool:
        """Return whether LiteLLM makes the request; see `Gateway.sends`."""
        return _is_in_litellm()

    def includes(self, name: str, layer: object, body: Mapping[str, Any]) -> bool:
        """Return whether a LiteLLM function is called as a part of this run; see `__init__`."""
        if not body.keys().isdisjoint(CALL_ARGUMENTS):
            return False  # LiteLLM does not know our arguments, so the application calls
        if _OWN_ARGUMENT in body:
            return True
        # A library between two of our wrappers has kept the first one, and both see this call. By
        # identity: it may have rebuilt the arguments, but not the content.
        is_twin = name == self._name and layer is not self._layer
        if is_twin and self._content is not None and _content_of(body) is self._content:
            return True
        # A provider of the application is called from LiteLLM too, and its calls are its own.
        return self.in_front and _is_in_litellm()

    def note_part(self, litellm: Any, body: Mapping[str, Any]) -> None:
        """Record the provider and the input of a part of this run, by its arguments."""
        if body.get("model") == self._model:
            self.provider = ""
        else:  # a fallback
            self.provider = canonical_provider(resolve(litellm, body)[1])
            self.in_front = self.in_front and not is_custom(litellm, body)
        if body.get(_PARTLY_CACHED) is True:
            self.embeds = body.get("input")


def _content_of(body: Mapping[str, Any]) -> Any:
    return next((body[name] for name in _CONTENT if body.get(name) is not None), None)


def enclosing_call(name: str, layer: object, body: Mapping[str, Any]) -> LiteLLMGateway | None:
    """Return the run that a call is a part of; None for a call of its own. See `includes`."""
    gateway = current_gateway()
    if isinstance(gateway, LiteLLMGateway) and gateway.includes(name, layer, body):
        return gateway
    return None
