"""Serve: bind the port, run uvicorn in this process or in several, and drain on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from prometheus_client import disable_created_metrics
from uvicorn.config import STARTUP_FAILURE

from paygent.server.app import create_app
from paygent.server.backend import Backend
from paygent.server.connections import Connection
from paygent.server.logs import LOGGER, configure_logging
from paygent.server.settings import ServerSettings
from paygent.server.workers import Workers, end_with_parent
from paygent.store.directory import wall_clock_us
from paygent.store.factory import open_store
from paygent.store.port import StoreUnavailable

_BACKLOG = 2_048
_CONNECTIONS_MAX = 2_048
_COLLECTED_AFTER = (20_000, 20, 50)
"""Allocations after which the garbage collector runs, and how often it goes further. A batch makes
some thousand objects, none of them in a cycle; ingest is faster by a twentieth than with Python's
700.
"""

_SWITCH_S = 0.0005
"""How long a thread waits for the interpreter while another computes. The thread of a request lets
it go whenever it reads, SQLite at every row; with Python's 5 ms, each would take as long while a
snapshot of 100,000 users is summed up. Throughput is the same.
"""

_KEEP_ALIVE_S = 75  # above the 60 s of usual proxies, so that they close first
_HUNG_S = 2.0
"""How long threads may still wait for the database after the drain. The interpreter joins them
without a time-out, and a supervisor would kill the process a few seconds later.
"""


def bind(settings: ServerSettings) -> socket.socket:
    """Bind the port, so that one in use is found before anything else is started.

    Raises:
        OSError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except BaseException:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


def serve(
    settings: ServerSettings,
    *,
    listener: socket.socket | None = None,
    now_us: Callable[[], int] = wall_clock_us,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish the requests, book waiting batches, and return.

    Args:
        settings: How to run.
        listener: A bound socket, which is closed here; `bind(settings)` without one.
        now_us: The ledger's clock, where there is one worker.

    Raises:
        OSError: The address cannot be used.
        StoreUnavailable: The database cannot be opened.
        SystemExit: The server could not start; its log has the reason.
    """
    _prepare_process()
    with closing(listener or bind(settings)) as bound:
        if settings.workers > 1:
            open_store(settings.database_url).close()  # one error here, rather than one per worker
            config = uvicorn_config(settings, partial(application, settings), factory=True)
            Workers(config, sockets=[bound]).run()
            return
        opened = closing(open_store(settings.database_url, now_us=now_us))
        with opened as store, _status_of_success():
            app = create_app(store, settings, now_us)
            _tune_collector()
            server = uvicorn.Server(uvicorn_config(settings, app))
            server.run(sockets=[bound])
            _end_without_hung_threads(app.state.backend)
            if not server.started:  # older versions of uvicorn return; newer ones have raised
                raise SystemExit(STARTUP_FAILURE)


def application(settings: ServerSettings) -> FastAPI:
    """Open the store and make the application of one of several worker processes.

    Raises:
        SystemExit: The database cannot be opened.
    """
    _prepare_process()
    end_with_parent()
    try:
        store = open_store(settings.database_url)
    except StoreUnavailable as error:
        LOGGER.error("the database cannot be used: %s", error)
        raise SystemExit(STARTUP_FAILURE) from None
    app = create_app(store, settings)
    _tune_collector()
    return app


def _prepare_process() -> None:
    """Configure what a process has once: the log, the threads, and the library of metrics."""
    configure_logging()
    sys.setswitchinterval(_SWITCH_S)
    # Otherwise each counter and histogram has a second series, with the time of its creation.
    disable_created_metrics()  # type: ignore[no-untyped-call]


def _tune_collector() -> None:
    """Keep the collector from what was imported and composed, and let it run more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)


def uvicorn_config(settings: ServerSettings, app: Any, *, factory: bool = False) -> uvicorn.Config:
    """Return how uvicorn serves an application, or the function that makes it (`factory`)."""
    connection = partial(
        Connection,
        head_bytes_max=settings.head_bytes_max,
        head_timeout_s=settings.head_timeout_s,
    )
    return uvicorn.Config(
        app,
        factory=factory,
        http=cast(type[asyncio.Protocol], connection),  # it is called, and nothing else
        workers=settings.workers,
        backlog=_BACKLOG,
        limit_concurrency=_CONNECTIONS_MAX,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, int(settings.drain_s - settings.flush_s)),
        log_config=None,  # ours
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the peer is the socket's, whatever a header says
        ws="none",
        lifespan="on",
    )


def _end_without_hung_threads(backend: Backend) -> None:
    """End the process with status 0 in `_HUNG_S` if its threads still wait for the database."""

    def end() -> None:
        time.sleep(_HUNG_S)
        if backend.is_calling:
            LOGGER.warning("the database does not answer; the process ends without it")
            sys.stderr.flush()
            os._exit(0)

    threading.Thread(target=end, name="paygent-end", daemon=True).start()


@contextmanager
def _status_of_success() -> Iterator[None]:
    """Survive the signal that ended the server, which uvicorn raises again once it has drained."""
    handlers = {sign: signal.signal(sign, _ignore) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in handlers.items():
            signal.signal(sign, handler)


def _ignore(_sign: int, _frame: Any) -> None:
    """Ignore a signal."""
