"""A stand-in for LiteLLM: modules of its shape, with functions that do what a test prescribes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import openai
import pytest
from tests.instrument.shapes import MESSAGES

from paygent import Paygent, PlanConfig, paygent_context
from paygent.client.instrument.registry import instrumentation

Init = Callable[..., Paygent]

TOLD = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "cost": 5,  # what LiteLLM makes of it, which is no bill
    "prompt_tokens_details": {"cached_tokens": 30},
}
ANSWER_NANO = 412_500
"""70 and 30 cached in, 20 out, by gpt-4o at 2.50, 1.25 and 10.00 per million."""

CALL: dict[str, Any] = {"model": "openai/gpt-4o", "messages": MESSAGES, "max_tokens": 50}

LOGGING = "litellm.litellm_core_utils.litellm_logging"
SENDS = "litellm.llms.openai.openai"


def answer(hidden: dict[str, Any] | None = None, **fields: Any) -> Any:
    """An answer of the chat shape."""
    told = {"model": "gpt-4o", "usage": dict(TOLD), **fields}
    return SimpleNamespace(_hidden_params=hidden or {}, **told)


def placed(module: str, function: Callable[..., Any]) -> Any:
    """Return a function as one of a module of LiteLLM's, which the stack shows."""
    assert isinstance(function, FunctionType)
    fields = {**function.__globals__, "__name__": module}
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    made = FunctionType(code, fields, function.__name__, defaults, closure)
    made.__module__ = module
    return made


class Stream:
    """What LiteLLM's streams share: a class of its own for each kind, sync and async."""

    def __init__(self, chunks: list[Any], keeps: bool = True) -> None:
        """Take what comes: chunks, and exceptions to be raised."""
        self._coming = list(chunks)
        if keeps:
            self.chunks: list[Any] = []

    def _next(self, end: type[Exception]) -> Any:
        if not self._coming:
            raise end
        chunk = self._coming.pop(0)
        if isinstance(chunk, BaseException):
            raise chunk
        if hasattr(self, "chunks"):
            self.chunks.append(chunk)
        return chunk

    def __iter__(self) -> Any:
        return self

    def __aiter__(self) -> Any:
        return self

    def close(self) -> str:
        return "closed"

    async def aclose(self) -> str:
        return "closed"


class CustomStreamWrapper(Stream):
    """A stream of chat completions, which keeps the usage that it does not show."""

    def __init__(self, usage: Any = None, error: BaseException | None = None) -> None:
        delta = SimpleNamespace(content="Hello", tool_calls=None)
        chunk = SimpleNamespace(
            model="gpt-4o", choices=[SimpleNamespace(delta=delta)], usage=None, _hidden_params={}
        )
        super().__init__([chunk, error or chunk, chunk])
        self._usage = usage

    def _next(self, end: type[Exception]) -> Any:
        chunk = super()._next(end)
        if not self._coming and self._usage is not None:
            self.chunks.append(SimpleNamespace(model="gpt-4o", choices=[], usage=self._usage))
        return chunk

    def __next__(self) -> Any:
        return self._next(StopIteration)

    async def __anext__(self) -> Any:
        return self._next(StopAsyncIteration)


class Timeout(openai.APITimeoutError):
    """LiteLLM's own errors have a status, whatever happened."""

    status_code = 408
    llm_provider = "openai"


class ServerError(openai.APIConnectionError):
    """What LiteLLM makes of everything that it does not know."""

    status_code = 500
    llm_provider = "openai"


class APIResponseValidationError(Exception):
    """For an answer that is not handed on."""

    status_code = 500
    llm_provider = ""


class Rejected(APIResponseValidationError):
    """One that may tell the answer."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        vars(self).update(fields)


class ConnectError(Exception):
    """The HTTP library's: nothing was sent."""


