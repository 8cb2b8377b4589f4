"""The `paygent` command: `python -m paygent` and the installed script."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; say what to install where its libraries are missing."""
    try:
        from paygent.cli.app import app
    except ModuleNotFoundError as error:
        print(f'{error.name} is missing: pip install ".[demo]"', file=sys.stderr)
        sys.exit(2)
    app()


if __name__ == "__main__":
    main()
