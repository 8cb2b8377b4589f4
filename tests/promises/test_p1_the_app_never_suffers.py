"""P1: whatever fails inside Paygent, the app gets the provider's own answer or exception."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.accounts import nothing_left
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES
from tests.promises.scripts import run

from paygent import Paygent, PaygentWarning, PlanConfig, paygent_context
from paygent.client.journal import journal
from paygent.client.runtime.settings import Settings
from paygent.ledger.port import LedgerUnavailable
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]


def call(client: openai.OpenAI, **more: Any) -> Any:
    """Make one call."""
    return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **more)


@pytest.fixture
def client(init: Init, fake: FakeProvider) -> Any:
    """A started Paygent and a client of the fake provider."""
    init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


class Broken(Exception):
    """What the seams raise here."""


def broken(*args: Any, **kwargs: Any) -> Any:
    """Fail like a bug of ours."""
    raise Broken("a bug of ours")


@pytest.mark.parametrize("jump_s", [-3_600, -40 * 86_400, 86_400, 40 * 86_400, 10**9])
def test_p1__a_clock_that_jumps__changes_no_answer_and_leaves_no_hold(
    db_path: str, fake: FakeProvider, jump_s: int
) -> None:
    """Backwards or into another period, between calls and in the middle of one."""
    now = [1_800_000_000 * 10**6]
    pg = Paygent.launch(Settings(db_path=db_path), now_us=lambda: now[0])
    pg.configure_plan("default", PlanConfig(max_spend_per_period=100, max_spend_per_session=100))

    def jumping() -> Any:
        now[0] += jump_s * 10**6
        return {"model": "gpt-4o", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}

    for _ in range(3):
        assert pg.wrap(jumping, "u1", "gpt-4o")["model"] == "gpt-4o"
        now[0] -= jump_s * 10**6
    assert nothing_left(pg)
    assert sum(row.calls for row in pg.report()) == 3 or jump_s > 0
    pg.flush()
    assert pg.pending_events == 0


def test_p1__a_clock_that_fails__lets_the_call_pass(
    db_path: str, fake: FakeProvider, swallowed: Swallowed
) -> None:
    """Without a time nothing can be gated; the answer arrives."""
    fails = [False]

    def clock() -> int:
        if fails[0]:
            raise OSError("no clock")
        return 1_800_000_000 * 10**6

    pg = Paygent.launch(Settings(db_path=db_path), now_us=clock)
    pg.get_usage("u1")
    fails[0] = True
    swallowed.expect("begin")
    swallowed.allow("deliver", "prepare")
    assert pg.wrap(lambda: 7, "u1", "gpt-4o") == 7
    fails[0] = False
    assert pg.health()["counts"]["begin"] == 1


def test_p1__usage_that_cannot_be_read__settles_the_estimate(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """An answer whose usage our reader chokes on counts as estimated."""
    from paygent.client.instrument.http_sdks import request

    found = request.route_of
    monkeypatch.setattr(request, "route_of", lambda *args: found(*args)._replace(read=broken))  # type: ignore[union-attr]
    swallowed.expect("usage")
    with paygent_context(user_id="u1"):
        call(client, max_tokens=10)
    pg = Paygent.get_instance()
    assert pg is not None
    assert pg.get_usage("u1").period_tokens_by_model["gpt-4o"] >= 10


def test_p1__callbacks_that_fail_hang_or_exit__never_reach_a_call(
    init: Init, fake: FakeProvider, swallowed: Swallowed
) -> None:
    """Exceptions, SystemExit and slowness of callbacks stay on our thread."""
    import threading

    pg = init()
    release = threading.Event()
    pg.on_usage(broken)

    @pg.on_usage
    def leave(event: object) -> None:
        raise SystemExit(3)

    @pg.on_usage
    def hang(event: object) -> None:
        release.wait(10)

    swallowed.expect("callback:usage")
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        for _ in range(3):
            assert call(client).id == "chatcmpl-fake"
    release.set()
    pg.flush()


def test_p1__a_ledger_that_is_away__changes_nothing_for_the_app(
    init: Init, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls go on while the ledger raises, and count once it is back."""
    from paygent.ledger.local import LocalLedger

    def away(*args: Any) -> Any:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(LocalLedger, "open", away)
        patch.setattr(LocalLedger, "settle", away)
        patch.setattr(LocalLedger, "state", away)
        pg = init()
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            with paygent_context(user_id="u1"):
                for _ in range(5):
                    call(client)
        assert pg.get_usage("u1").period_cost_nano == 5 * 450_000
        assert pg.pending_events == 5
    pg._parts.worker._wake.set()
    while pg.pending_events:
        pg.flush()
    assert pg.report()[0].cost_nano == 5 * 450_000


