"""Who opens a socket: OpenAI's SDK, whose connections are a provider's wherever they lead.

Its connection managers are patched where they connect, and tell the handshake (`sockets.py`) that
it is theirs. A manager also connects again when a connection breaks: what stays then (whose it is,
a refusal that the SDK swallows) is kept with the manager, until the application enters it again.

Read from the resources of openai 3.57 and 1.60 (2026-11).
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

from paygent.client.context.scopes import current_identity
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.client.instrument.realtime.connection import ConnectionState, is_flushing

_MODULES = {
    "openai.resources.realtime.realtime": "realtime",
    "openai.resources.beta.realtime.realtime": "realtime",
    "openai.resources.realtime.translations.translations": "translations",
    "openai.resources.responses.responses": "responses",
    "openai.resources.beta.responses.responses": "responses",
    "openai.resources.live.live": "live",
    "openai.resources.live.forks": "live",
    "openai.resources.live.sideband": "live",
    "openai._websocket_connection": "",  # what the others share
}
"""Where the SDK connects, and what to; versions lack some."""

_CONNECT = "_connect_ws"
"""What connects, also by itself; older versions connect only where they are entered."""

_ENTER = ("__enter__", "__aenter__", "enter")
"""Where the application connects: two names of one method."""


class Opening(NamedTuple):
    """A connection that the SDK opens.

    Attributes:
        line: What stays of it when it is opened again.
        route: What it leads to.
    """

    line: ConnectionState
    route: str


_opening: ContextVar[Opening | None] = ContextVar("paygent_opening", default=None)


def opening() -> Opening | None:
    """Return what the SDK opens here, or None."""
    return _opening.get()


_lines: weakref.WeakKeyDictionary[Any, ConnectionState] = weakref.WeakKeyDictionary()


class SdkSocketHook(Hook):
    """Patches the connection managers of one module of the SDK; see `patches.Hook`."""

    def __init__(self, module: str, route: str) -> None:
        """Name what is patched.

        Args:
            module: Where the managers are.
            route: What they connect to.
        """
        self.name = "openai"
        self.module = module
        self._route = route

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Have connections say who opens them; see `patches.Hook`."""
        for owner in list(vars(module).values()):
            if not isinstance(owner, type) or owner.__module__ != module.__name__:
                continue
            if owner.__name__.endswith("ConnectionManager"):
                opens = functools.partial(_opens, route=self._route)
                self._put(owner, _CONNECT, patches, opens)
                for name in _ENTER:
                    enters = functools.partial(opens, is_entered=True)
                    self._put(owner, name, patches, enters)
            self._put(owner, "_flush_send_queue", patches, _flushes)

    @staticmethod
    def _put(owner: type, name: str, patches: Patches, around: Callable[[Any], Any]) -> None:
        original = vars(owner).get(name)
        if callable(original) and not patches.is_ours(original):
            patches.put(owner, name, _wrap(original, patches, around))


HOOKS: tuple[Hook, ...] = tuple(SdkSocketHook(*each) for each in _MODULES.items())


class _Set:
    """A context variable that is set in a block."""

    def __init__(self, variable: ContextVar[Any], value: Any) -> None:
        self._variable = variable
        self._value = value

    def __enter__(self) -> None:
        self._before = self._variable.get()
        self._variable.set(self._value)

    def __exit__(self, *error: object) -> None:
        self._variable.set(self._before)  # no token: the SDK may leave in another context


def _opens(manager: Any, *, route: str, is_entered: bool = False) -> _Set:
    line = None if is_entered else _lines.get(manager)
    if line is None:
        line = _lines[manager] = ConnectionState(current_identity())
    return _Set(_opening, Opening(line, route))


def _flushes(connection: Any) -> _Set:
    return _Set(is_flushing, True)


def _wrap(
    original: Callable[..., Any], patches: Patches, around: Callable[[Any], _Set]
) -> Callable[..., Any]:
    """Return a method of the SDK that runs in a block of ours."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def method_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not patches.switch.is_on:
                return await original(self, *args, **kwargs)
            with around(self):
                return await original(self, *args, **kwargs)

        return method_async

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not patches.switch.is_on:
            return original(self, *args, **kwargs)
        with around(self):
            return original(self, *args, **kwargs)

    return method
