"""LiteLLM's functions: which are metered, which are free, and how their requests are read.

Nothing here calls or patches. Names were read from litellm 1.60 and 1.110 (2026-11).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any, NamedTuple

from paygent.client.instrument.anthropic.answers import read_message
from paygent.client.instrument.http_sdks.route import Operations, max_tokens_of
from paygent.client.instrument.litellm.answers import MessageEvents, read_completion, read_nothing
from paygent.client.instrument.openai.answers import (
    ChatStream,
    ResponseStream,
    read_images,
    read_response,
    read_transcription,
)
from paygent.client.instrument.openai.usage import usage_of_audio, usage_of_speech
from paygent.client.instrument.streams.reader import StreamReader
from paygent.client.metering.call import Request
from paygent.core.providers import canonical_provider
from paygent.core.usage import JobStatus, Usage, get
from paygent.failopen import attempt

_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


class Function(NamedTuple):
    """A LiteLLM function, and its async twin, which is named "a" and the name.

    Attributes:
        name: Of the sync one.
        read: Reads the usage of an answer.
        reader: Reads the chunks of a stream.
        generates: Whether there is output.
        declared_usage: Reads the usage of a request, where the answer may report none.
        mocks: Arguments with which LiteLLM makes up the answer, unless they are empty, as some
            versions send them. `mock_timeout` is not among them: it makes no answer.
    """

    name: str
    read: Callable[[Any, bool], Usage | JobStatus | None]
    reader: Callable[[bool, bool], StreamReader] = ChatStream
    generates: bool = True
    declared_usage: Callable[[Mapping[str, Any], Any], Usage | None] | None = None
    mocks: tuple[str, ...] = ()


def _usage_of_file(body: Mapping[str, Any], files: Any) -> Usage | None:
    return usage_of_audio(body, {"file": body.get("file")})


_CHAT_MOCKS = ("mock_response", "mock_tool_calls")
_MOCKS = ("mock_response",)

METERED = (
    Function("completion", read_completion, mocks=_CHAT_MOCKS),
    Function("text_completion", read_completion, mocks=_CHAT_MOCKS),
    Function("embedding", read_completion, generates=False, mocks=_MOCKS),
    Function("responses", read_response, ResponseStream, mocks=_MOCKS),
    Function("image_generation", read_images, mocks=_MOCKS),
    Function("image_edit", read_images),
    Function("transcription", read_transcription, declared_usage=_usage_of_file),
    Function("speech", read_nothing, declared_usage=usage_of_speech),
    Function("rerank", read_completion, generates=False),
    Function("anthropic_messages", read_message, MessageEvents, mocks=_MOCKS),
)
BY_NAME = {prefix + function.name: function for function in METERED for prefix in ("", "a")}

OTHERS = (
    "ocr", "aocr", "run_thread", "arun_thread", "run_thread_stream", "arun_thread_stream",
)  # fmt: skip
"""Functions that call a provider, and that `is_call` does not recognize."""

# The functions that are not metered, without the "a" of async ones; one whose name has several
# meanings with its module.
FREE = (
    Operations(
        "reads or removes what exists",
        (
            "cancel", "cancel_eval", "cancel_fine_tuning_job", "cancel_responses", "cancel_run",
            "delete", "delete_container", "delete_eval", "delete_responses", "delete_run",
            "delete_sandbox", "delete_skill", "file_content", "file_delete", "file_list",
            "file_retrieve", "get", "get_eval", "get_responses", "get_run", "get_skill", "list",
            "list_batches", "list_container_files", "list_containers", "list_evals",
            "list_input_items", "list_runs", "list_skills", "list_versions", "retrieve",
            "retrieve_batch", "retrieve_container", "retrieve_content",
            "retrieve_fine_tuning_job", "video_content", "video_get_character", "video_list",
            "video_status", "vector_store_file_content", "vector_store_file_delete",
            "vector_store_file_list", "vector_store_file_retrieve",
            "containers.endpoint_factory.endpoint_func",
            "containers.endpoint_factory.async_endpoint_func",
        ),
    ),
    Operations(
        "stores or defines what later calls use",
        (
            "create_eval", "create_file", "create_skill", "update", "update_eval",
            "upload_container_file", "vector_store_file_update", "interactions.agents.create",
            "vector_store_files.create", "vector_stores.create",
        ),
    ),
    Operations("moderation is free of charge at its provider", ("moderation",)),
)  # fmt: skip

UNMETERED = (
    Operations("generates a video", (
        "video_create_character", "video_edit", "video_extension", "video_generation",
        "video_remix",
    )),
    Operations("generates, in a format of its own", (
        "compact_responses", "decisions", "extraction", "generate_content",
        "generate_content_stream", "image_variation", "interactions.create", "ocr", "systemone",
        "llm_passthrough_route", "send_message",
    )),
    Operations("searches, or indexes what is searched", (
        "ingest", "query", "search", "vector_stores.search",
    )),
    Operations("runs in the background", (
        "create_batch", "create_fine_tuning_job", "create_run", "run_thread", "run_thread_stream",
    )),
    Operations("runs a container", (
        "code_interpreter_tool", "create_container", "create_sandbox", "run_code",
    )),
    Operations("connects a client to a provider; the sockets below are metered by themselves", (
        "_arealtime", "_aresponses_websocket", "create_realtime_client_secret",
        "create_realtime_transcription_session", "create_realtime_translation_client_secret",
        "realtime_calls", "realtime_translation_calls",
    )),
)  # fmt: skip
"""Functions that may cost something; any other that is not in `FREE` is treated like these."""

_FREE_NAMES = frozenset(name for each in FREE for name in each.paths)


def names_of(function: str, module: str) -> set[str]:
    """Return the names under which the tables may list a function, given its own name and the name
    of its module.
    """
    place = module.removeprefix("litellm").removesuffix("main").strip(".")
    names = {function, function.removeprefix("a")}
    return names | {f"{place}.{name}" for name in names}


def is_free(function: str, module: str) -> bool:
    """Return whether a function is known to cost nothing."""
    return not _FREE_NAMES.isdisjoint(names_of(function, module))


_WRAPPERS_MAX = 16  # around one function


def is_call(value: Any) -> bool:
    """Return whether an object is a function made by LiteLLM's decorator `client`, as most
    functions that call a provider are.
    """
    for _ in range(_WRAPPERS_MAX):  # a chain may be a cycle
        if type(value) is not FunctionType:  # proxies claim to be instances of it
            break
        inner = value.__dict__.get("__wrapped__")
        # Other code may have wrapped it since, so the whole chain counts.
        if inner is not None and value.__globals__.get("__name__") == "litellm.utils":
            return True
        value = inner
    return False


# -- requests


def positional_names(function: Any) -> list[str]:
    """Return the names of a function's positional parameters."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # None, or other code's wrapper without a signature
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def request_of(function: Function, litellm: Any, body: Mapping[str, Any]) -> Request | None:
    """Read a request from its arguments by name; None for one that no provider receives."""
    if any(body.get(name) for name in function.mocks):
        return None  # LiteLLM makes up the answer
    model, provider = resolve(litellm, body)
    route = f"litellm.{function.name}"
    request = Request(canonical_provider(provider), route, model, body)
    request.generates = function.generates
    request.max_tokens = max_tokens_of(_BOUNDS, body.get)
    if function.declared_usage is not None:
        request.declared_usage = attempt("usage", function.declared_usage, body, None)
    return request


def resolve(litellm: Any, body: Mapping[str, Any]) -> tuple[str, str]:
    """Return the model's own name and its provider, as LiteLLM understands the request; "" for what
    it cannot tell.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        return "", ""
    return attempt("gateway", _resolve, litellm, body, model) or (model, "")


def _resolve(litellm: Any, body: Mapping[str, Any], model: str) -> tuple[str, str] | None:
    # Raised for an unknown model, which LiteLLM will refuse itself.
    unknown: Any = getattr(litellm, "BadRequestError", ())
    with suppress(unknown):
        named, provider, *_ = litellm.get_llm_provider(
            model, body.get("custom_llm_provider"), body.get("api_base")
        )
        return str(named), str(provider)
    return None


def is_custom(litellm: Any, body: Mapping[str, Any]) -> bool:
    """Return whether the requested provider is code of the application (`CustomLLM`)."""
    registered = getattr(litellm, "custom_provider_map", None)
    if not registered:
        return False
    own = {get(entry, "provider") for entry in registered}
    # LiteLLM prefers its own provider where both have one name.
    own -= {provider.value for provider in getattr(litellm, "LlmProviders", ())}
    model, provider = resolve(litellm, body)
    return bool(own & {provider or model.partition("/")[0]})
