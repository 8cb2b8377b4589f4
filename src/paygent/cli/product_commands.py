"""The commands about the users, plans and keys of a product, and their arguments."""

from __future__ import annotations

import os
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from paygent.cli.options import (
    DatabaseUrl,
    Db,
    Format,
    OneProduct,
    OutputFormat,
    Product,
    run_command,
    show_help,
)

if TYPE_CHECKING:
    from paygent.cli.user_admin import UserPlace

users = typer.Typer(help="The users of a product.", invoke_without_command=True)
plans = typer.Typer(help="The plans of a product.")
keys = typer.Typer(help="The API keys of a server's products.")
plans.callback(invoke_without_command=True)(show_help)
keys.callback(invoke_without_command=True)(show_help)

Limit = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=1_000_000, help="Users to list.")
]
UserId = Annotated[
    str, typer.Argument(metavar="USER_ID", help="The user, as the application calls them.")
]
PlanFile = Annotated[
    str, typer.Argument(metavar="FILE", help="TOML, or JSON if it ends with .json.")
]
Confirmed = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Day = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], metavar="DATE", help="In UTC."),
]


class KeyScope(str, Enum):
    """What a key permits: everything, what applications need, or reading."""

    ADMIN = "admin"
    SDK = "sdk"
    READ = "read"


class Renews(str, Enum):
    """How a billing period renews."""

    AUTO = "auto"
    MONTH = "month"
    WEEK = "week"
    DAY = "day"
    NONE = "none"


# -- users


@users.callback()
def users_without_command(
    context: typer.Context,
    db: Db = None,
    product: Product = None,
    limit: Limit = 20,
    output_format: OutputFormat = Format.TABLE,
    database_url: DatabaseUrl = None,
) -> None:
    """List users with plan, calls and spend of this month and period, or change one of them."""
    if context.invoked_subcommand is None:
        list_users(db, product, limit, output_format, database_url)
    elif any(_is_given(context, name) for name in context.params):  # they would be ignored
        command = context.invoked_subcommand
        raise typer.BadParameter(f"give options after the command: paygent users {command} …")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@users.command("list")
def list_users(
    db: Db = None,
    product: Product = None,
    limit: Limit = 20,
    output_format: OutputFormat = Format.TABLE,
    database_url: DatabaseUrl = None,
) -> None:
    """List users with plan, calls and spend of this month and period; the dearest come first."""
    from paygent.cli import users as command

    def run() -> int:
        place = (db, product, os.environ)
        return command.run(*place, limit, output_format, database_url=database_url)

    raise typer.Exit(run_command("users", run))


def _user(user_id: str, database_url: str | None, product: str | None) -> UserPlace:
    from paygent.cli.user_admin import UserPlace

    return UserPlace(user_id, database_url, product, os.environ)


@users.command("show")
def show_user(user_id: UserId, product: Product = None, database_url: DatabaseUrl = None) -> None:
    """Show a user of a server: plan, period, spend, limits and overrides."""
    from paygent.cli import user_admin as command

    def run() -> int:
        return command.show(_user(user_id, database_url, product))

    raise typer.Exit(run_command("users show", run))


