"""The guides about the backend: their commands run, in order, on a real server of this machine.

A reader's shell has the programs of the guides in its path. `paygent serve` and `systemctl start
paygent` start a server on a free port and wait for it; `systemctl stop paygent` stops it. `pip`
does nothing, since everything is installed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.docs.pages import PATIENCE, ROOT, blocks, commands, files, normalised, outputs
from tests.postgres import Cluster
from tests.server_process import environment, usage_events

from paygent.store.statements import SQL_FOLDER

GUIDE = ROOT / "docs/guide"
POSTGRES = "PostgreSQL"
_PORT = "8790"

_PREAMBLE = """
set -euo pipefail
server=
start_server() {
    paygent serve --port "$PORT" "$@" > server.out 2> server.err &
    server=$!
    until curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/ready"; do
        kill -0 "$server" 2> /dev/null || { cat server.out server.err; exit 1; }
        sleep 0.1
    done
}
stop_server() {
    if [ -n "$server" ]; then kill "$server"; wait "$server"; server=; fi
}
pip() { :; }
systemctl() {
    case "$*" in
        "stop paygent") stop_server ;;
        "start paygent") start_server --no-keys ;;
        *) exit 64 ;;
    esac
}
trap '[ -z "$server" ] || kill -9 "$server"' EXIT
"""


def sections(page: Path, *, of_postgres: bool) -> str:
    """Return the sections of a page that are about PostgreSQL, or the others."""
    text = page.read_text(encoding="utf-8")
    parts = re.split(r"^(?=## )", text, flags=re.M)
    return "".join(part for part in parts if (POSTGRES in part.partition("\n")[0]) == of_postgres)


def script(text: str) -> str:
    """Return the shell blocks of a text as one script, after its files; TOML is `plans.toml`."""
    saved = [("plans.toml", content) for content in blocks(text, "toml")]
    shell = "\n".join(
        [
            *(f"cat > {name} <<'END'\n{content}END\n" for name, content in saved),
            *(f"cat > {name} <<'END'\n{content}END\n" for name, content in files(text).items()),
            *blocks(text, "sh"),
        ]
    )
    assert shell.strip(), "nothing to run"
    return _PREAMBLE + re.sub(r"^paygent serve\b", "start_server", shell, flags=re.M)


class Reader:
    """Somebody with an empty home who pastes a page's commands into a shell."""

    def __init__(self, home: Path) -> None:
        """Install the `paygent` command; the system has the others."""
        missing = [name for name in ("bash", "curl", "sqlite3") if shutil.which(name) is None]
        assert not missing, f"the guides use programs that are not installed: {missing}"
        self.home = home
        programs = home / "bin"
        programs.mkdir()
        command = programs / "paygent"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m paygent "$@"\n')
        command.chmod(0o755)
        python = programs / "python"
        code = f"{PATIENCE}; import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
        python.chmod(0o755)
        self._port = str(_free_port())
        self._path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def run(self, shell: str, programs: Path | None = None, **variables: str) -> str:
        """Run a script, which must succeed; return what it prints."""
        path = self._path if programs is None else f"{programs}{os.pathsep}{self._path}"
        done = subprocess.run(
            ["bash", "-c", shell.replace(_PORT, self._port)],
            cwd=self.home,
            env=environment(HOME=str(self.home), PATH=path, PORT=self._port, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def _free_port() -> int:
    """Return a port that nobody gets by chance: below those that the system assigns."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """A reader."""
    return Reader(tmp_path)


@pytest.fixture
def restored_url(postgres: Cluster) -> str:
    """URL of a second empty database."""
    return postgres.new_database()


def test_self_hosting__its_commands__run_on_sqlite(reader: Reader) -> None:
    """From the first start to a restore, an audit and the metrics."""
    printed = reader.run(script(sections(GUIDE / "self-hosting.md", of_postgres=False)))
    assert "is revoked" in printed
    assert "written to product 'default'" in printed
    assert "paygent_http_requests_total" in printed
    assert printed.count("differences: 0") == 3
    assert (reader.home / "backup-2.db").exists()
    assert "nothing to write" in printed  # over HTTP, what was applied to the database


def test_self_hosting__its_commands__run_on_postgres(
    reader: Reader, postgres: Cluster, postgres_url: str, restored_url: str
) -> None:
    """A server, a dump that is restored, and a copy of the files that is complete."""
    text = sections(GUIDE / "self-hosting.md", of_postgres=True)
    printed = reader.run(
        script("```sh\npaygent serve\n```\n" + text),
        postgres.programs,
        PAYGENT_DATABASE_URL=postgres_url,
        RESTORED_URL=restored_url,
    )
    assert "audited: 1 product, differences: 0" in printed
    assert "backup successfully verified" in printed


def test_users__its_commands__run(reader: Reader) -> None:
    """Each verb by command and by route."""
    text = "```sh\npaygent serve\n```\n" + (GUIDE / "users.md").read_text(encoding="utf-8")
    printed = reader.run(script(text) + "\npaygent audit\n")
    for expected in (
        "user 'ann' has plan 'pro'",
        "user 'ann' is paused",
        '"paused":true',
        "override      spend per period plus $10.00",
        '"limits":[{',
        "erased: the sums of the user remain as erased_",
        "differences: 0",
    ):
        assert expected in printed, printed


def test_scaling__moving_to_postgres__copies_everything(
    reader: Reader, postgres: Cluster, postgres_url: str
) -> None:
    """Odd texts survive, the key works on, and the audit proves the counters."""
    (odd,) = usage_events(["e1"], "ann \"x', y\n\tz\\ é")
    others = {"session_id": "", "description": "a\r\nb", "model": "null"}
    events = json.dumps([odd, {**odd, **others, "id": "e2", "user_id": "eve"}])
    before = f"""
start_server
KEY=$(paygent keys create --product default --scope admin)
API=http://127.0.0.1:{_PORT}/api/v1
cat > events.json <<'END'
{events}
END
book() {{
    curl --fail --header "Authorization: Bearer $KEY" --json @events.json $API/events/batch
}}
book
paygent users add bob
paygent users list --format csv --database-url "sqlite:///$HOME/.paygent/server.db" > before.csv
"""
    after = "\nbook\npaygent users list --format csv > after.csv\ncmp before.csv after.csv\n"
    text = (GUIDE / "scaling.md").read_text(encoding="utf-8")
    shell = script(text).replace(_PREAMBLE, "")
    # The first server has the file, the second PostgreSQL.
    printed = reader.run(
        f"{_PREAMBLE}\n{before}\nexport PAYGENT_DATABASE_URL=$NEW_URL\n{shell}{after}",
        postgres.programs,
        NEW_URL=postgres_url,
    )
    assert '{"accepted":2,"duplicates":0}' in printed
    assert '{"accepted":0,"duplicates":2}' in printed
    assert "audited: 1 product, differences: 0" in printed


def test_scaling__the_lists_of_tables__are_those_of_the_schema() -> None:
    """A new table that grows with users must be distributed."""
    text = (GUIDE / "scaling.md").read_text(encoding="utf-8").partition("## Citus, by user")[2]
    distributed, others = text.split("The others are small")
    schema = "".join(path.read_text() for path in sorted((SQL_FOLDER / "migrations").iterdir()))
    tables = re.findall(r"CREATE TABLE (\w+) \(\n(.*?);$", schema, flags=re.M | re.S)
    keys = {name: re.findall(r"PRIMARY KEY \((.*?)\)", body) for name, body in tables}
    by_user = {name for name, key in keys.items() if re.search(r"\buser_id\b", "".join(key))}
    assert set(re.findall(r"`(\w+)`", distributed)) - {"user_id", "product_id"} == by_user
    assert set(re.findall(r"`(\w+)`", others.split(":", 1)[1].split(".")[0])) == {
        "schema_version",
        *(keys.keys() - by_user),
    }


def section(page: str, title: str) -> str:
    """Return the section of a guide with a title."""
    text = (GUIDE / page).read_text(encoding="utf-8")
    (found,) = [part for part in text.split("\n## ") if part.partition("\n")[0] == title]
    return found


CONNECT = section("quickstart.md", "6. Connect to a backend")
VERIFY = section("verify.md", "A backend")

_PRINTED = {
    "ADMIN_KEY": "^  admin key *",
    "PAYGENT_API_KEY": "^  export PAYGENT_API_KEY=",
    "PAYGENT_BASE_URL": "^  export PAYGENT_BASE_URL=",
}
"""Variables of the quickstart, and what is before their values in the output of the server."""


def with_keys(shell: str) -> str:
    """Return a script in which the shown keys are those that the server has printed."""

    def copied(match: re.Match[str]) -> str:
        return f"export {match[1]}=$(sed -n 's|{_PRINTED[match[1]]}||p' server.out)"

    return re.sub(rf"^export ({'|'.join(_PRINTED)})=\S+$", copied, shell, flags=re.M)


def comparable(printed: str) -> str:
    """Return a text without what differs between two runs: times, ports and the width of tables."""
    without_port = re.sub(r"(127\.0\.0\.1):\d+", r"\1:<port>", normalised(printed))
    return re.sub(r" +", " ", without_port)


def test_quickstart__connected__does_and_prints_what_the_page_says(reader: Reader) -> None:
    """From the first start of a server to a refusal, and the user as the backend shows them."""
    again = "\necho again\npython connected.py\n"
    printed = reader.run(with_keys(script(CONNECT)) + again)
    first, _, second = comparable(printed).partition("again")
    shown = outputs(CONNECT)
    assert sorted(shown) == ["connected.py", "users"]
    for each in shown.values():
        assert comparable(each) in first
    assert '"plan":"default"' in first
    assert '"period_cost":0.00135,' in first
    assert (second.count("answered"), second.count("refused: ann has used $0.001350")) == (0, 4)


def test_quickstart__the_keys_that_it_shows__are_lines_that_the_server_prints(
    reader: Reader,
) -> None:
    """The reader copies them from there."""
    printed = reader.run(script("```sh\npaygent serve\n```\n") + "\ncat server.out\n")
    (shown,) = [each for each in blocks(CONNECT, "") if "admin key" in each]
    lines = [re.escape(line).replace("…", r"\S+") for line in shown.splitlines()]
    assert re.search("^" + "\n".join(lines), re.sub(r"(?<=127.0.0.1):\d+", ":8790", printed), re.M)


def test_verify__connected__does_and_prints_what_the_page_says(reader: Reader) -> None:
    """The event of the check is on the backend, and each sign of trouble is what the page names."""
    start = "```sh\npaygent serve\n```\n" + "".join(
        f"```sh\n{each}```\n" for each in blocks(CONNECT, "sh") if each.startswith("export ")
    )
    troubles = """
echo
echo rejected
PAYGENT_API_KEY=pg_live_unknown python verify_backend.py
echo unset
PAYGENT_API_KEY= python verify_backend.py
stop_server
echo stopped
python verify_backend.py
echo strict
sed 's/init()/init(strict_backend=True)/' verify_backend.py > strict.py
python strict.py || true
"""
    printed = reader.run(with_keys(script(start + VERIFY)) + troubles)
    found = re.split(r"^(?:rejected|unset|stopped|strict)$", printed, flags=re.M)
    good, rejected, unset, stopped, strict = found
    assert outputs(VERIFY)["verify_backend.py"] in good
    assert '"user_id":"verify"' in good
    assert '"period_cost_nano":1000,' in good
    assert "PaygentAuthInvalid" in rejected and "False offline 0 1" in rejected
    assert "False local 1 0" in unset
    assert "PaygentBackendUnreachable" in stopped and "False offline 0 1" in stopped
    assert "Traceback" in strict and "PaygentBackendUnreachable" in strict
    for named in ("PaygentAuthInvalid", "PaygentBackendUnreachable", "`False offline 0 1`"):
        assert named in VERIFY


@pytest.mark.parametrize("name", ["self-hosting.md", "users.md", "scaling.md"])
def test_guides__commands__are_in_blocks_that_are_run(name: str) -> None:
    """A block of another kind shows output or configuration alone."""
    text = (GUIDE / name).read_text(encoding="utf-8")
    assert list(commands(text))
    other = re.sub(r"^```sh\n.*?^```$", "", text, flags=re.M | re.S)
    shown = "".join(re.findall(r"^```\w*\n(.*?)^```$", other, flags=re.M | re.S))
    typed = re.findall(r"^(?:\$ )?(?:paygent|curl|sqlite3|psql|pg_\w+|systemctl) .*", shown, re.M)
    assert typed == []
