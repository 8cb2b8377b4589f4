"""Many tasks on one event loop, and a comparison of the journal's kinds of segments."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from tests.bench.figures import show, show_added
from tests.bench.sdk_calls import CHAT, CHAT_ANSWER, load_copy
from tests.bench.side import THREADS, WORK_US, loops_of, work

TASKS = 1_000
_USERS = 50
_PROVIDER_S = 0.05
_moments: ContextVar[list[int]] = ContextVar("moments")  # at which a call's provider works


def _async_chat(openai: ModuleType) -> Any:
    """Return the chat completions of a client whose provider pauses, and notes when it does."""
    import httpx2

    async def respond(request: httpx2.Request) -> httpx2.Response:
        moments = _moments.get()
        moments.append(time.perf_counter_ns())
        await asyncio.sleep(_PROVIDER_S)
        moments.append(time.perf_counter_ns())
        return httpx2.Response(200, json=CHAT_ANSWER)

    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(respond))
    client = openai.AsyncOpenAI(
        api_key="k", base_url="http://127.0.0.1:9/v1", http_client=http_client
    )
    return client.chat.completions


async def _time_tasks(chats: list[tuple[Any, list[int]]], rounds: int) -> None:
    """Call alternately in a thousand tasks; append the time each call occupies the loop."""
    from paygent import paygent_context

    clock = time.perf_counter_ns

    async def run(task: int) -> None:
        moments: list[int] = []
        _moments.set(moments)
        with paygent_context(user_id=f"user-{task % _USERS}"):
            for number in range(rounds + 2):
                for chat, readings in chats:
                    moments.clear()
                    start = clock()
                    await chat.create(**CHAT)
                    # Before the provider and after it; no other task runs in between.
                    took = moments[0] - start + clock() - moments[1]
                    if number >= 2:
                        readings.append(took)

    await asyncio.gather(*(run(task) for task in range(TASKS)))


def tasks_on_one_loop(rounds: int) -> None:
    """Measure the time a call occupies the loop's thread with a thousand calls in flight."""
    import openai

    from paygent import Paygent, PlanConfig

    bare: list[int] = []
    metered: list[int] = []
    bare_chat, metered_chat = _async_chat(load_copy("openai")), _async_chat(openai)
    with tempfile.TemporaryDirectory() as folder:
        pg = Paygent.init(db_path=str(Path(folder) / "bench.db"))
        pg.configure_plan("bench", PlanConfig(max_spend_per_period=10**6))
        for number in range(_USERS):
            pg.assign_plan(f"user-{number}", "bench")
        asyncio.run(_time_tasks([(bare_chat, bare), (metered_chat, metered)], rounds))
        calls_per_user = TASKS // _USERS * (rounds + 2)
        assert pg.get_usage("user-0").period_tokens_total == calls_per_user * 190
        pg.shutdown(timeout=60)
    print(f"{TASKS} tasks on one loop, {len(metered)} real SDK calls of 50 ms")
    show_added("whole added path", bare, metered, "(budget: under 1 ms)")


def _in_threads(run: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def journals(rounds: int) -> None:
    """Compare the kinds of segments alternately: on one thread, and in threads that compete for the
    interpreter.

    A round appends two records of about the sizes that a call has.
    """
    from paygent.client.journal import journal as module
    from paygent.client.journal.journal import Journal

    begin, end = b'{"k":"begin","x":"%s"}' % (b"x" * 300), b'{"k":"end","x":"%s"}' % (b"x" * 400)
    busy_loops = loops_of(WORK_US)
    clock = time.perf_counter_ns
    with tempfile.TemporaryDirectory() as folder:
        kinds: list[tuple[str, Journal]] = []
        for kind in ("mapped", "written"):
            with mock.patch.object(module, "can_map", return_value=kind == "mapped"):
                kinds.append((kind, Journal(Path(folder) / kind, owner="bench")))
                kinds[-1][1].append(begin)  # the first append selects the kind

        done = threading.Event()

        def deliver() -> None:
            while not done.wait(0.1):
                for _, journal in kinds:
                    journal.maintain()
                    journal.take(1_000_000)
                    journal.delivered()

        def run(loops: int, count: int, thread: int) -> None:
            for number in range(count):
                work(loops)
                kind, journal = kinds[(number + thread) % 2]
                start = clock()
                journal.append(begin)
                journal.append(end)
                readings[kind].append(clock() - start)

        delivering = threading.Thread(target=deliver)
        delivering.start()
        print("the journal, two records, segment kinds alternating")
        readings: dict[str, list[int]] = {"mapped": [], "written": []}
        run(0, 20 * rounds, 0)
        for kind in readings:
            show(f"{kind}, one thread", readings[kind])
        readings = {"mapped": [], "written": []}
        _in_threads(lambda thread: run(busy_loops, 2 * rounds, thread))
        for kind in readings:
            show(f"{kind}, {THREADS} busy threads", readings[kind])
        done.set()
        delivering.join()
        for _, journal in kinds:
            journal.close()
