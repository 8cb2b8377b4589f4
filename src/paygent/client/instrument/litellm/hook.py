"""LiteLLM: gate and meter around its own functions, outside whatever it calls below.

LiteLLM speaks to most providers by itself, and where it calls OpenAI's SDK it turns every exception
into one of its own, ours too. So its public functions are the call, and the hooks of the SDKs stand
back for what it sends while one of them runs (`litellm_gateway.py`). What it answers from its
cache, or from a `mock_response`, costs nothing. Every function that calls a provider and is neither
metered nor known to be free is said.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from paygent.client.instrument.callables.run import (
    Work,
    end_raised,
    prepare,
    run,
    run_async,
    take_arguments,
)
from paygent.client.instrument.http_sdks.wrapper import behind_gateway, gateway_here, meter_or_say
from paygent.client.instrument.litellm.answers import (
    PROVIDERS,
    answered_by,
    is_from_cache,
    is_rejected,
    provider_of,
    read_part,
    read_rejected,
    was_never_sent,
)
from paygent.client.instrument.litellm.callers import EMBEDDING_FLAG, LiteLLMGateway, is_in_callback
from paygent.client.instrument.litellm.functions import (
    BY_NAME,
    OTHERS,
    Arguments,
    Function,
    is_call,
    is_custom,
    is_free,
    request_of,
    resolve,
)
from paygent.client.instrument.litellm.streams import Reader, Tap, is_stream, tap
from paygent.client.instrument.patching.patches import Hook, Patch, Patches, is_mock
from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.usage import JobStatus, Usage
from paygent.failopen import attempt, diagnostics


class LiteLLMHook(Hook):
    """Patches LiteLLM's functions; see `patches.Hook`."""

    name = "litellm"
    module = "litellm"
    takes_arguments = True

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}  # our wrappers, by identity

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Put gate and meter around its functions, under every name that modules have for them:
        an application may have imported a function before `init`.
        """
        wrappers: dict[int, tuple[Any, Any]] = {}
        for name in (*BY_NAME, *OTHERS) if patches.switch.is_on else BY_NAME:
            found = getattr(module, name, None)
            if inspect.isroutine(found) and not (self._is_ours(found) or is_mock(found)):
                wrappers[id(found)] = (found, self._wrapper(found, name, module, patches))
        if patches.switch.is_on:
            for found in _calls():
                if id(found) not in wrappers and not self._is_ours(found):
                    wrapper = self._wrapper(found, found.__name__, module, patches)
                    wrappers[id(found)] = (found, wrapper)
            self._watch_decorator(wrappers, module, patches)
        for each in list(sys.modules.values()):
            attempt("patch:litellm", _rebind, each, wrappers, patches)

    def restore(self, displaced: Any, patches: Patches) -> None:
        for patch in displaced: self.mend(patch, patches)
    def mend(self, displaced: Patch, patches: Patches) -> None:
        """Put gate and meter around a function of LiteLLM's that has come where another one was, in
        that place alone. What others have put there is theirs: a test's stand-in asks nobody.
        """
        owner, name = displaced.owner, displaced.name
        found, litellm = vars(owner).get(name), sys.modules.get(self.module)
        if litellm is None or self._is_ours(found) or not is_call(found):
            return
        wrapper = self._wrapper(found, found.__name__, litellm, patches)
        if wrapper is not found:
            patches.put(owner, name, wrapper)

    def _is_ours(self, value: Any) -> bool:
        return self._made.get(id(value)) is value

    def _wrapper(self, found: Any, name: str, litellm: ModuleType, patches: Patches) -> Any:
        """Return what stands in the place of a function; itself, where it is free."""
        function = BY_NAME.get(name)
        if function is not None:
            wrapper = _wrap(found, function, litellm, patches)
        elif is_free(name):
            return found
        else:
            wrapper = _say_unmetered(found, _shown(found, litellm), patches)
        self._made[id(wrapper)] = wrapper
        return wrapper

    def _watch_decorator(
        self, wrappers: dict[int, tuple[Any, Any]], litellm: ModuleType, patches: Patches
    ) -> None:
        """Have the functions that LiteLLM's decorator makes from now on found too: some modules are
        loaded when they are first asked for.
        """
        original = _fields(sys.modules.get("litellm.utils")).get("client")
        if not inspect.isfunction(original) or self._is_ours(original):
            return

        @functools.wraps(original)
        def client(function: Any) -> Any:
            made = original(function)
            if not patches.switch.is_on:
                return made
            wrapped = attempt(
                "patch:litellm", self._wrapper, made, function.__name__, litellm, patches
            )
            return made if wrapped is None else wrapped

        self._made[id(client)] = client
        wrappers[id(original)] = (original, client)


# -- where its functions are


def _fields(module: Any) -> Mapping[str, Any]:
    """Return what a module has, without waking it: one that loads itself lazily does so at the
    first look at any attribute of it.
    """
    if not issubclass(type(module), ModuleType):
        return {}
    fields: Mapping[str, Any] = object.__getattribute__(module, "__dict__")
    return fields


def _calls() -> Iterator[Any]:
    """Find the functions of LiteLLM's that call a provider, under whatever name."""
    seen = set()
    for name, module in list(sys.modules.items()):
        for value in list(_fields(module).values()) if f"{name}.".startswith("litellm.") else ():
            if id(value) not in seen and is_call(value):
                seen.add(id(value))
                yield value


