"""P7: no application waits for the backend. Whatever that or the network does, calls go on and caps
hold; once it is back, it has each event exactly once.

Each application is a process of its own, behind a proxy that fails on command, in front of one real
server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.promises.connected_app import DIME_NANO, OUTAGE_S, App, deliver
from tests.promises.faults import FAULTS, Backend, Fault, FaultyBackend
from tests.server_process import command

from paygent import Paygent
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]

NOISE_S = 3.0
"""Allowed above a limit on a busy machine: calls that waited one by one would take 5 s."""

DUE_NOISE_S = 1.0
"""The same of what is due at some time: a second try would come later."""

FIRST_CALL_S = 0.25
"""Longest wait of the first call of a user."""

AWAY_AFTER_S = 5.0
"""How long a backend has to be away before `when_offline` decides."""

RETRY_S = 5.0
"""Longest pause between two tries."""

LATEST_S = {Fault.CLOSED: AWAY_AFTER_S + 1.0, Fault.MUTE: 8.0 + NOISE_S}
"""The same at the latest, after the next delivery: a batch is given eight seconds for its answer.
"""

KEY_CACHE_S = 1.0
"""After so long a server no longer accepts a revoked key."""

DOLLAR = {"max_spend_per_period": 1}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The server of all tests."""
    with Backend(tmp_path_factory.mktemp("backend")) as started:
        started.set_plan("default", max_spend_per_period=1000)
        yield started
        status, text = command("audit", database_url=started.database_url)
        assert (status, "differences: 0" in text) == (0, True), text


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultyBackend]:
    """The way of one application to the server."""
    with FaultyBackend(backend.server.address) as started:
        yield started


def slug(fault: Fault) -> str:
    """Return the name of a fault as a part of user ids."""
    return fault.name.lower()


UNDER_A_FAULT = """
url, key, db_path, name = sys.argv[1:]
in_a_hurry()

# the fault is on
begun_s = time.monotonic()
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
init_s = time.monotonic() - begun_s
firsts_s = [timed(call, pg, f"{name}-{number}") for number in range(3)]
others_s = sum(timed(call, pg, f"{name}-0") for _ in range(20))
watch = LoopWatch(pg)
async_s = asyncio.run(watch.run([f"{name}-{number}" for number in (3, 4, 5, 0)]))
until(lambda: is_away(pg))
call(pg, f"{name}-0")
pg.flush()
report(init_s=init_s, firsts_s=firsts_s, others_s=others_s, async_s=async_s, seen=watch.seen,
       ticks=watch.ticks, mode=pg.health()["mode"])

# the backend is back
next_step()
until(lambda: is_settled(pg))
call(pg, f"{name}-known")
until(lambda: not pg.pending_events)
report(mode=pg.health()["mode"], plan=pg.get_user_state(f"{name}-known").plan)

# the fault is on again
next_step()
call_s = timed(call, pg, f"{name}-known")
passed, reason = calls_until_refused(pg, f"{name}-known")
report(call_s=call_s, passed=passed, reason=reason, shutdown_s=timed(pg.shutdown, timeout=2))
"""


@pytest.mark.parametrize("fault", FAULTS, ids=slug)
def test_fault__of_any_kind__delays_no_call_and_loses_no_event(
    backend: Backend, proxy: FaultyBackend, init: Init, db_path: str, fault: Fault
) -> None:
    """No call waits more than a moment, none passes above the cap, and all arrive in the end."""
    name = slug(fault)
    backend.add_user(f"{name}-known", backend.set_plan("dollar", **DOLLAR))
    proxy.fault = fault
    with App(UNDER_A_FAULT, proxy.url, backend.sdk, db_path, name) as app:
        begun = app.read()
        assert begun["init_s"] < 1.0 + NOISE_S
        assert max(begun["firsts_s"]) < FIRST_CALL_S + NOISE_S
        assert min(begun["firsts_s"]) < FIRST_CALL_S + NOISE_S / 2
        assert begun["others_s"] < NOISE_S  # each of 20 that waited would take 250 ms
        assert begun["async_s"] < 3 * FIRST_CALL_S + NOISE_S
        assert begun["seen"] == []
        # Where first calls had to wait, the loop ran on.
        assert begun["ticks"] >= 10 or begun["async_s"] < 2 * FIRST_CALL_S
        assert begun["mode"] == "offline"
        assert proxy.met[fault] > 0 or fault is Fault.CLOSED

        proxy.fault = Fault.NONE
        assert app.step() == {"mode": "connected", "plan": "dollar"}

        proxy.fault = fault
        again = app.step()
        assert again["call_s"] < NOISE_S
        assert (again["passed"], again["reason"]) == (8, "total_spend")
        assert again["shutdown_s"] < 2.0 + NOISE_S
        app.end()
    proxy.fault = Fault.NONE
    deliver(init, proxy.url, backend.sdk)
    assert not list(Path(db_path + ".journal").rglob("*.seg"))
    of_others = {f"{name}-{number}": 1 for number in range(1, 6)}
    backend.assert_events({f"{name}-0": 23, **of_others, f"{name}-known": 10})
    assert backend.spent_nano(f"{name}-known") == 10 * DIME_NANO


