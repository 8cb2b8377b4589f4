"""Propagation of the current user to threads, executors and pools.

Tasks, `asyncio.to_thread` and callbacks of a loop copy the context themselves. A thread starts with
an empty one, so `Thread.start` propagates the user, and so does work that is given to a pool. A
pool's own threads and processes start without a user, or the first one would pay for all later
ones. Only Paygent's own variables are set. A queue or `_thread` needs `bind`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import Context
from inspect import getattr_static
from threading import Thread
from types import MethodType, ModuleType
from typing import Any

from paygent.client.context.propagation import BoundCallable
from paygent.client.context.scopes import PropagatedContext
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.core.notices import Notice
from paygent.failopen import attempt

_TAKES = ("apply_async", "imap", "imap_unordered", "map", "map_async", "starmap", "starmap_async")
"""Methods of `multiprocessing.pool.Pool` that take work; `apply` goes through `apply_async`."""


class PoolHook(Hook):
    """Patches one class that starts threads or takes work; see `patches.Hook`."""

    def __init__(
        self, module: str, class_name: str, starts: tuple[str, ...], takes: tuple[str, ...]
    ) -> None:
        self.name = f"propagation:{class_name}"
        self.module = module
        self._class_name = class_name
        self._starts = starts  # methods that start the pool's own threads or processes
        self._takes = takes  # methods that take work as their first argument

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Patch the class; see `patches.Hook`."""
        pool_class = getattr(module, self._class_name)
        for name in {*self._starts, *self._takes}:
            original = getattr_static(pool_class, name)
            if not patches.is_ours(original):
                starts, takes = name in self._starts, name in self._takes
                wrapper = _wrap(original, patches, starts=starts, takes=takes)
                patches.put(pool_class, name, wrapper, Notice.PROPAGATION_HOOK_DISPLACED)


def _wrap(original: Any, patches: Patches, *, starts: bool, takes: bool) -> Callable[..., Any]:
    """Return a method that binds the work it takes, or starts threads or processes, or both."""

    @functools.wraps(original)
    def method(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
        context = _capture(patches)
        if context is None:  # switched off, or there is no user
            return original(pool, *args, **kwargs)
        if takes:
            # An argument that is not callable is left to the pool's own error.
            if args and callable(args[0]):
                args = (BoundCallable(args[0], context), *args[1:])
            elif not args and callable(kwargs.get("func")):  # only multiprocessing has that name
                kwargs["func"] = BoundCallable(kwargs["func"], context)
        if starts:  # what the pool starts will serve other users too
            return PropagatedContext.without_user().run(original, pool, *args, **kwargs)
        return original(pool, *args, **kwargs)

    return method


class ThreadHook(Hook):
    """Patches `Thread.start`; see `patches.Hook`."""

    name = "propagation:Thread"
    module = "threading"

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Propagate the user who starts a thread; see `patches.Hook`."""
        original = getattr_static(module.Thread, "start")
        if patches.is_ours(original):
            return

        @functools.wraps(original)
        def start(thread: Thread, /, *args: Any, **kwargs: Any) -> Any:
            context = _capture(patches)
            # From Python 3.14 the application may give a thread a context of its own.
            if context is None or getattr(thread, "_context", None) is not None:
                return original(thread, *args, **kwargs)
            restore = attempt("propagation", _run_in, thread, context)
            try:
                return original(thread, *args, **kwargs)
            except BaseException:  # it was started before, or there can be no more threads
                if restore is not None:
                    restore()
                raise

        patches.put(module.Thread, "start", start, Notice.PROPAGATION_HOOK_DISPLACED)


class GreenletHook(Hook):
    """Registers a callback for each greenlet that gevent spawns; see `patches.Hook`."""

    name = "propagation:Greenlet"
    module = "gevent.greenlet"

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Propagate the user who spawns a greenlet; see `patches.Hook`."""

        # A greenlet starts with an empty context too, but its class is immutable.
        def enter(greenlet: Any) -> None:
            context = PropagatedContext.capture() if patches.switch.is_on else None
            if context is not None:
                if greenlet.gr_context is None:
                    greenlet.gr_context = Context()
                greenlet.gr_context.run(context.enter)

        on_spawn = functools.partial(attempt, "propagation", enter)
        add = functools.partial(module.Greenlet.add_spawn_callback, on_spawn)
        remove = functools.partial(module.Greenlet.remove_spawn_callback, on_spawn)
        patches.do_once(self.name, add, remove)


_SUBMIT = (("submit",), ("submit",))  # starts the executor's threads where it lacks some

HOOKS = (
    ThreadHook(),
    GreenletHook(),
    PoolHook("concurrent.futures.thread", "ThreadPoolExecutor", *_SUBMIT),
    PoolHook("concurrent.futures.process", "ProcessPoolExecutor", *_SUBMIT),
    PoolHook("multiprocessing.pool", "Pool", ("__init__",), _TAKES),
    PoolHook("multiprocessing.managers", "BaseManager", ("start",), ()),
)


def _capture(patches: Patches) -> PropagatedContext | None:
    return attempt("propagation", PropagatedContext.capture) if patches.switch.is_on else None


def _run_in(thread: Thread, context: PropagatedContext) -> Callable[[], None]:
    """Make a thread that is about to start run in a context; return a function that undoes that."""
    before = vars(thread).get("run")

    def restore() -> None:
        vars(thread).pop("run", None)
        if before is not None:
            vars(thread)["run"] = before

    def run(thread: Thread) -> None:
        restore()  # the thread's own code must find its own `run`
        context.enter()  # never left: the thread's context ends with it
        thread.run()

    # A bound method and not a closure: other libraries take `thread.run.__func__` apart.
    vars(thread)["run"] = MethodType(run, thread)
    return restore
