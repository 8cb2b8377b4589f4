"""The demo's output, styled on an interactive terminal and plain lines everywhere else; what it
needs, and how signals end it.
"""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from typer.testing import CliRunner

from paygent import GuardResult
from paygent.cli.app import app
from paygent.cli.console import is_attended, is_interactive, make_console
from paygent.cli.demo import ConsoleWatch, _ended_by_signals, _stay_up, outcome_table
from paygent.cli.demo_story import backend, child
from paygent.cli.demo_story.backend import Backend
from paygent.cli.demo_story.margins import Margin
from paygent.cli.demo_story.story import USERS, DemoUser, Outcome
from paygent.core.period import Window, to_datetime
from paygent.core.report_rows import UsageRow

_DOLLAR = 10**9
_ROW = UsageRow("power", "m", calls=2, cost_nano=140)
_LOSS = Outcome((Margin("power", 2, 140 * _DOLLAR, 49 * _DOLLAR, (_ROW,)),), 0)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class AsciiPipe(io.StringIO):
    """A pipe that accepts only ASCII."""

    encoding = "ascii"


@pytest.mark.parametrize(
    ("stream", "environ", "expected"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"TERM": "xterm", "CI": "true"}, False),
        (Terminal(), {"TERM": "xterm", "CI": "false"}, True),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_is_interactive__terminals_and_other_streams__are_distinguished(
    stream: io.StringIO, environ: dict[str, str], expected: bool
) -> None:
    """Only a real terminal outside CI gets bars and colours."""
    assert expected is is_interactive(stream, environ)


@pytest.mark.parametrize(
    ("stdin", "stdout", "environ", "expected"),
    [
        (Terminal(), Terminal(), {}, True),
        (Terminal(), Terminal(), {"CI": "", "TERM": "dumb"}, True),
        (Terminal(), Terminal(), {"CI": "0"}, True),
        (Terminal(), Terminal(), {"CI": "False"}, True),
        (Terminal(), Terminal(), {"CI": "1"}, False),
        (Terminal(), Terminal(), {"CI": "woodpecker"}, False),
        (io.StringIO(), Terminal(), {}, False),
        (Terminal(), io.StringIO(), {}, False),
        (None, Terminal(), {}, False),
        (Terminal(), None, {}, False),
    ],
)
def test_is_attended__only_terminals_on_both_sides_outside_ci__are(
    stdin: io.StringIO | None, stdout: io.StringIO | None, environ: dict[str, str], expected: bool
) -> None:
    """A command waits for Ctrl-C only where a user sees that it waits and can press it."""
    assert expected is is_attended(stdin, stdout, environ)


def test_watch__in_a_pipe__writes_plain_lines_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets one line per quarter and one per limit, without control characters, even if
    colours are forced.
    """
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    watch = ConsoleWatch(make_console(out, {}), (DemoUser("u", USERS[0].steps, 8),))
    result = GuardResult("soft_gate", "model_limit:m", 0.83, 41.0, 50.0, "u has used 41 of 50")
    with watch.shown():
        for _ in range(2):
            watch.warned(to_datetime(0), result)
            watch.refused(to_datetime(0), result)
        for _ in range(8):
            watch.called("u")
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["warning", "blocked", "2", "4", "6", "8"]
    assert "u has used 41 of 50 (83%)" in lines[0]
    assert not any(ord(char) < 32 for line in lines for char in line)


def test_watch__on_a_terminal__draws_bars_and_writes_above_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal gets a bar per user, and the warning as a line of its own."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    out = Terminal()
    watch = ConsoleWatch(make_console(out, {"TERM": "xterm"}), (DemoUser("u", USERS[0].steps, 2),))
    with watch.shown():
        watch.called("u")
        watch.warned(to_datetime(0), GuardResult("soft_gate", "r", 0.8, 4.0, 5.0, "u has used 4"))
        watch.called("u")
    assert "\x1b[" in out.getvalue()
    assert "u has used 4" in out.getvalue()
    assert "2/2" in out.getvalue()


@pytest.mark.parametrize(
    ("stream", "margin"), [(io.StringIO(), "−$91.00"), (AsciiPipe(), "-$91.00")]
)
def test_outcome_table__a_loss__keeps_its_sign_in_any_encoding(
    stream: io.StringIO, margin: str
) -> None:
    """A loss is shown as one even if the output has no minus sign."""
    console = make_console(stream, {})
    console.print(outcome_table(console, _LOSS))
    assert margin in stream.getvalue()
    assert "$140.00" in stream.getvalue()


def test_demo__without_the_extra_of_the_server__names_the_remedy_and_the_other_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence and status 2; nothing is started."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(backend, "_LIBRARIES", ("typer", "not_installed_here"))
    result = CliRunner().invoke(app, ["demo"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "paygent demo: not_installed_here is missing, which the backend needs: run pip install "
        "'.[demo]' in your clone of Paygent, or the demo without a backend: paygent demo --local\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_ended_by_signals__sigterm__unwinds_and_the_handler_is_set_back() -> None:
    """What has been started is stopped, and the status is the one that a shell reports."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(SystemExit) as raised, _ended_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ended_by_signals__another_signal_during_the_clean_up__does_not_disturb_it() -> None:
    """A terminal that is closed after a SIGTERM leaves nothing behind either."""
    cleaned_up = False
    with pytest.raises(SystemExit) as raised, _ended_by_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for sign in (signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), sign)
            cleaned_up = True
    assert (raised.value.code, cleaned_up) == (128 + signal.SIGTERM, True)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stay_up__a_signal_while_it_looks_at_the_backend__ends_it_between_two_looks(
    sign: signal.Signals,
) -> None:
    """An exception there can leave the lock of the process held, and its clean-up waiting."""
    looks: list[str] = []
    # One that is ignored, as below `nohup`, would stay so.
    default = signal.default_int_handler if sign == signal.SIGINT else signal.SIG_DFL
    previous = signal.signal(sign, default)

    class SignalledBackend:
        url = "http://127.0.0.1:1"
        tenant = SimpleNamespace(admin_key="pg_live_demo")

        def check_running(self) -> None:
            assert not looks, "the signal did not end it"
            looks.append("begun")
            os.kill(os.getpid(), sign)
            looks.append("over")

    status = 0
    console = make_console(io.StringIO(), {})
    try:
        with _ended_by_signals():
            _stay_up(console, cast(Backend, SignalledBackend()), Window(0, 1), Window(1, 2))
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        signal.signal(sign, previous)
    assert looks == ["begun", "over"]
    assert status == (0 if sign == signal.SIGINT else 128 + sign)


def test_child_process__its_lock_was_left_held_by_a_signal__is_stopped_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal handler that raises in the middle of a poll can leave it held for ever."""
    monkeypatch.setattr(child, "_STOP_WAIT_S", 0.05)
    started = child.ChildProcess("the child", ["this"])  # a module that prints and ends
    assert started.read_line() == "The Zen of Python, by Tim Peters"
    lock = started._process._waitpid_lock  # type: ignore[attr-defined] # of CPython
    stopping = threading.Thread(target=started.stop, daemon=True)  # it must fail, and not hang
    with lock:
        stopping.start()
        stopping.join(30)
        assert not stopping.is_alive()
    assert started._process.wait(30) is not None  # it was killed at the latest


def test_ended_by_signals__a_signal_that_is_ignored__stays_so() -> None:
    """The demo below `nohup` goes on when the terminal is closed."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)
