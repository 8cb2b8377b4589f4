"""`paygent`: the commands, what they take, and nothing of what they do.

Exit status: 0 good, 1 a finding or an unexpected failure, 2 a usage error. A command's own module
is imported when the command runs, so that `--help` needs none of their libraries.
"""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="paygent",
    help="The runtime cost-control layer for AI agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local values could show what is private
)


@app.callback()
def paygent() -> None:
    """Stand for the command line itself, so that each command is named, also while there is one."""


@app.command()
def demo(
    local: Annotated[
        bool, typer.Option("--local", help="Keep the books in this process (the only mode).")
    ] = False,
) -> None:
    """Three users of a $49 plan over a simulated month, first without limits, then with them."""
    del local  # accepted for scripts that name the mode; there is no other yet
    try:
        from paygent.cli import demo as command
    except ModuleNotFoundError as error:  # installed with the command line, without the SDKs
        typer.echo(f'{error.name} is missing: pip install ".[demo]"', err=True)
        raise typer.Exit(2) from None
    command.main()


@app.command()
def explain(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="Id of the event.")],
    db: Annotated[
        str | None, typer.Option("--db", help="File of the store (PAYGENT_DB_PATH).")
    ] = None,
    product: Annotated[
        str | None, typer.Option("--product", help="Whose event (PAYGENT_PRODUCT).")
    ] = None,
) -> None:
    """How the cost of one event came about: counts, rates, their source, and the limits."""
    from paygent.cli import explain as command

    raise typer.Exit(command.run(event_id, db, product))
