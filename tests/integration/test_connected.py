"""Processes that share a backend: what is changed there applies in all of them within two seconds,
and while it is away those of a host go on together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tests.promises.connected_app import DIME_NANO, App
from tests.promises.faults import Backend, Fault, FaultyBackend, until

NEWS_S = 2.0
"""How soon a change applies everywhere."""

NOISE_S = 1.0
"""Allowed above that on a busy machine."""

IDLE_S = 6.0
"""Longer than a server repeats earlier changes, with which a process would ask about users."""

OBEDIENT = """
url, key, db_path = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
obey(pg)
"""

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
