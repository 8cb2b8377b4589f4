"""Propagation of the current user to threads, executors and pools.

Tasks, `asyncio.to_thread` and callbacks of a loop copy the context themselves. A thread starts with
an empty one, so `Thread.start` propagates the user, and so does work that is given to a pool. The
pool's own threads and processes outlive the call that they were started in, so they start without a
user: otherwise the first user would pay for all later ones. Only Paygent's own variables are set.
Anything else that carries work (a queue, `_thread`) needs `bind`.
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
from paygent.client.context.scopes import PropagatedContext, detached_context
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.failopen import attempt

_TAKES_WORK = (
    "apply_async",
    "imap",
    "imap_unordered",
    "map",
    "map_async",
    "starmap",
    "starmap_async",
)
"""Methods of `multiprocessing.pool.Pool` that take work; `apply` goes through `apply_async`."""


class PoolHook(Hook):
    """Patches one class that starts threads or takes work; see `patches.Hook`."""

    def __init__(
        self,
        module: str,
        class_name: str,
        starts: tuple[str, ...],
        takes: tuple[str, ...],
        *,
        work_name: str = "",
    ) -> None:
        """Name the methods to patch.

        Args:
            module, class_name: The class.
            starts: Methods that start the pool's own threads or processes, which have no user.
            takes: Methods that take work as their first argument.
            work_name: Name of that argument, where it may be a keyword argument.
        """
        self.name = f"carry:{class_name}"
        self.module = module
        self._class_name = class_name
        self._starts = starts
        self._takes = takes
        self._work_name = work_name

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Patch the class; see `patches.Hook`."""
        pool_class = getattr(module, self._class_name)
        for name in dict.fromkeys((*self._starts, *self._takes)):
            original = getattr_static(pool_class, name)
            if not patches.is_ours(original):
                wrapper = _detach_starts(original, patches) if name in self._starts else original
                if name in self._takes:
                    bind_work = _bind_first(wrapper, patches, self._work_name)
                    wrapper = functools.wraps(original)(bind_work)
                patches.put(pool_class, name, wrapper)


class ThreadHook(Hook):
    """Patches `Thread.start`; see `patches.Hook`."""

    name = "carry:Thread"
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
            restore = attempt("carry", _run_in, thread, context)
            try:
                return original(thread, *args, **kwargs)
            except BaseException:  # it was started before, or there can be no more threads
                if restore is not None:
                    restore()
                raise

        patches.put(module.Thread, "start", start)


class GreenletHook(Hook):
    """Registers a callback for each greenlet that gevent spawns; see `patches.Hook`.

    A greenlet starts with an empty context, like a thread. Its class is immutable, so it cannot be
    patched.
    """

    name = "carry:Greenlet"
    module = "gevent.greenlet"

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Propagate the user who spawns a greenlet; see `patches.Hook`."""
        greenlet_class = module.Greenlet

        def on_spawn(greenlet: Any) -> None:
            if patches.switch.is_on:
                attempt("carry", _enter_context_of, greenlet)

        patches.do_once(
            self.name,
            lambda: greenlet_class.add_spawn_callback(on_spawn),
            lambda: greenlet_class.remove_spawn_callback(on_spawn),
        )


def _enter_context_of(greenlet: Any) -> None:
    context = PropagatedContext.capture()
    if context is None:
        return
    if greenlet.gr_context is None:
        greenlet.gr_context = Context()
    greenlet.gr_context.run(context.enter)


_SUBMIT = (("submit",), ("submit",))  # starts the executor's threads where it lacks some

HOOKS = (
    ThreadHook(),
    GreenletHook(),
    PoolHook("concurrent.futures.thread", "ThreadPoolExecutor", *_SUBMIT),
    PoolHook("concurrent.futures.process", "ProcessPoolExecutor", *_SUBMIT),
    PoolHook("multiprocessing.pool", "Pool", ("__init__",), _TAKES_WORK, work_name="func"),
    PoolHook("multiprocessing.managers", "BaseManager", ("start",), ()),
)


def _capture(patches: Patches) -> PropagatedContext | None:
    return attempt("carry", PropagatedContext.capture) if patches.switch.is_on else None


def _run_in(thread: Thread, context: PropagatedContext) -> Callable[[], None]:
    """Make a thread that is about to start run in a context; return a function that undoes that."""
    before = vars(thread).get("run")

    def restore() -> None:
        if before is None:
            vars(thread).pop("run", None)
        else:
            vars(thread)["run"] = before

    def run(thread: Thread) -> None:
        restore()  # the thread's own code must find its own `run`
        context.enter()  # never left: the thread's context ends with it
        thread.run()

    # A bound method and not a closure: other libraries take `thread.run.__func__` apart.
    vars(thread)["run"] = MethodType(run, thread)
    return restore


def _bind_first(
    original: Callable[..., Any], patches: Patches, work_name: str
) -> Callable[..., Any]:
    """Return a method that binds the work it takes to the context in which it is given."""

    def method(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
        context = _capture(patches)
        if context is None:
            return original(pool, *args, **kwargs)
        if args:
            args = (_bound(args[0], context), *args[1:])
        elif work_name in kwargs:
            kwargs[work_name] = _bound(kwargs[work_name], context)
        return original(pool, *args, **kwargs)

    return method


def _bound(work: Any, context: PropagatedContext) -> Any:
    # An argument that is not callable is left to the pool's own error.
    return BoundCallable(work, context) if callable(work) else work


def _detach_starts(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return a method that starts the pool's own threads or processes without a user: they will
    serve other users too.
    """

    @functools.wraps(original)
    def method(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not patches.switch.is_on:
            return original(pool, *args, **kwargs)
        with detached_context():
            return original(pool, *args, **kwargs)

    return method
