"""One side of the in-situ benchmark: a process that times real SDK calls, bare and metered.

`in_situ` starts it under the Python of any environment with the SDKs and sends it commands over a
pipe. Of the `paygent` that is installed there it uses public names that version 1.0.1 has too. The
side `none` has no `paygent` at all, so that its figures are the error of the method.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench.sdk_calls import Call, calls_of, load_copy

THREADS = 16
WORK_US = 1_000  # of pure Python before each call, so that the interpreter lock is contended
USER = "user"
NO_USER = "(none)"  # whom a call outside any context is recorded on
PAIRS_MIN = 5  # in a block, however short
PAIRS_DROPPED = 2  # the first of a block, which find the caches as another process left them
COUNTED_CALLS = 9

Turns = Iterator[tuple[Call, list[int]]]


@dataclass
class Case:
    """A way to call: the same call through both copies of the SDK, and the context of a block."""

    bare: Call
    metered: Call
    user_id: str = USER  # whose usage grows
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    is_async: bool = False
    is_threaded: bool = False


def _cases(
    bare: dict[str, Call], metered: dict[str, Call], context: Call, argument: dict[str, str]
) -> dict[str, Case]:
    """Return the cases by the names that `in_situ` prints."""

    def in_own_context() -> None:
        with context(user_id=USER):
            metered["chat"]()

    def in_context() -> AbstractContextManager[object]:
        manager: AbstractContextManager[object] = context(user_id=USER)
        return manager

    def inside(kind: str, *, is_async: bool = False) -> Case:
        return Case(bare[kind], metered[kind], around=in_context, is_async=is_async)

    return {
        "chat, a context around each call": Case(bare["chat"], in_own_context),
        "chat, inside one context": inside("chat"),
        "chat, outside any context": Case(bare["chat"], metered["chat"], user_id=NO_USER),
        "chat, paygent_user_id=": Case(bare["chat"], lambda: metered["chat"](**argument)),
        "chat, async": inside("async", is_async=True),
        "chat, stream of 9 chunks": inside("stream"),
        "responses": inside("responses"),
        "embeddings": inside("embeddings"),
        "messages": inside("messages"),
        f"chat, {THREADS} busy threads": Case(
            bare["chat"], metered["chat"], f"{USER}-0", in_context, is_threaded=True
        ),
    }


def _start_paygent(folder: str) -> tuple[Any, Call]:
    """Start the installed Paygent, with limits that are far away; return it and its context."""
    import paygent

    pg = paygent.Paygent.init(db_path=os.path.join(folder, "bench.db"))
    plan = paygent.PlanConfig(
        max_spend_per_period=10**6,
        max_spend_per_session=10**6,
        model_limits={"gpt-4o": paygent.ModelLimitConfig(max_tokens_per_period=10**12)},
        cost_rates={"gpt-4o": paygent.ModelCostRate(input=0.0025, output=0.01)},
    )
    pg.configure_plan("bench", plan)
    for user_id in (USER, *(f"{USER}-{number}" for number in range(THREADS))):
        pg.start_session(user_id, plan="bench", plan_config=plan)
    return pg, paygent.paygent_context


def _no_context(user_id: str) -> AbstractContextManager[None]:
    return nullcontext()


def work(loops: int) -> int:
    """Keep the interpreter busy."""
    number = 0
    for _ in range(loops):
        number += 1
    return number


def loops_of(work_us: int) -> int:
    """Return how many loops of `work` take that long."""
    start = time.perf_counter_ns()
    work(100_000)
    return int(100_000 * work_us * 1000 / (time.perf_counter_ns() - start))


class Runner:
    """Runs blocks of one case; readings are nanoseconds."""

    def __init__(self, cases: dict[str, Case], context: Call, package: Path | None) -> None:
        self._cases = cases
        self._context = context
        self._package = package
        self._loop = asyncio.new_event_loop()
        self._work_loops = min(loops_of(WORK_US) for _ in range(5))

    def run(self, name: str, block_s: float) -> dict[str, list[int]]:
        """Run bare and metered calls alternately for a while."""
        case = self._cases[name]
        # What exists is left out of later collections, which would otherwise take milliseconds.
        gc.collect()
        gc.freeze()
        bare: list[int] = []
        metered: list[int] = []
        if case.is_threaded:
            self._run_threads(lambda: _turns(case, block_s, bare, metered))
            return {"bare": bare, "metered": metered}
        with case.around():
            turns = _turns(case, block_s, bare, metered)
            if case.is_async:
                self._loop.run_until_complete(_time_async(turns))
            else:
                _time(turns)
        return {"bare": bare[PAIRS_DROPPED:], "metered": metered[PAIRS_DROPPED:]}

    def _run_threads(self, make_turns: Callable[[], Turns]) -> None:
        def run(number: int) -> None:
            with self._context(user_id=f"{USER}-{number}"):
                _time(make_turns(), self._work_loops)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def count(self, name: str) -> dict[str, int]:
        """Count the package's Python calls on this thread, per bare and per metered call.

        The least of several calls: work that is done now and then is left out.
        """
        case = self._cases[name]
        with case.around():
            for _ in range(COUNTED_CALLS):
                self._counted(case.metered, case.is_async)
            return {
                side: min(self._counted(call, case.is_async) for _ in range(COUNTED_CALLS))
                for side, call in (("bare", case.bare), ("metered", case.metered))
            }

    def _counted(self, call: Call, is_async: bool) -> int:
        if self._package is None:
            return 0
        folder = f"{self._package}{os.sep}"
        name = self._package.name
        counted = 0

        def profile(frame: FrameType, event: str, _argument: object) -> None:
            nonlocal counted
            if event == "call":
                # Code that is generated (dataclasses, wrappers) has no file, but a module.
                module = str(frame.f_globals.get("__name__", ""))
                if frame.f_code.co_filename.startswith(folder) or module.split(".")[0] == name:
                    counted += 1

        async def awaited() -> None:
            sys.setprofile(profile)
            try:
                await call()
            finally:
                sys.setprofile(None)

        if is_async:
            self._loop.run_until_complete(awaited())
            return counted
        sys.setprofile(profile)
        try:
            call()
        finally:
            sys.setprofile(None)
        return counted


def _turns(case: Case, block_s: float, bare: list[int], metered: list[int]) -> Turns:
    """Yield each call to be made in a block and the list for its time: pairs, in both orders."""
    deadline = time.perf_counter_ns() + int(block_s * 1e9)
    pair = [(case.bare, bare), (case.metered, metered)]
    pairs = 0
    while time.perf_counter_ns() < deadline or pairs < PAIRS_MIN:
        yield from pair
        pair.reverse()
        pairs += 1


def _time(turns: Turns, work_loops: int = 0) -> None:
    clock = time.perf_counter_ns
    for call, readings in turns:
        work(work_loops)
        start = clock()
        call()
        readings.append(clock() - start)


async def _time_async(turns: Turns) -> None:
    clock = time.perf_counter_ns
    for call, readings in turns:
        start = clock()
        await call()
        readings.append(clock() - start)


def _serve(
    runner: Runner, tokens_of: Callable[[str], int], versions: str, names: list[str]
) -> None:
    """Execute the commands on standard input until it is closed."""
    # Whatever a package prints goes to standard error, not between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps({"versions": versions, "cases": names}), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        name = command["case"]
        answer: dict[str, Any]
        if command["do"] == "run":
            answer = dict(runner.run(name, command["block_s"]))
        elif command["do"] == "count":
            answer = dict(runner.count(name))
        else:
            answer = {"tokens": tokens_of(name)}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Import the SDKs twice, start Paygent, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("paygent", "none"))
    parser.add_argument("--skip", action="append", default=[], help="a case that cannot be run")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    bare = calls_of(load_copy("openai"), load_copy("anthropic"))
    openai, anthropic = (importlib.import_module(name) for name in ("openai", "anthropic"))
    versions = f"openai {openai.__version__}, anthropic {anthropic.__version__}"
    pg: Any = None
    package: Path | None = None
    with tempfile.TemporaryDirectory() as folder:
        context: Call = _no_context
        argument = {}
        if options.side == "paygent":
            pg, context = _start_paygent(folder)
            argument = {"paygent_user_id": USER}
            package = Path(sys.modules["paygent"].__file__ or "").parent
            versions = f"{package}, {versions}"
        cases = _cases(bare, calls_of(openai, anthropic), context, argument)
        names = [name for name in cases if name not in options.skip]

        def tokens_of(name: str) -> int:
            return int(pg.get_usage(cases[name].user_id).period_tokens_total) if pg else 0

        _serve(Runner(cases, context, package), tokens_of, versions, names)
        if pg:
            pg.shutdown(timeout=30)


if __name__ == "__main__":
    main()