def _rebind(module: Any, wrappers: Mapping[int, tuple[Any, Any]], patches: Patches) -> None:
    """Put wrappers in the place of functions wherever a module has them."""
    for name, value in list(_fields(module).items()):
        found = wrappers.get(id(value))
        if found is not None and found[0] is value and found[1] is not value:
            patches.put(module, name, found[1])


def _shown(function: Any, litellm: ModuleType) -> str:
    """Return what a function is called by who calls it."""
    name = str(function.__name__)
    if _fields(litellm).get(name) is function:
        return name
    return f"{function.__module__}.{name}".removeprefix("litellm.").replace(".main.", ".")


# -- its functions


def _kept_kind(
    original: Callable[..., Any], sync: Callable[..., Any], coroutine: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the one of two wrappers that is of the kind of a function: a coroutine function, a
    plain one, or a plain one around a coroutine function, which gives a coroutine.
    """
    if inspect.iscoroutinefunction(original):
        return functools.wraps(original)(coroutine)
    if not inspect.iscoroutinefunction(inspect.unwrap(original)):
        return functools.wraps(original)(sync)

    @functools.wraps(original)
    def gives_coroutine(*args: Any, **kwargs: Any) -> Any:
        return coroutine(*args, **kwargs)

    return gives_coroutine


def _say_unmetered(original: Callable[..., Any], name: str, patches: Patches) -> Any:
    """Return a function that says that it is not metered."""

    def say(kwargs: Mapping[str, Any]) -> None:
        if patches.switch.is_on and _outer(kwargs) is None:
            kind = f"unmetered:litellm:{name}"
            diagnostics.warn_once(
                kind, "litellm.%s is neither gated nor metered; use pg.wrap", name
            )

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        attempt("gateway", say, kwargs)
        return await original(*args, **kwargs)

    def sync(*args: Any, **kwargs: Any) -> Any:
        attempt("gateway", say, kwargs)
        return original(*args, **kwargs)

    return _kept_kind(original, sync, coroutine)


def _outer(kwargs: Mapping[str, Any]) -> LiteLLMGateway | None:
    """Return the call of LiteLLM's that a function runs as a part of; None for a call of its own.

    Args:
        kwargs: The function's arguments.
    """
    gateway = gateway_here()
    return gateway if isinstance(gateway, LiteLLMGateway) and gateway.calls(kwargs) else None


def _wrap(
    original: Callable[..., Any], function: Function, litellm: ModuleType, patches: Patches
) -> Callable[..., Any]:
    """Return a function of LiteLLM's with gate and meter around it."""
    arguments = Arguments(original, getattr(litellm, function.name, None))

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _GatewayCall | None:
        """Return the call; None for what is a part of one that is under way."""
        outer = attempt("gateway", _outer, kwargs)
        if outer is not None:
            attempt("gateway", note_part, outer, args, kwargs)
            return None
        scope = attempt("prepare", take_arguments, kwargs)
        meter = meter_or_say() if patches.switch.is_on else None
        request = None
        is_mocked = False
        if meter is not None:
            request = attempt("prepare", read, args, kwargs)
            is_mocked = request is None
        if request is None:
            meter, request = None, Request("", function.name, "", None)
        call = _GatewayCall(meter, request, scope, function, patches)
        if is_mocked:
            call.inside = nullcontext()
        call.gateway.in_front = not attempt("prepare", is_custom, litellm, request.body or {})
        return call

    def read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Request | None:
        return request_of(function, litellm, arguments.body(args, kwargs))

    def note_part(outer: LiteLLMGateway, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        _note_part(outer, litellm, arguments.body(args, kwargs))

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return await original(*args, **kwargs)

        async def action() -> Any:
            with call.inside:
                return await original(*args, **kwargs)

        return await run_async(call, action)

    def sync(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if call is None:
            return original(*args, **kwargs)

        def action() -> Any:
            with call.inside:
                return original(*args, **kwargs)

        return run(call, action)

    return _kept_kind(original, sync, coroutine)


def _note_part(gateway: LiteLLMGateway, litellm: ModuleType, body: Mapping[str, Any]) -> None:
    """Note what a part of a call tells of it: who is asked, and what a cache did not give."""
    if body.get("model") == gateway.model:
        gateway.provider = ""
    else:  # a fallback
        provider = resolve(litellm, body)[1]
        gateway.provider = PROVIDERS.get(provider, provider)
        gateway.in_front = gateway.in_front and not is_custom(litellm, body)
    if body.get(EMBEDDING_FLAG) is True:
        gateway.embeds = body.get("input")


class _GatewayCall(Work):
    """One call of a function of LiteLLM's; see `run.Work`.

    Attributes:
        gateway: What stands around its inside.
        inside: Has it stand there; not for an answer that LiteLLM is asked to make up, since a
            fallback that is not is a call of its own.
    """

    __slots__ = ("_function", "_handled", "_patches", "gateway", "inside")

    def __init__(
        self,
        meter: Meter | None,
        request: Request,
        scope: Any,
        function: Function,
        patches: Patches,
    ) -> None:
        gateway = LiteLLMGateway((request.body or {}).get("model"))

        def read(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
            usage = function.read(answer, want_tools)
            return answered_by(provider_of(answer) or gateway.provider, usage)

        super().__init__(meter, prepare(request, read), scope)
        self._function = function
        self._patches = patches
        self._handled = sys.exc_info()[1]
        self.gateway = gateway
        self.inside: AbstractContextManager[None] = behind_gateway(gateway)

    def _give_up(self) -> None:
        """Let what runs inside count instead: a provider of the application's, and no callback."""
        if not self.gateway.in_front and not is_in_callback():
            super()._give_up()

    def end_with(self, meter: Meter, call: Call, answer: Any) -> bool:
        """End a call with its answer; a stream of LiteLLM's ends it later."""
        if is_from_cache(answer):
            if self.gateway.embeds is None:
                meter.void(call, "answered from a cache")
            else:
                meter.settle(call, attempt("usage", self._part, answer))
            return True
        if is_stream(answer):
            reader = Reader(answer, self._function, call.wants_tools, self.gateway.provider)
            give_up = None if self.gateway.in_front else self._give_up
            if tap(answer, Tap(StreamEnd(meter, call, reader), reader, give_up), self._patches):
                call.hand_over()
            else:
                kind = type(answer).__name__
                diagnostics.warn_once("stream_untapped", "a stream of type %s cannot be read", kind)
                meter.settle(call, None)
            return True
        return super().end_with(meter, call, answer)

    def _part(self, answer: Any) -> Usage | JobStatus | None:
        body = self._prepared.request.body or {}
        usage = self._prepared.route.read(answer, False)
        return read_part(usage, self.gateway.embeds, body.get("input"))

    def _rejected(self, call: Call, error: BaseException) -> Usage | JobStatus | None:
        usage = read_rejected(getattr(error, "raw_response", None), call.estimate)
        return answered_by(self.gateway.provider, usage)

    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End a call that raised: LiteLLM gives its own statuses to what has none."""
        names = {base.__name__ for base in type(error).__mro__}
        body = self._prepared.request.body or {}
        if "APITimeoutError" in names and body.get("mock_timeout") is True:
            meter.void(call, "a time-out that was asked for")
        elif is_rejected(names, error):
            meter.settle(call, attempt("usage", self._rejected, call, error))
        elif "APITimeoutError" in names or (
            "APIConnectionError" in names and not was_never_sent(error, self._handled)
        ):
            meter.settle(call, None)
        else:
            end_raised(meter, call, self._prepared, error)