def _client(function: Any) -> Any:
    """LiteLLM's decorator of what calls a provider, which adds an argument of its own."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds

    def mark(kwargs: dict[str, Any]) -> None:
        if takes_any:
            kwargs.setdefault("litellm_logging_obj", object())

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper_async(*args: Any, **kwargs: Any) -> Any:
            mark(kwargs)
            return await function(*args, **kwargs)

        return wrapper_async

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        mark(kwargs)
        return function(*args, **kwargs)

    return wrapper


def _act(made: Any) -> Any:
    """Do what the test prescribes, as every function does; then run the callbacks."""

    def log(found: Any) -> Any:
        for callback in made.callbacks:
            callback()
        return found

    log = placed(LOGGING, log)

    def act(**kwargs: Any) -> Any:
        made.seen.append(kwargs)
        do = made.acts.pop(0) if made.acts else answer
        return log(do())

    return placed("litellm.main", act)


async def _on_a_thread(call: Any, *args: Any, **kwargs: Any) -> Any:
    run = functools.partial(contextvars.copy_context().run, call, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(None, run)


def _async_functions(made: Any, act: Any) -> tuple[Any, ...]:
    """Those that call their sync twins on another thread, and mark that by an argument."""

    async def acompletion(*args: Any, **kwargs: Any) -> Any:
        if made.awaits:
            await made.awaits.pop()()
        fallbacks = kwargs.pop("fallbacks", ())
        for model in (kwargs["model"], *fallbacks) if fallbacks else ():
            found = await made.acompletion(*args, **{**kwargs, "model": model})
            if found is not None:
                return found
        return await _on_a_thread(made.completion, *args, acompletion=True, **kwargs)

    async def aembedding(*args: Any, **kwargs: Any) -> Any:
        left = made.not_cached
        if left is not None:
            kwargs["input"] = left
            return await _on_a_thread(made.embedding, *args, aembedding=True, **kwargs)
        return act(**kwargs)

    async def avideo_remix() -> Any:
        return "video"

    return acompletion, aembedding, avideo_remix


def _sync_functions(act: Any) -> tuple[Any, ...]:
    """By the parameters that the real ones have."""

    def completion(model: Any = None, messages: Any = (), **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def text_completion(prompt: Any, model: Any = None, **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def responses(input: Any, model: Any = None, **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def embedding(model: Any = None, input: Any = (), **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def anthropic_messages(model: Any = None, **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def image_generation(prompt: Any, model: Any = None, **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def transcription(model: Any, file: Any, **kwargs: Any) -> Any:
        return act(model=model, **kwargs)

    def speech(model: Any, input: Any, **kwargs: Any) -> Any:
        act(model=model, **kwargs)
        return b"sound"

    def search() -> Any:
        return "found"

    def get_responses() -> Any:
        return "what there is"

    return (
        completion,
        text_completion,
        responses,
        embedding,
        anthropic_messages,
        image_generation,
        transcription,
        speech,
        search,
        get_responses,
    )


def ocr(model: Any = None) -> Any:
    """Read a document; what is not metered."""
    return "text"


class BadRequestError(Exception):
    """For a model that it does not know."""


def _get_llm_provider(model: str, provider: Any, base: Any) -> Any:
    if "/" not in model:
        raise BadRequestError(model)
    provider, _, name = model.partition("/")
    return name, provider, None, None


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stand-in, imported: what its functions do next is in `acts`, what they were given
    in `seen`; `callbacks` run in it when they have an answer, `awaits` before an async one asks.
    """
    made: Any = ModuleType("litellm")
    made.acts, made.seen, made.callbacks = [], [], []
    made.awaits, made.custom_provider_map = [], []
    made.not_cached = None
    made.get_llm_provider = _get_llm_provider
    made.BadRequestError = BadRequestError
    made.ocr = placed("litellm.ocr.dispatch", ocr)  # no call by its making
    made.stream = CustomStreamWrapper
    names = ("utils", "main", "litellm_core_utils.streaming_handler")
    utils, main, streams = modules = [ModuleType(f"litellm.{name}") for name in names]
    vars(streams)["CustomStreamWrapper"] = CustomStreamWrapper
    vars(utils)["client"] = client = placed("litellm.utils", _client)
    act = _act(made)
    for function in (*_sync_functions(act), *_async_functions(made, act)):
        called = client(placed("litellm.main", function))
        for module in (made, main):
            setattr(module, function.__name__, called)
    made.app = ModuleType("an_app")
    made.app.complete = made.completion
    for module in (made, made.app, *modules):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made


def started(init: Init) -> Iterator[Paygent]:
    """Give a Paygent, with a user who may spend nothing, around a test of the stand-in."""
    made = init()
    made.configure_plan("none", PlanConfig(max_spend_per_period=0))
    made.assign_plan("poor", "none")
    with paygent_context("u1"):
        yield made
    instrumentation.uninstall()
