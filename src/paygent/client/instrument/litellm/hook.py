"""LiteLLM: gate and meter around its own functions, outside of whatever it calls below.

LiteLLM speaks to most providers by itself, and where it calls OpenAI's SDK, it turns every
exception into one of its own, ours too. So its public functions are the call, and the hooks of the
SDKs let pass what it sends meanwhile (`callers.py`). An answer from its cache, or from a
`mock_response`, costs nothing. To every function that calls a provider and is neither metered nor
known to be free, the policy for unmetered calls applies.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from paygent.client.context.identity import CALL_ARGUMENTS
from paygent.client.instrument.callables.run import run, run_async, take_arguments
from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.instrument.litellm.call import GatewayCall
from paygent.client.instrument.litellm.callers import LiteLLMGateway, enclosing_call
from paygent.client.instrument.litellm.functions import (
    BY_NAME,
    OTHERS,
    Function,
    is_call,
    is_custom,
    is_free,
    positional_names,
    request_of,
)
from paygent.client.instrument.patching.patches import Hook, Patch, Patches, is_mock
from paygent.client.metering.call import Request
from paygent.core.notices import Notice
from paygent.failopen import attempt


class LiteLLMHook(Hook):
    """Patches LiteLLM's functions; see `patches.Hook`."""

    name = "litellm"
    module = "litellm"
    takes_arguments = True

    def __init__(self) -> None:
        # By identity: a proxy around a wrapper may claim to be equal to it.
        self._own: dict[int, Any] = {}

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Wrap the functions, under every name that modules have for them: an application may have
        imported a function before `init`.
        """
        wrappers: dict[int, tuple[Any, Any]] = {}
        # Switched off, only our arguments have to be removed, which only metered functions accept.
        for name in (*BY_NAME, *OTHERS) if patches.switch.is_on else BY_NAME:
            function = getattr(module, name, None)
            if inspect.isroutine(function) and not (self._is_ours(function) or is_mock(function)):
                wrapper = self._wrapper(function, name, module, patches)
                wrappers[id(function)] = (function, wrapper)
        if patches.switch.is_on:
            for function in _calls():
                if id(function) not in wrappers and not self._is_ours(function):
                    wrapper = self._wrapper(function, function.__name__, module, patches)
                    wrappers[id(function)] = (function, wrapper)
            self._watch_decorator(wrappers, module, patches)
        for loaded in list(sys.modules.values()):
            # A module may be any object, and raise at any access: that costs only its own names.
            attempt("patch:litellm", _rebind, loaded, wrappers, patches)

    def restore(self, module: ModuleType, displaced: Sequence[Patch], patches: Patches) -> None:
        """Wrap LiteLLM functions that have replaced our wrappers, in their places alone. Code of
        others is left: a stub of a test calls no provider.
        """
        for patch in displaced:
            function = vars(patch.owner).get(patch.name)
            if is_call(function) and not self._is_ours(function):
                wrapper = self._wrapper(function, function.__name__, module, patches)
                if wrapper is not function:
                    patches.put(patch.owner, patch.name, wrapper)

    def _is_ours(self, value: Any) -> bool:
        return self._own.get(id(value)) is value

    def _wrapper(self, original: Any, name: str, litellm: ModuleType, patches: Patches) -> Any:
        """Return the wrapper of a function; the function itself where it is free."""
        function = BY_NAME.get(name)
        if function is not None:
            # Some async functions only forward their arguments: the sync one names them.
            twin = getattr(litellm, function.name, None)
            names = positional_names(original) or positional_names(twin)
            wrapper = _wrap(original, _Metered(name, names, function, litellm, patches).begin)
        elif is_free(name, str(original.__module__)):
            return original
        else:
            unmetered = _Unmetered(_public_name(original, litellm), litellm, patches)
            wrapper = _wrap(original, unmetered.begin)
        self._own[id(wrapper)] = wrapper
        return wrapper

    def _watch_decorator(
        self, wrappers: dict[int, tuple[Any, Any]], litellm: ModuleType, patches: Patches
    ) -> None:
        """Wrap the functions that LiteLLM's decorator makes from now on: some of its modules are
        loaded when they are first used.
        """
        # The decorator itself is replaced, also where a module has imported it by name.
        original = _fields(sys.modules.get("litellm.utils")).get("client")
        if not inspect.isfunction(original) or self._is_ours(original):
            return

        @functools.wraps(original)
        def client(function: Any) -> Any:
            decorated = original(function)
            if not patches.switch.is_on:
                return decorated
            name = function.__name__
            wrapper = attempt("patch:litellm", self._wrapper, decorated, name, litellm, patches)
            return decorated if wrapper is None else wrapper

        self._own[id(client)] = client
        wrappers[id(original)] = (original, client)


# -- where its functions are


def _fields(module: Any) -> Mapping[str, Any]:
    """Return the attributes of a module without loading it: a lazy one loads itself at the first
    access to any attribute.
    """
    if not issubclass(type(module), ModuleType):
        return {}
    fields: Mapping[str, Any] = object.__getattribute__(module, "__dict__")
    return fields


def _calls() -> Iterator[Any]:
    """Find LiteLLM's functions that call a provider, under any name."""
    seen = set()
    for name, module in list(sys.modules.items()):  # a copy: other threads may import
        for value in list(_fields(module).values()) if f"{name}.".startswith("litellm.") else ():
            if id(value) not in seen and is_call(value):
                seen.add(id(value))
                yield value


