"""`paygent serve` as real processes: first start, signals, kills, and two servers at once."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.postgres import Cluster
from tests.server_process import (
    BATCH,
    EVENTS,
    Ingest,
    ServerProcess,
    assert_each_once,
    booked,
    command,
    usage_events,
)

from paygent import Paygent
from paygent.store.factory import open_store

REVOKED_WITHIN_S = 1.0

Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers, each with a folder of its own; they are killed when the test ends."""
    numbers, started = itertools.count(1), list[ServerProcess]()

    def start(database_url: str, *options: str) -> ServerProcess:
        started.append(ServerProcess(tmp_path / f"server-{next(numbers)}", database_url, *options))
        return started[-1]

    yield start
    for server in started:
        server.__exit__(None, None, None)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path / 'data' / 'server.db'}"


@pytest.fixture
def durable() -> Iterator[Cluster]:
    """A PostgreSQL that keeps what it acknowledged, whatever kills it."""
    with Cluster(durable=True) as cluster:
        yield cluster


# -- the first start


def test_serve__first_start__prints_keys_once_and_never_logs_them(
    serve: Serve, sqlite_url: str
) -> None:
    """What is printed works; the second start prints address and database alone."""
    server = serve(sqlite_url).wait_until_ready()
    admin, sdk = server.keys
    host, port = server.address
    assert f"export PAYGENT_BASE_URL=http://{host}:{port}" in server.printed
    assert server.request("GET", "/api/v1/products", key=sdk).body["products"][0]["id"] == "default"
    assert server.request("POST", EVENTS, usage_events(["a"]), key=sdk).status == 200
    assert server.request("GET", "/api/v1/keys", key=admin).status == 200
    assert server.request("GET", "/api/v1/keys", key=sdk).status == 403
    assert server.send_signal(signal.SIGTERM) == 0
    secrets = (admin, sdk, server.printed.split("set-up token")[1].split()[0])
    assert [server.printed.count(each) for each in secrets] == [1, 1, 1]
    assert [each in server.logged for each in secrets] == [False] * 3

    again = serve(sqlite_url).wait_until_ready()
    host, port = again.address
    assert again.printed == f"Paygent listens on http://{host}:{port}, database {sqlite_url}\n"
    assert again.request("GET", "/api/v1/keys", key=admin).status == 200


def test_serve__without_keys__prints_none_until_a_command_makes_one(
    serve: Serve, sqlite_url: str
) -> None:
    """Where the output is a log; the set-up token is printed by a command, too."""
    server = serve(sqlite_url, "--no-keys").wait_until_ready()
    assert "pg_live_" not in server.printed
    arguments = ("keys", "create", "--product", "shop", "--scope", "admin")
    status, key = command(*arguments, database_url=sqlite_url)
    assert status == 0
    assert (
        server.request("GET", "/api/v1/products", key=key.strip()).body["products"][0]["id"]
        == "shop"
    )
    _products_need(server, *command("keys", "setup-token", database_url=sqlite_url)[1].split())


def test_serve__the_setup_token__makes_a_product(serve: Serve, sqlite_url: str) -> None:
    """As printed; without it the route is closed once there is a product."""
    server = serve(sqlite_url).wait_until_ready()
    _products_need(server, server.printed.split("set-up token")[1].split()[0])


def _products_need(server: ServerProcess, token: str) -> None:
    """Check that products are created with a token and not without."""
    connection = server.connect()
    for given, status in (("", 403), (token, 201)):
        headers = {"Content-Type": "application/json"} | ({"X-Setup-Token": given} if given else {})
        connection.request("POST", "/api/v1/products", b'{"name": "Second"}', headers)
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == status, body
    connection.close()
    assert server.request("GET", "/api/v1/users", key=body["api_key"]).status == 200


def test_serve__a_file_of_local_mode__answers_with_its_events(
    serve: Serve, init: Callable[..., Paygent], db_path: str
) -> None:
    """An application's product and spend are there; `paygent serve` needs no import."""
    pg = init()
    pg.record_event("ann", cost="0.25")
    pg.record_event("ann", cost="0.50")
    pg.shutdown()
    server = serve(f"sqlite:///{db_path}").wait_until_ready()
    _, sdk = server.keys
    answer = server.request("GET", "/api/v1/users/ann/session", key=sdk)
    assert (answer.status, answer.body["current_usage"]["period_cost"]) == (200, 0.75)