def test_p1__a_data_folder_that_cannot_be__keeps_events_in_memory_loudly(
    tmp_path: Path, fake: FakeProvider, caplog: pytest.LogCaptureFixture, swallowed: Swallowed
) -> None:
    """A file where the folder should be: calls go on, and what is lost with the process is said."""
    (tmp_path / "file").write_text("in the way")
    swallowed.expect("journal_folder")
    path = str(tmp_path / "file" / "local.db")
    with pytest.warns(
        PaygentWarning, match=f"db_path {path} cannot be used: .*in memory.*PAYGENT_DB_PATH"
    ):
        pg = Paygent.init(db_path=path)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            assert call(client).id == "chatcmpl-fake"
    assert pg.get_usage("u1").period_cost_nano == 450_000
    assert not pg.health()["journal_durable"]
    assert "kept in memory" in caplog.text
    pg.flush()  # there is nowhere to deliver to, and no reason to wait
    assert path in caplog.text
    pg.shutdown()


@pytest.mark.parametrize("maps", [True, False])
def test_p1__a_full_disk__falls_to_memory_and_delivers_from_there(
    init: Init,
    fake: FakeProvider,
    monkeypatch: pytest.MonkeyPatch,
    swallowed: Swallowed,
    maps: bool,
) -> None:
    """ENOSPC on the journal loses no event while the process lives, mapped or written."""
    monkeypatch.setattr(journal, "can_map", lambda folder: maps)
    pg = init()

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url) as client,
        paygent_context(user_id="u1"),
    ):
        for _ in range(2):  # before the first segment is made, and with one that has room
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", full)
                patch.setattr(os, "posix_fallocate", full)
                swallowed.expect("journal_write")
                call(client)
            call(client)
            pg.flush()
    assert [row.calls for row in pg.report()] == [4]


def test_p1__a_corrupt_store__does_not_stop_calls(
    db_path: str, init: Init, fake: FakeProvider
) -> None:
    """Garbage in place of the database: calls go on, what is known is in memory and journal."""
    Path(db_path).parent.mkdir(parents=True)
    Path(db_path).write_bytes(b"this is no database" * 1000)
    pg = init()
    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url) as client,
        paygent_context(user_id="u1"),
    ):
        assert call(client).id == "chatcmpl-fake"
    assert pg.get_usage("u1").period_cost_nano == 450_000
    assert pg.health()["counts"]["ledger_unavailable"] >= 1
    pg.shutdown(timeout=1)


def test_p1__on_an_event_loop__nothing_of_ours_does_io_but_the_append(
    fake: FakeProvider, db_path: str
) -> None:
    """No connection, no file opened, no SQLite on the loop's thread once the first call is made.

    In a process of its own: an audit hook cannot be taken out again, and one that is written in
    Python lets threads in while the tracer of a new one is being set, which CPython refuses.
    """
    code = """
import asyncio, sqlite3, sys, threading
import openai, paygent
pg = paygent.Paygent.init(db_path=sys.argv[2])
loop_thread, watching = threading.get_ident(), False
seen = {True: [], False: []}

def note(what):
    if watching:
        seen[threading.get_ident() == loop_thread].append(what)

class Watched(sqlite3.Connection):
    def cursor(self, *args):
        note("cursor")
        return super().cursor(*args)
    def execute(self, *args):
        note("execute")
        return super().execute(*args)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **more: connect(*args, factory=Watched, **more)

def audit(event, args):
    if event == "sqlite3.connect" or event == "open" and sys.argv[2] in str(args[0]):
        note(event)

async def handler(client, user_id):
    async with paygent.paygent_context(user_id=user_id):
        messages = [{"role": "user", "content": "x"}]
        await client.chat.completions.create(model="gpt-4o", messages=messages)

async def main():
    global watching
    async with openai.AsyncOpenAI(api_key="k", base_url=sys.argv[1], max_retries=0) as client:
        await handler(client, "u1")
        watching = True
        for user_id in ("u1", "u1", "u1", "u2"):
            await handler(client, user_id)
        await asyncio.to_thread(pg.flush)
        watching = False

sys.addaudithook(audit)
asyncio.run(main())
print(seen[True], bool(seen[False]), pg.get_usage("u1").period_cost_nano)
"""
    out, _ = run(code, fake.openai_url, db_path)
    assert out.strip() == "[] True 1800000"


