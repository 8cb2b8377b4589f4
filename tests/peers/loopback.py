"""Keeps a process on this machine: run a script so that it reaches nothing but loopback.

    python -m tests.peers.loopback [--paygent-first] examples/some.py

Imports nothing that a library may want to patch before it is imported; but with `--paygent-first`
Paygent is there, and has hooked what is imported later, before the script's first line.
"""

import sys
from typing import Any

_HERE = ("127.0.0.1", "::1", "localhost", None, "", b"127.0.0.1", b"localhost")

strangers: list[str] = []
"""Who was asked for beyond this machine, in vain."""


def keep() -> None:
    """Refuse every connection and every look-up that leaves this machine, and note it."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # None: a socket in a file
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    if host not in _HERE:
        strangers.append(str(host))
        raise OSError(f"{host} is not on this machine")


if __name__ == "__main__":
    import runpy

    keep()
    sys.argv = sys.argv[1:]
    if sys.argv[0] == "--paygent-first":
        from paygent import Paygent

        Paygent.init(db_path=":memory:")
        sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit(f"asked for {', '.join(strangers)}" if strangers else 0)
