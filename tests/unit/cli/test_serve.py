"""`paygent serve` up to the point where it serves; `tests/integration` has the running server."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.samples import batch_of, make_event
from tests.promises.scripts import start
from tests.unit.cli.conftest import invoke

from paygent.cli import serve
from paygent.server.settings import ServerSettings
from paygent.store.factory import open_store
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ServerSettings]]:
    """Record what would be served, with the port that is bound."""
    settings: list[ServerSettings] = []

    def note(wanted: ServerSettings, *, listener: socket.socket) -> None:
        assert listener.getsockname()[1]
        settings.append(wanted)

    monkeypatch.setattr(serve, "serve", note)
    before = signal.getsignal(signal.SIGTERM)
    yield settings
    signal.signal(signal.SIGTERM, before)


def test_serve__first_and_later_start__differ_in_the_keys(
    served: list[ServerSettings], database_url: str
) -> None:
    """The folder of the file is made, and the address has the port that was found."""
    status, first, _ = invoke("serve", "--port", "0")
    assert (status, first.count("pg_live_")) == (0, 2)
    status, later, _ = invoke("serve", "--port", "0")
    assert (status, len(later.splitlines())) == (0, 1)
    assert later.startswith("Paygent listens on http://127.0.0.1:")
    assert later.endswith(f", database {database_url}\n")
    assert ":0," not in later
    assert [each.database_url for each in served] == [database_url] * 2


def test_serve__for_every_address__names_this_host(
    served: list[ServerSettings], database_url: str
) -> None:
    """No application can call 0.0.0.0."""
    _, out, _ = invoke("serve", "--port", "0", "--host", "0.0.0.0")
    assert "listens on http://0.0.0.0:" in out
    assert f"export PAYGENT_BASE_URL=http://{socket.gethostname()}:" in out


def test_serve__ipv6__is_shown_in_brackets(served: list[ServerSettings], database_url: str) -> None:
    """As in any URL."""
    _, out, _ = invoke("serve", "--port", "0", "--host", "::1", "--no-keys")
    assert "listens on http://[::1]:" in out


def test_serve__several_products_without_keys__says_so(
    served: list[ServerSettings], ledger: SqlStore
) -> None:
    """It serves all the same."""
    for product in ("acme", "shop"):
        ledger.ingest(product, batch_of(make_event("a")))
    status, out, _ = invoke("serve", "--port", "0")
    assert (status, len(served)) == (0, 1)
    assert "no keys were created, since there are several products ('acme', 'shop')" in out


def test_serve__without_keys__leaves_the_database_empty(
    served: list[ServerSettings], database_url: str
) -> None:
    """A command makes the first ones."""
    assert invoke("serve", "--port", "0", "--no-keys")[0] == 0
    store = open_store(database_url)
    assert store.products() == ()
    store.close()


def test_serve__a_port_in_use__creates_nothing(
    served: list[ServerSettings], database_url: str, tmp_path: Path
) -> None:
    """The status is that of a usage error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = invoke("serve", "--port", str(taken.getsockname()[1]))
    assert (status, "cannot listen on" in err, served) == (2, True, [])
    assert not (tmp_path / "server").exists()


def test_serve__two_workers_on_sqlite__names_the_rule(
    served: list[ServerSettings], database_url: str
) -> None:
    """And the option."""
    status, _, err = invoke("serve", "--workers", "2")
    assert (status, "--workers = 2: must be 1 on SQLite" in err, served) == (2, True, [])


def test_serve__a_database_that_goes_away_meanwhile__is_an_error(
    served: list[ServerSettings], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, which would be all that a supervisor's log shows."""

    def fail(wanted: ServerSettings, *, listener: socket.socket) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(serve, "serve", fail)
    status, _, err = invoke("serve", "--port", "0")
    assert (status, err) == (1, f"paygent serve: {database_url} cannot be used: gone\n")


def test_serve__sigterm_before_it_serves__ends_with_0(
    served: list[ServerSettings], database_url: str
) -> None:
    """A supervisor that stops it at once sees no failure."""
    invoke("serve", "--port", "0")
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 0


def test_serve__without_its_libraries__says_what_to_install(tmp_path: Path) -> None:
    """The extra is named."""
    code = (
        "import sys; sys.modules['uvicorn'] = None; sys.argv[1:] = ['serve']\n"
        "from paygent.__main__ import main; main()"
    )
    process = start(code, HOME=str(tmp_path))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == "uvicorn is missing: run this in your clone of Paygent: pip install '.[server]'\n"