def test_plans_apply__over_http__writes_what_the_database_then_has(
    serve: Serve, sqlite_url: str, tmp_path: Path
) -> None:
    """Without access to the database; a second time nothing changes, and an SDK key may not."""
    server = serve(sqlite_url).wait_until_ready()
    admin, sdk = server.keys
    file = tmp_path / "plans.toml"
    file.write_text(
        "[plans.pro]\nprice = 49.10\nmax_spend_per_period = 25.000000001\n"
        "model_limits = {gpt-4o = 50_000}\nwhen_offline = {allow_up_to = 0.1}\n"
        "limits = [{metric = 'calls', window = 'day', cap = 100}]\n"
        "[plans.pro.cost_rates.mine]\ninput = 0.0000123\noutput = 0.1\n"
    )
    host, port = server.address
    arguments = ("plans", "apply", str(file), "--base-url", f"http://{host}:{port}")
    status, text = command(*arguments, database_url="", variables={"PAYGENT_API_KEY": admin})
    assert (status, text.splitlines()[-1].endswith(": pro (version 1)")) == (0, True), text
    for options in (["--base-url", arguments[-1], "--api-key", admin], []):
        url = "" if options else sqlite_url
        status, text = command("plans", "apply", str(file), *options, database_url=url)
        assert (status, "nothing to write" in text) == (0, True), text
    status, text = command(*arguments, "--api-key", sdk, database_url="")
    assert (status, "answers 403" in text, sdk in text) == (1, True, False), text


# -- usage errors


def test_serve__a_port_in_use__is_a_usage_error(serve: Serve, sqlite_url: str) -> None:
    """It is found before a database is created or a key is printed."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, text = command("serve", "--port", str(port), database_url=sqlite_url)
    assert status == 2
    assert text.startswith(f"paygent serve: cannot listen on http://127.0.0.1:{port} (")
    assert "--port" in text
    assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers", "2"], "--workers = 2: must be 1 on SQLite, which has one writer"),
        (["--workers", "0"], "--workers = 0"),
        (["--port", "65536"], "--port = 65536"),
        (["--host", "192.0.2.1", "--port", "0"], "cannot listen on http://192.0.2.1:0"),
    ],
)
def test_serve__options_that_cannot_be_served__are_usage_errors(
    sqlite_url: str, options: list[str], says: str
) -> None:
    """Each names its rule."""
    status, text = command("serve", *options, database_url=sqlite_url)
    assert (status, says in text) == (2, True), text


@pytest.mark.parametrize("port", [1, None], ids=["refused", "silent"])
def test_serve__a_database_that_is_away__is_one_line_with_the_reason(port: int | None) -> None:
    """Without the driver's own lines, and without the password. Nothing listens on port 1; a
    machine that is cut off does not answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://paygent:secret@127.0.0.1:{port or silent.getsockname()[1]}/paygent"
        status, text = command("serve", "--port", "0", database_url=url)
    reason = "Connection refused" if port else "timeout"
    assert (status, len(text.splitlines()), "secret" in text) == (1, 1, False), text
    assert "cannot be used: PostgreSQL: " in text
    assert reason in text


def test_serve__a_schema_that_is_too_new__is_one_line(postgres_url: str) -> None:
    """Found after the connection was made: no thread of the pool is left to be stopped."""
    open_store(postgres_url).close()
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE schema_version SET version = 999")
    status, text = command("serve", "--port", "0", database_url=postgres_url)
    assert (status, len(text.splitlines()), "has schema 999" in text) == (1, 1, True), text


