"""Options that commands share, the store that they name, and the exit status of a command.

Commands about a local file only read it: they write no data and migrate no schema, so they may be
run while the application that uses the store is running. The one file that they may create is the
index (`-shm`) of a log (`-wal`) without one, as in a copy. A server's database is opened in
`database.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from typing import Annotated, NamedTuple

import typer

from paygent.cli.output import printable
from paygent.client.runtime.settings import read_settings
from paygent.core.validation import InvalidValue
from paygent.store.port import StoreUnavailable
from paygent.store.sqlite import SqliteStore


class Format(str, Enum):
    """How a command prints its rows."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


class ReportFormat(str, Enum):
    """How a report is printed; FOCUS is the open specification of cost and usage data."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    FOCUS = "focus"


MEMORY = ":memory:"
"""A store in memory; `client.api.composition` has the same name and takes 80 ms to import."""

_SELECTING = ("PAYGENT_API_KEY", "PAYGENT_DB_PATH", "PAYGENT_PRODUCT")  # file and product

Db = Annotated[
    str | None,
    typer.Option("--db", metavar="PATH", help="The database file (default: PAYGENT_DB_PATH)."),
]
Product = Annotated[
    str | None,
    typer.Option("--product", metavar="NAME", help="The product (default: PAYGENT_PRODUCT)."),
]
OneProduct = Annotated[
    str | None, typer.Option("--product", metavar="NAME", help="One product (default: all).")
]
OutputFormat = Annotated[Format, typer.Option("--format", help="How the rows are printed.")]


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        help="A server's database (default: PAYGENT_DATABASE_URL): sqlite:///PATH, postgresql://…",
    ),
]


def show_help(context: typer.Context) -> None:
    """Print the help of a group that is called without a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class CommandError(Exception):
    """A command cannot do its work; the message names the remedy.

    Attributes:
        status: The exit status of the command.
    """

    status = 1


class UsageError(CommandError):
    """Options of a command do not belong together, or name something that cannot be used."""

    status = 2


class Place(NamedTuple):
    """Where a command reads: the database file, and the product in it."""

    db_path: str
    product: str


def read_place(db: str | None, product: str | None, environ: Mapping[str, str]) -> Place:
    """Return the place named by the options, otherwise the one that an application would use.

    Settings that do not select it are not read, so an invalid one does not disturb.

    Raises:
        InvalidValue: naming each option or variable that breaks a rule.
    """
    selecting = {name: environ[name] for name in _SELECTING if name in environ}
    if product:
        selecting["PAYGENT_PRODUCT"] = product
    try:
        settings = read_settings({"db_path": db}, selecting)
    except InvalidValue as error:
        options = {"PAYGENT_PRODUCT": "--product"} if product else {}
        if db is not None:
            options["db_path"] = "--db"
        findings = (
            replace(each, field=options.get(each.field, each.field)) for each in error.findings
        )
        raise InvalidValue("paygent", tuple(findings)) from None
    return Place(settings.db_path, settings.product if product else settings.ledger_product)


def exists(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a file or folder.

    Raises:
        OSError: if that cannot be found out, as in a folder without search permission;
            `os.path.exists` would return False.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def has_store(place: Place) -> bool:
    """Return whether there is something at a place.

    Raises:
        CommandError: if that cannot be found out.
    """
    try:
        return exists(place.db_path)
    except OSError as error:
        raise CommandError(
            f"{place.db_path} cannot be reached ({error.strerror}): get search permission (x) on "
            "its folders, or name another file with --db"
        ) from error


@contextmanager
def opened(place: Place) -> Iterator[SqliteStore]:
    """Open the store at a place for reading.

    Raises:
        CommandError: if there is none, or it cannot be read.
    """
    if place.db_path == MEMORY:
        raise CommandError(f"{MEMORY!r} ends with its process: name a file with --db")
    if not has_store(place):
        raise CommandError(
            f"there is no store at {place.db_path}: it is created by the application's first call; "
            "--db or PAYGENT_DB_PATH names another file"
        )
    store = SqliteStore(place.db_path, read_only=True)
    try:
        yield store
    except StoreUnavailable as error:
        raise CommandError(f"{place.db_path}: {error}; see paygent doctor") from error
    finally:
        store.close()


def run_command(name: str, command: Callable[..., int], *arguments: object) -> int:
    """Run a command and return its exit status; print the reason where it fails."""
    try:
        status = command(*arguments)
        if sys.stdout is not None:  # it is None where the standard output is closed
            sys.stdout.flush()  # a full disk may refuse only now
        return status
    except InvalidValue as error:
        reason, status = "; ".join(map(str, error.findings)), 2
    except CommandError as error:
        reason, status = str(error), error.status
    except BrokenPipeError:
        raise  # the reader has enough: typer ends in silence
    except OSError as error:
        reason, status = _refused(error), 1
    print(f"paygent {name}: {printable(reason)}", file=sys.stderr)
    return status


def _refused(error: OSError) -> str:
    """Return what the system refused with the remedy; give up an output that cannot be written."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}; see paygent doctor"
    # Python writes what is left when it ends, which would fail again with a traceback.
    with suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return f"the output cannot be written ({error.strerror or error}): send it elsewhere"
