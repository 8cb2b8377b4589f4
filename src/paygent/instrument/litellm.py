"""LiteLLM: gate and meter around its own functions, outside whatever it calls below.

LiteLLM speaks to most providers by itself, and where it calls OpenAI's SDK it turns every exception
into one of its own, ours too. So its public functions are the call, and the hooks of the SDKs stand
back while one of them runs. What it answers from its cache, or from a `mock_response`, costs
nothing. Names were read from litellm 1.60 and 1.110 (2026-11).
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from paygent.call import Call, Request
from paygent.core.estimate import Estimate
from paygent.core.usage import Deferred, Usage, fields_of, get
from paygent.failopen import attempt, failures
from paygent.instrument.anthropic import read_message
from paygent.instrument.ending import Ending
from paygent.instrument.funnel import behind_gateway, is_behind_gateway, meter_or_say
from paygent.instrument.openai_usage import (
    ChatStream,
    ResponseStream,
    read_chat,
    read_images,
    read_response,
    read_transcription,
    told_by_audio,
    told_by_speech,
)
from paygent.instrument.patches import Patches
from paygent.instrument.reading import StreamReader
from paygent.instrument.request import Prepared
from paygent.instrument.route import Route, max_tokens_of
from paygent.instrument.run import Work, end_raised, prepare, run, run_async, take_arguments
from paygent.meter import Meter

_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_MOCKED = ("mock_response", "mock_tool_calls", "mock_timeout")

_PROVIDERS = {
    "azure_ai": "azure",
    "azure_text": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cohere_chat": "cohere",
    "custom_openai": "openai",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "moonshot": "moonshotai",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "google",
    "vertex_ai_beta": "google",
    "xai": "x-ai",
}
"""LiteLLM's names of providers that have another one here."""


# -- what its answers tell


def read_completion(answer: Any, want_tools: bool) -> Usage | Deferred | None:
    """Read an answer of the chat shape: whoever answered, its input includes what a cache gave.

    LiteLLM writes its own idea of the cost into `usage.cost`; only OpenRouter's is a bill.
    """
    usage = read_chat(answer, want_tools)
    if usage is None:
        return None
    told = fields_of(get(answer, "usage"))
    details = fields_of(told.get("prompt_tokens_details"))
    if not (usage.cache_write_tokens or usage.cache_write_long_tokens):
        written = _count(details, "cache_creation_tokens", usage.input_tokens)
        lifetimes = fields_of(details.get("cache_creation_token_details"))
        written_long = _count(lifetimes, "ephemeral_1h_input_tokens", written)
        usage = usage._replace(
            cache_write_tokens=written - written_long, cache_write_long_tokens=written_long
        )
    if _hidden(answer).get("custom_llm_provider") != "openrouter":
        usage = usage._replace(billed_nano=None)
    return usage


def _read_nothing(answer: Any, want_tools: bool) -> None:
    """Read an answer that tells nothing, such as sound."""


