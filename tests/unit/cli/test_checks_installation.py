"""The checks of Python, SDKs and settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import paygent
from paygent.cli.checks import installation
from paygent.cli.checks.finding import Finding, Level
from paygent.cli.checks.installation import SdkProbe, read_probe
from paygent.client.runtime.settings import VARIABLES

_ROOT = Path(paygent.__file__).parent


def levels(findings: list[Finding]) -> list[str]:
    """Return the levels of findings."""
    return [finding.level.value for finding in findings]


# -- Python and the package


def test_check_python__this_installation__is_ok() -> None:
    """Interpreter and package are named with their places."""
    python, package = installation.check_python()
    assert (python.level, package.level) == (Level.OK, Level.OK)
    assert sys.executable in python.text
    assert package.text == f"{paygent.__version__}, {_ROOT}"


def test_check_python__another_package_of_the_name__is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one on the public index is a different product."""
    monkeypatch.setattr(installation, "version", lambda name: "9.9.9")
    _, package = installation.check_python()
    assert package.level is Level.WARNING
    assert "9.9.9" in package.text
    assert "pip install . in your clone" in package.remedy


# -- SDKs


def test_installed_sdks__of_this_environment__have_versions() -> None:
    """Those that tests need are installed; others are left out."""
    sdks = installation.installed_sdks()
    assert {"openai", "anthropic", "websockets"} <= sdks.keys()
    assert all(re.match(r"\d+\.\d+", version) for version in sdks.values())


@pytest.mark.parametrize(
    ("name", "version", "level", "named"),
    [
        ("openai", "1.60.0", "ok", "a test call was metered"),
        ("openai", "1.59.9", "problem", "is not supported"),
        ("anthropic", "0.40", "ok", "a test call was metered"),
        ("anthropic", "0.39.0", "problem", "is not supported"),
        ("litellm", "1.60.0", "ok", "a test call was metered"),
        ("litellm", "1.9", "problem", "is not supported"),
        ("websockets", "14.0", "ok", "connections are hooked"),
        ("websockets", "13.1", "problem", "is not supported"),
        ("openai", "2.0.0rc1", "ok", "2.0.0rc1"),
        ("openai", "unknown", "problem", "unknown"),
    ],
)
def test_check_sdks__a_version__is_supported_or_not(
    name: str, version: str, level: str, named: str
) -> None:
    """An SDK that is too old names the requirement."""
    (finding,) = (
        found
        for found in installation.check_sdks({name: version}, {name: SdkProbe(True)}, {})
        if found.subject == name
    )
    assert finding.level.value == level
    assert named in finding.text
    assert (f'pip install "{name}>=' in finding.remedy) is (level == "problem")


def test_check_sdks__a_call_that_was_not_metered__is_a_problem_with_its_reason() -> None:
    """The hooks did not work in this environment, whatever the version."""
    probes = {"openai": SdkProbe(False, "ImportError: pydantic")}
    (finding,) = installation.check_sdks({"openai": "3.57.0"}, probes, {})
    assert finding.level is Level.PROBLEM
    assert "not metered (ImportError: pydantic)" in finding.text
    assert "pip check" in finding.remedy


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_check_sdks__certificates_that_do_not_exist__are_the_remedy(name: str) -> None:
    """The SDK is intact: no client of it can be made in this environment."""
    probes = {"openai": SdkProbe(False, "FileNotFoundError: [Errno 2]")}
    (finding,) = installation.check_sdks({"openai": "3.57.0"}, probes, {name: "/none/such"})
    assert finding.remedy == f"correct or unset {name}: there is nothing at /none/such"
    (finding,) = installation.check_sdks({"openai": "3.57.0"}, probes, {name: str(_ROOT)})
    assert "pip check" in finding.remedy


def test_probe_sdks__certificates_that_do_not_exist__are_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a half-made client complains about at the end is not shown."""
    monkeypatch.setenv("SSL_CERT_FILE", "/none/such")
    probes = installation.probe_sdks(["openai", "anthropic"])
    reason = "FileNotFoundError: [Errno 2] No such file or directory"
    assert probes == dict.fromkeys(("openai", "anthropic"), SdkProbe(False, reason))


def test_check_sdks__none_is_installed__is_a_warning() -> None:
    """The command was probably run with another Python than the application's."""
    (finding,) = installation.check_sdks({}, {}, {})
    assert finding.level is Level.WARNING
    assert "python -m paygent doctor" in finding.remedy
    assert levels(list(installation.check_sdks({"websockets": "15.0"}, {}, {}))) == [
        "warning",
        "ok",
    ]


