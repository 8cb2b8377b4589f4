"""The user in threads and pools: what starts a thread or takes work for one takes the user along.

Tasks, `asyncio.to_thread` and callbacks of a loop copy the context themselves. A thread starts with
an empty one, so `Thread.start` hands the user over; work that is given to a pool carries it, and
the pool's own threads and processes, which outlive the call that they were started in, are started
as nobody: otherwise whoever was first would pay for all that come after. Only our own variable is
touched. Whatever else carries work (a queue, `_thread`) needs `bind`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import Context
from inspect import getattr_static
from threading import Thread
from types import MethodType, ModuleType
from typing import Any

from paygent.client.context.scopes import PropagatedContext, detached_context
from paygent.client.context.propagation import BoundCallable
from paygent.client.instrument.patching.patches import Patches
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


class CarrierHook:
    """Patches one class that starts threads or takes work; see `patches.Hook`."""

    def __init__(
        self,
        module: str,
        class_name: str,
        starts: tuple[str, ...],
        takes: tuple[str, ...],
        *,
        called: str = "",
    ) -> None:
        """Name what is patched.

        Args:
            module, class_name: Where the class is.
            starts: Methods that start threads or processes of its own, which belong to nobody.
            takes: Methods whose first argument is work.
            called: Name of that argument, where it may be given by its name.
        """
        self.name = f"carry:{class_name}"
        self.module = module
        self._class_name = class_name
        self._starts = starts
        self._takes = takes
        self._called = called

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Patch the class; see `patches.Hook`."""
        kind = getattr(module, self._class_name)
        for name in dict.fromkeys((*self._starts, *self._takes)):
            original = getattr_static(kind, name)
            if not patches.is_ours(original):
                wrapper = _starting(original, patches) if name in self._starts else original
                if name in self._takes:
                    wrapper = functools.wraps(original)(_taking(wrapper, patches, self._called))
                patches.put(kind, name, wrapper)


class ThreadHook:
    """Patches `Thread.start`; see `patches.Hook`."""

    name = "carry:Thread"
    module = "threading"

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Have new threads begin as the user who started them; see `patches.Hook`."""
        original = getattr_static(module.Thread, "start")
        if patches.is_ours(original):
            return

        @functools.wraps(original)
        def start(thread: Thread, /, *args: Any, **kwargs: Any) -> Any:
            place = _here(patches)
            if place is None or getattr(thread, "_context", None) is not None:
                return original(thread, *args, **kwargs)  # nobody's, or in a context of its own
            put_back = attempt("carry", _run_in, thread, place)
            try:
                return original(thread, *args, **kwargs)
            except BaseException:  # it was started before, or there can be no more threads
                if put_back is not None:
                    put_back()
                raise

        patches.put(module.Thread, "start", start)


class GreenletHook:
    """Has gevent tell of each greenlet that is spawned; see `patches.Hook`.

    A greenlet starts with an empty context, like a thread. Its class cannot be patched, but it
    calls back when one is spawned.
    """

    name = "carry:Greenlet"
    module = "gevent.greenlet"

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Have new greenlets run as the user who spawned them; see `patches.Hook`."""
        kind = module.Greenlet

        def spawned(greenlet: Any) -> None:
            if patches.switch.is_on:
                attempt("carry", _give_context, greenlet)

        patches.do_once(
            self.name,
            lambda: kind.add_spawn_callback(spawned),
            lambda: kind.remove_spawn_callback(spawned),
        )


def _give_context(greenlet: Any) -> None:
    place = PropagatedContext.capture()
    if place is None:
        return
    if greenlet.gr_context is None:
        greenlet.gr_context = Context()
    greenlet.gr_context.run(place.enter)


_SUBMIT = (("submit",), ("submit",))  # starts the executor's threads where it lacks some

HOOKS = (
    ThreadHook(),
    GreenletHook(),
    CarrierHook("concurrent.futures.thread", "ThreadPoolExecutor", *_SUBMIT),
    CarrierHook("concurrent.futures.process", "ProcessPoolExecutor", *_SUBMIT),
    CarrierHook("multiprocessing.pool", "Pool", ("__init__",), _TAKES_WORK, called="func"),
    CarrierHook("multiprocessing.managers", "BaseManager", ("start",), ()),
)


def _here(patches: Patches) -> PropagatedContext | None:
    """Return what is taken along, or None."""
    return attempt("carry", PropagatedContext.capture) if patches.switch.is_on else None


def _run_in(thread: Thread, place: PropagatedContext) -> Callable[[], None]:
    """Have a thread that is about to start run as in a place; return what undoes that.

    What stands in its `run` is a method like any other, since other libraries take it apart; it is
    gone again when the thread runs.
    """
    before = vars(thread).get("run")

    def put_back() -> None:
        if before is None:
            vars(thread).pop("run", None)
        else:
            vars(thread)["run"] = before

    def run(thread: Thread) -> None:
        put_back()
        place.enter()  # the thread's context ends with it
        thread.run()

    vars(thread)["run"] = MethodType(run, thread)
    return put_back


def _taking(original: Callable[..., Any], patches: Patches, called: str) -> Callable[..., Any]:
    """Return a method that takes work, which then runs as in the place where it was given."""

    def method(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
        place = _here(patches)
        if place is None:
            return original(pool, *args, **kwargs)
        if args:
            args = (_bound(args[0], place), *args[1:])
        elif called in kwargs:
            kwargs[called] = _bound(kwargs[called], place)
        return original(pool, *args, **kwargs)

    return method


def _bound(work: Any, place: PropagatedContext) -> Any:
    """Return work that runs as in a place; what is no work is the pool's to complain about."""
    return BoundCallable(work, place) if callable(work) else work


def _starting(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return a method that may start threads or processes of the pool's own: they are there for
    others too, and so belong to nobody.
    """

    @functools.wraps(original)
    def method(pool: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not patches.switch.is_on:
            return original(pool, *args, **kwargs)
        with detached_context():
            return original(pool, *args, **kwargs)

    return method
