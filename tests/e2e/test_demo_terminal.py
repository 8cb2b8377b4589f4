"""`paygent demo` on a terminal, where it stays up for the dashboard until the user ends it."""

from __future__ import annotations

import http.client
import os
import re
import signal
from datetime import datetime, timezone
from urllib.parse import urlsplit

import pytest
from tests.e2e.demo_machine import Machine, Terminal, get_json

from paygent.core.money import NANO_PER_USD

_LAST_LINE = "Press Ctrl-C to stop."
_MARGINS_NANO = (
    {"power": 48_440_000_000, "typical": 48_885_000_000, "light": 48_680_000_000},
    {"power": 48_777_131_000, "typical": 48_885_000_000, "light": 48_680_000_000},
)
"""Of the month without limits, and of the one with limits, each with two rounds of calls."""


def _block(terminal: Terminal) -> tuple[str, str, list[str]]:
    """Wait for the end of the runs; return the address, the admin key, and the days on which the
    months begin, and the last one ends.
    """
    text = terminal.read_until(_LAST_LINE)
    block = re.search(
        r"The dashboard shows both months:\n"
        r"  without limits  (http://127\.0\.0\.1:\d+)/\?from=([\d-]+)&to=([\d-]+)\n"
        r"  with a limit    \1/\?from=\3&to=([\d-]+)&compare=previous\n"
        r"  Sign in with the admin key (pg_live_\S+)\n\nPress Ctrl-C to stop\.$",
        text.rstrip(),
        re.M,
    )
    assert block is not None, text
    return block[1], block[5], [block[2], block[3], block[4]]


def _last_months() -> list[str]:
    """Return the first days of the last two full months and of this one."""
    now = datetime.now(timezone.utc)
    months = [divmod(now.year * 12 + now.month - 1 - back, 12) for back in (2, 1, 0)]
    return [f"{year}-{month + 1:02}-01" for year, month in months]


def test_demo__on_a_terminal__stays_up_with_the_exact_margins_of_both_months(
    machine: Machine,
) -> None:
    """The addresses are those of both months, the printed key reads the exact margins of each and
    nothing of another one, and Ctrl-C ends the command with status 0 and leaves nothing behind.
    """
    terminal = machine.start_on_terminal()
    url, key, days_shown = _block(terminal)
    first, second, after = _last_months()
    assert days_shown == [first, second, after]
    for days, expected in zip(((first, second), (second, after)), _MARGINS_NANO, strict=True):
        report = get_json(url, key, f"/reports/margin?from={days[0]}&to={days[1]}")
        assert {row["user"]: row["margin_nano"] for row in report["rows"]} == expected
        assert {row["revenue_nano"] for row in report["rows"]} == {49 * NANO_PER_USD}
        assert {row["revenue_source"] for row in report["rows"]} == {"recorded"}
    both = get_json(url, key, f"/reports/margin?from={first}&to={after}&by=month")
    assert [row["month"] for row in both["rows"]] == [first[:7], second[:7]]
    assert both["total"]["calls"] == 2 * (2 * 1 + 2 * 1 + 2 * 8)
    terminal.press_ctrl_c()
    status, text = terminal.end()
    assert status == 0
    assert "power" in text and "$48.44" in text
    assert "Traceback" not in text and "Aborted" not in text
    machine.assert_clean()


def test_demo__ctrl_c_pressed_again_while_a_browser_is_connected__ends_with_status_0(
    machine: Machine,
) -> None:
    """Neither impatience nor the idle connections of a browser disturb the clean-up, and a `CI`
    that is false is no CI.
    """
    machine.environ["CI"] = "False"
    terminal = machine.start_on_terminal()
    address = urlsplit(_block(terminal)[0])
    idle, unused = (
        http.client.HTTPConnection(address.hostname or "", address.port) for _ in range(2)
    )
    idle.request("GET", "/ready")
    assert idle.getresponse().read()
    unused.connect()
    terminal.press_ctrl_c()
    terminal.read_until("^C\n")  # it has noticed, and stops the backend
    terminal.press_ctrl_c()
    status, text = terminal.end()
    idle.close()
    unused.close()
    assert (status, "Traceback" in text, "Aborted" in text) == (0, False, False)
    machine.assert_clean()


def test_demo__sigterm_while_it_stays_up__leaves_nothing_behind(machine: Machine) -> None:
    """The status is the one of the signal, as in mid-run."""
    terminal = machine.start_on_terminal()
    _block(terminal)
    terminal.send_signal(signal.SIGTERM)
    status, text = terminal.end()
    assert (status, "Traceback" in text) == (128 + signal.SIGTERM, False)
    machine.assert_clean()


def test_demo__its_terminal_is_closed__leaves_nothing_behind(machine: Machine) -> None:
    """SIGHUP ends the command, although it cannot print any more."""
    terminal = machine.start_on_terminal()
    _block(terminal)
    terminal.hang_up()
    assert terminal.end()[0] == 128 + signal.SIGHUP
    machine.assert_clean()


def test_demo__the_backend_ends_while_it_stays_up__is_an_error(machine: Machine) -> None:
    """A dashboard that is gone is reported at once, and the status is 1."""
    terminal = machine.start_on_terminal()
    _block(terminal)
    os.kill(machine.pid_of("backend"), signal.SIGKILL)
    status, text = terminal.end()
    assert status == 1
    reason = text.partition(_LAST_LINE)[2].strip()
    assert reason.startswith("paygent demo: the backend has ended with status -9; ")
    machine.assert_clean()


@pytest.mark.parametrize(("options", "ci"), [(["--no-wait"], ""), (["--local"], ""), ([], "true")])
def test_demo__on_a_terminal_without_a_reason_to_stay__ends_at_once(
    machine: Machine, options: list[str], ci: str
) -> None:
    """With `--no-wait`, without a backend and in CI no address is printed, where nothing would
    be.
    """
    machine.environ["CI"] = ci
    status, text = machine.start_on_terminal(*options).end()
    assert status == 0
    assert "Next, in your own application:" in text
    assert "dashboard" not in text and "pg_live_" not in text and _LAST_LINE not in text
    machine.assert_clean()
