"""`paygent doctor`: one line for each check, a remedy for each finding, and nothing changed."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.unit.cli.conftest import NoSearch
from typer.testing import CliRunner

from paygent import Paygent, PlanConfig, paygent_context
from paygent.cli import doctor
from paygent.cli.app import app
from paygent.cli.checks import files, installation
from paygent.cli.checks.finding import Finding
from paygent.cli.checks.installation import SdkProbe
from paygent.core.validation import InvalidValue
from paygent.store.port import StoreUnavailable
from paygent.testing import FakeProvider

pytestmark = pytest.mark.usefixtures("steady_machine")

Init = Callable[..., Paygent]
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(db_path: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command on this test's store, with probes that succeed at once."""

    def go(db: str | None = db_path, product: str | None = None, **environ: str) -> tuple[int, str]:
        def probe(names: list[str]) -> dict[str, SdkProbe]:
            return dict.fromkeys(names, SdkProbe(True))

        status = doctor.run(db, product, environ, time.time_ns() // 1_000, probe)
        return status, capsys.readouterr().out

    return go


def lines_of(text: str, subject: str) -> list[str]:
    """Return the lines about a subject, without it."""
    rows = [line.split(None, 2) for line in text.splitlines()]
    return [f"{row[0]} {row[2]}" for row in rows if len(row) == 3 and row[1] == subject]


def test_doctor__nothing_recorded_yet__is_good_and_creates_nothing(
    run: Run, db_path: str, tmp_path: Path
) -> None:
    """A fresh installation has no finding, and stays as it is."""
    status, text = run()
    assert status == 0, text
    assert lines_of(text, "database") == [
        f"ok nothing recorded yet at {db_path}; it is created by the first call"
    ]
    assert lines_of(text, "journal") == ["ok no process has written records yet"]
    assert text.splitlines()[-1].endswith("warning: 0, problem: 0")
    assert not any(ord(char) < 32 for char in text.replace("\n", ""))
    assert list(tmp_path.iterdir()) == []


def test_doctor__beside_a_running_application__is_good_and_changes_nothing(
    run: Run, init: Init, db_path: str, fake: FakeProvider
) -> None:
    """The command only reads, whatever the application does meanwhile."""
    pg = init()
    pg.configure_plan("default", PlanConfig(max_spend_per_period=25))
    with paygent_context(user_id="ann"):
        pg.wrap(lambda: {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}, "ann", "gpt-4o")
    pg.flush()
    status, text = run()
    assert status == 0, text
    (database,) = lines_of(text, "database")
    assert database.startswith(f"ok {db_path}, schema ")
    assert database.endswith(", intact")
    assert lines_of(text, "plans") == ["ok configured for product 'default': default"]
    pg.record_event("ann", cost=1)
    assert pg.flush() == 1


def test_doctor__a_product_with_findings__has_a_warning_for_each(run: Run, init: Init) -> None:
    """Plans without limits or configuration, misspelt models, and calls without a user."""
    pg = init(on_missing_user="ignore")
    limits = {"gpt4o-mini": 10, "gpt-4o": 5}
    pg.configure_plan("pro", PlanConfig(model_limits=limits))
    pg.configure_plan("free", PlanConfig())
    with pytest.warns(UserWarning, match="not configured"):
        pg.assign_plan("bob", "gold")
    pg.record_event("eve", cost=1)
    pg.record_event(cost="0.5")
    pg.flush()
    status, text = run()
    assert status == 1
    plans = lines_of(text, "plans")
    assert [line.split(";")[0] for line in plans] == [
        "warning 1 user is on plan 'default', which is not configured: no limits",
        "warning plan 'free' has no limits",
        "warning 1 user is on plan 'gold', which is not configured: no limits",
        "ok configured for product 'default': free, pro",
    ]
    (model,) = lines_of(text, "models")
    assert "plan 'pro': model_limits names 'gpt4o-mini', which is in no price list" in model
    assert "did you mean 'gpt-4o-mini'?" in model
    (users,) = lines_of(text, "users")
    assert "for $0.50, are on the user (none)" in users


def test_doctor__without_any_plan__warns_that_no_user_has_limits(run: Run, init: Init) -> None:
    """Metering alone limits no user."""
    pg = init()
    pg.record_event("eve", cost=1)
    pg.flush()
    status, text = run(product="default")
    assert status == 1
    assert lines_of(text, "plans")[0].startswith(
        "warning product 'default' has no configured plan: no user has limits; add one"
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"no database" * 100, "is damaged or no Paygent database"),
        (b"", "schema 0"),
    ],
)
def test_doctor__a_database_that_cannot_be_read__is_one_finding(
    run: Run, tmp_path: Path, content: bytes, named: str
) -> None:
    """The other checks go on, and the file is left alone."""
    path = tmp_path / "local.db"
    path.write_bytes(content)
    status, text = run(str(path))
    assert status == 1
    (database,) = lines_of(text, "database")
    assert named in database
    assert lines_of(text, "plans") == []
    assert lines_of(text, "clock")
    assert path.read_bytes() == content


