"""The path inside real SDK calls: this Paygent and, where given, another one, measured in turn.

Each side is a process of its own (`side`) that runs one block of one case per command, bare and
metered calls alternating, while the others wait. A block takes about 40 ms, so that other load on
the machine affects neighbouring blocks alike. An added time is the median over blocks of the
block's metered minus its bare p50, a ratio the median over neighbouring blocks; an added p99 is
taken over all calls of all blocks. The side `none` has no Paygent: its added time is the error of
the method.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from tests.bench.figures import percentile

_ROOT = Path(__file__).parents[2]
_ONLY_OURS = "chat, paygent_user_id="
_BLOCK_S = 0.04
_THREADS_BLOCK_S = 0.6  # a round of the busy threads takes 50 ms
_BLOCKS, _BLOCKS_QUICK = 60, 12
_THREADS_BLOCKS, _THREADS_BLOCKS_QUICK = 16, 4
_WARM_UP_S = 0.4


@dataclass
class Readings:
    """The blocks of one case on one side, in nanoseconds."""

    bare: list[list[int]] = field(default_factory=list)
    metered: list[list[int]] = field(default_factory=list)

    def added(self) -> list[float]:
        """Return the added p50 of each block, in microseconds."""
        return [
            percentile(metered, 0.5) - percentile(bare, 0.5)
            for bare, metered in zip(self.bare, self.metered, strict=True)
        ]

    def over_all(self, share: float) -> tuple[float, float]:
        """Return a percentile of all bare and of all metered calls, in microseconds."""
        bare, metered = (
            [ns for block in kind for ns in block] for kind in (self.bare, self.metered)
        )
        return percentile(bare, share), percentile(metered, share)


class Side:
    """A process that measures one `paygent`, or none."""

    def __init__(self, label: str, command: list[str], environment: dict[str, str]) -> None:
        self.label = label
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            cwd=_ROOT,
        )
        hello = self._answer()
        self.cases: list[str] = hello["cases"]
        print(f"  {label}: {hello['versions']}")

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"the side {self.label} has ended:\n{said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, do: str, case: str, **options: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps({"do": do, "case": case, **options}), file=self._process.stdin, flush=True)
        return self._answer()

    def warm_up(self, case: str) -> bool:
        """Make calls until caches and forecasts are settled; return whether they were metered."""
        before = self._ask("usage", case)["tokens"]
        self._ask("run", case, block_s=_WARM_UP_S)
        return bool(self._ask("usage", case)["tokens"] > before)

    def run_block(self, case: str, block_s: float, readings: Readings) -> None:
        """Run one block and add it to the readings."""
        block = self._ask("run", case, block_s=block_s)
        readings.bare.append(block["bare"])
        readings.metered.append(block["metered"])

    def count(self, case: str) -> int:
        """Return how many Python calls of the package one metered call makes."""
        counts = self._ask("count", case)
        assert counts["bare"] == 0, f"bare calls run code of {self.label}"
        return int(counts["metered"])


def _start(label: str, python: str, *options: str) -> Side:
    environment = {name: value for name, value in os.environ.items() if "PAYGENT" not in name}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    return Side(label, [python, "-m", "tests.bench.side", *options], environment)


def _measure(case: str, sides: list[Side], quick: bool) -> dict[str, Readings]:
    """Run the blocks of one case on all sides that have it, in turn."""
    taking = [side for side in sides if case in side.cases]
    readings = {side.label: Readings() for side in taking}
    is_threaded = "threads" in case
    blocks = (_THREADS_BLOCKS, _THREADS_BLOCKS_QUICK) if is_threaded else (_BLOCKS, _BLOCKS_QUICK)
    for number in range(blocks[quick]):
        # In both orders, so that neither side always follows the same other one.
        for side in taking if number % 2 else reversed(taking):
            block_s = _THREADS_BLOCK_S if is_threaded else _BLOCK_S
            side.run_block(case, block_s, readings[side.label])
    return readings


def _show(case: str, readings: dict[str, Readings], counts: dict[str, int | None]) -> None:
    """Print one case, a line per side."""
    print(f"  {case}")
    ours = readings["paygent"].added()
    for label, side in readings.items():
        bare, metered = side.over_all(0.5), side.over_all(0.99)
        (bare_p50, metered_p50), (bare_p99, metered_p99) = bare, metered
        line = f"    {label:<10} bare {bare_p50:6.0f} / {bare_p99:7.0f}"
        if "threads" in case:
            # A block has too few rounds for a p50 of its own.
            line += f"   metered {metered_p50:6.0f} / {metered_p99:7.0f}"
            line += f"   added {metered_p50 - bare_p50:+7.1f} / {metered_p99 - bare_p99:+8.0f}"
        else:
            added = median(side.added())
            line += f"   added {added:+7.1f} / {metered_p99 - bare_p99:+7.1f}"
        if label != "none":
            count = counts[label]
            line += "   not metered" if count is None else f"   {count:4} Python calls"
        if label == "reference" and "threads" not in case and counts[label] is not None:
            pairs = zip(side.added(), ours, strict=True)
            ratio = median(theirs / our for theirs, our in pairs if our)
            line += f"   {ratio:.2f} times ours"
        print(line, flush=True)


def in_situ(reference: str | None, quick: bool) -> None:
    """Measure real SDK calls in turn with those of a reference, and print every case."""
    blocks = _BLOCKS_QUICK if quick else _BLOCKS
    print(
        f"inside real SDK calls, p50 / p99 in µs, {blocks} blocks of {_BLOCK_S * 1000:.0f} ms in"
        " turn (budget: added ≤ 25 / 80, 30 with a context around each call; ≤ 15 Python calls;"
        " the reference ≥ 4.5 times ours)"
    )
    with ExitStack() as stack:
        sides = [stack.enter_context(_start("paygent", sys.executable, "paygent"))]
        if reference:
            options = ("paygent", "--skip", _ONLY_OURS)
            sides.append(stack.enter_context(_start("reference", reference, *options)))
        sides.append(stack.enter_context(_start("none", sys.executable, "none")))
        for case in sides[0].cases:
            counts: dict[str, int | None] = {}
            for side in sides:
                if case in side.cases:
                    is_metered = side.warm_up(case)
                    counts[side.label] = side.count(case) if is_metered else None
            assert counts["paygent"] is not None, f"{case} was not metered"
            _show(case, _measure(case, sides, quick), counts)
