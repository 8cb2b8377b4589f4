"""Files of plans: TOML, or JSON as `POST /config/plans` takes it, read into `PlanConfig`s.

A file is read completely before it is judged: the error names every broken rule of every plan.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from paygent.cli.install_hint import HINT
from paygent.cli.options import CommandError, UsageError
from paygent.client.api.arguments import check_name
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import NOT_A_FIELD, plan_arguments
from paygent.core.validation import InvalidValue, ValidationErrors

_GATES = ("soft_gate_at", "hard_gate_at")
_TOP = (*_GATES, "plans")
_PLAN_FIELDS = tuple(spec.name for spec in fields(PlanConfig) if spec.init)
_LIKENESS_MIN = 0.75  # a misspelt name is above it, another word (created_at) below
_FILE_BYTES_MAX = 4 << 20  # far above any real one, so that a wrong file is not read into memory


def read_plan_file(path: str) -> dict[str, PlanConfig]:
    """Read the plans of a file, by name and in the order of the file.

    Args:
        path: Ends with `.json` for JSON; everything else is TOML.

    Raises:
        UsageError: if there is no such file.
        CommandError: if it is neither TOML nor JSON.
        InvalidValue: naming every field that is unknown or breaks a rule.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(content) > _FILE_BYTES_MAX:
        raise CommandError(
            f"{path} is larger than {_FILE_BYTES_MAX:,} bytes: it is no file of plans"
        )
    try:
        text = content.decode("utf-8")
        document = _from_json(text) if Path(path).suffix == ".json" else _from_toml(text)
    except (ValueError, RecursionError) as error:  # both parsers' errors, and UTF-8's
        raise CommandError(f"{path}: {error}") from error
    return plans_of(document)


def _from_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise ValueError(f"{twice!r} is given twice")
        return found

    return json.loads(text, object_pairs_hook=unique)


def _from_toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ModuleNotFoundError as error:
            raise CommandError(HINT.format(missing=error.name, extra="cli")) from None
    return tomllib.loads(text)


def plans_of(document: Any) -> dict[str, PlanConfig]:
    """Return the plans of a document: gates for all plans, and `plans` by name or as a list.

    Raises:
        InvalidValue: naming every field that is unknown or breaks a rule.
    """
    errors = ValidationErrors("plans")
    if not isinstance(document, Mapping):
        errors.add("file", document, "must have a table (object) of plans")
        errors.raise_if_any()
    for name, value in document.items():
        if name not in _TOP:
            rule = _unknown(name, _TOP, "is not a field of a file of plans")
            errors.add(name, value, rule)
    gates = {name: document[name] for name in _GATES if name in document}
    plans: dict[str, PlanConfig] = {}
    for name, given in _named(document.get("plans"), errors):
        where = f"plans.{name}"
        if name in plans:
            errors.add(where, name, "is given twice")
        check_name(errors, where, name)
        plan = _plan(where, given, gates, errors)
        if plan is not None:
            plans[name] = plan
    # A wrong gate for all plans is one mistake.
    errors.found = list({(each.field, each.rule): each for each in errors.found}.values())
    errors.raise_if_any()
    return plans


def _named(given: Any, errors: ValidationErrors) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the plans with their names; record what is none."""
    if not given or not isinstance(given, (Mapping, list)):
        errors.add("plans", given, "must be a table of at least one plan: [plans.NAME]")
        return
    if isinstance(given, Mapping):
        entries = list(given.items())
    else:
        entries = []
        for number, each in enumerate(given):
            if isinstance(each, Mapping) and isinstance(each.get("name"), str):
                rest = {key: value for key, value in each.items() if key != "name"}
                entries.append((each["name"], rest))
            else:
                errors.add(f"plans[{number}]", each, "must be an object with a name")
    for name, each in entries:
        if isinstance(each, Mapping):
            yield name, each
        else:
            errors.add(f"plans.{name}", each, f"must be a table of fields: [plans.{name}]")


def _plan(
    where: str, given: Mapping[str, Any], gates: Mapping[str, Any], errors: ValidationErrors
) -> PlanConfig | None:
    """Return a plan, or None after the rules that it breaks were recorded."""
    known, refused = plan_arguments(given)
    for name in given:  # in the order of the file
        if name in refused:
            rule = refused[name]
            shown = _unknown(name, _PLAN_FIELDS, rule) if rule == NOT_A_FIELD else rule
            errors.add(f"{where}.{name}", given[name], shown)
    try:
        return PlanConfig(**{**gates, **known})
    except InvalidValue as error:
        for finding in error.findings:
            is_shared = finding.field in gates and finding.field not in known
            shown = finding.field if is_shared else f"{where}.{finding.field}"
            errors.found.append(replace(finding, field=shown))
        return None


def _unknown(name: str, known: tuple[str, ...], rule: str) -> str:
    near = get_close_matches(name, known, n=1, cutoff=_LIKENESS_MIN)
    return f"{rule}; did you mean {near[0]}?" if near else rule
