"""`make bench`: the overhead Paygent adds to a call.

The path inside real SDK calls; the hot loop (a stubbed provider and Paygent's path alone); many
tasks on one loop; the journal's kinds of segments; streams; how well a cap is kept; and reports and
pages of the dashboard of a million calls. Metered and bare calls alternate, so that drift affects
both equally. With `--reference PYTHON` the calls inside SDKs are also measured for the `paygent`
that is installed in that environment.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.figures import measure, show


def hot_loop(rounds: int) -> None:
    """Measure `pg.wrap` around a provider that answers at once."""
    from paygent import ModelLimitConfig, Paygent, PlanConfig

    details = {
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    usage = {"prompt_tokens": 150, "completion_tokens": 40, **details}
    answer: dict[str, object] = {"model": "gpt-4o", "usage": usage}

    def provider() -> dict[str, object]:
        return answer

    with tempfile.TemporaryDirectory() as folder:
        pg = Paygent.init(db_path=str(Path(folder) / "bench.db"), auto_instrument=False)
        limits = {"gpt-4o": ModelLimitConfig(10**12)}
        pg.configure_plan("bench", PlanConfig(max_spend_per_period=10**6, model_limits=limits))
        pg.assign_plan("user", "bench")

        def once() -> None:
            pg.wrap(
                provider,
                "user",
                "gpt-4o",
                provider="openai",
                estimated_input_tokens=150,
                estimated_max_tokens=100,
            )

        print(f"hot loop, {rounds} calls of pg.wrap, stubbed provider")
        show("whole added path", measure(once, rounds))
        assert pg.get_usage("user").period_tokens_total >= rounds * 190
        pg.shutdown(timeout=30)


def import_time() -> None:
    """Measure `import paygent` in five processes."""
    code = "import time; s=time.perf_counter(); import paygent; print((time.perf_counter()-s)*1000)"
    readings = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    print(
        f"import paygent: {min(readings):.0f} ms best, {sorted(readings)[2]:.0f} ms median of 5 "
        "(budget 60 ms)"
    )


def _parts(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return the benchmarks by name; each imports what it measures when it runs."""

    def in_situ() -> None:
        from tests.bench.in_situ import in_situ

        in_situ(options.reference, options.quick)

    def tasks() -> None:
        from tests.bench.load import tasks_on_one_loop

        tasks_on_one_loop(1 if options.quick else 5)

    def journals() -> None:
        from tests.bench.load import journals

        journals(30 if options.quick else 300)

    def streams() -> None:
        from tests.bench.streams import streams

        streams()

    def cap() -> None:
        from tests.bench.cap import cap

        cap(1 if options.quick else 3)

    def backend() -> None:
        from tests.bench.backend import backend

        backend((1,) if options.quick else (1, 5))

    def local_mode() -> None:
        from tests.bench.backend import local_mode

        local_mode(20_000 if options.quick else 100_000)

    def connected() -> None:
        from tests.bench.connected import connected

        if options.quick:
            connected(1_000, 10_000)
        else:
            connected(10_000, 360_000)

    def reports() -> None:
        from tests.bench.reports import reports

        reports(options.calls or ((100_000,) if options.quick else (1_000_000,)))

    def pages() -> None:
        from tests.bench.pages import pages

        pages(options.calls or ((100_000,) if options.quick else (1_000_000,)))

    return {
        "import": import_time,
        "in-situ": in_situ,
        "hot-loop": lambda: hot_loop(2_000 if options.quick else 20_000),
        "tasks": tasks,
        "journals": journals,
        "streams": streams,
        "cap": cap,
        "local-mode": local_mode,
        "backend": backend,
        "connected": connected,
        "reports": reports,
        "pages": pages,
    }


def main() -> None:
    """Run every benchmark, or one, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="python of an environment with another paygent")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, coarser figures")
    parser.add_argument("--only", help="the one part to run, such as in-situ")
    parser.add_argument(
        "--calls",
        type=int,
        nargs="+",
        help="sizes for the parts `reports` and `pages`, such as 5000000 20000000",
    )
    options = parser.parse_args()
    parts = _parts(options)
    if options.only not in (None, *parts):
        parser.error(f"--only: one of {', '.join(parts)}")
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
