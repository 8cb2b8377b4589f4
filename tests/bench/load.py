"""The added path under load: busy threads, tasks on one loop, and a comparison of the journal's
kinds of segments.

The provider is a function that answers at once, behind the real request wrapper; metered and bare
calls alternate in each thread and task.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.bench.figures import show, show_added

THREADS = 16
TASKS = 1_000
WORK_US = 1_000  # of pure Python before each call, so that the interpreter lock is contended
_USERS = 50
_BODY = {
    "model": "gpt-4o",
    "messages": [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "u" * 200}],
    "max_tokens": 100,
}
_ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [],
    "usage": {"prompt_tokens": 150, "completion_tokens": 40, "total_tokens": 190},
}


@contextmanager
def _stub() -> Iterator[tuple[Any, Any, Any]]:
    """Start a Paygent; yield a client, the options of a request and its answer."""
    import openai
    from openai._models import FinalRequestOptions
    from openai.types.chat import ChatCompletion

    from paygent import Paygent, PlanConfig

    options = FinalRequestOptions.construct(
        method="post", url="/chat/completions", json_data=_BODY, headers={}
    )
    answer = ChatCompletion.model_validate(_ANSWER)
    with (
        tempfile.TemporaryDirectory() as folder,
        openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1") as client,
    ):
        pg = Paygent.init(db_path=str(Path(folder) / "bench.db"), auto_instrument=False)
        pg.configure_plan("bench", PlanConfig(max_spend_per_period=10**6))
        for number in range(_USERS):
            pg.assign_plan(f"user-{number}", "bench")
        try:
            yield client, options, answer
        finally:
            pg.shutdown(timeout=60)


def _loops_of(work_us: int) -> int:
    """Return how many rounds of `_work` take that long on an otherwise idle machine."""
    start = time.perf_counter_ns()
    _work(200_000)
    return int(200_000 * work_us * 1000 / (time.perf_counter_ns() - start))


def _work(loops: int) -> int:
    number = 0
    for _ in range(loops):
        number += 1
    return number


def _in_threads(run: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def busy_threads(rounds: int) -> None:
    """Measure the added path in threads that compete for the interpreter."""
    from paygent import paygent_context
    from paygent.client.instrument.http_sdks.wrapper import wrap_sync
    from paygent.client.instrument.openai import routes as sdk

    clock = time.perf_counter_ns
    with _stub() as (client, options, answer):

        def provider(client: Any, cast_to: Any, options: Any) -> Any:
            return answer

        metered_request = wrap_sync(provider, sdk)
        loops = _loops_of(WORK_US)
        print(f"{THREADS} busy threads, {THREADS * rounds} calls, {WORK_US} µs of work before each")
        for name, users in (("one user per thread", THREADS), ("one shared user", 1)):
            bare: list[int] = []
            metered: list[int] = []

            def run(
                thread: int,
                bare: list[int] = bare,
                metered: list[int] = metered,
                users: int = users,
            ) -> None:
                with paygent_context(user_id=f"user-{thread % users}"):
                    for number in range(rounds + rounds // 10):
                        for call, readings in ((provider, bare), (metered_request, metered)):
                            _work(loops)
                            start = clock()
                            call(client, None, options)
                            took = clock() - start
                            if number >= rounds // 10:
                                readings.append(took)

            _in_threads(run)
            show_added(f"whole added path, {name}", bare, metered, "(budget: p99 ≤ 150 µs)")


def tasks_on_one_loop(rounds: int) -> None:
    """Measure the time a call occupies the loop's thread with a thousand calls in flight."""
    from paygent import paygent_context
    from paygent.client.instrument.http_sdks.wrapper import wrap_async
    from paygent.client.instrument.openai import routes as sdk

    clock = time.perf_counter_ns
    with _stub() as (client, options, answer):

        async def provider(client: Any, cast_to: Any, options: Any, *, moments: list[int]) -> Any:
            moments.append(clock())
            await asyncio.sleep(0.05)
            moments.append(clock())
            return answer

        metered_request = wrap_async(provider, sdk)
        bare: list[int] = []
        metered: list[int] = []

        async def run(task: int) -> None:
            with paygent_context(user_id=f"user-{task % _USERS}"):
                for number in range(rounds + 2):
                    for call, readings in ((provider, bare), (metered_request, metered)):
                        moments: list[int] = []
                        start = clock()
                        await call(client, None, options, moments=moments)
                        # Before the provider and after it; no other task runs in between.
                        took = moments[0] - start + clock() - moments[1]
                        if number >= 2:
                            readings.append(took)

        async def run_all() -> None:
            await asyncio.gather(*(run(task) for task in range(TASKS)))

        asyncio.run(run_all())
        print(f"{TASKS} tasks on one loop, {len(metered)} calls of 50 ms")
        show_added("whole added path", bare, metered, "(budget: under 1 ms)")


def journals(rounds: int) -> None:
    """Compare the kinds of segments alternately: on one thread, and in threads that compete for the
    interpreter.

    A round appends what a call does, a begin and an end record.
    """
    from paygent.client.journal import journal as module
    from paygent.client.journal.journal import Journal

    begin, end = b'{"k":"begin","x":"%s"}' % (b"x" * 300), b'{"k":"end","x":"%s"}' % (b"x" * 400)
    loops = _loops_of(WORK_US)
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

        def run(work: int, count: int, thread: int) -> None:
            for number in range(count):
                if work:
                    _work(work)
                kind, journal = kinds[(number + thread) % 2]
                event_id = f"{thread}-{number}"
                start = clock()
                journal.begin(event_id, begin)
                journal.end(event_id, end)
                readings[kind].append(clock() - start)

        delivering = threading.Thread(target=deliver)
        delivering.start()
        print("the journal, a begin and an end record, segment kinds alternating")
        readings: dict[str, list[int]] = {"mapped": [], "written": []}
        run(0, 20 * rounds, 0)
        for kind in readings:
            show(f"{kind}, one thread", readings[kind])
        readings = {"mapped": [], "written": []}
        _in_threads(lambda thread: run(loops, 2 * rounds, thread))
        for kind in readings:
            show(f"{kind}, {THREADS} busy threads", readings[kind])
        done.set()
        delivering.join()
        for _, journal in kinds:
            journal.close()
