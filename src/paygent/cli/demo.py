"""`paygent demo`: presents the scenario of `paygent.cli.demo_story` in the terminal.

On a terminal, progress bars show the calls, with warnings and refusals printed above them; in a
pipe or in CI the output is plain lines without control characters. Every amount is formatted from
the exact integers of the report; this module computes only their differences. In a terminal the
backend then stays up for its dashboard until Ctrl-C. The server, the provider and their files end
with the command, also at Ctrl-C, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import NoReturn

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from paygent import GuardResult, PlanConfig
from paygent.cli.console import is_attended, make_console
from paygent.cli.demo_story import story
from paygent.cli.demo_story.backend import Backend
from paygent.cli.demo_story.margins import Margin
from paygent.cli.demo_story.provider import ProviderProcess
from paygent.core.money import format_usd
from paygent.core.period import Window, to_datetime

_PARTS_SHOWN = 4  # in a pipe, progress is a line per quarter
_WATCH_S = 0.1  # how soon a wait notices Ctrl-C, or that the backend has ended

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # by default they end it without any clean-up


def main(*, local: bool = False, waits: bool = True) -> None:
    """Run the scenario in two months, without and with limits, and compare.

    Args:
        local: Whether the SDK works alone; otherwise it is connected to a server.
        waits: Whether the server stays up until Ctrl-C, if there is a user at a terminal.

    Raises:
        CommandError: if the server does not start, lacks events, or ends while it should stay up.
    """
    console = make_console(sys.stdout, os.environ)
    # Complete months, so that the simulated clock is never ahead of the real one.
    first, second = story.last_full_months(time.time_ns() // 1_000)
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        backend = None if local else stack.enter_context(Backend(os.environ))
        _introduce(console, backend)
        _print(console, f"\n[bold]1. {_month(first)}, without limits[/]")
        before = _run(console, story.WITHOUT_LIMITS, first, backend)
        _print(
            console,
            f"\n[bold]2. The next month, {_month(second)}, {story.CAPPED_MODEL} limited to "
            f"{story.CAP_TOKENS:,} tokens per user[/]",
        )
        after = _run(console, story.WITH_LIMITS, second, backend)
        _compare(console, before, after)
        _print(console, _NEXT_LOCAL if local else _NEXT)
        if backend is not None and waits and is_attended(sys.stdin, sys.stdout, os.environ):
            _stay_up(console, backend, first, second)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End by an exception at a signal that would end the process without any clean-up; restore the
    handler of Ctrl-C afterwards, too.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    # One that is ignored stays so, such as SIGHUP below `nohup`.
    defaults = [sign for sign in _ENDING_SIGNALS if signal.getsignal(sign) is signal.SIG_DFL]
    for sign in defaults:
        signal.signal(sign, _end)
    try:
        yield
    finally:
        for sign in defaults:
            signal.signal(sign, signal.SIG_DFL)
        signal.signal(signal.SIGINT, interrupt)


def _stay_up(console: Console, backend: Backend, first: Window, second: Window) -> None:
    """Print where the dashboard is, and return at Ctrl-C.

    Raises:
        CommandError: if the backend ends before.
        SystemExit: at another signal that ends the demo.
    """
    received: list[int] = []

    def record(sign: int, _frame: object) -> None:
        received.append(sign)

    # From here on Ctrl-C is no exception: one that is pressed twice must not disturb the clean-up.
    signal.signal(signal.SIGINT, record)
    _print(
        console,
        "\n[bold]The dashboard shows both months:[/]\n"
        f"  without limits  {_dashboard(backend, first)}\n"
        f"  with a limit    {_dashboard(backend, second)}&compare=previous\n"
        f"  Sign in with the admin key {backend.tenant.admin_key}\n\n"
        "Press Ctrl-C to stop.",
    )
    # An exception in the middle of a look at the process can leave the lock of `Popen` held.
    _replace_end(record)
    # Not a wait for the process: a signal just before it began would not end it.
    while not received:
        backend.check_running()
        time.sleep(_WATCH_S)
    if received[0] != signal.SIGINT:
        sys.exit(128 + received[0])
    _print(console, "")  # the terminal has printed ^C


def _dashboard(backend: Backend, month: Window) -> str:
    start, end = (f"{to_datetime(each):%Y-%m-%d}" for each in month)
    return f"{backend.url}/?from={start}&to={end}"


def _end(sign: int, _frame: object) -> NoReturn:
    _replace_end(_ignore)  # the next one must not disturb the clean-up
    sys.exit(128 + sign)  # as a shell reports it


def _replace_end(handler: Callable[[int, object], None]) -> None:
    """Give the signals that `_end` handles another handler."""
    for sign in _ENDING_SIGNALS:
        if signal.getsignal(sign) is _end:
            signal.signal(sign, handler)


def _ignore(_sign: int, _frame: object) -> None:
    """Ignore a signal. Python complains of one that is pending while it is set to `SIG_IGN`."""


_NEXT_LOCAL = """
[bold]Next, in your own application:[/]
  1. Install it: run pip install . in your clone of Paygent, with the application's Python.
  2. Call Paygent.init() once, and make a user's calls in: with paygent_context(user_id="user_123"):
  3. Read on in docs/guide/quickstart.md, and check the result with: paygent doctor"""

_NEXT = (
    _NEXT_LOCAL
    + """
  4. Share plans and usage between hosts: run paygent serve, and export the variables it prints."""
)


class ConsoleWatch:
    """Displays a run as it happens; see `story.Watch`."""

    def __init__(self, console: Console, users: Sequence[story.DemoUser]) -> None:
        self._console = console
        self._lock = threading.Lock()  # each user's thread counts its calls
        self._calls_all = sum(user.calls for user in users)
        self._calls = 0
        self._warned: set[str | None] = set()
        self._refused: set[str | None] = set()
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("  {task.description:<8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("calls"),
                TimeElapsedColumn(),
                console=console,
                transient=True,  # the table that follows replaces the bars
            )
            self._tasks = {
                user.user_id: self._progress.add_task(user.user_id, total=user.calls)
                for user in users
            }

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bars, if there are any, until the run is over."""
        if self._progress is None:
            yield
        else:
            with self._progress:
                yield

    def called(self, user_id: str) -> None:
        """Advance the user's bar, or print a line at each quarter of all calls."""
        if self._progress is not None:
            self._progress.advance(self._tasks[user_id])  # rich has its own lock
            return
        with self._lock:
            parts_before = self._calls * _PARTS_SHOWN // self._calls_all
            self._calls += 1
            if self._calls * _PARTS_SHOWN // self._calls_all > parts_before:
                _print(self._console, f"  {self._calls:,} of {self._calls_all:,} calls")

    def warned(self, at: datetime, result: GuardResult) -> None:
        """Print the first warning of each limit."""
        # Callbacks run on a single thread, so these sets need no lock.
        if result.gate_reason not in self._warned:
            self._warned.add(result.gate_reason)
            share = f"{result.usage_pct:.0%}"
            _print(
                self._console,
                f"  [yellow]warning[/]  {at:%d %b %H:%M}  {result.message} ({share})",
            )

    def refused(self, at: datetime, result: GuardResult) -> None:
        """Print the first refusal of each limit; thousands of others follow."""
        if result.gate_reason not in self._refused:
            self._refused.add(result.gate_reason)
            _print(
                self._console,
                f"  [red]blocked[/]  {at:%d %b %H:%M}  {result.message}; "
                "the application switches to a smaller model",
            )