@users.command("add")
def add_user(
    user_id: UserId,
    name: Annotated[str | None, typer.Option("--name", help="A name for lists.")] = None,
    product: Product = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Create a user before their first call, which would do it otherwise."""
    from paygent.cli import user_admin as command

    def run() -> int:
        return command.add(_user(user_id, database_url, product), name)

    raise typer.Exit(run_command("users add", run))


@users.command("assign")
def assign_plan(
    user_id: UserId,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A configured plan.")],
    period_start: Day = None,
    period_end: Day = None,
    renews: Annotated[
        Renews, typer.Option("--renews", help="How the period renews; auto: by its own length.")
    ] = Renews.AUTO,
    product: Product = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Assign a plan, with a billing period; without one it is the UTC calendar month."""
    from paygent.cli import user_admin as command

    def run() -> int:
        place = _user(user_id, database_url, product)
        return command.assign(place, plan, period_start, period_end, renews.value)

    raise typer.Exit(run_command("users assign", run))


@users.command("pause")
def pause_user(
    user_id: UserId,
    reason: Annotated[str | None, typer.Option("--reason", help="For whoever asks why.")] = None,
    product: Product = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Refuse the calls of a user until `paygent users resume`."""
    from paygent.cli import user_admin as command

    def run() -> int:
        return command.pause(_user(user_id, database_url, product), reason)

    raise typer.Exit(run_command("users pause", run))


@users.command("resume")
def resume_user(user_id: UserId, product: Product = None, database_url: DatabaseUrl = None) -> None:
    """Accept the calls of a paused user again."""
    from paygent.cli import user_admin as command

    def run() -> int:
        return command.resume(_user(user_id, database_url, product))

    raise typer.Exit(run_command("users resume", run))


@users.command("erase")
def erase_user(
    user_id: UserId,
    yes: Confirmed = False,
    product: Product = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Replace a user's id by a pseudonym everywhere and delete what is personal; sums stay."""
    from paygent.cli import user_admin as command

    def run() -> int:
        return command.erase(_user(user_id, database_url, product), is_confirmed=yes)

    raise typer.Exit(run_command("users erase", run))


# -- plans


@plans.command("list")
def list_plans(
    db: Db = None,
    product: Product = None,
    output_format: OutputFormat = Format.TABLE,
    database_url: DatabaseUrl = None,
) -> None:
    """List plans with version, users, price and limits, and plans in use but not configured."""
    from paygent.cli import plans as command

    def run() -> int:
        place = (db, product, os.environ)
        return command.run(*place, output_format, database_url=database_url)

    raise typer.Exit(run_command("plans list", run))


@plans.command("apply")
def apply_plans(
    file: PlanFile,
    yes: Confirmed = False,
    product: Product = None,
    database_url: DatabaseUrl = None,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="A server, instead of its database."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", metavar="KEY", help="The server's admin key (default: PAYGENT_API_KEY)."
        ),
    ] = None,
) -> None:
    """Show what a file of plans changes on a server, and write it as new versions."""
    from paygent.cli import plan_apply as command

    def run() -> int:
        return command.apply(
            file,
            database_url,
            product,
            os.environ,
            is_confirmed=yes,
            base_url=base_url,
            api_key=api_key,
        )

    raise typer.Exit(run_command("plans apply", run))


@plans.command("validate")
def validate_plans(file: PlanFile) -> None:
    """List every rule that a file of plans breaks; nothing is written."""
    from paygent.cli import plan_apply as command

    raise typer.Exit(run_command("plans validate", command.validate, file, os.environ))


# -- keys


@keys.command("create")
def create_key(
    product: Annotated[
        str, typer.Option("--product", metavar="NAME", help="The product; created if missing.")
    ],
    scope: Annotated[
        KeyScope,
        typer.Option("--scope", help="admin: everything; sdk: what applications need; read: GET."),
    ] = KeyScope.SDK,
    name: Annotated[str, typer.Option("--name", help="A name for lists.")] = "",
    database_url: DatabaseUrl = None,
) -> None:
    """Create a key and print it; it is not shown again. In a pipe nothing else is printed."""
    from paygent.cli import keys as command

    arguments = (database_url, product, scope.value, name, os.environ)
    raise typer.Exit(run_command("keys create", command.create, *arguments))


@keys.command("list")
def list_keys(product: OneProduct = None, database_url: DatabaseUrl = None) -> None:
    """List the keys of all products, or of one, without their secrets."""
    from paygent.cli import keys as command

    raise typer.Exit(run_command("keys list", command.list_keys, database_url, product, os.environ))


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `paygent keys list` shows.")],
    product: OneProduct = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Revoke a key: every server refuses it within a second."""
    from paygent.cli import keys as command

    arguments = (database_url, product, key_id, os.environ)
    raise typer.Exit(run_command("keys revoke", command.revoke, *arguments))


@keys.command("setup-token")
def show_setup_token(database_url: DatabaseUrl = None) -> None:
    """Print the set-up token, which permits POST /products. In a pipe nothing else is printed."""
    from paygent.cli import keys as command

    arguments = (database_url, os.environ)
    raise typer.Exit(run_command("keys setup-token", command.show_setup_token, *arguments))
