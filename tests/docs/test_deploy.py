"""The files of `deploy/`: they parse, are hardened, and name commands and options that exist."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml  # type: ignore[import-untyped]
from tests.docs.pages import ROOT
from tests.postgres import Cluster
from typer.testing import CliRunner

from paygent.cli.app import app
from paygent.cli.database import VARIABLE

DEPLOY = ROOT / "deploy"


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    found = [re.fullmatch(r"([A-Z]+) +(.*)", line.strip()) for line in lines if line.strip()]
    return [(each[1], each[2]) for each in found if each is not None]


class Unit(configparser.RawConfigParser):
    """A file of systemd: names keep their case, and a name may be given several times."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, delimiters=("=",), comment_prefixes=("#",))
        self.read_string(path.read_text(encoding="utf-8"))

    def optionxform(self, optionstr: str) -> str:
        return optionstr


DOCKERFILE = instructions((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
UNIT = Unit(DEPLOY / "paygent.service")


def argument_lists() -> list[list[str]]:
    """Return the arguments of each `paygent` that the files start or advise to run."""
    exec_start = shlex.split(UNIT["Service"]["ExecStart"])
    assert exec_start[0].endswith("/bin/paygent")
    dockerfile = dict(DOCKERFILE)
    assert json.loads(dockerfile["ENTRYPOINT"]) == ["paygent"]
    advised = [
        shlex.split(arguments)
        for path in sorted(DEPLOY.iterdir())
        for arguments in re.findall(
            r"(?:\bpaygent|--rm server) (keys create [^\n]*)", path.read_text(encoding="utf-8")
        )
    ]
    assert len(advised) == 3
    command = COMPOSE["services"]["server"]["command"]
    return [exec_start[1:], json.loads(dockerfile["CMD"]), command, *advised]


@pytest.mark.parametrize("arguments", argument_lists(), ids=" ".join)
def test_deploy__a_command__exists_with_its_options(arguments: list[str]) -> None:
    """With `--help` it runs nothing; an option that does not exist ends with status 2."""
    result = CliRunner().invoke(app, [*arguments, "--help"])
    assert (result.exit_code, "Usage:" in result.output) == (0, True), result.output


def test_deploy__servers_that_log__print_no_keys() -> None:
    """The output of a container or unit is kept by others."""
    serving = [arguments for arguments in argument_lists() if arguments[0] == "serve"]
    assert len(serving) == 3
    assert all("--no-keys" in arguments for arguments in serving)


def test_dockerfile__runs_without_privileges_and_checks_health() -> None:
    """Only the image's usual name is there, and the user is none of root."""
    names = [name for name, _ in DOCKERFILE]
    assert names.index("USER") < names.index("ENTRYPOINT")
    found = dict(DOCKERFILE)
    assert found["FROM"] == "python:3.13-slim"
    assert found["USER"] == "paygent"
    assert "/health" in found["HEALTHCHECK"]
    assert found["EXPOSE"] == "8790"
    assert found["VOLUME"] == "/var/lib/paygent"
    assert found["ENV"] == f"{VARIABLE}=sqlite:////var/lib/paygent/server.db"
    copied = [part for name, rest in DOCKERFILE if name == "COPY" for part in rest.split()[:-1]]
    assert [part for part in copied if not (ROOT / part).exists()] == []


def test_dockerfile__its_health_check__is_python_that_compiles() -> None:
    """A mistake in it would restart a sound server."""
    (check,) = re.findall(r"CMD (\[.*\])", dict(DOCKERFILE)["HEALTHCHECK"])
    program, flag, code = json.loads(check)
    assert (program, flag) == ("python", "-c")
    compile(code, "healthcheck", "exec")


def test_compose__the_server__waits_for_its_database_and_is_closed_to_the_network() -> None:
    """The password comes from outside, and both services keep their data or have none."""
    server, postgres = COMPOSE["services"]["server"], COMPOSE["services"]["postgres"]
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).exists()
    url = server["environment"][VARIABLE]
    assert url.startswith("postgresql://paygent:${POSTGRES_PASSWORD:?")
    assert url.endswith("@postgres:5432/paygent")
    assert server["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert server["ports"] == ["127.0.0.1:8790:8790"]
    assert server["cap_drop"] == ["ALL"]
    assert postgres["image"] == "postgres:18"
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql"]
    assert "ports" not in postgres
    assert COMPOSE["volumes"].keys() == {"postgres"}


def test_compose__settings_of_postgres__are_accepted_and_those_of_the_guide() -> None:
    """A name or value that PostgreSQL does not know would keep it from starting."""
    program, *options = COMPOSE["services"]["postgres"]["command"]
    assert program == "postgres"
    given = dict(option.removeprefix("--").split("=", 1) for option in options)
    default = re.fullmatch(r"\$\{POSTGRES_SHARED_BUFFERS:-(\w+)\}", given["shared_buffers"])
    assert default is not None
    with Cluster(settings={**given, "shared_buffers": default[1]}) as cluster:
        with psycopg.connect(cluster.url()) as connection:
            rows = connection.execute("SELECT name, source FROM pg_settings").fetchall()
    assert [name for name in given if dict(rows)[name] != "command line"] == []
    guide = (ROOT / "docs/guide/scaling.md").read_text(encoding="utf-8")
    advised = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", guide, flags=re.M))
    assert advised.pop("shared_buffers") == "a quarter of the memory"
    assert advised == {
        name: f"`{value}`" for name, value in given.items() if name != "shared_buffers"
    }


def test_unit__is_hardened_and_restarts() -> None:
    """An account of its own, a read-only system, one folder to write."""
    service = UNIT["Service"]
    expected = {
        "DynamicUser": "yes",
        "StateDirectory": "paygent",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "Environment": f"{VARIABLE}=sqlite:////var/lib/paygent/server.db",
    }
    assert {name: service.get(name) for name in expected} == expected
    assert int(service["TimeoutStopSec"]) > 25  # the longest drain of a server
    assert UNIT["Unit"]["StartLimitIntervalSec"] == "0"  # restarts are not given up
    assert UNIT["Install"]["WantedBy"] == "multi-user.target"
