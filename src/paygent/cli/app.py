"""`paygent`: the commands and their arguments.

Exit status: 0 success, 1 a finding or an unexpected failure, 2 a usage error. A command's module is
imported when the command runs, so that `--help` works without the libraries it needs.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

import paygent as package
from paygent.cli.install_hint import HINT
from paygent.cli.options import Db, Format, OutputFormat, Product, run_command

app = typer.Typer(
    name="paygent",
    help="The runtime cost-control layer for AI agents.",
    add_completion=False,
    pretty_exceptions_enable=False,  # local values in a traceback may be private
)
plans = typer.Typer(help="The plans of a product.")
prices = typer.Typer(help="The prices of models.")
app.add_typer(plans, name="plans")
app.add_typer(prices, name="prices")


def _show_help(context: typer.Context) -> None:
    """Print the help of a group that is called without a command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


plans.callback(invoke_without_command=True)(_show_help)
prices.callback(invoke_without_command=True)(_show_help)


@app.callback(invoke_without_command=True)
def paygent(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Meter, limit and report what the users of an application spend on LLM calls."""
    if version:
        typer.echo(f"paygent {package.__version__}")
        raise typer.Exit(0)
    _show_help(context)


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
        typer.echo(HINT.format(missing=error.name, extra="demo"), err=True)
        raise typer.Exit(2) from None

    def run() -> int:
        command.main()
        return 0

    raise typer.Exit(run_command("demo", run))


@app.command()
def explain(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="Id of the event.")],
    db: Db = None,
    product: Product = None,
) -> None:
    """Show how the cost of one event was computed: counts, rates, their source, and the limits."""
    from paygent.cli import explain as command

    raise typer.Exit(run_command("explain", command.run, event_id, db, product, os.environ))


@app.command()
def users(
    db: Db = None,
    product: Product = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1_000_000, help="Users to list.")
    ] = 20,
    output_format: OutputFormat = Format.TABLE,
) -> None:
    """List users with plan, calls and spend of this month and period; the dearest come first."""
    from paygent.cli import users as command

    place = (db, product, os.environ)
    raise typer.Exit(run_command("users", command.run, *place, limit, output_format))


@plans.command("list")
def list_plans(
    db: Db = None, product: Product = None, output_format: OutputFormat = Format.TABLE
) -> None:
    """List plans with version, users, price and limits, and plans in use but not configured."""
    from paygent.cli import plans as command

    place = (db, product, os.environ)
    raise typer.Exit(run_command("plans list", command.run, *place, output_format))


@prices.command("show")
def show_prices(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model, as calls name it.")],
    db: Db = None,
    product: Product = None,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="NAME", help="A plan, for its own rates.")
    ] = None,
) -> None:
    """Show the rates of a model, their source and date, and the limits that count it."""
    from paygent.cli import prices as command

    place = (db, product, os.environ)
    raise typer.Exit(run_command("prices show", command.run, model, *place, plan))


@app.command()
def doctor(db: Db = None, product: Product = None) -> None:
    """Check this installation, its settings, the database and the plans."""
    from paygent.cli import doctor as command

    raise typer.Exit(run_command("doctor", command.run, db, product, os.environ))
