"""`paygent`: the commands and their arguments.

Exit status: 0 success, 1 a finding or an unexpected failure, 2 a usage error. A command's module is
imported when the command runs, so that `--help` works without the libraries it needs. The groups
about the users, plans and keys of a product are in `product_commands.py`.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated

import typer

import paygent as package
from paygent.cli import product_commands
from paygent.cli.install_hint import HINT
from paygent.cli.options import (
    DatabaseUrl,
    Db,
    Format,
    OneProduct,
    OutputFormat,
    Product,
    ReportFormat,
    run_command,
    show_help,
)

app = typer.Typer(
    name="paygent",
    help="The runtime cost-control layer for AI agents.",
    add_completion=False,
    pretty_exceptions_enable=False,  # local values in a traceback may be private
)
prices = typer.Typer(help="The prices of models.")
app.add_typer(product_commands.users, name="users")
app.add_typer(product_commands.plans, name="plans")
app.add_typer(product_commands.keys, name="keys")
app.add_typer(prices, name="prices")
prices.callback(invoke_without_command=True)(show_help)


@app.callback(invoke_without_command=True)
def paygent(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Meter, limit and report what the users of an application spend on LLM calls."""
    if version:
        typer.echo(f"paygent {package.__version__}")
        raise typer.Exit(0)
    show_help(context)


@app.command()
def demo(
    local: Annotated[
        bool, typer.Option("--local", help="Run without a backend: the SDK alone.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="End at once, also in a terminal.")
    ] = False,
) -> None:
    """Three users of a $49 plan over two simulated months, without limits and then with them.

    In a terminal it ends at Ctrl-C, so that you can look at the dashboard of its backend.
    """
    try:
        from paygent.cli import demo as command
    except ModuleNotFoundError as error:  # the CLI extra is installed, the SDKs are not
        typer.echo(HINT.format(missing=error.name, extra="demo"), err=True)
        raise typer.Exit(2) from None

    def run() -> int:
        command.main(local=local, waits=not no_wait)
        return 0

    raise typer.Exit(run_command("demo", run))


@app.command()
def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 is any free one.")
    ] = 8790,
    database_url: DatabaseUrl = None,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes; more than 1 on PostgreSQL.")
    ] = 1,
    keys: Annotated[
        bool, typer.Option("--keys/--no-keys", help="Create the first keys and print them.")
    ] = True,
) -> None:
    """Run the backend; the first start creates a product with keys, and prints them."""
    try:
        from paygent.cli import serve as command
    except ModuleNotFoundError as error:  # the CLI extra is installed, the server is not
        typer.echo(HINT.format(missing=error.name, extra="server"), err=True)
        raise typer.Exit(2) from None

    raise typer.Exit(
        run_command("serve", command.run, database_url, host, port, workers, keys, os.environ)
    )


@app.command()
def audit(
    repair: Annotated[
        bool, typer.Option("--repair", help="Set counters to the sums of their events.")
    ] = False,
    product: OneProduct = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Compare every counter of a server's database with the sums of its events."""
    from paygent.cli import audit as command

    raise typer.Exit(run_command("audit", command.run, database_url, product, os.environ, repair))


@app.command()
def report(
    kind: Annotated[
        str, typer.Argument(metavar="REPORT", help="spend (default), margin, gates or quality.")
    ] = "spend",
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="KEYS",
            help="One or two of user, model, provider, plan, session, day, month, period, tag:KEY"
            " (default: user); of gates user, reason, day, month; of quality model, provider,"
            " operation, day, month.",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="DAY", help="First day, or a time (default: this month)."),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="DAY", help="Day after the last one (default: until now)."),
    ] = None,
    period: Annotated[
        str | None,
        typer.Option(
            "--period", help="current or previous: the user's billing period, or the month."
        ),
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Only a user.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Only a model.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Only a provider.")
    ] = None,
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="NAME", help="Only usage on a plan.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", metavar="ID", help="Only a session.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="NAME", help="Only gates for a reason.")
    ] = None,
    operation: Annotated[
        str | None,
        typer.Option("--operation", metavar="NAME", help="Only unmetered calls of an operation."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Only a tag's value.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="NAME", help="cost, calls, … (default: -cost, or by time)."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Rows (default: 50 in a table).")
    ] = None,
    db: Db = None,
    product: Product = None,
    output_format: Annotated[
        ReportFormat, typer.Option("--format", help="How the rows are printed.")
    ] = ReportFormat.TABLE,
    database_url: DatabaseUrl = None,
) -> None:
    """Show usage and cost by user, model, day, plan or tag; margins, calls at gates, or how calls
    were metered.
    """
    from paygent.cli import report as command

    filters = (user, model, provider, plan, session, reason, operation, tuple(tag or ()))
    options = command.Options(by, start, end, period, *filters, sort, limit, output_format)
    place = (db, database_url, product, os.environ)
    raise typer.Exit(run_command("report", command.run, kind, *place, options))


@app.command()
def reconcile(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A provider's usage or cost export, JSON or CSV.")
    ],
    provider: Annotated[
        str | None,
        typer.Option(
            "--provider", metavar="NAME", help="As in events, or any (default: the file's)."
        ),
    ] = None,
    start: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], metavar="DATE", help="The first day, UTC."),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option(
            "--to", formats=["%Y-%m-%d"], metavar="DATE", help="The day after the last one, UTC."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", metavar="PERCENT", help="Differences up to it are explained."),
    ] = 0.5,
    db: Db = None,
    product: Product = None,
    output_format: OutputFormat = Format.TABLE,
    database_url: DatabaseUrl = None,
) -> None:
    """Compare a provider's usage or cost export with what was recorded, by day and model."""
    from paygent.cli import reconcile as command

    options = command.Options(start, end, tolerance, provider, output_format)
    place = (db, database_url, product, os.environ)
    raise typer.Exit(run_command("reconcile", command.run, file, *place, options))


@app.command()
def explain(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", help="Id of the event.")],
    db: Db = None,
    product: Product = None,
) -> None:
    """Show how the cost of one event was computed: counts, rates, their source, and the limits."""
    from paygent.cli import explain as command

    raise typer.Exit(run_command("explain", command.run, event_id, db, product, os.environ))


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
