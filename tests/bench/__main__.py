"""`make bench`: the overhead Paygent adds to a call.

The hot loop (a stubbed provider and Paygent's path alone), in total and by step; the path with many
threads or tasks; the journal's kinds of segments; and the path inside real SDK calls. Metered and
bare calls alternate, so that drift affects both equally. With `--reference PYTHON` the last one is
also measured for the `paygent` that is installed in that environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.calls import SCRIPT as IN_SITU_SCRIPT
from tests.bench.cap import cap
from tests.bench.figures import measure, show
from tests.bench.load import busy_threads, journals, tasks_on_one_loop
from tests.bench.streams import streams


def hot_loop(rounds: int) -> None:
    """Measure begin and settle without a provider, in total and by step."""
    from paygent import ModelLimitConfig, Paygent, PlanConfig, paygent_context
    from paygent.client.accounts.holds import Hold
    from paygent.client.instrument.openai.usage import from_openai
    from paygent.client.metering.call import Call, Request
    from paygent.client.metering.estimates import use_of
    from paygent.core.event import encode_end
    from paygent.core.pricing import cost_nano
    from paygent.core.request_size import measure as measure_body
    from paygent.core.usage import Usage

    with tempfile.TemporaryDirectory() as folder:
        pg = Paygent.init(db_path=str(Path(folder) / "bench.db"), auto_instrument=False)
        limits = {"gpt-4o": ModelLimitConfig(10**12)}
        plan = PlanConfig(max_spend_per_period=10**6, model_limits=limits)
        pg.configure_plan("bench", plan)
        pg.assign_plan("user", "bench")
        body = {
            "model": "gpt-4o",
            "messages": [
                {"role": "system", "content": "s" * 400},
                {"role": "user", "content": "u" * 200},
            ],
            "max_tokens": 100,
        }
        request = Request("openai", "chat.completions", "gpt-4o", body, max_tokens=100)
        raw = {
            "prompt_tokens": 150,
            "completion_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 64},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }
        usage = Usage(150, 40, 64, model="gpt-4o")
        meter = pg._parts.meter

        with paygent_context(user_id="user"):

            def once() -> None:
                call = meter.begin(request)
                assert isinstance(call, Call)
                meter.settle(call, usage)

            first = meter.begin(request)
            if not isinstance(first, Call) and first is not None:
                first.block()
                first = meter.begin(request)
            assert isinstance(first, Call)
            print(f"hot loop, {rounds} calls, stubbed provider (budget: p50 ≤ 25 µs, p99 ≤ 100 µs)")
            show("whole added path", measure(once, rounds))
            print("  by step:")
            resolved = pg._parts.catalogue.resolve("openai", "gpt-4o", first.at_us, first.plan)
            user, now = first.user, first.at_us
            show("identify", measure(lambda: meter._attribution.resolve(request), rounds))
            show("estimate: measure the body", measure(lambda: measure_body(body), rounds))
            show("estimate: tokens", measure(lambda: use_of(first), rounds))
            show(
                "price list",
                measure(
                    lambda: pg._parts.catalogue.resolve("openai", "gpt-4o", now, first.plan), rounds
                ),
            )

            def hold() -> None:
                held = Hold(use_of(first), "gpt-4o", first.session_id, now)
                pg._parts.accounts.admission.hold(user, held, strict=False)
                pg._parts.accounts.admission.release(user, held)

            show("gate: hold and release", measure(hold, rounds))
            show("journal: begin record", measure(lambda: meter._write_begin(first), rounds))
            show("usage: read", measure(lambda: from_openai(raw, model="gpt-4o"), rounds))
            show("price", measure(lambda: cost_nano(usage, resolved.rates), rounds))
            event = meter._event(first, usage)
            show("settle: the event", measure(lambda: meter._event(first, usage), rounds))
            show("settle: encode", measure(lambda: encode_end(event), rounds))
            show(
                "journal: an append", measure(lambda: pg._parts.journal.append(b"x" * 400), rounds)
            )
        pg.shutdown(timeout=30)


def in_situ(python: str, rounds: int, label: str, *options: str) -> dict[str, Any]:
    """Measure real SDK calls, metered and bare alternately, in a separate process."""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()) if python == sys.executable else ""}
    done = subprocess.run(
        [python, "-c", IN_SITU_SCRIPT, str(rounds), *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )
    if done.returncode:
        print(f"  {label}: failed: {done.stderr.strip().splitlines()[-1:]}")
        return {}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"  {label:<24} bare p50 {figures['bare_p50']:7.0f} µs"
        f"  added p50 {figures['added_p50']:6.1f} µs"
        f"  added p99 {figures['added_p99']:7.1f} µs"
    )
    for step, (p50, p99) in figures["steps"].items():
        print(f"    {step:<42} p50 {p50:8.1f} µs   p99 {p99:8.1f} µs")
    return figures


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


def main() -> None:
    """Run every benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", help="python of an environment with another paygent")
    parser.add_argument("--rounds", type=int, default=20_000)
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    import_time()
    hot_loop(options.rounds)
    busy_threads(300)
    tasks_on_one_loop(10)
    journals(300)
    streams()
    cap(3)
    print("inside real SDK calls, metered and bare alternating (budget: p50 ≤ 60 µs, p99 ≤ 150 µs)")
    ours = in_situ(sys.executable, 4_000, "paygent", "--steps")
    if options.reference:
        theirs = in_situ(options.reference, 4_000, "reference")
        if ours and theirs:
            ratio = theirs["added_p50"] / ours["added_p50"]
            print(f"  reference ÷ paygent, added p50: {ratio:.1f}× (wanted: ≥ 2.5×)")


if __name__ == "__main__":
    main()
