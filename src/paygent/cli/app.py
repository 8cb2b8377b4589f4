"""`paygent`: the commands and their arguments.

Exit status: 0 success, 1 a finding or an unexpected failure, 2 a usage error. A command's module is
imported when the command runs, so that `--help` works without the libraries it needs.
"""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="paygent",
    help="The runtime cost-control layer for AI agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # local values in a traceback may be private
)


@app.callback()
def paygent() -> None:
    """Keep command names mandatory, even if there is only one command."""


@app.command()
def demo(
    local: Annotated[
        bool, typer.Option("--local", help="Run without a backend (the only mode).")
    ] = False,
) -> None:
    """Three users of a $49 plan over a simulated month, first without limits, then with them."""
    del local  # accepted for scripts that pass it; there is no other mode yet
    try:
        from paygent.cli import demo as command
    except ModuleNotFoundError as error:  # the CLI extra is installed, the SDKs are not
        typer.echo(f'{error.name} is missing: pip install ".[demo]"', err=True)
        raise typer.Exit(2) from None
    command.main()


@app.command()
def explain(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="Id of the event.")],
    db: Annotated[
        str | None, typer.Option("--db", help="The database file (PAYGENT_DB_PATH).")
    ] = None,
    product: Annotated[
        str | None, typer.Option("--product", help="The product of the event (PAYGENT_PRODUCT).")
    ] = None,
) -> None:
    """Show how the cost of one event was computed: counts, rates, their source, and the limits."""
    from paygent.cli import explain as command

    raise typer.Exit(command.run(event_id, db, product))
