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

from paygent.carrying import Bound
from paygent.context import Identity, as_identity, current, here
from paygent.failopen import attempt
from paygent.instrument.patches import Patches

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

    def __init__(self, module: str, class_name: str, *starts: str, takes: tuple[str, ...]) -> None:
        """Name what is patched.

        Args:
            module, class_name: Where the class is.
            starts: Methods that start threads or processes of its own, which belong to nobody.
            takes: Methods whose first argument is work; they may also start such threads.
        """
        self.name = f"carry:{class_name}"
        self.module = module
        self._class_name = class_name
        self._starts = starts
        self._takes = takes

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Patch the class; see `patches.Hook`."""
        kind = getattr(module, self._class_name)
        for names, wrap in ((self._starts, _as_nobody), (self._takes, _with_user)):
            for name in names:
                original = getattr_static(kind, name)
                if not patches.is_ours(original):
                    patches.put(kind, name, wrap(original, patches))


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
        def start(thread: Thread, *args: Any, **kwargs: Any) -> Any:
            identity = _here(patches)
            if identity is None:
                return original(thread, *args, **kwargs)
            attempt("carry", _run_as, thread, identity)
            try:
                return original(thread, *args, **kwargs)
            except BaseException:  # it was started before, or there can be no more threads
                _run_as_before(thread)
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
        kind.add_spawn_callback(_spawned)
        patches.when_taken_out(lambda: kind.remove_spawn_callback(_spawned))


def _spawned(greenlet: Any) -> None:
    """Give a greenlet that has just been spawned its user."""
    attempt("carry", _give_context, greenlet)


def _give_context(greenlet: Any) -> None:
    identity = here()
    if identity is None:
        return
    if greenlet.gr_context is None:
        greenlet.gr_context = Context()
    greenlet.gr_context.run(current.set, identity)


HOOKS = (
    ThreadHook(),
    GreenletHook(),
    CarrierHook("concurrent.futures.thread", "ThreadPoolExecutor", takes=("submit",)),
    CarrierHook("concurrent.futures.process", "ProcessPoolExecutor", takes=("submit",)),
    CarrierHook("multiprocessing.pool", "Pool", "__init__", takes=_TAKES_WORK),
)


def _here(patches: Patches) -> Identity | None:
    """Return who is taken along, or None."""
    return attempt("carry", here) if patches.switch.is_on else None


def _run_as(thread: Thread, identity: Identity) -> None:
    """Have a thread that is about to start run as a user.

    What stands in its `run` is a method like any other, since other libraries take it apart; it is
    gone again when the thread runs.
    """
    before = vars(thread).get("run")

    def run(thread: Thread) -> None:
        _put_back(thread, before)
        current.set(identity)  # the thread's context ends with it
        thread.run()

    placed = MethodType(run, thread)
    run.put_back = lambda: _put_back(thread, before)  # type: ignore[attr-defined]
    vars(thread)["run"] = placed


def _put_back(thread: Thread, before: Any) -> None:
    """Leave a thread's `run` as it was."""
    if before is None:
        vars(thread).pop("run", None)
    else:
        vars(thread)["run"] = before


def _run_as_before(thread: Thread) -> None:
    """Undo that for a thread that could not be started."""
    put_back = getattr(vars(thread).get("run"), "put_back", None)
    if put_back is not None:
        put_back()


def _with_user(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return a method that takes work, which then runs as the user who gave it."""

    @functools.wraps(original)
    def method(pool: Any, *args: Any, **kwargs: Any) -> Any:
        identity = _here(patches)
        if identity is None or not args or isinstance(args[0], Bound):
            return original(pool, *args, **kwargs)
        work = Bound(args[0], identity) if callable(args[0]) else args[0]
        with as_identity(None):  # what it starts for this is there for others too
            return original(pool, work, *args[1:], **kwargs)

    return method


def _as_nobody(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return a method that starts threads or processes of the pool's own."""

    @functools.wraps(original)
    def method(pool: Any, *args: Any, **kwargs: Any) -> Any:
        if not patches.switch.is_on:
            return original(pool, *args, **kwargs)
        with as_identity(None):
            return original(pool, *args, **kwargs)

    return method