A_REAL_CALL = """
import openai
from paygent import paygent_context
url, key, db_path, provider = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)

def ask():
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])

with openai.OpenAI(api_key="k", base_url=provider, max_retries=0) as client:
    pg.uninstrument()
    ask()  # connects
    pg.instrument()
    with paygent_context(user_id="real"):
        first_s = timed(ask)
        others_s = sum(timed(ask) for _ in range(20))
report(first_s=first_s, others_s=others_s, shutdown_s=timed(pg.shutdown, timeout=2))
"""


def test_mute__a_call_through_an_sdk__waits_a_quarter_second_once(
    backend: Backend, proxy: FaultyBackend, init: Init, fake: FakeProvider, db_path: str
) -> None:
    """With the real SDK and time-outs; nor does `shutdown` wait for the answer to a batch."""
    proxy.fault = Fault.MUTE
    with App(A_REAL_CALL, proxy.url, backend.sdk, db_path, fake.openai_url) as app:
        begun = app.read()
        assert begun["first_s"] < FIRST_CALL_S + NOISE_S
        assert begun["others_s"] < NOISE_S + 1.0  # each of 20 that waited would take 250 ms
        assert begun["shutdown_s"] < 2.0 + NOISE_S
        app.end()
    proxy.fault = Fault.NONE
    deliver(init, proxy.url, backend.sdk)
    backend.assert_events({"real": 21})


SLOW = """
url, key, db_path = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
call(pg, "slow")
until(lambda: not pg.pending_events)
report(known=pg.get_usage("slow").period_cost_nano)
next_step()
others_s = sum(timed(call, pg, "slow") for _ in range(20))
until(lambda: not pg.pending_events)
report(others_s=others_s, mode=pg.health()["mode"], counts=pg.health()["counts"])
next_step()
pg.shutdown()
"""


def test_slow__five_seconds_for_each_answer__is_no_outage(
    backend: Backend, proxy: FaultyBackend, db_path: str
) -> None:
    """A backend that needs long for each batch is used on; no call notices."""
    with App(SLOW, proxy.url, backend.sdk, db_path) as app:
        assert app.read() == {"known": DIME_NANO}
        proxy.fault = Fault.SLOW
        later = app.step()
        assert later["others_s"] < NOISE_S
        assert later["mode"] == "connected"
        assert "ledger_unavailable" not in later["counts"]
        proxy.fault = Fault.NONE
        app.go_on()
        app.end()
    backend.assert_events({"slow": 21})


# -- when_offline

AWAY = """
url, key, db_path, name = sys.argv[1:]
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
users = [f"{name}-{policy}" for policy in ("allow", "block", "some")]
for user in users:
    call(pg, user)
until(lambda: not pg.pending_events)
assert all(pg._parts.accounts.registry.users[user].known for user in users)
report(ready=True)

# the backend goes away
next_step()
allow, block, some = users
begun_s, reason = time.monotonic(), None
while reason is None and time.monotonic() - begun_s < 30:
    time.sleep(0.1)
    reason = try_call(pg, block)
away_s = time.monotonic() - begun_s
report(away_s=away_s, block=reason, some=calls_until_refused(pg, some), allow=call(pg, allow))

# longer: the host's own store has taken over
until(lambda: is_away(pg))
pg.flush()
report(block=try_call(pg, block), some=try_call(pg, some), allow=calls_until_refused(pg, allow))

# it is back
next_step()
back_s = until(lambda: try_call(pg, block) is None)
until(lambda: is_settled(pg))
costs = {user: pg.get_usage(user).period_cost_nano for user in users}
report(back_s=back_s, some=try_call(pg, some), allow=try_call(pg, allow), costs=costs)
pg.shutdown()
"""