def _count(fields: Mapping[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    return min(value, most) if type(value) is int and value > 0 else 0


def _hidden(answer: Any) -> Mapping[str, Any]:
    """Return what LiteLLM keeps with an answer, beside its fields."""
    hidden = getattr(answer, "_hidden_params", None)
    return hidden if isinstance(hidden, Mapping) else {}


class _Function(NamedTuple):
    """A function of LiteLLM's, and its async twin under "a" and its name.

    Attributes:
        name: Of the sync one.
        read: Reads the usage of an answer.
        reader: Reads the chunks of a stream.
        generates: Whether there is output.
        told: Says what a request will use, of functions whose answers may tell nothing.
    """

    name: str
    read: Callable[[Any, bool], Usage | Deferred | None]
    reader: Callable[[bool, bool], StreamReader] = ChatStream
    generates: bool = True
    told: Callable[[Mapping[str, Any], Any], Usage | None] | None = None


def _told_by_file(body: Mapping[str, Any], files: Any) -> Usage | None:
    return told_by_audio(body, {"file": body.get("file")})


_FUNCTIONS = (
    _Function("completion", read_completion),
    _Function("text_completion", read_completion),
    _Function("embedding", read_completion, generates=False),
    _Function("responses", read_response, ResponseStream),
    _Function("image_generation", read_images),
    _Function("image_edit", read_images),
    _Function("transcription", read_transcription, told=_told_by_file),
    _Function("speech", _read_nothing, told=told_by_speech),
    _Function("rerank", read_completion, generates=False),
    _Function("anthropic_messages", read_message),
)
_UNMETERED = (
    "create_batch",
    "generate_content",
    "image_variation",
    "ocr",
    "search",
    "video_generation",
)
"""Functions that cost something and tell nothing that we can read; each is said once."""

_STREAMS = (
    ("litellm.litellm_core_utils.streaming_handler", "CustomStreamWrapper"),
    ("litellm.responses.streaming_iterator", "SyncResponsesAPIStreamingIterator"),
    ("litellm.responses.streaming_iterator", "ResponsesAPIStreamingIterator"),
)
"""Classes of its streams; a version lacks some."""


# -- the hook


class LiteLLMHook:
    """Patches LiteLLM's functions and streams; see `patches.Hook`."""

    name = "litellm"
    module = "litellm"

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Put gate and meter around its functions, under every name that modules have for them:
        an application may have imported a function before `init`.
        """
        wrappers: dict[int, tuple[Any, Any]] = {}
        for function in _FUNCTIONS:
            for name in (function.name, "a" + function.name):
                found = getattr(module, name, None)
                if inspect.isroutine(found) and not patches.is_ours(found):
                    wrapper = _wrap(found, function, module, patches)
                    wrappers[id(found)] = (found, wrapper)
        for name in (*_UNMETERED, *("a" + each for each in _UNMETERED)):
            found = getattr(module, name, None)
            if inspect.isroutine(found) and not patches.is_ours(found):
                wrappers[id(found)] = (found, _say_unmetered(found, name, patches))
        for each in list(sys.modules.values()):
            _rebind(each, wrappers, patches)
        for module_name, class_name in _STREAMS:
            kind = getattr(sys.modules.get(module_name), class_name, None)
            if isinstance(kind, type):
                _tap_class(kind, patches)


def _rebind(module: Any, wrappers: Mapping[int, tuple[Any, Any]], patches: Patches) -> None:
    """Put wrappers in the place of functions wherever a module has them."""
    if not isinstance(module, ModuleType):
        return
    for name, value in list(vars(module).items()):
        found = wrappers.get(id(value))
        if found is not None and found[0] is value:
            patches.put(module, name, found[1])


def _say_unmetered(original: Callable[..., Any], name: str, patches: Patches) -> Any:
    """Return a function that says that it is not metered."""

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if patches.switch.is_on and not is_behind_gateway():
            kind = f"unmetered:litellm:{name}"
            failures.say(kind, "litellm.%s is neither gated nor metered; use pg.wrap", name)
        return original(*args, **kwargs)

    return function


def _wrap(
    original: Callable[..., Any], function: _Function, litellm: ModuleType, patches: Patches
) -> Callable[..., Any]:
    """Return a function of LiteLLM's with gate and meter around it, of the kind that it is."""

    def work_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Work:
        scope = attempt("prepare", take_arguments, kwargs)
        meter = meter_or_say() if patches.switch.is_on and not is_behind_gateway() else None
        prepared = None
        if meter is not None:
            prepared = attempt("prepare", _prepare, function, litellm, args, kwargs)
        if prepared is None:
            meter, prepared = None, prepare(Request("", function.name, "", None), function.read)
        return _GatewayCall(meter, prepared, scope, function)

    if any(map(inspect.iscoroutinefunction, (original, inspect.unwrap(original)))):

        @functools.wraps(original)
        async def async_function(*args: Any, **kwargs: Any) -> Any:
            work = work_of(args, kwargs)

            async def action() -> Any:
                with behind_gateway():
                    return await original(*args, **kwargs)

            return await run_async(work, action)

        return async_function

    @functools.wraps(original)
    def sync_function(*args: Any, **kwargs: Any) -> Any:
        work = work_of(args, kwargs)

        def action() -> Any:
            with behind_gateway():
                return original(*args, **kwargs)

        return run(work, action)

    return sync_function


def _prepare(
    function: _Function, litellm: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Prepared | None:
    """Read a request; None for one that no provider will see."""
    if any(kwargs.get(name) is not None for name in _MOCKED):
        return None
    body = dict(zip(("model", "messages"), args, strict=False)) if args else {}
    body.update(kwargs)
    model, provider = body.get("model"), ""
    if isinstance(model, str) and model:
        model, provider = _resolve(litellm, model, body)
    request = Request(
        _PROVIDERS.get(provider, provider),
        f"litellm.{function.name}",
        model if isinstance(model, str) else "",
        body,
        generates=function.generates,
        max_tokens=max_tokens_of(_ROUTE, body.get),
        told=attempt("told", function.told, body, None) if function.told is not None else None,
    )
    return prepare(request, function.read)


_ROUTE = Route("litellm", read_completion, ChatStream, max_tokens_names=_BOUNDS)


def _resolve(litellm: Any, model: str, body: Mapping[str, Any]) -> tuple[str, str]:
    """Return a model's own name and its provider, as LiteLLM takes them."""
    try:
        named, provider, *_ = litellm.get_llm_provider(
            model, body.get("custom_llm_provider"), body.get("api_base")
        )
    except Exception:  # noqa: BLE001 - a model that it does not know; it will say so itself
        return model, ""
    return str(named), str(provider)


class _GatewayCall(Work):
    """One call of a function of LiteLLM; see `run.Work`."""

    __slots__ = ("_function",)

    def __init__(
        self, meter: Meter | None, prepared: Prepared, scope: Any, function: _Function
    ) -> None:
        super().__init__(meter, prepared, scope)
        self._function = function

    def end_with(self, meter: Meter, call: Call, answer: Any) -> bool:
        """End a call with its answer; a stream of LiteLLM's ends it later."""
        if _hidden(answer).get("cache_hit"):
            meter.void(call, "answered from a cache")
            return True
        if any(kind.__name__ in _STREAM_NAMES for kind in type(answer).__mro__):
            reader = _StreamReader(answer, self._function, call.wants_tools)
            answer._paygent_tap = _Tap(Ending(meter, call, reader), reader)
            call.hand_over()
            return True
        return super().end_with(meter, call, answer)

    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End a call that raised: LiteLLM gives its own statuses to what has none."""
        names = {base.__name__ for base in type(error).__mro__}
        if "APITimeoutError" in names or (
            "APIConnectionError" in names and not _was_never_sent(error)
        ):
            meter.settle(call, None)
        else:
            end_raised(meter, call, self._prepared, error)


_STREAM_NAMES = frozenset(name for _, name in _STREAMS)
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol")
_CONTEXTS_MAX = 16


def _was_never_sent(error: BaseException) -> bool:
    """Tell whether what LiteLLM made an error of is a connection that was never made."""
    each: BaseException | None = error
    for _ in range(_CONTEXTS_MAX):
        if each is None:
            break
        if any(base.__name__ in _NEVER_SENT for base in type(each).__mro__):
            return True
        each = each.__cause__ or each.__context__
    return False


# -- streams


class _StreamReader:
    """Reads a stream of LiteLLM's: what it keeps of the chunks has the usage, which the application
    sees only if it asked for it.
    """

    def __init__(self, stream: Any, function: _Function, want_tools: bool) -> None:
        self._kept: Any = getattr(stream, "chunks", None)
        self._inner = function.reader(want_tools, False)
        self._read = function.read
        self._is_whole = False

    def end(self) -> None:
        """Note that the stream has come to its own end."""
        self._is_whole = True

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`. None is ever kept from the application."""
        self._inner.feed(chunk)
        return None

    def usage(self, estimate: Estimate) -> Usage | Deferred | None:
        """Return what was used; see `StreamReader.usage`."""
        seen = self._inner.usage(estimate)
        told = next((each for each in reversed(self._kept or ()) if get(each, "usage")), None)
        usage = self._read(told, False) if told is not None else None
        if not isinstance(usage, Usage):
            return seen._replace(billed_nano=None) if isinstance(seen, Usage) else seen
        if self._is_whole or not isinstance(seen, Usage):
            return usage._replace(tool_calls=seen.tool_calls if isinstance(seen, Usage) else ())
        output_tokens = max(usage.output_tokens, seen.output_tokens)
        return usage._replace(output_tokens=output_tokens, quality="partial")


class _Tap:
    """What a stream of LiteLLM's carries; gone when the stream is."""

    __slots__ = ("ending", "reader")

    def __init__(self, ending: Ending, reader: StreamReader) -> None:
        self.ending = ending
        self.reader = reader

    def __del__(self) -> None:
        self.ending.from_anywhere()


def _tap_class(kind: type, patches: Patches) -> None:
    """Have the streams of a class tell their taps of each chunk and of their end."""
    for name, wrap in (
        ("__next__", _wrap_next),
        ("__anext__", _wrap_anext),
        ("close", _wrap_close),
        ("aclose", _wrap_aclose),
    ):
        original = vars(kind).get(name)
        if inspect.isfunction(original) and not patches.is_ours(original):
            patches.put(kind, name, wrap(original))


def _wrap_next(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def next_chunk(stream: Any) -> Any:
        tap = vars(stream).get("_paygent_tap")
        if tap is None:
            return original(stream)
        try:
            chunk = original(stream)
        except StopIteration:
            tap.ending.at_its_end()
            raise
        except BaseException:  # an error, an interruption: each ends the call
            tap.ending()
            raise
        attempt("stream", tap.reader.feed, chunk)
        return chunk

    return next_chunk


def _wrap_anext(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def next_chunk(stream: Any) -> Any:
        tap = vars(stream).get("_paygent_tap")
        if tap is None:
            return await original(stream)
        try:
            chunk = await original(stream)
        except StopAsyncIteration:
            tap.ending.at_its_end()
            raise
        except BaseException:  # as above
            tap.ending()
            raise
        attempt("stream", tap.reader.feed, chunk)
        return chunk

    return next_chunk


def _wrap_close(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def close(stream: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(stream, *args, **kwargs)
        finally:
            _end(stream)

    return close


def _wrap_aclose(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def aclose(stream: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await original(stream, *args, **kwargs)
        finally:
            _end(stream)

    return aclose


def _end(stream: Any) -> None:
    tap = vars(stream).get("_paygent_tap")
    if tap is not None:
        tap.ending()