def _month(month: Window) -> str:
    return f"{to_datetime(month.start_us):%B %Y}"


def _introduce(console: Console, backend: Backend | None) -> None:
    price = _usd(console, story.WITHOUT_LIMITS.price_nano or 0)
    _print(
        console,
        f"[bold]Paygent demo[/]: {len(story.USERS)} users who pay {price} a month each, "
        "over two months.",
    )
    _print(
        console,
        "The openai and anthropic SDKs are real; the provider is a fake on this machine, "
        "and nothing is billed.",
    )
    if backend is not None:
        _print(
            console,
            f"A backend at {backend.url} (paygent serve, SQLite) has the plans and keeps the "
            "usage.",
        )


def _run(
    console: Console, plan: PlanConfig, month: Window, backend: Backend | None
) -> story.Outcome:
    """Run the scenario on a plan and print its outcome."""
    watch = ConsoleWatch(console, story.USERS)
    tenant = None if backend is None else backend.tenant
    with ProviderProcess() as provider:
        with watch.shown():
            outcome = story.run(plan, story.USERS, provider, month, watch, tenant)
        # The provider's own count, so that Paygent's figures are checked by a second source.
        requests = provider.requests()
    if backend is not None:
        _print(console, "  Read back from the backend (GET /reports/spend):\n")
    console.print(outcome_table(console, outcome))
    metered = "Paygent metered" if backend is None else "the backend has"
    _print(
        console,
        f"\n  The provider saw {sum(requests.values()):,} requests, "
        f"{requests.get(story.CAPPED_MODEL, 0):,} of them for {story.CAPPED_MODEL}; "
        f"{metered} {outcome.calls:,} calls.",
    )
    if outcome.refused:
        _print(
            console,
            f"  {outcome.refused:,} calls of {story.CAPPED_MODEL} were refused: "
            "none of them reached the provider or cost anything.\n"
            f"  The call that crosses the line may finish, so {story.CAPPED_MODEL} stopped at "
            f"{outcome.capped_tokens:,} tokens.",
        )
    return outcome


