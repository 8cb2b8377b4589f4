"""The `paygent` command: `python -m paygent` and the installed script."""

from __future__ import annotations

import sys
from importlib import import_module

from paygent.cli.install_hint import HINT


def main() -> None:
    """Run the command line, or print what to install if its libraries are missing."""
    try:
        import_module("rich")  # commands need it later
        from paygent.cli.app import app  # here, so that a missing library is reported
    except ModuleNotFoundError as error:
        print(HINT.format(missing=error.name, extra="cli"), file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
