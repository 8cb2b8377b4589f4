"""The command line: its arguments and exit statuses."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.contract.samples import batch_of, make_event
from tests.promises.scripts import start
from tests.unit.cli.conftest import NoSearch
from typer.testing import CliRunner

import paygent
from paygent.cli import demo
from paygent.cli.app import app
from paygent.store.sqlite import SqliteStore


@pytest.fixture
def demo_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record runs of the demo instead of running it."""
    runs: list[str] = []
    monkeypatch.setattr(
        demo,
        "main",
        lambda *, local, waits: runs.append(
            ("local" if local else "connected") + (", waits" if waits else "")
        ),
    )
    return runs


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (["demo"], "connected, waits"),
        (["demo", "--no-wait"], "connected"),
        (["demo", "--local"], "local, waits"),
    ],
)
def test_demo__with_or_without_its_mode__runs(
    demo_runs: list[str], arguments: list[str], mode: str
) -> None:
    """The demo is connected to a backend, unless `--local` is given, and stays up in a terminal,
    unless `--no-wait` is given.
    """
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, demo_runs) == (0, [mode])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["dmeo"], "dmeo"),
        (["demo", "--remote"], "--remote"),
        (["demo", "please"], "please"),
        (["explain"], "EVENT_ID"),
        (["users", "--limit", "0"], "--limit"),
        (["users", "--format", "xml"], "xml"),
        (["plans", "lsit"], "lsit"),
        (["prices", "show"], "MODEL"),
        (["doctor", "now"], "now"),
    ],
)
def test_app__wrong_usage__exits_with_2_and_names_the_error(
    demo_runs: list[str], arguments: list[str], named: str
) -> None:
    """A usage error exits with 2, names the wrong argument, and runs nothing."""
    result = CliRunner().invoke(app, arguments, env={"NO_COLOR": "1", "TERM": "dumb"})
    assert (result.exit_code, demo_runs) == (2, [])
    assert named in result.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["demo", "doctor", "explain", "plans", "prices", "users"]),
        (["--help"], ["demo", "doctor", "explain", "plans", "prices", "users"]),
        (["plans"], ["list"]),
        (["prices"], ["show"]),
    ],
)
def test_row_10__no_command_or_help__lists_the_commands(
    arguments: list[str], named: list[str]
) -> None:
    """Help is what a newcomer asks for by typing the name alone: the status is 0."""
    result = CliRunner().invoke(app, arguments, env={"NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == 0
    assert "Usage" in result.stdout
    assert [name for name in named if name not in result.stdout] == []


def test_app__asked_for_its_version__prints_it() -> None:
    """The version is the package's."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"paygent {paygent.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["explain", "x"], ["users"], ["plans", "list"], ["prices", "show", "gpt-4o"], ["doctor"]],
)
@pytest.mark.parametrize(
    ("option", "named"), [(["--db", ""], "--db"), (["--product", "a/b"], "--product")]
)
def test_app__an_option_that_breaks_a_rule__is_a_usage_error(
    arguments: list[str], option: list[str], named: str
) -> None:
    """Every command names the setting and the rule, and exits with 2."""
    result = CliRunner().invoke(app, [*arguments, *option])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"paygent {arguments[0]}")
    assert f"{named} = " in result.stderr
    assert "must" in result.stderr


def test_app__a_variable_that_breaks_a_rule__is_named() -> None:
    """Where no option was given, the setting to correct is in the environment."""
    environ = {"PAYGENT_PRODUCT": "a/b", "PAYGENT_DB_PATH": " "}
    result = CliRunner().invoke(app, ["users"], env=environ)
    assert result.exit_code == 2
    assert "db_path = ' '" in result.stderr
    assert "PAYGENT_PRODUCT = 'a/b'" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["explain", "a"], ["users"], ["plans", "list"], ["prices", "show", "gpt-4o"]]
)
def test_app__an_invalid_variable_that_it_does_not_use__is_no_error(
    arguments: list[str], stored: str
) -> None:
    """A command that only reads the file needs no backend's address; the doctor reports it."""
    expected = CliRunner().invoke(app, [*arguments, "--db", stored])
    environ = {"PAYGENT_BASE_URL": "nowhere", "PAYGENT_DISABLED": "perhaps"}
    result = CliRunner().invoke(app, [*arguments, "--db", stored], env=environ)
    assert (result.exit_code, result.output) == (expected.exit_code, expected.output)
    assert "BASE_URL" not in result.output


@pytest.mark.parametrize("arguments", [["explain", "x"], ["users"], ["plans", "list"]])
def test_app__no_database__is_a_finding_that_names_the_remedy(
    arguments: list[str], db_path: str, tmp_path: Path
) -> None:
    """Nothing is created, and the message says what creates the file."""
    result = CliRunner().invoke(app, [*arguments, "--db", db_path])
    assert result.exit_code == 1
    assert f"there is no store at {db_path}: it is created by" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["explain", "x"], ["users"], ["plans", "list"]])
