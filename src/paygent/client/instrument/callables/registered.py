"""Providers that the application registered: gate and meter around the methods it named.

A registered class may call an SDK that is metered itself; then the SDK's call counts, and the one
around it is void (`nesting.py`). The `paygent_*` arguments of a call never reach the provider's
method, also where nothing is metered.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any, NamedTuple

from paygent.client.instrument.callables.run import (
    UNSEEN,
    Work,
    prepare,
    run,
    run_async,
    take_arguments,
)
from paygent.client.instrument.callables.usage import read_known, reader_for
from paygent.client.instrument.http_sdks.route import max_tokens_of
from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.instrument.patching.patches import Hook, Patch, Patches, Switch, as_function
from paygent.client.metering.call import Request
from paygent.client.runtime.providers import ProviderConfig
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics

_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_REQUEST_KEYS = ("messages", "input", "prompt", "system", "instructions")


class Target(NamedTuple):
    """One method of a registered provider.

    Attributes:
        config: The provider.
        module, class_name, method: Its place.
    """

    config: ProviderConfig
    module: str
    class_name: str
    method: str


def targets_of(configs: list[ProviderConfig]) -> list[Target]:
    """Return the methods of some providers."""
    return [Target(config, *target) for config in configs for target in config.targets]


def _find(target: Target, module: Any) -> tuple[type, Any] | None:
    """Return the class of a target and the method that it has or inherits; None for none."""
    owner = module
    for name in target.class_name.split("."):
        owner = getattr(owner, name, None)
    if not isinstance(owner, type):
        return None
    method = inspect.getattr_static(owner, target.method, None)
    plain = getattr(method, "__func__", method)
    return (owner, method) if inspect.isroutine(plain) else None


def _warn_missing(target: Target) -> None:
    """Log once that a target is not at the place its config names: no silent bypass."""
    name = target.config.name
    diagnostics.warn_once(Notice.NO_SUCH_METHOD, name, *target[1:], subject=name)


class TargetHook(Hook):
    """Patches one method of a registered provider; see `patches.Hook`.

    Attributes:
        patch: The patch that was put in, or None.
    """

    takes_arguments = True

    def __init__(self, target: Target, bare: dict[Any, Any]) -> None:
        self._target = target
        self._bare = bare  # the originals of all registered methods, by their wrappers; shared
        self.name = target.config.name
        self.module = target.module
        self.patch: Patch | None = None

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Put gate and meter around the method; see `patches.Hook`."""
        target = self._target
        place = _find(target, module)
        if place is None:
            _warn_missing(target)
            return
        owner, method = place
        if self.patch is not None and self.patch.owner is owner:
            if vars(owner).get(target.method) is self.patch.wrapper:
                return  # a reload of the module would have made another class
            diagnostics.warn_once(
                Notice.HOOK_RESTORED, owner.__name__, target.method, subject=self.name
            )
        if target.method not in vars(owner):  # from a base that may be registered as another
            method = self._bare.get(method, method)
        wrapper = _wrap_method(target, method, patches.switch)
        self.patch = patches.put(owner, target.method, wrapper)
        self._bare[wrapper] = method
        # A metaclass may refuse or replace attributes.
        if vars(owner).get(target.method) is not wrapper:
            _warn_missing(target)


def _wrap_method(target: Target, method: Any, switch: Switch) -> Any:
    """Return a method with gate and meter around it, of the same kind. While the switch is off, it
    only removes the `paygent_*` arguments.
    """
    if isinstance(method, (staticmethod, classmethod)):
        return type(method)(_wrap_function(target, method.__func__, switch))
    return _wrap_function(target, as_function(method), switch)


def _wrap_function(target: Target, method: Any, switch: Switch) -> Any:
    """Return a function with gate and meter around it."""
    config = target.config
    read = reader_for(config.name, [config])
    if config.extract_tokens is None:
        read = read_known  # not `provider=`: its format is unknown, whatever it is called

    def work_of(kwargs: dict[str, Any]) -> Work:
        meter = meter_or_warn() if switch.is_on else None
        # Before the request is read, and without a meter too: the method would refuse them.
        scope = attempt("prepare", take_arguments, kwargs)
        request = attempt("prepare", _request_of, target, kwargs) if meter is not None else None
        if request is None:
            meter, request = None, Request(config.name, target.method, "", None)
        return Work(meter, prepare(request, read), scope)

    # The application, or another tool, may choose how to call a method by its kind.
    if inspect.iscoroutinefunction(inspect.unwrap(method)):

        @functools.wraps(method)
        async def in_coroutine(*args: Any, **kwargs: Any) -> Any:
            work = work_of(kwargs)  # removes our arguments
            return await run_async(work, functools.partial(method, *args, **kwargs))

        return in_coroutine

    @functools.wraps(method)
    def in_function(*args: Any, **kwargs: Any) -> Any:
        work = work_of(kwargs)
        return run(work, functools.partial(method, *args, **kwargs))

    return in_function


def _request_of(target: Target, kwargs: dict[str, Any]) -> Request:
    """Read the request of a call from its keyword arguments; without any, its size is `UNSEEN`."""
    model = kwargs.get("model")
    has_body = any(kwargs.get(name) is not None for name in _REQUEST_KEYS)
    return Request(
        target.config.name,
        target.method,
        model if isinstance(model, str) else "",
        kwargs,
        max_tokens=max_tokens_of(_BOUNDS, kwargs.get),
        size=None if has_body else UNSEEN,
    )
