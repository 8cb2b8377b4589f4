"""The page about the routes is that of the server, and each of its examples succeeds."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.docs.pages import ROOT, blocks
from tests.docs.rest import (
    INLINE,
    PAGE,
    Row,
    curl,
    document,
    meaning_of,
    models,
    routes,
    with_parts,
)
from tests.docs.rest_words import EXAMPLES, MEANINGS, REFUSALS, SAME_AS
from tests.server_process import ServerProcess, environment

TEXT = PAGE.read_text(encoding="utf-8")

_NEW_PLAN = (
    'PLAN_ID=$(curl --fail --silent --header "Authorization: Bearer $ADMIN_KEY" $API/config/plans'
    ' --json \'{"plans": [{"name": "%s"}]}\' | grep -o \'plan_[a-z0-9]*\' | head -1)\n'
)
_NEW_KEY = (
    'KEY_ID=$(curl --fail --silent --header "Authorization: Bearer $ADMIN_KEY" $API/keys'
    ' --json \'{"scope": "sdk"}\' | sed \'s/.*"id":"\\([^"]*\\)".*/\\1/\')\n'
)
BEFORE = {
    "POST /users/{user_id}/subscription": _NEW_PLAN % "pro",
    "PATCH /config/plans/{plan_id}": _NEW_PLAN % "pro",
    "DELETE /config/plans/{plan_id}": _NEW_PLAN % "unused",
    "POST /keys/{key_id}/rotate": _NEW_KEY,
    "DELETE /keys/{key_id}": _NEW_KEY,
    "GET /usage": (
        'TOKEN=$(curl --fail --silent --header "Authorization: Bearer $SDK_KEY" --request POST'
        " $API/users/ann/usage-token | grep -o 'pg_usage_[^\"]*')\n"
    ),
    "DELETE /users/{user_id}/overrides/{override_id}": (
        'OVERRIDE_ID=$(curl --fail --silent --header "Authorization: Bearer $ADMIN_KEY"'
        ' $API/users/ann/overrides | sed \'s/.*"id":"\\([^"]*\\)".*/\\1/\')\n'
    ),
}
"""What sets the id of an example's earlier answer."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with the keys of its first start."""
    with ServerProcess(tmp_path, f"sqlite:///{tmp_path}/server.db") as started:
        yield started.wait_until_ready()


def test_rest__the_page__has_the_routes_of_the_server() -> None:
    """Fields, types and scopes follow the OpenAPI document; `make docs` writes them."""
    assert with_parts(TEXT) == TEXT, "run `make docs`"


def test_rest__every_example__succeeds(server: ServerProcess, tmp_path: Path) -> None:
    """Each command of the page, in its order, on a server that has just started."""
    host, port = server.address
    admin, sdk = server.keys
    token = re.search(r"set-up token\s+(\S+)", server.printed)
    assert token is not None
    commands = blocks(TEXT, "sh")
    shown = {curl(route, EXAMPLES[route.name]): route.name for route in routes()}
    assert shown.keys() <= set(commands)
    script = ["set -eu -o pipefail"]
    for command in commands:
        command = command.replace("http://127.0.0.1:8790", f"http://{host}:{port}")
        script.append(BEFORE.get(shown.get(command, ""), "") + command)
    variables = {"ADMIN_KEY": admin, "SDK_KEY": sdk, "SETUP_TOKEN": token[1]}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        env=environment(HOME=str(tmp_path), **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert '"accepted":1,"duplicates":0' in done.stdout


def test_rest__the_sample_of_an_error__is_what_a_server_answers(server: ServerProcess) -> None:
    """All but the id of the request."""
    (text,) = blocks(TEXT, "json")
    sample: dict[str, Any] = json.loads(text)
    plan = {"name": "pro", "max_spend_per_period": -1, "soft_gate": 0.8}
    path = "/api/v1/config/plans"
    answer = server.request("POST", path, {"plans": [plan]}, key=server.keys[0])
    assert answer.status == sample["status"]
    assert answer.body | {"request_id": ""} == sample | {"request_id": ""}


def test_rest__the_kinds_of_problems__are_those_of_the_server() -> None:
    """The table of errors and the refusals of routes name no kind that does not exist, and all."""
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "src/paygent/server").rglob("*.py")
        if path.parent.name != "dashboard"  # answers pages, not problems
    )
    made = set(re.findall(r'Problem\(\s*\d+, "([a-z-]+)"', source))
    assert len(made) > 10
    errors = TEXT.partition("## Errors")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in errors.splitlines() if re.match(r"\| \d", line)]
    listed = {kind for cells in rows for kind in re.findall(r"`([a-z-]+)`", cells[2])}
    assert listed == made | {"method-not-allowed"}  # that one is the framework's
    assert {kind for refusals in REFUSALS.values() for _, kind, _ in refusals} <= made


def test_rest__examples_and_refusals__are_about_routes_of_the_document() -> None:
    """None is left over, and a route refuses with a status that the document has."""
    by_name = {route.name: route for route in routes()}
    assert EXAMPLES.keys() == by_name.keys()
    assert BEFORE.keys() | REFUSALS.keys() <= by_name.keys()
    undocumented = [
        (name, status)
        for name, refusals in REFUSALS.items()
        for status, _, _ in refusals
        if str(status) not in by_name[name].operation["responses"]
    ]
    assert undocumented == []


def test_rest__every_meaning__is_of_a_field_and_a_sentence() -> None:
    """A field that was renamed leaves nothing behind."""
    objects = {*models(), *INLINE}
    assert {*SAME_AS, *SAME_AS.values()} <= objects
    left = [
        name
        for name in MEANINGS
        if "." in name and name.partition(".")[0] not in objects and " " not in name
    ]
    assert left == []
    named = models() | INLINE
    fields = {field for model in named.values() for field in model.get("properties", ())}
    for name in MEANINGS:
        owner, _, field = name.rpartition(".")
        if owner in named and field != "…":
            assert field in named[owner]["properties"], name
        elif not owner:
            parameters = str([route.operation.get("parameters") for route in routes()])
            assert field in fields or f"'{field}'" in parameters, name
    assert [text for text in MEANINGS.values() if not text.endswith(".")] == []


def test_rest__a_field_without_a_meaning__is_an_error() -> None:
    """`make docs` ends, rather than leaving a cell empty."""
    with pytest.raises(KeyError, match=r"User\.nickname has no meaning"):
        meaning_of(Row("nickname", "User", {"type": "string"}, is_required=True))


def test_rest__the_limits__are_those_of_the_server() -> None:
    """The table of limits is written by hand, and its figures are in the document."""
    text = json.dumps(document())
    for bound in ('"maxItems": 1000', '"maxItems": 200', '"maxLength": 255', '"maxLength": 128'):
        assert bound in text


def test_with_parts__a_page_without_a_place__is_rejected() -> None:
    """A part must not disappear from the page in silence."""
    with pytest.raises(ValueError, match=r"rest\.md has no place for overview"):
        with_parts("# REST\n")