@pytest.mark.parametrize(
    ("content", "named"), [(b"no database" * 100, "not a database"), (b"", "schema 0")]
)
def test_app__a_database_that_cannot_be_read__is_a_finding(
    arguments: list[str], content: bytes, named: str, tmp_path: Path
) -> None:
    """A damaged file, and one of another schema, are named with the next step."""
    path = tmp_path / "local.db"
    path.write_bytes(content)
    result = CliRunner().invoke(app, [*arguments, "--db", str(path)])
    assert result.exit_code == 1
    assert f"{path}: " in result.stderr
    assert named in result.stderr
    assert "see paygent doctor" in result.stderr
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "arguments", [["explain", "x"], ["users"], ["plans", "list"], ["prices", "show", "gpt-4o"]]
)
def test_app__a_folder_that_cannot_be_searched__is_a_finding(
    arguments: list[str], db_path: str, tmp_path: Path, no_search: NoSearch
) -> None:
    """Nobody is told that there is no store where there may be one."""
    no_search(tmp_path)
    result = CliRunner().invoke(app, [*arguments, "--db", db_path])
    assert result.exit_code == 1
    assert f"{db_path} cannot be reached (Permission denied): get search permission" in (
        result.stderr
    )


@pytest.mark.parametrize("arguments", [["explain", "x"], ["users"], ["plans", "list"]])
def test_app__a_database_of_another_program__is_a_finding(
    arguments: list[str], tmp_path: Path
) -> None:
    """The remedy is another file."""
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    connection.close()
    result = CliRunner().invoke(app, [*arguments, "--db", str(path)])
    assert result.exit_code == 1
    assert f"{path}: the file is no Paygent database; name another file with" in result.stderr


def test_app__a_store_in_memory__is_a_finding() -> None:
    """There is nothing to read outside of its process."""
    result = CliRunner().invoke(app, ["users"], env={"PAYGENT_DB_PATH": ":memory:"})
    assert result.exit_code == 1
    assert "name a file with --db" in result.stderr


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """A store with an event of the user ann."""
    path = str(tmp_path / "local.db")
    store = SqliteStore(path)
    store.ingest("default", batch_of(make_event("a")))
    store.close()
    return path


def run_shell(command: str, db_path: str) -> tuple[int, str, str]:
    """Run a command of ours with the shell's redirections; return status, output and errors."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m paygent {command}', sys.executable],
        env={**os.environ, "PAYGENT_DB_PATH": db_path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


_READING = ["users", "users --format csv", "users --format json", "explain a", "prices show gpt-4o"]


@pytest.mark.parametrize("command", _READING)
def test_app__a_closed_output__is_success_without_output(command: str, stored: str) -> None:
    """A job that closes its output wants the exit status."""
    assert run_shell(f"{command} >&-", stored) == (0, "", "")


@pytest.mark.parametrize("command", _READING)
def test_app__an_output_that_cannot_be_written__is_one_line(command: str, stored: str) -> None:
    """A full disk has its reason instead of a traceback, and none at the end of Python either."""
    status, _, err = run_shell(f"{command} > /dev/full", stored)
    name = "prices show" if command.startswith("prices") else command.split()[0]
    reason = "the output cannot be written (No space left on device): send it elsewhere"
    assert (status, err) == (1, f"paygent {name}: {reason}\n")


@pytest.mark.parametrize("command", _READING)
def test_app__a_reader_that_has_enough__is_no_error(command: str, stored: str) -> None:
    """`head` ends before the command does."""
    assert run_shell(f"{command} | true", stored) == (0, "", "")


def test_app__a_file_that_the_system_refuses__is_named(
    stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system is no traceback, in any command."""

    def failing(**arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/x")

    monkeypatch.setattr(demo, "main", failing)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == "paygent demo: /data/x: Permission denied; see paygent doctor\n"


def test_app__a_path_with_control_characters__is_escaped_in_errors(tmp_path: Path) -> None:
    """A message is text, not a command to the terminal."""
    result = CliRunner().invoke(app, ["users", "--db", str(tmp_path / "a\x1b[31m\n.db")])
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr
    assert "a\\x1b[31m\\n.db" in result.stderr
    assert result.stderr.count("\n") == 1


def test_row_10__without_the_sdks__prints_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the provider SDKs the command names the clone, not the reader's own folder."""
    monkeypatch.delattr("paygent.cli.demo")
    for name in ("paygent.cli.demo", "paygent.cli.demo_story.story", "openai"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("paygent.cli.demo_story.story", raising=False)
    monkeypatch.setitem(sys.modules, "openai", None)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 2
    hint = "openai is missing: run this in your clone of Paygent: pip install '.[demo]'"
    assert hint in result.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_row_10__without_the_libraries_of_the_cli__prints_what_to_install(missing: str) -> None:
    """The installed script has no traceback where only the SDK was installed."""
    code = f"import sys; sys.modules[{missing!r}] = None; from paygent.__main__ import main; main()"
    process = start(code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == (
        f"{missing} is missing: run this in your clone of Paygent: pip install '.[cli]'\n"
    )
