"""Applications as processes of their own: started, killed and looked into by the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(
    code: str, *arguments: str, flags: tuple[str, ...] = (), **environment: str
) -> subprocess.Popen[str]:
    """Start a Python process that runs `code`, in a clean environment."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PAYGENT_", "COV"))
    }
    clean.update(PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}", **environment)
    return subprocess.Popen(
        [sys.executable, *flags, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean,
        start_new_session=True,
    )


def run(
    code: str, *arguments: str, flags: tuple[str, ...] = (), **environment: str
) -> tuple[str, str]:
    """Run `code` to its end and return what it printed and logged; it must end with status 0."""
    process = start(code, *arguments, flags=flags, **environment)
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # also what it has forked
        process.communicate()
        raise
    assert process.returncode == 0, err
    return out, err


def read_line(process: subprocess.Popen[str]) -> str:
    """Read one line that a running process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with SIGKILL and wait for its end."""
    process.kill()
    process.communicate(timeout=30)