def test_doctor__a_damaged_database__is_reported_and_not_read(
    run: Run, init: Init, db_path: str
) -> None:
    """What is in a damaged file is no finding about plans."""
    pg = init()
    pg.record_event("ann", cost=1)
    pg.shutdown()
    with open(db_path, "r+b") as file:
        file.seek(4_096)
        file.write(b"\xff" * 8_192)
    status, text = run()
    assert status == 1
    (database,) = lines_of(text, "database")
    assert database.startswith(f"problem {db_path} is damaged")
    assert lines_of(text, "plans") == []
    assert lines_of(text, "clock")


def test_doctor__a_database_that_is_locked_meanwhile__is_a_warning(
    run: Run, init: Init, db_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks that were made before are printed all the same."""
    pg = init()
    pg.record_event("ann", cost=1)
    pg.flush()

    def locked(*arguments: object) -> None:
        raise StoreUnavailable("SQLite: database is locked")

    monkeypatch.setattr(doctor, "read_plans", locked)
    status, text = run()
    assert status == 1
    opened, unread = lines_of(text, "database")
    assert opened.startswith("ok ")
    assert unread == (
        f"warning {db_path} cannot be read now (SQLite: database is locked); try again"
    )


def test_doctor__a_folder_that_cannot_be_searched__is_a_finding_of_each_check(
    run: Run, init: Init, tmp_path: Path, no_search: NoSearch
) -> None:
    """The checks that follow are made all the same."""
    pg = init()
    pg.record_event("ann", cost=1)
    pg.shutdown()
    no_search(tmp_path)
    status, text = run()
    assert status == 1
    for subject in ("database", "journal"):
        (line,) = lines_of(text, subject)
        assert line.startswith("problem ")
        assert "Permission denied" in line
    (clock,) = lines_of(text, "clock")
    assert clock.startswith("ok ")
    assert lines_of(text, "prices")


@pytest.mark.parametrize(
    ("module", "name", "subject"),
    [
        (installation, "check_sdks", "sdks"),
        (installation, "check_uninstrumented", "sdks"),
        (files, "check_database", "database"),
        (files, "check_journal", "journal"),
        (files, "check_clock", "clock"),
    ],
)
def test_doctor__a_check_that_the_system_lets_fail__is_a_finding(
    run: Run, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, subject: str
) -> None:
    """An input or output error ends one check, and not the command."""

    def failing(*arguments: object) -> Iterator[Finding]:
        raise OSError(errno.EIO, "Input/output error")
        yield  # a generator, as the checks are

    monkeypatch.setattr(module, name, failing)
    status, text = run()
    assert status == 1
    lines = lines_of(text, subject)
    assert lines[0].startswith("problem a check has failed (Input/output error); repair it")
    assert lines_of(text, "prices")


def test_doctor__a_database_of_a_newer_paygent__is_a_problem(
    run: Run, init: Init, db_path: str
) -> None:
    """This Paygent would neither read nor write it."""
    pg = init()
    pg.record_event("ann", cost=1)
    pg.shutdown()
    connection = sqlite3.connect(db_path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    status, text = run()
    assert status == 1
    (database,) = lines_of(text, "database")
    assert database.startswith("problem ")
    assert "schema 99" in database
    assert database.endswith("a newer Paygent wrote it: install that version here too")


def test_doctor__an_invalid_variable__is_a_problem_and_no_usage_error(
    run: Run, db_path: str
) -> None:
    """The command that is asked what is wrong must not fail for it; an option is another matter."""
    status, text = run(db_path, PAYGENT_PRODUCT="a/b", PAYGENT_BASE_URL="nowhere")
    assert status == 1
    settings = lines_of(text, "settings")
    assert [line.split(" = ")[0] for line in settings] == [
        "problem base_url",
        "problem PAYGENT_PRODUCT",
    ]
    with pytest.raises(InvalidValue, match="--db"):
        run("", PAYGENT_PRODUCT="a/b")


def test_doctor__a_store_in_memory__is_a_warning(run: Run) -> None:
    """It is a setting of tests; in an application nothing would survive."""
    status, text = run(None, PAYGENT_DB_PATH=":memory:")
    assert status == 1
    assert "ends with its process" in lines_of(text, "database")[0]


def test_doctor__on_a_terminal__is_coloured(
    db_path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A problem is seen at once."""
    monkeypatch.setattr("paygent.cli.console.is_interactive", lambda stream, environ: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    doctor.run(db_path, None, {"PAYGENT_DISABLED": "1"}, None, lambda names: {})
    out = capsys.readouterr().out
    assert "\x1b[33mwarning" in out


def test_doctor__the_command_itself__proves_that_the_sdks_of_this_environment_are_metered(
    db_path: str, tmp_path: Path
) -> None:
    """Real test calls of the real SDKs, in processes of their own, leave nothing behind."""
    result = CliRunner().invoke(app, ["doctor", "--db", db_path])
    assert result.exit_code == 0, result.output
    for sdk in ("openai", "anthropic"):
        (line,) = lines_of(result.stdout, sdk)
        assert line.startswith("ok ")
        assert line.endswith("a test call was metered")
    (line,) = lines_of(result.stdout, "websockets")
    assert line.endswith("connections are hooked")
    assert os.listdir(tmp_path) == []