def test_read_probe__output_of_any_kind__has_a_reason() -> None:
    """The last line of a traceback says why; other lines that an SDK prints are ignored."""
    good = 'loading…\n{"is_metered": true, "counts": {"plan_not_configured": 1}}\nbye\n'
    assert read_probe(0, good, "") == SdkProbe(True)
    assert read_probe(1, "", "Traceback …\nImportError: x\n") == SdkProbe(False, "ImportError: x")
    chained = (
        "Traceback (most …):\n  File x\nKeyError: 1\n\nDuring …:\n\nTraceback (…):\nOSError: 2\n"
    )
    assert read_probe(1, "", f"a warning\n{chained}") == SdkProbe(False, "KeyError: 1")
    assert read_probe(1, "", "Traceback (cut") == SdkProbe(False, "Traceback (cut")
    assert read_probe(-9, "", "") == SdkProbe(False, "exit status -9")
    assert read_probe(1, good, "killed at exit") == SdkProbe(False, "killed at exit")
    assert read_probe(0, "hello\n", "") == SdkProbe(False, "exit status 0")
    unmetered = '{"is_metered": false, "counts": {}}'
    assert read_probe(0, unmetered, "") == SdkProbe(False, "no event")
    failed = '{"is_metered": true, "counts": {"patch:openai": 1, "unhooked:openai": 1}}'
    assert read_probe(0, failed, "") == SdkProbe(False, "patch:openai, unhooked:openai")


def test_probe_sdks__an_sdk_that_cannot_be_imported__has_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It disturbs neither the command nor the probes of others."""
    (tmp_path / "litellm.py").write_text("raise ImportError('half an installation')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{_ROOT.parent}")
    probes = installation.probe_sdks(["litellm", "websockets"])
    assert probes["litellm"] == SdkProbe(False, "ImportError: half an installation")
    assert probes["websockets"] == SdkProbe(True)


def test_probe_sdks__litellm__downloads_no_price_list(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A check of this installation makes no request to the internet, whatever is set."""
    name = "LITELLM_LOCAL_MODEL_COST_MAP"
    (tmp_path / "litellm.py").write_text(f"import os; raise ImportError(os.environ.get({name!r}))")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{_ROOT.parent}")
    monkeypatch.setenv(name, "False")
    assert installation.probe_sdks(["litellm"])["litellm"].reason == "ImportError: True"