def _rebind(module: Any, wrappers: Mapping[int, tuple[Any, Any]], patches: Patches) -> None:
    """Replace functions by their wrappers wherever a module has them."""
    for name, value in list(_fields(module).items()):
        original, wrapper = wrappers.get(id(value), (None, None))
        if original is value and wrapper is not value:
            patches.put(module, name, wrapper)


def _public_name(function: Any, litellm: ModuleType) -> str:
    """Return the name by which applications call a function."""
    name = str(function.__name__)
    if _fields(litellm).get(name) is function:
        return name
    return f"{function.__module__}.{name}".removeprefix("litellm.").replace(".main.", ".")


# -- its functions

_Begin = Callable[[tuple[Any, ...], dict[str, Any]], GatewayCall | LiteLLMGateway | None]


def _wrap(original: Callable[..., Any], begin: _Begin) -> Callable[..., Any]:
    """Return a function that runs the original in the call that `begin` returns, if any; one that
    is not metered is a gateway alone.
    """

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if isinstance(call, GatewayCall):
            return await run_async(call, functools.partial(original, *args, **kwargs))
        with call or nullcontext():
            return await original(*args, **kwargs)

    def sync(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if isinstance(call, GatewayCall):
            return run(call, functools.partial(original, *args, **kwargs))
        with call or nullcontext():
            return original(*args, **kwargs)

    if inspect.iscoroutinefunction(original):
        return functools.wraps(original)(coroutine)
    if not inspect.iscoroutinefunction(inspect.unwrap(original)):
        return functools.wraps(original)(sync)
    # A plain function around a coroutine function stays a plain one, which returns a coroutine.
    return functools.wraps(original)(lambda *args, **kwargs: coroutine(*args, **kwargs))


@dataclass(slots=True, eq=False)
class _Unmetered:
    """The policy for unmetered calls around one LiteLLM function."""

    _name: str
    _litellm: ModuleType
    _patches: Patches

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LiteLLMGateway | None:
        """Log or refuse a call; return the gateway in which what it does is a part of it. None for
        a part of one that is under way.
        """
        return attempt("gateway", self._admit, kwargs)

    def _admit(self, kwargs: dict[str, Any]) -> LiteLLMGateway | None:
        if not self._patches.switch.is_on or enclosing_call(self._name, self, kwargs) is not None:
            return None
        meter = meter_or_warn()
        if meter is None:
            return None
        operation, model = f"litellm:{self._name}", kwargs.get("model")
        meter.unmetered.admit(
            Notice.UNMETERED_FUNCTION, self._name, operation=operation, model=model
        )
        gateway = LiteLLMGateway(self._name, self, kwargs)
        gateway.is_metered = False
        gateway.in_front = not is_custom(self._litellm, kwargs)
        return gateway


@dataclass(slots=True, eq=False)
class _Metered:
    """Gate and meter around one LiteLLM function."""

    _name: str
    _names: list[str]  # of its positional parameters
    _function: Function
    _litellm: ModuleType
    _patches: Patches

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GatewayCall | None:
        """Return the call, with our arguments removed; None for a part of one that is under way."""
        # Arguments without a name are left out.
        body = {**dict(zip(self._names, args, strict=False)), **kwargs} if args else kwargs
        outer = attempt("gateway", enclosing_call, self._name, self, body)
        if outer is not None and outer.is_metered:
            attempt("gateway", outer.note_part, self._litellm, body)
            return None
        scope = attempt("prepare", take_arguments, kwargs)
        body = {key: value for key, value in body.items() if key not in CALL_ARGUMENTS}
        meter = meter_or_warn() if self._patches.switch.is_on else None
        request = gateway = None
        if meter is not None:
            request = attempt("prepare", request_of, self._function, self._litellm, body)
        # LiteLLM makes up an answer without a request, so there it is in front of nothing.
        if meter is None or request is not None:
            gateway = LiteLLMGateway(self._name, self, body)
            gateway.in_front = not attempt("prepare", is_custom, self._litellm, body)
        if request is None:
            meter, request = None, Request("", self._function.name, "", None)
        return GatewayCall(meter, request, scope, self._function, self._patches, gateway)
