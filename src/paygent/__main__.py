"""The `paygent` command: `python -m paygent` and the installed script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or print what to install if its libraries are missing."""
    try:
        from paygent.cli.app import app  # here, so that a missing library is reported
    except ModuleNotFoundError as error:
        print(f'{error.name} is missing: pip install ".[demo]"', file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