def test_p1__a_sync_call_on_a_loops_thread__does_not_wait_for_the_ledger(
    init: Init, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stop the very loop: it goes on with what is known."""
    import threading

    from paygent.client.journal.refresh import UserRefresh

    answered = threading.Event()
    original = UserRefresh._ask_ledger

    def late(self: UserRefresh, asks: Any) -> Any:
        answered.wait(5)
        return original(self, asks)

    monkeypatch.setattr(UserRefresh, "_ask_ledger", late)
    init()

    async def handler() -> str:
        with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
            with paygent_context(user_id="u1"):
                return str(call(client).id)

    assert asyncio.run(handler()) == "chatcmpl-fake"
    assert not answered.is_set()
    answered.set()


def test_p1__warnings_as_errors__break_nothing(fake: FakeProvider, db_path: str) -> None:
    """`-W error`, a backend that is not there, a user id of a wrong type: the answer comes."""
    code = """
import sys
import paygent
pg = paygent.Paygent.init(api_key="pg_live_x", base_url="http://127.0.0.1:9", db_path=sys.argv[2])
import openai
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
with paygent.paygent_context(user_id=object()):
    messages = [{"role": "user", "content": "x"}]
    print(client.chat.completions.create(model="nobody-knows", messages=messages).id)
pg.shutdown()
client.close()
"""
    out, err = run(code, fake.openai_url, db_path, flags=("-W", "error"))
    assert out.strip() == "chatcmpl-fake"
    assert "not usable" in err


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"])
def test_p1__a_fork__leaves_parent_and_child_metering(
    fake: FakeProvider, db_path: str, fork: str
) -> None:
    """A forked child meters into a journal of its own; no call hangs, none counts twice. So does
    one that was forked past Python's hooks, while no other thread runs: in the middle of their work
    the locks of the interpreter and of SQLite would stay locked in the child.
    """
    code = """
import ctypes, os, sys, time
import openai, paygent
pg = paygent.Paygent.init(db_path=sys.argv[2])
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
def call():
    with paygent.paygent_context(user_id="u1"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
call()
if "ctypes" in "FORK":
    pg.flush()
    time.sleep(0.3)
pid = FORK
if pid == 0:
    client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
    call(); call()
    pg.flush()
    pg.shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
call()
print([(row.calls, row.cost_nano) for row in pg.report()])
"""
    out, _ = run(code.replace("FORK", fork), fake.openai_url, db_path)
    assert out.strip() == "[(4, 1800000)]"


def test_p1__uwsgi_without_threads__meters_and_gates_without_any(
    fake: FakeProvider, db_path: str
) -> None:
    """Starting a thread there would block the request for ever."""
    code = """
import sys, threading, types
sys.modules["uwsgi"] = types.SimpleNamespace(opt={"http": b":80"})
import openai, paygent
def start(thread):
    raise AssertionError("started " + thread.name)
threading.Thread.start = start
pg = paygent.Paygent.init(db_path=sys.argv[2])
pg.configure_plan("default", paygent.PlanConfig(model_limits={"gpt-4o": 200}))
pg.on_usage(print)
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
for _ in range(3):
    with paygent.paygent_context(user_id="u1"):
        try:
            client.chat.completions.create(model="gpt-4o", messages=[])
        except paygent.PaygentLimitExceeded:
            print("refused")
pg.flush()
client.close()
"""
    out, err = run(code, fake.openai_url, db_path)
    assert (out, err.count("--enable-threads")) == ("refused\n", 1)
    pg = Paygent.init(db_path=db_path)
    pg.flush()  # the next process delivers
    assert [row.calls for row in pg.report()] == [2]


def test_p1__a_fork_while_another_thread_starts_paygent__leaves_a_child_that_can(
    db_path: str,
) -> None:
    """The child gets a lock of its own; one that was shut down before the fork stays so."""
    code = """
import os, sys, threading
import paygent
first = paygent.Paygent.init(db_path=sys.argv[2])
first.record_event("u1", cost=1)
first.shutdown()
held, go_on = threading.Event(), threading.Event()
def hold():
    with paygent.Paygent._installing:
        held.set()
        go_on.wait(60)
threading.Thread(target=hold).start()
held.wait()
pid = os.fork()
if pid == 0:
    first.get_usage("u1")
    assert threading.active_count() == 1
    paygent.Paygent.init(db_path=sys.argv[2]).shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
go_on.set()
print("good")
"""
    out, _ = run(code, "", db_path)
    assert out.strip() == "good"


def test_p1__calls_callbacks_and_flushes__take_no_lock_that_a_ctrl_c_leaves_taken(
    init: Init,
) -> None:
    """`Condition`, `Event` and `Queue` take their locks in Python code; an interruption between
    that and the block would stop every later call for good.
    """
    pg = init()
    pg.on_usage(lambda event: None)
    pg.wrap(lambda: None, "u1", "gpt-4o")
    pg.flush()
    taken: list[str] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code is threading.Condition.__enter__.__code__:
            taken.append(f"{frame.f_back.f_code.co_filename}:{frame.f_back.f_lineno}")

    sys.setprofile(profile)
    try:
        for _ in range(3):
            pg.wrap(lambda: None, "u1", "gpt-4o")
            pg.record_event("u1", cost=1)
            pg.get_usage("u1")
            pg.flush()
    finally:
        sys.setprofile(None)
    assert taken == []
