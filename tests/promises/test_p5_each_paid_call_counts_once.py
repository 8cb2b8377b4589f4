"""P5: each paid call that returned counts exactly once, through death, outage and repetition."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES
from tests.promises.scripts import kill, read_line, run, start

from paygent import Paygent, PlanConfig, paygent_context
from paygent.client.accounts.user_state import Lane
from paygent.client.journal.journal import Journal
from paygent.core.records import END
from paygent.ledger.local import LocalLedger
from paygent.ledger.port import LedgerUnavailable
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

CALLS = """
import sys, time
import openai, paygent
pg = paygent.Paygent.init(db_path=sys.argv[2])
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
with paygent.paygent_context(user_id="u1"):
    for _ in range(int(sys.argv[3])):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
print("called", flush=True)
time.sleep(60)
"""

LOAD = """
import os, sys, threading, time
import openai, paygent
from paygent.client.journal import journal
journal.can_map = lambda folder: sys.argv[4] == "mapped"
pg = paygent.Paygent.init(db_path=sys.argv[2])
done = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
def work():
    client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
    with paygent.paygent_context(user_id="u1"):
        while True:
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "x"}])
            os.write(done, b".")
for _ in range(8):
    threading.Thread(target=work, daemon=True).start()
print("calling", flush=True)
time.sleep(60)
"""

REPLAY = """
import sys, time
import paygent
from paygent.client.journal.delivery import Worker
deliver = Worker._deliver_dead
def slow(self, records):
    print("replaying", flush=True)
    deliver(self, records)
    print("replayed", flush=True)
    time.sleep(60)
Worker._deliver_dead = slow
pg = paygent.Paygent.init(db_path=sys.argv[1])
pg.get_usage("u1")
time.sleep(60)
"""


def counted(db_path: str) -> tuple[int, int]:
    """Start once more and return what is counted for the user: calls and nano-dollars."""
    code = """
import sys
import paygent
pg = paygent.Paygent.init(db_path=sys.argv[1])
print([(row.calls, row.cost_nano) for row in pg.report()], pg.get_usage("u1").period_cost_nano)
"""
    out, _ = run(code, db_path)
    rows, _, cost = out.strip().rpartition(" ")
    found: list[tuple[int, int]] = eval(rows)
    assert len(found) == 1
    assert found[0][1] == int(cost)
    return found[0]


def test_p5__kill_9_right_after_20_calls__the_next_start_has_all_20_once(
    fake: FakeProvider, db_path: str
) -> None:
    """What returned is in the operating system's hands."""
    process = start(CALLS, fake.openai_url, db_path, "20")
    assert read_line(process) == "called"
    kill(process)
    assert counted(db_path) == (20, 20 * 450_000)
    assert counted(db_path) == (20, 20 * 450_000)


@pytest.mark.parametrize("kind", ["mapped", "written"])
def test_p5__kill_9_under_load__counts_every_call_that_returned_once(
    fake: FakeProvider, db_path: str, tmp_path: Path, kind: str
) -> None:
    """Eight threads, three kills in a row: what returned counts, and nothing that was not asked."""
    done = tmp_path / "done"
    for _ in range(3):
        process = start(LOAD, fake.openai_url, db_path, str(done), kind)
        assert read_line(process) == "calling"
        returned = done.stat().st_size if done.exists() else 0
        while not done.exists() or done.stat().st_size < returned + 40:
            time.sleep(0.01)
        time.sleep(random.random() * 0.3)
        kill(process)
    calls, _ = counted(db_path)
    assert done.stat().st_size <= calls <= len(fake.requests) + 3 * 8
    assert counted(db_path)[0] == calls