def test_probe_sdks__an_sdk_that_hangs__is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command ends whatever an import does."""
    (tmp_path / "openai.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{_ROOT.parent}")
    monkeypatch.setattr(installation, "_PROBE_WAIT_S", 1.0)
    assert installation.probe_sdks(["openai"]) == {
        "openai": SdkProbe(False, "no answer within 1 s")
    }


def test_probe_sdks__the_settings_of_the_application__have_no_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a proxy nor a setting that turns Paygent off reaches the test call."""
    monkeypatch.setenv("PAYGENT_DISABLED", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert installation.probe_sdks(["openai"]) == {"openai": SdkProbe(True)}


def test_hook_probe__calls_that_pass_unmetered__are_noticed() -> None:
    """The proof fails where the hook does not work: here it was never installed."""
    code = (
        "from paygent.client.instrument.registry import Instrumentation\n"
        "Instrumentation.install = lambda *args: None\n"
        "from paygent.cli.checks import hook_probe\n"
        "import openai\n"
        "create = openai.resources.chat.completions.Completions.create\n"
        "openai.resources.chat.completions.Completions.create = (\n"
        "    lambda self, *, paygent_user_id, **more: create(self, **more))\n"
        "hook_probe.main('openai')\n"
        "hook_probe.main('websockets')\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    results = [read_probe(0, line, "") for line in process.stdout.splitlines()]
    assert results == [SdkProbe(False, "no event")] * 2


# -- SDKs without a hook


@pytest.fixture
def add_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Install an empty module; its packages would fail if they were imported."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(module: str) -> None:
        *packages, name = module.split(".")
        folder = tmp_path
        for package in packages:
            folder /= package
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").write_text("raise RuntimeError('imported')")
        (folder / f"{name}.py").write_text("raise RuntimeError('imported')")

    return add


def test_check_uninstrumented__an_sdk_without_a_hook__is_a_warning(
    add_module: Callable[[str], None],
) -> None:
    """Its calls would be neither metered nor limited; it is not imported to find out."""
    before = set(installation.check_uninstrumented())  # this environment may have some
    for module in ("groq", "google.genai", "huggingface_hub.inference._client"):
        add_module(module)
    findings = [each for each in installation.check_uninstrumented() if each not in before]
    assert levels(findings) == ["warning", "warning"]
    assert findings[0].text.startswith("google.genai (Gemini (google-genai)) is installed")
    assert findings[1].text.startswith("groq (Groq) is installed and not instrumented")
    assert "pg.wrap" in findings[0].remedy


def test_is_installed__part_of_a_package__is_not_the_package(
    add_module: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many packages share the name `google`."""
    add_module("google.protobuf")
    assert not installation.is_installed("google.genai")
    assert not installation.is_installed("nothing.at.all")
    odd: Any = object()
    monkeypatch.setitem(sys.modules, "replicate", odd)
    assert not installation.is_installed("replicate")


# -- settings


def check(**environ: str) -> list[Finding]:
    """Return the findings about an environment."""
    return list(installation.check_environment({"HOME": "/home/ann", **environ}))


def test_check_environment__known_settings__are_named_without_their_values() -> None:
    """A key is never shown."""
    (finding,) = check(PAYGENT_API_KEY="pg_live_secret", PAYGENT_PRODUCT="shop")
    assert finding.level is Level.OK
    assert finding.text == "set in the environment: PAYGENT_API_KEY, PAYGENT_PRODUCT"
    assert check()[0].text == "set in the environment: nothing"


@pytest.mark.parametrize(
    ("environ", "level", "text", "remedy"),
    [
        (
            {"PAYGENT_DBPATH": ""},
            "warning",
            "PAYGENT_DBPATH is not",
            "did you mean PAYGENT_DB_PATH",
        ),
        ({"PAYGENT_ZZZ": "/x"}, "warning", "PAYGENT_ZZZ is not read", "known are PAYGENT_API_KEY"),
        ({"PAYGENT_PRODUCT": "a/b"}, "problem", "PAYGENT_PRODUCT = 'a/b'", "PAYGENT_PRODUCT"),
        ({"PAYGENT_BASE_URL": "x"}, "problem", "base_url = 'x'", "correct PAYGENT_BASE_URL"),
        ({"PAYGENT_DB_PATH": "a\0"}, "problem", "NUL", "correct PAYGENT_DB_PATH"),
        ({"PAYGENT_DISABLED": "1"}, "warning", "turns everything off", "unset it"),
        ({"PAYGENT_DISABLED": "ja"}, "warning", "'ja' has no effect: Paygent is on", "set it to 1"),
    ],
)
def test_check_environment__a_setting_that_is_wrong__names_the_remedy(
    environ: dict[str, str], level: str, text: str, remedy: str
) -> None:
    """A misspelt variable is ignored by an application in silence, but not here."""
    (finding,) = check(**environ)
    assert (finding.subject, finding.level.value) == ("settings", level)
    assert text in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize("value", ["", "0", "false", "No", "off"])
def test_check_environment__not_disabled__is_ok(value: str) -> None:
    """Words for "no" leave Paygent on, as meant."""
    assert levels(check(PAYGENT_DISABLED=value)) == ["ok"]


def test_variables__of_the_source__are_all_known() -> None:
    """A variable that is added to the source is not reported as unknown."""
    read = {
        name
        for path in _ROOT.rglob("*.py")
        if "cli" not in path.relative_to(_ROOT).parts
        for name in re.findall(r"\bPAYGENT_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert read - {"PAYGENT_"} <= set(VARIABLES)
    assert len(read) >= 5
