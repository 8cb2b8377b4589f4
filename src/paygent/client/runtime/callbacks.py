"""Runs the application's callbacks in order on a thread of Paygent, so that no error or delay in
them affects a call.

A sync caller waits up to 50 ms for its own callbacks, so that a warning usually arrives before the
call proceeds; a caller on an event loop never waits. Each callback runs in a copy of its caller's
context. An async callback runs on the caller's loop if there is one, otherwise on a loop of its own
on the thread.
"""

from __future__ import annotations

import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from paygent.client.runtime.event_loops import running_loop, runs_loop
from paygent.client.runtime.lifecycle import may_start_threads
from paygent.client.runtime.locks import Wakeup
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics, isolate, isolate_async

if TYPE_CHECKING:
    import asyncio

OWN_WAIT_S = 0.05
"""Longest wait of a sync caller for the callbacks of its own call."""

QUEUE_MAX = 1_000
"""Callbacks queued; later ones are dropped and counted, so a hanging one cannot fill the memory."""

Callback = Callable[[Any], Any]
_Item = tuple[Callable[[], Any], Wakeup]  # set when the function has run


class Callbacks:
    """The registered callbacks of one `Paygent`, by kind, and the thread that runs them."""

    def __init__(self) -> None:
        self._registered: dict[str, tuple[Callback, ...]] = {}
        self.wants_usage = False  # the same as `wants("usage")`, at each call
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """Forget the parent's thread and queue; registrations stay."""
        self._starting = threading.Lock()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()  # also after a Ctrl-C
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._tasks: dict[asyncio.Task[None], asyncio.AbstractEventLoop] = {}
        self._flushes: list[Wakeup] = []  # one per flush that waits for tasks to end

    def register(self, kind: str, callback: Callback) -> None:
        """Add a callback; those of a kind run in the order of registration."""
        self._registered[kind] = (*self._registered.get(kind, ()), callback)
        self.wants_usage = "usage" in self._registered

    def wants(self, kind: str) -> bool:
        """Return whether a kind has callbacks; if not, its payload need not be made."""
        return kind in self._registered

    @property
    def has_any(self) -> bool:
        """Whether a callback is registered."""
        return bool(self._registered)

    def fire(self, kind: str, payload: Any) -> None:
        """Run the callbacks of a kind, such as "usage"; wait for them up to 50 ms, but not on a
        thread that runs an event loop. Never raises.
        """
        callbacks = self._registered.get(kind)
        if callbacks:
            # Guarded, because a refusal is raised after its callbacks.
            attempt("callbacks", self._fire, kind, callbacks, payload)

    def _fire(self, kind: str, callbacks: tuple[Callback, ...], payload: Any) -> None:
        loop = running_loop()
        context = contextvars.copy_context()
        last: Wakeup | None = None
        for callback in callbacks:
            if loop is not None and inspect.iscoroutinefunction(callback):
                # Of the caller's loop; its errors are counted too.
                coroutine = isolate_async(f"callback:{kind}", callback, payload)
                task = context.run(loop.create_task, coroutine)
                self._tasks[task] = loop  # a loop keeps weak references only
                task.add_done_callback(self._end_task)
                continue
            if self._is_full:
                diagnostics.warn_once(Notice.CALLBACKS_DROPPED)
                last = None  # a queue this full is not waited for
                break
            call, last = context.copy().run, Wakeup()
            run = partial(isolate, f"callback:{kind}", callback, call, _run, callback, payload)
            self._queue.put((run, last))
        if not self._queue.empty():
            self._start()
        # A callback that fires callbacks would wait for itself.
        may_wait = not runs_loop() and threading.current_thread() is not self._thread
        if last is not None and may_wait:
            last.wait(OWN_WAIT_S)

    @property
    def _is_full(self) -> bool:
        return self._queue.qsize() >= QUEUE_MAX

    def _start(self) -> None:
        """Start the thread, once; if the process may have no more threads, this raises, and queued
        callbacks run after the next successful start.
        """
        if self._thread is not None:
            return
        if not may_start_threads():
            raise RuntimeError("threads are switched off in uWSGI")
        with self._starting:  # several threads may fire at once
            if self._thread is None:
                thread = threading.Thread(
                    target=_run_forever, args=(self._queue,), name="paygent-callbacks", daemon=True
                )
                thread.start()
                self._thread = thread

    def _end_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        for flush in tuple(self._flushes):
            flush.set()

    def flush(self, timeout_s: float) -> bool:
        """Wait until every callback fired so far has run; return False if the time was too short.

        A callback does not wait for itself, nor does a thread that runs an event loop wait for the
        tasks of that loop, which it would block.
        """
        deadline_s = time.monotonic() + timeout_s
        if self._thread in (None, threading.current_thread()):
            pass  # nothing was fired, or a callback flushes, which would wait for itself
        elif self._is_stopped:
            self._thread.join(timeout_s)  # it ends after the queued callbacks
        else:
            done = Wakeup()  # set in turn, after the callbacks queued before it
            self._queue.put((lambda: None, done))
            if not done.wait(max(deadline_s - time.monotonic(), 0.0)):
                return False
        if not self._tasks:
            return True
        own = running_loop()

        def has_ended() -> bool:
            return all(loop is own or loop.is_closed() for loop in tuple(self._tasks.values()))

        ended, flushes = Wakeup(), self._flushes  # a forked child has others
        flushes.append(ended)
        try:
            while not has_ended():
                if not ended.wait(max(deadline_s - time.monotonic(), 0.0)):
                    return has_ended()
        finally:
            flushes.remove(ended)
        return True

    def stop(self) -> None:
        """End the thread after the queued callbacks; callbacks fired later are not run."""
        self._registered = {}
        self.wants_usage = False
        self._is_stopped = True
        if self._thread is not None:
            left = self._queue.qsize()
            self._queue.put(None)
            if left and self._thread.is_alive():
                diagnostics.warn_once(Notice.CALLBACKS_HUNG, left)


def _run(callback: Callback, payload: Any) -> None:
    result = callback(payload)
    if inspect.isawaitable(result):
        import asyncio  # 27 ms, and most callbacks are not async

        asyncio.run(_awaited(result))


async def _awaited(result: Any) -> None:
    await result


def _run_forever(pending: queue.SimpleQueue[_Item | None]) -> None:
    while (item := pending.get()) is not None:
        run, done = item
        run()
        done.set()