def outcome_table(console: Console, outcome: story.Outcome) -> Table:
    """Return users, calls, cost by model, cost and margin of a run."""
    table = _table(("user", "calls", "cost by model", "", "", "cost", "margin"))
    for margin in outcome.margins:
        table.add_row(
            margin.user_id,
            f"{margin.calls:,}",
            "\n".join(row.model for row in margin.by_model),
            "\n".join(f"{row.calls:,}" for row in margin.by_model),
            "\n".join(_usd(console, row.cost_nano) for row in margin.by_model),
            *_amounts(console, margin),
        )
    return table


def _compare(console: Console, before: story.Outcome, after: story.Outcome) -> None:
    """Print both runs side by side, and what the limit has changed."""
    _print(console, "\n[bold]Side by side[/]")
    table = _table(("user", "cost", "margin", "cost, limited", "margin, limited"))
    for first, second in zip(before.margins, after.margins, strict=True):
        table.add_row(first.user_id, *_amounts(console, first), *_amounts(console, second))
    table.add_section()
    table.add_row("total", *_amounts(console, before), *_amounts(console, after))
    console.print(table)
    _print(
        console,
        f"\n  One limit saves {_usd(console, before.cost_nano - after.cost_nano)} a month: the "
        f"margin goes from {_usd(console, before.margin_nano)} "
        f"to {_usd(console, after.margin_nano)}, and every user was answered every time.",
    )


def _table(headers: Sequence[str]) -> Table:
    """Return a table with figures aligned right and names aligned left."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for header in headers:
        named = header in ("user", "cost by model")
        table.add_column(header, justify="left" if named else "right", no_wrap=True)
    return table


def _usd(console: Console, amount_nano: int) -> str:
    """Format an amount, with a hyphen if the output's encoding has no minus sign."""
    text = format_usd(amount_nano)
    # Encoding a minus sign in ASCII would raise in the middle of a table.
    return text if console.encoding.startswith("utf") else text.replace("−", "-")


def _amounts(console: Console, result: Margin | story.Outcome) -> tuple[str, str]:
    """Format the cost and the margin of a user or a run, a loss in red."""
    margin = _usd(console, result.margin_nano)
    is_loss = result.margin_nano < 0
    return _usd(console, result.cost_nano), f"[red]{margin}[/]" if is_loss else margin


def _print(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)  # not broken at the width of a plain console
