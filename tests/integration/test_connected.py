"""Processes that share a backend: what is changed there applies in all of them within two seconds,
and while it is away those of a host go on together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.promises.connected_app import DIME_NANO, App
from tests.promises.faults import Backend, Fault, FaultyBackend, until

from paygent.core.event_json import read_time
from paygent.core.report import Figures
from paygent.core.report_request import read_request
from paygent.store.factory import open_store

NEWS_S = 2.0
"""How soon a change applies everywhere."""

NOISE_S = 3.0
"""Allowed above that on a busy machine."""

IDLE_S = 6.0
"""Longer than a server repeats earlier changes, with which a process would ask about users."""

PATIENT = """
from paygent.client.metering import wait
wait.FIRST_TOUCH_WAIT_S = 30.0  # a busy machine must not be taken for a slow backend
"""

OBEDIENT = f"""{PATIENT}
url, key, db_path = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
obey(pg)
"""

REPORTING = (
    PATIENT
    + """
from paygent import InvalidValue, paygent_context
from paygent.core.report import Figures

url, key, db_path = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path, tag_keys=("team",))

def make_call(user_id, session_id, team):
    with paygent_context(user_id, session_id=session_id, metadata={"team": team}):
        call(pg, user_id)

def figures(row):
    return [getattr(row, name) for name in Figures._fields]

def show(by, arguments="{}"):
    try:
        shown = pg.report(by.split(","), **json.loads(arguments))
    except InvalidValue as error:
        return [[each.field, each.rule] for each in error.findings]
    rows = [[list(row.keys), figures(row)] for row in shown]
    return {"rows": rows, "total": figures(shown.total)}

def page_rows(count):
    remote.PAGE_ROWS_MAX = int(count)

commands = {"call": make_call, "show": show, "page_rows": page_rows}
while words := next_step().split():
    report(result=commands[words[0]](*words[1:]))
pg.shutdown()
"""
)

Apps = tuple[App, App]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The server of all tests."""
    with Backend(tmp_path_factory.mktemp("backend")) as started:
        started.set_plan("default", max_spend_per_period=1000)
        yield started


