"""Connections that OpenAI's SDK opens: they are a provider's, wherever they lead.

The SDK's connection managers are patched where they connect, and announce the opening to the
handshake's hook (`hook.py`). A manager also reconnects when a connection breaks; the state that
outlives that (its identity, a refusal that the SDK swallows) is kept with the manager, until the
application enters it again.

Read from the resources of openai 3.57 and 1.60 (2026-11).
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

from paygent.client.context.scopes import current_identity
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.client.instrument.realtime.connection import is_flushing
from paygent.client.instrument.realtime.session import ConnectionState
from paygent.failopen import attempt

_MODULES = {
    "openai.resources.realtime.realtime": "realtime",
    "openai.resources.beta.realtime.realtime": "realtime",
    "openai.resources.realtime.translations.translations": "translations",
    "openai.resources.responses.responses": "responses",
    "openai.resources.beta.responses.responses": "responses",
    "openai.resources.live.live": "live",
    "openai.resources.live.forks": "live",
    "openai.resources.live.sideband": "live",
    "openai._websocket_connection": "",  # the base of the others
}
"""Modules in which the SDK connects, and the route; older versions lack some."""

_CONNECT = "_connect_ws"  # connects and reconnects; older versions connect only where entered
_ENTER = ("__enter__", "__aenter__", "enter")  # by these the application connects


class Opening(NamedTuple):
    """A connection that the SDK opens.

    Attributes:
        state: The state that outlives a reconnect.
        route: The route it leads to; "" where its address names it.
    """

    state: ConnectionState
    route: str


opening: ContextVar[Opening | None] = ContextVar("paygent_opening", default=None)
"""The connection that the SDK is opening in this context, or None."""

# A manager may be dropped without being left, so nothing here keeps it alive.
_states: weakref.WeakKeyDictionary[Any, ConnectionState] = weakref.WeakKeyDictionary()


class SdkSocketHook(Hook):
    """Patches the connection managers of one module of the SDK; see `patches.Hook`."""

    name = "openai"

    def __init__(self, module: str, route: str) -> None:
        self.module = module
        self._route = route

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Let the managers announce what they open; see `patches.Hook`."""
        for owner in list(vars(module).values()):
            if not isinstance(owner, type) or owner.__module__ != module.__name__:
                continue  # imported from another module, which has a hook of its own
            blocks: dict[str, _Block] = {"_flush_send_queue": lambda _: _set(is_flushing, True)}
            if owner.__name__.endswith("ConnectionManager"):
                blocks[_CONNECT] = functools.partial(_opens, route=self._route)
                # Entering begins a new state: another user may enter the same manager.
                enters = functools.partial(_opens, route=self._route, is_entered=True)
                blocks.update(dict.fromkeys(_ENTER, enters))
            for name, block in blocks.items():
                original = vars(owner).get(name)
                if callable(original) and not patches.is_ours(original):
                    patches.put(owner, name, _wrap(original, patches, block))


HOOKS: tuple[Hook, ...] = tuple(SdkSocketHook(*item) for item in _MODULES.items())


_Block = Callable[[Any], AbstractContextManager[None]]


@contextmanager
def _set(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Set a context variable in a block."""
    before = variable.get()
    variable.set(value)
    try:
        yield
    finally:
        variable.set(before)  # no token: the SDK may leave in another context


def _opens(manager: Any, route: str, is_entered: bool = False) -> AbstractContextManager[None]:
    state = None if is_entered else _states.get(manager)
    if state is None:
        state = _states[manager] = ConnectionState(current_identity())
    return _set(opening, Opening(state, route))


def _wrap(original: Callable[..., Any], patches: Patches, block: _Block) -> Callable[..., Any]:
    """Return a method of the SDK that runs inside one of our blocks."""

    def enter(owner: Any) -> AbstractContextManager[None]:
        block_or_none = attempt("prepare", block, owner) if patches.switch.is_on else None
        return nullcontext() if block_or_none is None else block_or_none

    @functools.wraps(original)
    async def method_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        with enter(self):
            return await original(self, *args, **kwargs)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with enter(self):
            return original(self, *args, **kwargs)

    return method_async if inspect.iscoroutinefunction(original) else method
