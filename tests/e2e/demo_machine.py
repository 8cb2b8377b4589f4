"""The machine on which tests run `paygent demo` as a command: its environment, files, processes and
terminals.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paygent.cli.demo_story.backend import call

DEMO_WAIT_S = 600.0  # a run of all its calls takes half a minute on an idle machine
_LEFT_WAIT_S = 60.0  # as long as a busy machine may need to run a short process
_ROWS, _COLUMNS = 50, 160
_STYLE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")

_ON_TERMINAL = """
import dataclasses, fcntl, runpy, sys, termios
from paygent.cli.demo_story import story
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C and a hang-up are signals to this process
story.USERS = tuple(dataclasses.replace(user, rounds=2) for user in story.USERS)
sys.argv[0] = "paygent"
runpy.run_module("paygent", run_name="__main__")
"""


def get_json(url: str, key: str, path: str) -> Any:
    """Return the answer of a demo's backend at a path of the API."""
    return call(url, "GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {key}"})


class Terminal:
    """The command on a terminal of its own, as a user has it."""

    def __init__(self, options: Sequence[str], environ: Mapping[str, str], cwd: Path) -> None:
        self._main, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, "demo", *options],
            env={**environ, "TERM": "xterm"},
            cwd=cwd,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self._printed = b""
        self._is_open = True

    @property
    def text(self) -> str:
        """What it has printed so far, without styles."""
        return _STYLE.sub("", self._printed.decode("utf-8", "replace")).replace("\r\n", "\n")

    def read_until(self, wanted: str) -> str:
        """Read until it prints a text, and return all that it has printed."""
        deadline = time.monotonic() + DEMO_WAIT_S
        while wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            assert self._read(), self.text
        return self.text

    def press_ctrl_c(self) -> None:
        """Type Ctrl-C, which the terminal turns into SIGINT."""
        os.write(self._main, b"\x03")

    def send_signal(self, sign: int) -> None:
        """Send a signal to the command alone."""
        self._process.send_signal(sign)

    def hang_up(self) -> None:
        """Close the terminal, which sends SIGHUP."""
        os.close(self._main)
        self._is_open = False

    def end(self) -> tuple[int, str]:
        """Wait until the command ends; return its status and all that it has printed."""
        while self._is_open and self._read():
            pass
        return self._process.wait(DEMO_WAIT_S), self.text

    def kill(self) -> None:
        """Kill it if it still runs, and close the terminal."""
        self._process.kill()
        self._process.wait()
        if self._is_open:
            self.hang_up()

    def _read(self) -> bool:
        """Read what it prints next; return False once it has closed the terminal."""
        readable, _, _ = select.select([self._main], [], [], DEMO_WAIT_S)
        assert readable, self.text
        with suppress(OSError):  # EIO: no process has the terminal any more
            if part := os.read(self._main, 65_536):
                self._printed += part
                return True
        return False


class Machine:
    """The command's environment: an empty home and temporary folder, settings that it must ignore,
    and a mark that identifies its processes.
    """

    def __init__(self, root: Path) -> None:
        self.home, self.temporary = root / "home", root / "temporary"
        self.home.mkdir()
        self.temporary.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self._terminals: list[Terminal] = []
        self._mark = uuid.uuid4().hex
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "CI" and not name.startswith(("OPENAI_", "ANTHROPIC_", "PAYGENT_"))
        }
        self.environ = {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PAYGENT_DISABLED": "1",
            "PAYGENT_API_KEY": "pg_live_not_for_the_demo",
            "PAYGENT_DB_PATH": str(self.home / "mine.db"),
            "HTTP_PROXY": "http://127.0.0.1:9",
            "ALL_PROXY": "http://127.0.0.1:9",
            "FORCE_COLOR": "1",
            "DEMO_MARK": self._mark,
        }

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the command."""
        demo = subprocess.Popen(
            [sys.executable, "-m", "paygent", "demo", *options],
            env=self.environ,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(demo)
        return demo

    def start_on_terminal(self, *options: str) -> Terminal:
        """Start the command on a terminal, with two rounds of calls per user."""
        terminal = Terminal(options, self.environ, self.home)
        self._terminals.append(terminal)
        return terminal

    def close(self) -> None:
        """Kill what a failed test has left running."""
        for demo in self._started:
            demo.kill()
            demo.communicate()
        for terminal in self._terminals:
            terminal.kill()

    def pid_of(self, module: str) -> int:
        """Return the id of the process of one of the command's modules."""
        (pid,) = [pid for pid, line in self.processes().items() if f"demo_story.{module}" in line]
        return int(pid)

    def processes(self) -> dict[str, str]:
        """Return the command lines of the command's processes that are still running, by id."""
        lines = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has exited meanwhile
                if self._mark.encode() in (folder / "environ").read_bytes():
                    arguments = (folder / "cmdline").read_bytes().decode()
                    lines[folder.name] = arguments.replace("\0", " ")
        return lines

    def files(self) -> list[Path]:
        """Return the files that were left behind."""
        return [*self.home.rglob("*"), *self.temporary.rglob("*")]

    def start_calls(self, *options: str) -> subprocess.Popen[str]:
        """Start the command and return when it makes calls: the first one begins a journal."""
        demo = self.start(*options)
        deadline = time.monotonic() + DEMO_WAIT_S
        while not list(self.temporary.glob("*/*.journal/*/*.seg")):
            assert demo.poll() is None, "the command ended before its first calls"
            assert time.monotonic() < deadline, "the command makes no calls"
            time.sleep(0.02)
        return demo

    def children(self) -> set[str]:
        """Return which of its modules the command runs in processes of their own."""
        return set(
            re.findall(r"paygent\.cli\.demo_story\.(\w+)", " ".join(self.processes().values()))
        )

    def assert_no_process(self) -> None:
        """Assert that no process of the command is left soon."""
        deadline = time.monotonic() + _LEFT_WAIT_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == {}

    def assert_clean(self) -> None:
        """Assert that no process and no file of the command is left."""
        self.assert_no_process()
        assert self.files() == []