@pytest.fixture(scope="module")
def apps(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    """Two applications on hosts of their own."""
    folder = tmp_path_factory.mktemp("apps")
    host, port = backend.server.address
    url = f"http://{host}:{port}"
    with (
        App(OBEDIENT, url, backend.sdk, str(folder / "a" / "local.db")) as one,
        App(OBEDIENT, url, backend.sdk, str(folder / "b" / "local.db")) as other,
    ):
        yield one, other
        for app in (one, other):
            app.go_on()
            app.end()


def use_up(apps: Apps, user_id: str) -> None:
    """Have both applications refuse a user."""
    passed, reason = apps[0].order("spend", user_id)
    assert passed > 0
    assert reason == "total_spend"
    apps[1].order("until_refused", user_id)


def assert_passes_soon(apps: Apps, user_id: str) -> None:
    """Check that both applications let a user call, soon after what has just been changed."""
    for app in apps:
        app.go_on(f"until_passes {user_id}")
    took_s = [app.read()["result"] for app in apps]
    assert max(took_s) < NEWS_S + NOISE_S


def test_plan__raised_over_rest__unblocks_its_users_in_every_process(
    backend: Backend, apps: Apps
) -> None:
    """A user who is refused in two processes calls again in both within two seconds."""
    plan_id = backend.set_plan("small", max_spend_per_period=0.2)
    backend.add_user("raised", plan_id)
    use_up(apps, "raised")
    backend.call("PATCH", f"/config/plans/{plan_id}", {"max_spend_per_period": 100})
    assert_passes_soon(apps, "raised")


def test_override__added_over_rest__unblocks_the_user_in_every_process(
    backend: Backend, apps: Apps
) -> None:
    """One user's cap is raised, and that of others of the plan is not."""
    plan_id = backend.set_plan("tiny", max_spend_per_period=0.2)
    for user_id in ("overridden", "neighbour"):
        backend.add_user(user_id, plan_id)
        use_up(apps, user_id)
    until = (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()
    override = {"limit": "total_spend", "add": 50, "until": until}
    backend.call("POST", "/users/overridden/overrides", override)
    assert_passes_soon(apps, "overridden")
    assert [app.order("call", "neighbour") for app in apps] == ["total_spend"] * 2


def test_subscription__to_another_plan__applies_in_every_process(
    backend: Backend, apps: Apps
) -> None:
    """The larger plan lets the user call, and the smaller one stops them again."""
    low = backend.set_plan("low", max_spend_per_period=0.2)
    high = backend.set_plan("high", max_spend_per_period=100)
    backend.add_user("moved", low)
    use_up(apps, "moved")
    backend.subscribe("moved", high)
    assert_passes_soon(apps, "moved")
    assert [app.order("plan", "moved") for app in apps] == ["high"] * 2
    backend.subscribe("moved", low)
    for app in apps:
        app.go_on("until_refused moved")
    assert max(app.read()["result"] for app in apps) < NEWS_S + NOISE_S


def test_pause__over_rest__is_known_where_the_user_has_not_called_for_a_while(
    backend: Backend, apps: Apps
) -> None:
    """Two seconds later the first call is refused, in a process that was busy with the user and in
    one that was idle; so it is with the resumption.
    """
    backend.add_user("paused")
    busy, idle = apps
    assert idle.order("call", "paused") is None
    idle.order("flush")
    time.sleep(IDLE_S)
    assert busy.order("call", "paused") is None
    backend.call("PATCH", "/users/paused", {"paused": True, "reason": "chargeback"})
    time.sleep(NEWS_S + NOISE_S)
    assert [app.order("call", "paused") for app in (idle, busy)] == ["paused"] * 2
    backend.call("PATCH", "/users/paused", {"paused": False})
    time.sleep(NEWS_S + NOISE_S)
    assert [app.order("call", "paused") for app in (idle, busy)] == [None] * 2


@pytest.mark.parametrize("is_known", [False, True], ids=["first", "known"])
@pytest.mark.parametrize("verb", ["configure", "assign"])
def test_plan__of_a_connected_process__does_not_replace_the_backends(
    backend: Backend, tmp_path: Path, verb: str, is_known: bool
) -> None:
    """`configure_plan` and `assign_plan` change nothing there, and soon nothing here: neither of a
    user whom the process knows already, nor of one who calls after them. It is logged once.
    """
    user_id, theirs, mine = (f"{name}-{verb}-{is_known}" for name in ("user", "theirs", "mine"))
    backend.add_user(user_id, backend.set_plan(theirs, max_spend_per_period=0.3))
    host, port = backend.server.address
    arguments = f"http://{host}:{port}", backend.sdk, str(tmp_path / "local.db")
    with App(OBEDIENT, *arguments) as app:
        if is_known:
            assert app.order("call", user_id) is None
            app.order("flush")
        for _ in range(2):
            app.order("configure", theirs if verb == "configure" else mine, 50)
            if verb == "assign":
                app.order("assign", user_id, mine)
        app.order("flush")
        assert app.order("until_refused", user_id) < NEWS_S + NOISE_S
        assert app.order("plan", user_id) == theirs
        app.go_on()
        logged = app.end()
    assert logged.count("Plans and assignments come from the backend") == 1, logged
    plans = {each["name"]: each for each in backend.call("GET", "/config/plans")["plans"]}
    assert plans[theirs]["max_spend_per_period"] == 0.3
    assert mine not in plans
    assert backend.call("GET", f"/users/{user_id}/session")["plan"] == theirs


def test_outage__of_more_than_five_seconds__leaves_the_processes_of_a_host_together(
    backend: Backend, tmp_path: Path
) -> None:
    """Each counts what the others spend meanwhile, also one that is started in the outage; after it
    the backend has each call once, and is used again.
    """
    backend.add_user("shared", backend.set_plan("dollar", max_spend_per_period=1))
    with FaultyBackend(backend.server.address) as proxy:
        arguments = proxy.url, backend.sdk, str(tmp_path / "local.db")
        with App(OBEDIENT, *arguments) as one, App(OBEDIENT, *arguments) as other:
            both = one, other
            assert [app.order("call", "shared") for app in (one, one, other)] == [None] * 3
            until(lambda: all(app.order("cost_nano", "shared") == 3 * DIME_NANO for app in both))
            backend.stop()
            proxy.fault = Fault.CLOSED
            until(lambda: all(app.order("is_away") for app in both))
            assert [app.order("mode") for app in both] == ["offline"] * 2
            assert [app.order("call", "shared") for app in (one, one, other, other)] == [None] * 4
            until(lambda: all(app.order("cost_nano", "shared") == 7 * DIME_NANO for app in both))

            with App(OBEDIENT, *arguments) as third:
                assert third.order("is_settled") is False  # it has started
                until(lambda: third.order("cost_nano", "shared") == 7 * DIME_NANO, NEWS_S + NOISE_S)
                assert third.order("plan", "shared") == "dollar"
                assert third.order("spend", "shared") == [3, "total_spend"]
                until(
                    lambda: all(app.order("cost_nano", "shared") == 10 * DIME_NANO for app in both)
                )
                assert [app.order("call", "shared") for app in both] == ["total_spend"] * 2

                backend.restart()
                proxy.target = backend.server.address
                proxy.fault = Fault.NONE
                everyone = one, other, third
                until(lambda: all(app.order("is_settled") for app in everyone))
                assert [app.order("mode") for app in everyone] == ["connected"] * 3
                assert [app.order("call", "shared") for app in everyone] == ["total_spend"] * 3
                for app in everyone:
                    app.go_on()
                    app.end()
    backend.assert_events({"shared": 10})
    assert backend.spent_nano("shared") == 10 * DIME_NANO


# -- reports

ODD = "r&d+1%/é"
"""An id and a tag with what has a meaning in a query."""

CALLS = [
    # which application, user, session, team
    (0, "ann", "s1", "search"),
    (1, "ann", "s2", "chat"),
    (1, ODD, "s3", ODD),
    (0, "ann", "s1", "search"),
]
CALLS_BY = {
    "user": {("ann",): 3, (ODD,): 1},
    "session": {("s1",): 2, ("s2",): 1, ("s3",): 1},
    "tag:team": {("search",): 2, ("chat",): 1, (ODD,): 1},
    "user,tag:team": {("ann", "search"): 2, ("ann", "chat"): 1, (ODD, ODD): 1},
}


@pytest.fixture(scope="module")
def reporters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backend, Apps, str]]:
    """A server of their own, two applications that have made `CALLS`, and the day before."""
    folder = tmp_path_factory.mktemp("reporters")
    since = (datetime.now(timezone.utc) - timedelta(days=1)).date().isoformat()
    with Backend(folder / "backend") as backend:
        for user_id in ("ann", ODD):
            backend.add_user(user_id)
        host, port = backend.server.address
        url = f"http://{host}:{port}"
        with (
            App(REPORTING, url, backend.sdk, str(folder / "a" / "local.db")) as one,
            App(REPORTING, url, backend.sdk, str(folder / "b" / "local.db")) as other,
        ):
            apps = one, other
            for count, (which, *call) in enumerate(CALLS, 1):
                apps[which].order("call", *call)
                until_reported(apps[1 - which], since, count)
            yield backend, apps, since
            for app in apps:
                app.go_on()
                app.end()


