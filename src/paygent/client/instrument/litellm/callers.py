"""What runs inside a call of LiteLLM's: its own work, or code of the application's that it runs.

LiteLLM calls SDKs from its files for providers, and calls its own functions again below themselves:
those are parts of the call. But it also runs callbacks, hooks and whole providers of the
application's, and what these call is theirs. The stack tells one from the other: whose frame comes
first above a call, LiteLLM's or somebody else's, and from which file LiteLLM went there. Other code
between LiteLLM's file and an SDK may be an instrumentation; but where a request is already under
way around it, it is a hook, a transport or a source of tokens of the application's. Where a
thread or a task begins, the stack ends, and what LiteLLM starts there itself it marks by an
argument.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from paygent.client.context.identity import CALL_ARGUMENTS
from paygent.client.instrument.http_sdks.wrapper import Gateway

_PACKAGE = "litellm"
_SENDS_FROM = "litellm.llms."
_RUNS_CALLBACKS_FROM = (
    "litellm.integrations.",
    "litellm.litellm_core_utils.litellm_logging",
    "litellm.litellm_core_utils.logging_worker",
    "litellm.proxy.",
    "litellm.utils",
)
_BEGINNINGS = frozenset(
    {
        "asyncio.base_events",
        "asyncio.events",
        "asyncio.runners",
        "concurrent.futures.thread",
        "threading",
        "uvloop",
    }
)
"""Modules in which a thread or a task begins: what is below on the stack has nothing to do with
it.
"""
_HOOK, _ENTERS = "paygent.client.instrument.litellm.hook", "action"
"""The function from which our wrapper enters LiteLLM's."""

_HTTP = frozenset(
    {"aiohttp", "botocore", "httpcore", "httpcore2", "httpx", "httpx2", "requests", "urllib3"}
)
"""Libraries that run code of the application's while they send a request."""
_FUNNEL, _SENDS = "paygent.client.instrument.http_sdks.wrapper", "request"
"""The function from which our wrapper enters an SDK's funnel, which may run such code too."""

_STANDARD = sys.stdlib_module_names
EMBEDDING_FLAG = "aembedding"
_FLAGS = (
    EMBEDDING_FLAG,
    "acompletion",
    "aimg_generation",
    "aresponses",
    "arerank",
    "aspeech",
    "async_call",
    "atext_completion",
    "atranscription",
)
"""Arguments with which an async function of LiteLLM's calls its sync twin on another thread."""


class _Caller(NamedTuple):
    """Who makes a call.

    Attributes:
        module: LiteLLM's module that comes first above it; "" where none does.
        is_direct: No code but ours and an SDK's stands in between.
        is_wrapped: LiteLLM's function has not begun: other code stands around it, below a wrapper
            of ours.
        is_sending: A request of LiteLLM's is under way, and other code makes the call meanwhile.
    """

    module: str
    is_direct: bool
    is_wrapped: bool = False
    is_sending: bool = False


def _caller(sdk: str = "") -> _Caller:
    """Look up who makes the call that is made here.

    Args:
        sdk: The package of the SDK that is called; "" where LiteLLM is.
    """
    between = (sdk, "paygent")
    is_direct = True
    is_called = not sdk  # by somebody further up: code around the SDK's own funnel calls nobody
    is_others = is_sending = False
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        package = name.partition(".")[0]
        if package == _PACKAGE:
            return _Caller(name, is_direct, is_sending=is_sending)
        if name in _BEGINNINGS:
            break
        if name == _HOOK and frame.f_code.co_name == _ENTERS:
            return _Caller("", is_direct, is_wrapped=True)
        is_sending |= is_others and (
            package in _HTTP or (name == _FUNNEL and frame.f_code.co_name == _SENDS)
        )
        is_called |= package == sdk
        is_foreign = package not in between and package not in _STANDARD
        is_others |= is_called and is_foreign
        is_direct &= not is_foreign
        frame = frame.f_back  # type: ignore[assignment]
    return _Caller("", is_direct)


def _runs_callback(caller: _Caller) -> bool:
    return not caller.is_direct and caller.module.startswith(_RUNS_CALLBACKS_FROM)


def is_in_callback() -> bool:
    """Tell whether a callback of the application's runs here, beside the call it is told of."""
    return _runs_callback(_caller())


class LiteLLMGateway(Gateway):
    """One run of a function of LiteLLM's.

    In front of every provider but the application's own (`CustomLLM`): what that calls counts
    instead.

    Attributes:
        model: As the application asked for it.
        provider: Who was asked last, where that is another one after a fallback; "" otherwise.
        embeds: What a provider was asked to embed, where a cache may have given the rest.
    """

    __slots__ = ("embeds", "model", "provider")

    def __init__(self, model: Any = None) -> None:
        super().__init__()
        self.model = model
        self.provider = ""
        self.embeds: Any = None

    def sends(self, sdk: str) -> bool:
        """Tell whether LiteLLM makes a request; see `Gateway.sends`."""
        caller = _caller(sdk)
        if caller.is_sending or not caller.module:
            return False
        return caller.is_direct or caller.module.startswith(_SENDS_FROM)

    def calls(self, kwargs: Mapping[str, Any]) -> bool:
        """Tell whether LiteLLM calls a function of its own, as a part of this call.

        Args:
            kwargs: The function's arguments.
        """
        if not kwargs.keys().isdisjoint(CALL_ARGUMENTS):
            return False
        caller = _caller()
        if caller.is_wrapped:
            return True
        if not caller.module:
            return any(kwargs.get(flag) is True for flag in _FLAGS)
        if caller.is_sending:
            return False
        return caller.is_direct or (self.in_front and not _runs_callback(caller))
