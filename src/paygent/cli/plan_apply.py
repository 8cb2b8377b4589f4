"""`paygent plans apply` and `validate`: files of plans are checked, compared and written."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import typer

from paygent.cli.console import is_interactive
from paygent.cli.options import CommandError
from paygent.cli.output import Column, open_console, print_line, print_table, printable
from paygent.cli.plan_changes import PlanChange, changes
from paygent.cli.plan_file import read_plan_file
from paygent.cli.plan_target import opened_plans
from paygent.core.plan import PlanConfig
from paygent.core.validation import FieldError, InvalidValue
from paygent.prices.catalogue import Catalogue
from paygent.prices.plan_check import plan_warnings

_FINDINGS = (Column("field"), Column("value"), Column("rule", is_prose=True))
_CHANGES = (Column("plan"), Column("change"), Column("field"), Column("now"), Column("new"))
_VALUE_CHARS_MAX = 80


def validate(path: str, environ: Mapping[str, str]) -> int:
    """Print every rule that a file of plans breaks; return the exit status."""
    plans = _read(path, environ)
    if plans is None:
        return 1
    _warn_of_mistakes(plans)
    counted = "1 plan" if len(plans) == 1 else f"{len(plans):,} plans"
    print_line(open_console(environ), f"valid: {counted} ({', '.join(plans)})")
    return 0


def apply(
    path: str,
    database_url: str | None,
    product: str | None,
    environ: Mapping[str, str],
    *,
    is_confirmed: bool,
    base_url: str | None = None,
    api_key: str | None = None,
) -> int:
    """Show what a file of plans changes, and write new versions; return the exit status."""
    plans = _read(path, environ)
    if plans is None:
        return 1
    _warn_of_mistakes(plans)
    console = open_console(environ)
    with opened_plans(database_url, product, base_url, api_key, environ) as target:
        stored = target.stored()
        found = changes(plans, stored)
        print_table(console, _CHANGES, _rows(found))
        kept = [name for name in stored if name not in plans]
        if kept:
            print_line(console, f"not in the file, kept as they are: {', '.join(kept)}")
        wanted = {each.name: plans[each.name] for each in found if each.kind != "unchanged"}
        if not wanted:
            print_line(console, f"nothing to write: {target.shown} has these plans")
            return 0
        asks = not is_confirmed and is_interactive(sys.stdin, environ)
        if asks and not typer.confirm(f"Write to {printable(target.shown)}?"):
            raise CommandError("nothing was written")
        written = target.put(wanted)
    versions = ", ".join(f"{name} (version {version})" for name, version in written.items())
    print_line(console, f"written to {target.shown}: {versions}")
    return 0


def _read(path: str, environ: Mapping[str, str]) -> dict[str, PlanConfig] | None:
    """Return the plans of a file, or None after its mistakes were printed."""
    try:
        return read_plan_file(path)
    except InvalidValue as error:
        print_table(open_console(environ), _FINDINGS, _finding_rows(error.findings))
        count = len(error.findings)
        rules = "1 rule is" if count == 1 else f"{count:,} rules are"
        print(f"{printable(path)}: {rules} broken", file=sys.stderr)
        return None


def _finding_rows(findings: Sequence[FieldError]) -> Iterator[tuple[str, str, str]]:
    for finding in findings:
        value = repr(finding.value)
        if len(value) > _VALUE_CHARS_MAX:
            value = value[: _VALUE_CHARS_MAX - 1] + "…"
        yield finding.field, value, finding.rule


def _rows(found: Sequence[PlanChange]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each field that changes, and one for a plan without any."""
    for change in found:
        version = {"new": "", "changed": f", version {change.version} → {change.version + 1}"}
        kind = change.kind + version.get(change.kind, f", version {change.version}")
        if not change.fields:
            yield change.name, kind, "-", "-", "-"
        for field in change.fields:
            yield change.name, kind, *field


def _warn_of_mistakes(plans: Mapping[str, PlanConfig]) -> None:
    """Print what is valid and probably not meant, such as a limit of a model without a price."""
    catalogue, now_us = Catalogue(), time.time_ns() // 1_000
    for name, plan in plans.items():
        for text in plan_warnings(plan, catalogue, now_us):
            print(f"warning: plan {printable(name)!r}: {printable(text)}", file=sys.stderr)
