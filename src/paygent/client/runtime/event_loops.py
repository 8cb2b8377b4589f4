"""The event loop that runs on this thread, and the task or thread that makes a call.

Paygent imports no event loop: only one that the application has imported can be running.
"""

from __future__ import annotations

import sys
from threading import get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio loop that runs on this thread, or None."""
    # The function behind `get_running_loop`, which raises on every thread without a loop. It is
    # missing while another thread is in the middle of the import.
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    loop: asyncio.AbstractEventLoop | None = running() if running is not None else None
    return loop


def runs_loop() -> bool:
    """Return whether this thread runs an asyncio or trio loop, which must not be blocked."""
    if running_loop() is not None:
        return True
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    in_run = getattr(lowlevel, "in_trio_run", None)
    return bool(in_run()) if in_run is not None else False


def caller() -> object:
    """Return an identity of the caller: the current asyncio task, else the thread's id."""
    asyncio = sys.modules.get("asyncio")
    running = getattr(asyncio, "_get_running_loop", None)  # see `running_loop`
    if running is None or running() is None:
        return get_ident()
    return asyncio.current_task() or get_ident()  # type: ignore[union-attr]
