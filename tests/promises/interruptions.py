"""Interruptions and kills at each step of our code in turn, as a Ctrl-C or a `kill -9` may come."""

from __future__ import annotations

import inspect
import linecache
import os
import signal
import sys
from collections.abc import Callable
from threading import Lock
from types import FrameType
from typing import Any

_SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class _Steps:
    """Counts steps in some files, and interrupts one of them or kills the process there."""

    def __init__(self, step: int, parts: tuple[str, ...], *, kills: bool = False) -> None:
        self._left = step
        self._parts = parts
        self._kills = kills

    def are_in(self, frame: FrameType | None) -> bool:
        """Return whether the steps of a function count."""
        return frame is not None and any(part in frame.f_code.co_filename for part in self._parts)

    def take(self, frame: FrameType) -> None:
        """Take a step; raise KeyboardInterrupt, or kill this process, if it is the one."""
        self._left -= 1
        if self._left == 0:
            if self._kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt(f"{frame.f_code.co_name}: {line_of(frame)}")


def line_of(frame: FrameType) -> str:
    """Return the source of the line that a function is at."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


def comes_free(lock: Lock) -> bool:
    """Return whether a lock can be taken: another thread holds it for a moment, but a thread that
    was interrupted between taking and releasing it holds it forever.
    """
    taken = lock.acquire(timeout=10)
    if taken:
        lock.release()
    return taken


def interrupted_at_line(line: int, action: Callable[[], Any], parts: tuple[str, ...]) -> str:
    """Run something and raise KeyboardInterrupt before the n-th line of ours, from 1; return which
    it was, "" when there are no more. `parts` names our files or folders by parts of their paths.
    """
    steps = _Steps(line, parts)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not steps.are_in(frame):
            return None
        # A block's end is traced at its `with`; no signal is handled there, only in the block.
        if event == "line" and not line_of(frame).startswith("with "):
            steps.take(frame)
        return trace

    others = sys.gettrace()  # of coverage
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt as interruption:
        return str(interruption)
    finally:
        sys.settrace(others)
    return ""


def interrupted_at_signal(step: int, action: Callable[[], Any], parts: tuple[str, ...]) -> str:
    """Do the same at the n-th place where Python handles a signal: at the start of each function,
    and after each call in one, before its result is stored.
    """
    steps = _Steps(step, parts)
    sys.setprofile(_profile(steps))
    try:
        action()
    except KeyboardInterrupt as interruption:
        return str(interruption)
    finally:
        sys.setprofile(None)
    return ""


def killed_at_signal(step: int, action: Callable[[], Any], parts: tuple[str, ...]) -> None:
    """Kill this process with SIGKILL at the n-th of these places; return if there is none."""
    sys.setprofile(_profile(_Steps(step, parts, kills=True)))
    try:
        action()
    finally:
        sys.setprofile(None)


def _profile(steps: _Steps) -> Callable[[FrameType, str, object], None]:
    """Return the function that takes the steps where Python handles a signal."""

    def profile(frame: FrameType, event: str, argument: object) -> None:
        # The frame is the caller's where C code was called.
        if event in ("call", "c_return"):
            if steps.are_in(frame):
                steps.take(frame)
        elif event == "return" and not frame.f_code.co_flags & _SUSPENDS:
            caller = frame.f_back
            if caller is not None and steps.are_in(caller):
                steps.take(caller)

    return profile
