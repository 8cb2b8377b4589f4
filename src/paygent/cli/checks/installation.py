"""Checks Python, the packages, the hooks of provider SDKs, and settings in the environment."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import paygent
from paygent.cli.checks.finding import Finding, ok, problem, warning
from paygent.client.runtime.settings import (
    VARIABLES,
    VARIABLES_PREFIX,
    is_disabled,
    odd_variables,
    read_settings,
)
from paygent.core.providers import PROVIDERS
from paygent.core.validation import FieldError, InvalidValue

SDK_VERSIONS_MIN = {
    "openai": (1, 60),
    "anthropic": (0, 40),
    "litellm": (1, 60),
    "websockets": (14,),
}
"""The oldest version of each instrumented package that is supported."""

_CALLING = ("openai", "anthropic", "litellm")  # those that an application calls itself
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # without them no SDK makes a client
_PROBE_WAIT_S = 60.0  # importing LiteLLM takes ten seconds on a slow disk


class SdkProbe(NamedTuple):
    """What a probe of one SDK found: whether its calls are metered, and otherwise the reason."""

    is_metered: bool
    reason: str = ""


def installed_sdks() -> dict[str, str]:
    """Return the versions of the instrumented packages that are installed."""
    versions = {name: _version(name) for name in SDK_VERSIONS_MIN}
    return {name: installed for name, installed in versions.items() if installed}


def _version(package: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def check_python() -> Iterator[Finding]:
    """Check the interpreter, and that the installed package is the one that runs."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    yield ok("python", f"{python}, {sys.executable}")
    installed = _version("paygent")
    folder = Path(paygent.__file__).parent
    if installed in ("", paygent.__version__):
        yield ok("paygent", f"{paygent.__version__}, {folder}")
    else:
        yield warning(
            "paygent",
            f"the code in {folder} is {paygent.__version__}, the installed package {installed}",
            "the package of this name on the public index is a different product: run "
            "pip uninstall paygent, then pip install . in your clone",
        )


def check_sdks(
    sdks: Mapping[str, str], probes: Mapping[str, SdkProbe], environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Check the versions of the instrumented SDKs and the results of their probes."""
    if not any(name in sdks for name in _CALLING):
        yield warning(
            "sdks",
            f"none of {', '.join(_CALLING)} is installed for {sys.executable}",
            "run doctor with the Python of your application (python -m paygent doctor)",
        )
    for name, installed in sdks.items():
        least = SDK_VERSIONS_MIN[name]
        oldest = ".".join(map(str, least))
        probe = probes.get(name, SdkProbe(True))
        if _numbers(installed) < least:
            yield problem(
                name,
                f"{installed} is not supported, its calls may be neither metered nor limited",
                f'pip install "{name}>={oldest}"',
            )
        elif not probe.is_metered:
            yield problem(
                name,
                f"{installed} is installed, but a test call was not metered ({probe.reason})",
                _certificates(environ)
                or f"check that it is intact (pip check, python -c 'import {name}'), or install "
                f"another version from {oldest}",
            )
        else:
            proof = "connections are hooked" if name == "websockets" else "a test call was metered"
            yield ok(name, f"{installed}, {proof}")


def _certificates(environ: Mapping[str, str]) -> str:
    """Return the remedy where a variable names certificates that do not exist, else ""."""
    for name in _CERTIFICATES:
        path = environ.get(name)
        if path and not os.path.exists(path):
            return f"correct or unset {name}: there is nothing at {path}"
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match.group().split("."))) if match else ()


def check_uninstrumented() -> Iterator[Finding]:
    """Check for installed provider SDKs that have no hook."""
    for provider in PROVIDERS:
        for module, name in provider.sdks:
            # A private module belongs to a package that does more; its use is logged instead.
            if not module.rpartition(".")[2].startswith("_") and is_installed(module):
                yield warning(
                    "sdks",
                    f"{module} ({name}) is installed and not instrumented: its calls are neither "
                    "metered nor limited",
                    "wrap calls in pg.wrap, or register it (docs/guide/any-code.md)",
                )


def is_installed(module: str) -> bool:
    """Return whether a module can be imported, without importing it or its packages."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # half removed, or a module without a spec in its place
        return False
    if spec is None:
        return False
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for name in rest:
        here = folders
        folders = [folder / name for folder in here if (folder / name).is_dir()]
        if not folders and not any((folder / f"{name}.py").is_file() for folder in here):
            return False
    return True


# -- probes


def probe_sdks(names: list[str]) -> dict[str, SdkProbe]:
    """Make a test call with each of these SDKs to a fake provider; see `hook_probe`."""
    # Without the application's settings and proxies: the call stays on this machine.
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(VARIABLES_PREFIX) and not name.lower().endswith("_proxy")
    }
    environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would download its price list
    started = {name: _start_probe(name, environ) for name in names}
    return {name: _end_probe(process) for name, process in started.items()}