# -- signals


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_serve__a_signal_while_a_request_is_read__answers_it_first(
    serve: Serve, sqlite_url: str, sign: signal.Signals
) -> None:
    """The batch is booked and acknowledged; new connections are refused; the status is 0."""
    server = serve(sqlite_url).wait_until_ready()
    _, sdk = server.keys
    body = json.dumps(usage_events(["late"])).encode()
    with socket.create_connection(server.address, timeout=30) as client:
        head = (
            f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {sdk}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        client.sendall(head.encode())
        assert client.recv(1_000).startswith(b"HTTP/1.1 100")  # the application reads the body
        server.process.send_signal(sign)
        _wait_until_refused(server)
        client.sendall(body)
        answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert server.process.wait(30) == 0, server.logged
    assert booked(sqlite_url) == ["late"]


def _wait_until_refused(server: ServerProcess) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(server.address, timeout=1).close()
        except ConnectionRefusedError:
            return
        except TimeoutError:  # a busy machine, or a queue that is not emptied any more
            continue
        time.sleep(0.02)
    raise AssertionError("the server still accepts connections")


# -- kills


def test_serve__killed_in_the_middle_of_ingest__has_every_acknowledged_event_once(
    serve: Serve, sqlite_url: str
) -> None:
    """SQLite: a batch that was acknowledged is on the disk; sent again it counts nothing."""
    server = serve(sqlite_url).wait_until_ready()
    _, sdk = server.keys
    ingest = Ingest(server, sdk)
    ingest.wait_for(200)
    server.kill()
    acknowledged = ingest.end()
    restarted = serve(sqlite_url).wait_until_ready()
    answer = restarted.request("POST", EVENTS, usage_events(acknowledged[-BATCH:]), key=sdk)
    assert answer.body == {"accepted": 0, "duplicates": BATCH}
    restarted.kill()
    assert_each_once(sqlite_url, acknowledged)


def test_serve__killed_on_postgres_with_its_database__has_every_acknowledged_event_once(
    serve: Serve, durable: Cluster
) -> None:
    """First PostgreSQL is killed under the server, which goes on by itself; then the server is."""
    url = durable.new_database()
    server = serve(url).wait_until_ready()
    _, sdk = server.keys
    ingest = Ingest(server, sdk)
    ingest.wait_for(200)
    durable.kill()
    assert server.request("GET", "/ready").status == 503
    assert server.request("GET", "/health").status == 200
    durable.start()
    ingest.wait_for(200)
    server.kill()
    assert_each_once(url, ingest.end())


# -- several servers


def test_serve__two_servers_start_at_once_on_an_empty_database__one_prints_keys(
    serve: Serve, postgres_url: str
) -> None:
    """Migrations run once; both serve, and both accept what either acknowledged."""
    servers = [serve(postgres_url) for _ in range(2)]
    for server in servers:
        server.wait_until_ready()
    printing = [server for server in servers if "pg_live_" in server.printed]
    assert len(printing) == 1
    _, sdk = printing[0].keys
    running = [Ingest(server, sdk, str(number)) for number, server in enumerate(servers)]
    for ingest in running:
        ingest.wait_for(100)
    acknowledged = [event_id for ingest in running for event_id in ingest.end()]
    assert [server.send_signal(signal.SIGTERM) for server in servers] == [0, 0]
    assert_each_once(postgres_url, acknowledged)


def test_serve__a_revoked_key__is_refused_by_two_servers_within_a_second(
    serve: Serve, postgres_url: str
) -> None:
    """Both have just used it."""
    servers = [serve(postgres_url, "--no-keys").wait_until_ready() for _ in range(2)]
    _, text = command("keys", "create", "--product", "shop", database_url=postgres_url)
    key = text.strip()
    store = open_store(postgres_url)
    (key_id,) = (each.key_id for each in store.keys("shop"))
    statuses = [server.request("GET", "/api/v1/products", key=key).status for server in servers]
    assert statuses == [200, 200]
    assert store.revoke_key("shop", key_id)
    time.sleep(REVOKED_WITHIN_S)
    statuses = [server.request("GET", "/api/v1/products", key=key).status for server in servers]
    assert statuses == [401, 401]
    store.close()


def test_serve__with_two_workers_on_postgres__serves_and_ends_with_0(
    serve: Serve, postgres_url: str
) -> None:
    """Both workers book; SIGTERM reaches them through their parent."""
    server = serve(postgres_url, "--workers", "2").wait_until_ready()
    _, sdk = server.keys
    ingest = Ingest(server, sdk)
    ingest.wait_for(100)
    acknowledged = ingest.end()
    assert server.send_signal(signal.SIGTERM) == 0
    assert_each_once(postgres_url, acknowledged)