def test_when_offline__a_backend_that_is_away__decides_after_seconds_and_ends_with_the_outage(
    backend: Backend, tmp_path: Path
) -> None:
    """Known users of a plan that blocks are refused after 5 s, or 8 s of a mute backend; those with
    an allowance may use it, and the others may go up to their cap.
    """
    plans = {
        "allow": backend.set_plan("allow", **DOLLAR),
        "block": backend.set_plan("block", max_spend_per_period=100, when_offline="block"),
        "some": backend.set_plan(
            "some", max_spend_per_period=100, when_offline={"allow_up_to": 0.3}
        ),
    }
    with ExitStack() as stack:
        away = []
        for fault in (Fault.CLOSED, Fault.MUTE):  # at the same time: most of it is waiting
            for policy, plan_id in plans.items():
                backend.add_user(f"away-{slug(fault)}-{policy}", plan_id)
            way = stack.enter_context(FaultyBackend(backend.server.address))
            store, name = str(tmp_path / slug(fault) / "local.db"), f"away-{slug(fault)}"
            app = stack.enter_context(App(AWAY, way.url, backend.sdk, store, name))
            away.append((app, way, fault))
        for app, _, _ in away:
            assert app.read() == {"ready": True}
        for app, way, fault in away:
            way.fault = fault
            app.go_on()
        for app, _, fault in away:
            first = app.read()
            assert AWAY_AFTER_S - DUE_NOISE_S < first.pop("away_s") < LATEST_S[fault] + DUE_NOISE_S
            assert first == {"block": "offline", "some": [3, "offline"], "allow": None}
            then = app.read()
            assert then == {"block": "offline", "some": "offline", "allow": [8, "total_spend"]}
        for app, way, _ in away:
            way.fault = Fault.NONE
            app.go_on()
        for app, _, fault in away:
            name = f"away-{slug(fault)}"
            back = app.read()
            assert back["back_s"] < RETRY_S + DUE_NOISE_S
            assert (back["some"], back["allow"]) == (None, "total_spend")
            app.end()
            for user, cost_nano in back["costs"].items():
                backend.assert_events({user: cost_nano // DIME_NANO + (user == f"{name}-some")})
            assert backend.spent_nano(f"{name}-allow") == 10 * DIME_NANO


ASKED_TO_WAIT = """
url, key, db_path = sys.argv[1:]
in_a_hurry()
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
call(pg, "busy-block")
until(lambda: not pg.pending_events)
report(ready=True)
next_step()
call(pg, "busy-block")
away_s = until(lambda: try_call(pg, "busy-block") == "offline", 10)
until(lambda: is_away(pg))
report(away_s=away_s)
pg.shutdown(timeout=2)
"""


def test_busy__asks_for_a_pause_of_minutes__counts_as_away_all_the_same(
    backend: Backend, proxy: FaultyBackend, db_path: str
) -> None:
    """`Retry-After` does not put off what `when_offline` decides, or the outage."""
    plan_id = backend.set_plan("patient", max_spend_per_period=100, when_offline="block")
    backend.add_user("busy-block", plan_id)
    proxy.retry_after_s = 300
    with App(ASKED_TO_WAIT, proxy.url, backend.sdk, db_path) as app:
        assert app.read() == {"ready": True}
        proxy.fault = Fault.BUSY
        assert app.step()["away_s"] < OUTAGE_S + 1.0 + DUE_NOISE_S
        app.end()


# -- keys

REVOKED = """
url, key, db_path = sys.argv[1:]
in_a_hurry()
pg = Paygent.init(api_key=key, base_url=url, db_path=db_path)
call(pg, "rotated")
until(lambda: not pg.pending_events)
report(ready=True)
next_step()
for _ in range(5):
    call(pg, "rotated")
until(lambda: is_away(pg))
for _ in range(5):
    call(pg, "rotated")
time.sleep(1.0)  # some rounds of deliveries
report(mode=pg.health()["mode"], pending=pg.pending_events > 0)
pg.shutdown(timeout=2)
"""


def test_key__revoked_and_replaced__keeps_events_and_delivers_them_with_the_new_one(
    backend: Backend, proxy: FaultyBackend, init: Init, db_path: str
) -> None:
    """One line is logged; the journal is the product's, not the key's."""
    old, new = (backend.call("POST", "/keys", {"scope": "sdk", "name": n}) for n in ("old", "new"))
    with App(REVOKED, proxy.url, old["api_key"], db_path) as app:
        assert app.read() == {"ready": True}
        backend.call("DELETE", f"/keys/{old['id']}")
        time.sleep(KEY_CACHE_S)
        assert app.step() == {"mode": "offline", "pending": True}
        logged = app.end()
    assert logged.count("rejects the API key") == 1, logged
    assert old["api_key"] not in logged
    assert len(backend.events("rotated")) == 1
    deliver(init, proxy.url, new["api_key"])
    backend.assert_events({"rotated": 11})