def _start_probe(name: str, environ: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - this interpreter and a name from our own table
        [sys.executable, "-m", "paygent.cli.checks.hook_probe", name],
        env=dict(environ),
        cwd=sys.prefix,  # `-m` imports from there first: not from a folder of the reader's
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def _end_probe(process: subprocess.Popen[str]) -> SdkProbe:
    with process:
        try:
            out, err = process.communicate(timeout=_PROBE_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return SdkProbe(False, f"no answer within {_PROBE_WAIT_S:.0f} s")
    return read_probe(process.returncode, out, err)


def read_probe(status: int, out: str, err: str) -> SdkProbe:
    """Return the result of a probe from its exit status and its output."""
    lines = [line for line in out.splitlines() if line.startswith('{"is_metered"')]
    if status or not lines:
        return SdkProbe(False, _first_exception(err) or f"exit status {status}")
    result = json.loads(lines[-1])
    failed = [kind for kind in result["counts"] if kind.startswith(("patch", "unhooked"))]
    if failed or not result["is_metered"]:
        return SdkProbe(False, ", ".join(failed) or "no event")
    return SdkProbe(True)


def _first_exception(err: str) -> str:
    """Return the exception that others followed, else the last line: destructors complain later."""
    lines = err.strip().splitlines()
    tracebacks = (place for place, line in enumerate(lines) if line.startswith("Traceback "))
    after = lines[next(tracebacks, len(lines)) + 1 :]
    return next((line for line in after if not line.startswith(" ")), lines[-1] if lines else "")


# -- settings


def check_environment(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the variables that begin with `PAYGENT_`."""
    given = sorted(name for name in environ if name.startswith(VARIABLES_PREFIX))
    findings = [
        *(warning("settings", text, remedy) for text, remedy in odd_variables(environ)),
        *_invalid(environ),
        *_switched_off(environ),
    ]
    names = ", ".join(name for name in given if name in VARIABLES)
    yield from findings or [ok("settings", f"set in the environment: {names or 'nothing'}")]


def _invalid(environ: Mapping[str, str]) -> Iterator[Finding]:
    try:
        read_settings({}, environ)
    except InvalidValue as error:
        for finding in error.findings:
            remedy = f"correct {variable_of(finding)}: Paygent.init raises InvalidValue"
            yield problem("settings", str(finding), remedy)


def variable_of(error: FieldError) -> str:
    """Return the environment variable of an invalid setting."""
    name = error.field
    return name if name.startswith(VARIABLES_PREFIX) else VARIABLES_PREFIX + name.upper()


def _switched_off(environ: Mapping[str, str]) -> Iterator[Finding]:
    value = environ.get("PAYGENT_DISABLED", "")
    if is_disabled(environ):
        text = f"PAYGENT_DISABLED={value} turns everything off: no call is metered or limited"
        yield warning("settings", text, "unset it where calls should count")