def until_reported(app: App, since: str, count: int) -> None:
    """Wait until an application reports so many calls: no longer than news may take."""
    until(lambda: shown_by(app, "user", start=since)["total"][0] == count, NEWS_S + NOISE_S)


def shown_by(app: App, by: str, **arguments: Any) -> Any:
    """Return the report of an application, or the rules that its arguments break."""
    return app.order("show", by, json.dumps(arguments, separators=(",", ":")))


def as_served(backend: Backend, by: str, since: str) -> dict[str, Any]:
    """Return the report that the server answers with over REST, in the form of `REPORTING`."""
    found = backend.call("GET", f"/reports/spend?by={by}&from={since}&limit=10000")
    rows = []
    for row in found["rows"]:
        keys = [str(read_time(row[key])) if key == "period" else row[key] for key in by.split(",")]
        rows.append([[key or "" for key in keys], [row[name] for name in Figures._fields]])
    return {"rows": rows, "total": [found["total"][name] for name in Figures._fields]}


def as_stored(backend: Backend, by: str, since: str) -> dict[str, Any]:
    """Return the same report from the server's database."""
    store = open_store(backend.database_url)
    try:
        page = store.spend("default", read_request({"by": by, "start": since})).page
    finally:
        store.close()
    rows = [[list(row.keys), list(row.figures)] for row in page.rows]
    return {"rows": rows, "total": list(page.total)}