def test_p5__kill_9_with_the_database_locked__and_again_in_the_replay__counts_20_once(
    fake: FakeProvider, db_path: str
) -> None:
    """Locked from before the first call until the kill; then killed in the middle of the replay."""
    run(
        "import sys, paygent; pg = paygent.Paygent.init(db_path=sys.argv[1]);"
        "pg.record_event('other', cost=0); pg.flush()",
        db_path,
    )
    locker = sqlite3.connect(db_path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    process = start(CALLS, fake.openai_url, db_path, "20")
    assert read_line(process) == "called"
    kill(process)
    locker.execute("ROLLBACK")
    locker.close()
    assert any(Path(db_path + ".journal").rglob("*.seg"))

    replaying = start(REPLAY, db_path)
    assert read_line(replaying) == "replaying"
    kill(replaying)
    replayed = start(REPLAY, db_path)
    assert read_line(replayed) == "replaying"
    assert read_line(replayed) == "replayed"  # stored, but the segments are still there
    kill(replayed)
    assert any(Path(db_path + ".journal").rglob("*.seg"))
    out, _ = run(
        "import sys, paygent; pg = paygent.Paygent.init(db_path=sys.argv[1]);"
        "print([(r.user_id, r.calls, r.cost_nano) for r in pg.report()])",
        db_path,
    )
    assert "('u1', 20, 9000000)" in out
    assert not any(Path(db_path + ".journal").rglob("*.seg"))


def test_p5__kill_9_with_a_call_in_flight__counts_it_as_estimated(
    fake: FakeProvider, db_path: str
) -> None:
    """A begin without an end: the provider may have billed, so the estimate counts."""
    fake.script(Answer(), Answer(delay_s=30))
    process = start(CALLS, fake.openai_url, db_path, "2")
    while len(fake.requests) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    kill(process)
    calls, cost = counted(db_path)
    assert calls == 2
    assert cost > 450_000


def test_p5__kill_9_with_a_call_in_flight_after_50_like_it__counts_what_those_cost(
    fake: FakeProvider, db_path: str
) -> None:
    """The estimate is of what was known when the call began, not of when the process started."""
    fake.script(*[Answer()] * 50, Answer(delay_s=30))
    code = CALLS.replace("range(int(sys.argv[3])):", "range(51):\n        pg.get_usage('u1')")
    process = start(code, fake.openai_url, db_path)
    while len(fake.requests) < 51:
        time.sleep(0.01)
    time.sleep(0.1)
    kill(process)
    calls, cost = counted(db_path)
    assert calls == 51
    assert 50.5 * 450_000 < cost < 52 * 450_000


def test_p5__the_end_of_the_process__delivers_what_is_left(
    fake: FakeProvider, db_path: str
) -> None:
    """A script that just ends has its events in the store, and no segment is left."""
    run(CALLS.replace("time.sleep(60)", ""), fake.openai_url, db_path, "5")
    events = sqlite3.connect(db_path).execute("SELECT COUNT(*) FROM events").fetchone()[0]
    assert events == 5
    assert not any(Path(db_path + ".journal").rglob("*.seg"))


def test_p5__sigterm__loses_nothing(fake: FakeProvider, db_path: str) -> None:
    """No handler of ours: the journal has it all."""
    process = start(CALLS, fake.openai_url, db_path, "7")
    assert read_line(process) == "called"
    process.terminate()
    process.communicate(timeout=30)
    assert counted(db_path) == (7, 7 * 450_000)


def test_p5__a_disk_full_for_longer_than_the_queue__loses_nothing_while_the_process_lives(
    init: Init, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch, swallowed: Swallowed
) -> None:
    """The queue has an end, what a user has spent is known all the same: it is delivered later."""
    swallowed.expect("journal_write")
    pg = init(max_queue_size=3)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    def away(*arguments: object) -> None:
        raise LedgerUnavailable("the disk is full")

    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url) as client,
        paygent_context(user_id="u1"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            patch.setattr(os, "posix_fallocate", full)
            patch.setattr(LocalLedger, "settle", away)
            for _ in range(20):
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            assert pg.queue_stats["total_dropped"] > 0
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    pg.flush()
    assert [row.calls for row in pg.report()] == [21]
    assert (pg.pending_events, pg.queue_stats["total_dropped"]) == (0, 0)


@pytest.mark.parametrize("reported", [True, False])
def test_p5__a_delivery_between_a_calls_record_and_its_count__counts_it_once(
    init: Init, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch, reported: bool
) -> None:
    """Another thread may deliver the end of a call before the caller has counted it, also of one
    without a usage.
    """
    pg = init()
    written = Journal.write

    def write_and_deliver(journal: Journal, lane: Lane, record: bytes) -> None:
        written(journal, lane, record)
        if record[4] == END:
            pg.flush()

    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client, paygent_context("u1"):
        for _ in range(3):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        pg.flush()
        if not reported:
            fake.default = Answer(without_usage=True)
        monkeypatch.setattr(Journal, "write", write_and_deliver)
        for _ in range(3):
            assert pg.pending_events == 0  # also counts all that has ended so far
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        monkeypatch.undo()
    pg.flush()
    (row,) = pg.report()
    assert row.calls == 6
    assert pg.get_usage("u1").period_cost_nano == row.cost_nano
    assert pg.pending_events == 0


def test_p5__an_idempotency_key__books_once_ever(init: Init) -> None:
    """The same key of the same user: in this process, and after a restart."""
    pg = init()
    first = pg.record_event("u1", cost=0.1, idempotency_key="order-1")
    again = pg.record_event("u1", cost=0.1, idempotency_key="order-1")
    other = pg.record_event("u2", cost=0.1, idempotency_key="order-1")
    assert first.id == again.id != other.id
    pg.shutdown()
    pg = init()
    pg.record_event("u1", cost=0.1, idempotency_key="order-1")
    pg.flush()
    assert {row.user_id: row.cost_nano for row in pg.report()} == {"u1": 10**8, "u2": 10**8}
    assert pg.get_usage("u1").period_cost == 0.1


def test_p5__a_restart__forgets_no_cap_no_plan_and_no_spend(init: Init, fake: FakeProvider) -> None:
    """Plans, assignments and spend survive; the next process refuses what the last would have."""
    from paygent import PaygentLimitExceeded

    pg = init()
    pg.configure_plan("pro", PlanConfig(max_spend_per_period=0.001))
    pg.assign_plan("u1", "pro")
    with (
        openai.OpenAI(api_key="k", base_url=fake.openai_url) as client,
        paygent_context(user_id="u1"),
    ):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
        pg.shutdown()
        pg = init()
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
        with pytest.raises(PaygentLimitExceeded):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
    state = pg.start_session("u1", plan="pro")
    assert (state.plan, state.plan_config.max_spend_per_period) == ("pro", 0.001)
    assert state.current_usage.period_cost_nano == 3 * 450_000


def test_p5__two_processes__see_what_the_other_spent(fake: FakeProvider, db_path: str) -> None:
    """At each delivery a process reads what others have spent of its users."""
    code = """
import sys
import openai, paygent
pg = paygent.Paygent.init(db_path=sys.argv[2])
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
def call():
    with paygent.paygent_context(user_id="u1"):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    pg.flush()
for line in sys.stdin:
    call()
    print(pg.get_usage("u1").period_cost_nano, flush=True)
"""
    one, two = (start(code, fake.openai_url, db_path) for _ in range(2))
    seen = []
    for process in (one, two, one, two):
        assert process.stdin is not None
        process.stdin.write("call\n")
        process.stdin.flush()
        seen.append(int(read_line(process)))
    assert seen == [450_000, 900_000, 1_350_000, 1_800_000]
    for process in (one, two):
        process.communicate(timeout=30)


def test_p5__a_journal__is_private_and_holds_no_text_of_anyone(
    db_path: str, fake: FakeProvider, init: Init, caplog: object
) -> None:
    """No prompt, answer or key in journal, database or log; folder 0700, files 0600."""
    pg = init()
    secret = "prompt-4711-secret"
    with openai.OpenAI(api_key="sk-key-4711", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1", metadata={"feature": "chat"}):
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": secret}]
            )
    folder = Path(db_path + ".journal")
    found = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"chat" in found
    pg.flush()
    found += Path(db_path).read_bytes() + Path(db_path + "-wal").read_bytes()
    log = getattr(caplog, "text", "")
    for text in (secret, "sk-key-4711", "Hello from the fake"):
        assert text.encode() not in found
        assert text not in log
    assert os.stat(folder / "default").st_mode & 0o777 == 0o700
    assert {os.stat(path).st_mode & 0o777 for path in folder.rglob("*.seg")} <= {0o600}


FORKING = """
import os, sys, time
import openai
from paygent import Paygent, paygent_context

pg = Paygent.init(db_path=sys.argv[1])
client = openai.OpenAI(api_key="k", base_url=sys.argv[2], max_retries=0)
made = 0

def call():
    with paygent_context("u1"):
        client.chat.completions.create(
            model="gpt-4o", max_tokens=20, messages=[{"role": "user", "content": "Say hello."}]
        )

def inherited():
    links = ("/proc/self/fd/" + each for each in os.listdir("/proc/self/fd"))
    names = [os.path.basename(os.readlink(each)) for each in links if os.path.exists(each)]
    return [name for name in names if name.startswith(os.path.basename(sys.argv[1]))]

end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    for _ in range(15):
        call()
        made += 1
    child = os.fork()
    if not child:
        if inherited():
            os._exit(9)
        call()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the child has inherited a connection"
    made += 1
print(made)
"""


def test_p5__processes_that_fork_and_come_and_go__lose_nothing(
    fake: FakeProvider, db_path: str
) -> None:
    """Several processes on one file, each forking children, each closing the store when it ends:
    every call is there, and the file is whole.
    """
    made = 0
    for seconds in ((0.5, 1.0, 1.5), (0.5, 1.0)):  # those that end first do so beside the others
        processes = [start(FORKING, db_path, fake.openai_url, str(each)) for each in seconds]
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            made += int(out)
    with closing(sqlite3.connect(db_path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    pg = Paygent.init(db_path=db_path)  # takes over what the children left in their journals
    pg.flush()
    assert [(row.calls, row.cost_nano) for row in pg.report(by="user")] == [(made, made * 450_000)]
    assert made == len(fake.requests)


def test_p5__a_stream_read_on_after_a_fork__is_corrected_by_its_own_process_alone(
    fake: FakeProvider, db_path: str
) -> None:
    """The child inherits a stream that was left and read on; dropping it there books nothing."""
    code = """
import gc, os, sys
import openai, paygent
pg = paygent.Paygent.init(db_path=sys.argv[2])
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
with paygent.paygent_context(user_id="u1"):
    stream = client.chat.completions.create(
        model="gpt-4o", stream=True, messages=[{"role": "user", "content": "x"}]
    )
for count in (1, 5):  # left, then read on
    for number, chunk in enumerate(stream, 1):
        if number == count:
            break
pid = os.fork()
if pid == 0:
    del stream, chunk
    gc.collect()
    pg.flush()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
for chunk in stream:
    pass
print([(row.calls, row.input_tokens, row.output_tokens) for row in pg.report()])
"""
    fake.default = Answer(text="one two three four five six seven eight " * 4)
    out, _ = run(code, fake.openai_url, db_path)
    assert out.strip() == "[(1, 100, 20)]"


def test_p5__calls_that_are_made_while_the_process_exits__count_at_the_next_start(
    fake: FakeProvider, db_path: str, init: Init
) -> None:
    """An exit handler that was registered before Paygent runs after it; a daemon thread goes on."""
    code = """
import atexit, sys, threading, time
import openai, paygent
client = openai.OpenAI(api_key="k", base_url=sys.argv[1], max_retries=0)
returned = []
def call(user):
    with paygent.paygent_context(user_id=user):
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "x"}]
        )
    returned.append(user)
def call_on():
    while True:
        call("daemon")
def last():
    call("handler")
    time.sleep(0.3)
    print(returned.count("daemon"), flush=True)
atexit.register(last)
pg = paygent.Paygent.init(db_path=sys.argv[2])
call("handler")
threading.Thread(target=call_on, daemon=True).start()
time.sleep(0.2)
"""
    out, _ = run(code, fake.openai_url, db_path)
    pg = init()
    pg.flush()
    calls = {row.user_id: row.calls for row in pg.report()}
    assert calls["handler"] == 2
    assert int(out) <= calls["daemon"] <= int(out) + 50  # those that it made after the line
