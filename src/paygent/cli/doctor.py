"""`paygent doctor`: checks the installation, the settings, the backend, the files and the plans.

Prints a line for each check: ok, warning or problem, the last two with a remedy. It only reads, so
it may be run beside an application. The test calls of `checks.hook_probe` go to a fake provider.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.text import Text

from paygent.cli.checks import files, installation, plans
from paygent.cli.checks.backend import check_backend
from paygent.cli.checks.finding import Finding, Level, warning
from paygent.cli.checks.installation import SdkProbe
from paygent.cli.options import Place, read_place
from paygent.cli.output import open_console, print_line, printable
from paygent.cli.plans import read_plans
from paygent.core.validation import InvalidValue
from paygent.prices.catalogue import Catalogue
from paygent.store.port import StoreUnavailable
from paygent.store.sqlite import SqliteStore

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}
_LEVEL_WIDTH, _SUBJECT_WIDTH = 9, 12


def run(
    db: str | None,
    product: str | None,
    environ: Mapping[str, str],
    now_us: int | None = None,
    probe: Callable[[list[str]], Mapping[str, SdkProbe]] = installation.probe_sdks,
) -> int:
    """Print the findings; return the exit status, 1 if there is a warning or a problem."""
    now_us = time.time_ns() // 1_000 if now_us is None else now_us
    place = _place(db, product, environ)
    console = open_console(environ)
    counts: Counter[Level] = Counter()
    for finding in _findings(place, environ, now_us, probe):
        counts[finding.level] += 1
        _print_finding(console, finding)
    print_line(console, ", ".join(f"{level.value}: {counts[level]}" for level in Level))
    return 1 if counts[Level.WARNING] or counts[Level.PROBLEM] else 0


def _place(db: str | None, product: str | None, environ: Mapping[str, str]) -> Place:
    """Return where to look: an invalid variable is a finding, an invalid option a usage error."""
    try:
        return read_place(db, product, environ)
    except InvalidValue as error:
        invalid = set(map(installation.variable_of, error.findings))
    return read_place(db, product, {name: environ[name] for name in environ.keys() - invalid})


def _findings(
    place: Place,
    environ: Mapping[str, str],
    now_us: int,
    probe: Callable[[list[str]], Mapping[str, SdkProbe]],
) -> Iterator[Finding]:
    """Yield the findings of all checks; one that fails is a finding, and the others follow."""
    yield from installation.check_python()
    sdks = installation.installed_sdks()
    yield from _completed("sdks", _check_sdks(sdks, probe, environ))
    yield from _completed("sdks", installation.check_uninstrumented())
    yield from installation.check_environment(environ)
    yield from _completed("backend", check_backend(environ))
    check = files.check_database(place.db_path, files.read_mounts())
    database = list(_completed("database", check))
    yield from database
    yield from _completed("journal", files.check_journal(place.db_path, place.product))
    catalogue = Catalogue()
    store = SqliteStore(place.db_path, read_only=True)
    # What a damaged file holds is not reported.
    is_sound = all(finding.level is not Level.PROBLEM for finding in database)
    try:
        is_open = is_sound and _opens(store)
        clock = files.check_clock(place, store if is_open else None, now_us)
        yield from _completed("clock", clock)
        yield from plans.check_prices(catalogue.as_of, now_us)
        if is_open and not environ.get("PAYGENT_API_KEY"):  # a backend has plans of its own
            table = read_plans(store, place.product, now_us)
            yield from plans.check_plans(place.product, table)
            yield from plans.check_models(catalogue, table.lines, now_us)
            yield from plans.check_missing_user(store, place.product, now_us)
    except StoreUnavailable as error:
        text = f"{place.db_path} cannot be read now ({error})"
        yield warning("database", text, "try again")
    finally:
        store.close()


def _check_sdks(
    sdks: Mapping[str, str],
    probe: Callable[[list[str]], Mapping[str, SdkProbe]],
    environ: Mapping[str, str],
) -> Iterator[Finding]:
    """Yield the findings about these SDKs, which are probed meanwhile."""
    yield from installation.check_sdks(sdks, probe(list(sdks)), environ)


def _completed(subject: str, check: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings of a check, and of the system's error that ends it early."""
    try:
        yield from check
    except OSError as error:
        yield files.unreachable(subject, error)


def _opens(store: SqliteStore) -> bool:
    """Return whether a store can be opened; if not, `check_database` has reported the reason."""
    try:
        store.open()
    except StoreUnavailable:
        return False
    return True


def _print_finding(console: Console, finding: Finding) -> None:
    level = finding.level.value.ljust(_LEVEL_WIDTH)
    text = f"{finding.text}; {finding.remedy}" if finding.remedy else finding.text
    line = Text.assemble(
        (level, _STYLES[finding.level]), finding.subject.ljust(_SUBJECT_WIDTH), printable(text)
    )
    console.print(line, soft_wrap=True)