@pytest.mark.parametrize("by", [*CALLS_BY, "day", "month,model", "period", "plan,provider"])
def test_report__of_a_connected_process__has_the_calls_of_every_process(
    reporters: tuple[Backend, Apps, str], by: str
) -> None:
    """With the rows and the total of REST and of the server's database, in both processes; a call
    of one is in a report of the other within two seconds.
    """
    backend, (one, other), since = reporters
    shown = shown_by(one, by, start=since)
    assert shown == as_served(backend, by, since) == as_stored(backend, by, since)
    assert shown == shown_by(other, by, start=since)
    total = Figures(*shown["total"])
    assert (total.calls, total.cost_nano) == (4, 4 * DIME_NANO)
    calls_of = {tuple(keys): sums[0] for keys, sums in shown["rows"]}
    assert calls_of == CALLS_BY.get(by, calls_of)
    assert sum(calls_of.values()) == 4


@pytest.mark.parametrize(
    ("arguments", "rows", "calls"),
    [
        ({"user_id": ODD}, 1, 1),
        ({"tags": {"team": ODD}}, 1, 1),
        ({"session_id": "s1", "user_id": "ann"}, 1, 2),
        ({"user_id": "ann", "period": "current"}, 2, 3),
        ({"model": "gpt-4o", "limit": 2}, 2, 4),
        ({"model": "o3"}, 0, 0),
    ],
)
def test_report__of_a_connected_process__has_the_filters_of_a_local_one(
    reporters: tuple[Backend, Apps, str], arguments: dict[str, Any], rows: int, calls: int
) -> None:
    """Also with what has a meaning in a query; the total is of all rows."""
    _, (one, _), since = reporters
    span = {} if "period" in arguments else {"start": since}
    shown = shown_by(one, "session", **span, **arguments)
    assert (len(shown["rows"]), shown["total"][0]) == (rows, calls)


def test_report__of_a_connected_process__is_refused_by_the_argument(
    reporters: tuple[Backend, Apps, str],
) -> None:
    """A rule that only the server can check, which knows the product's time zone."""
    _, (one, _), since = reporters
    assert shown_by(one, "user", start=since, end=since) == [["end", "must be after from"]]


def test_report__of_several_pages_of_a_server__is_whole(
    reporters: tuple[Backend, Apps, str],
) -> None:
    """A page of one row leads to the next by the server's own cursor."""
    _, (one, other), since = reporters
    other.order("page_rows", 1)
    for by in ("user,session", "session", "day,user"):
        whole = shown_by(one, by, start=since)
        assert shown_by(other, by, start=since) == whole
        assert len(whole["rows"]) > 1
        first = shown_by(other, by, start=since, limit=2)
        assert first == {"rows": whole["rows"][:2], "total": whole["total"]}
