"""P5 for calls that take the shortcut: killed at each step in turn, and at random moments under
load, each call that returned counts exactly once, and so does each that reached the provider.

Two processes, one for each kind of journal segment, fork a child for each kill, so that a kill
costs a tenth of a second; all of them share a store, and adopt each other's journals. Each child
has a user of its own, and each of its calls a number of input tokens of its own, so that an event
shows which call it is of.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.promises.scripts import kill, start

from paygent import Paygent

Init = Callable[..., Paygent]

KILLS = 200
THREADS = 2
KILLING = """
import itertools, os, random, signal, sys, threading, time
import httpx, openai, paygent
from paygent.client.journal import journal
from paygent.client.metering import wait
from paygent.client.metering.meter import Meter
from tests.promises.interruptions import killed_at_signal

db_path, notes, kind, threads, kills = *sys.argv[1:4], *map(int, sys.argv[4:])
chance = random.Random(kills)
wait.FIRST_TOUCH_WAIT_S = 5.0
journal.can_map = lambda folder: kind == "mapped"
sent, returned = (
    os.open(f"{notes}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for name in ("sent", "returned")
)
PARTS = (
    "paygent/client/instrument/", "metering/meter.py", "client/accounts/", "client/journal/",
    "core/records.py", "paygent/failopen.py",
)

class Child:
    def __init__(self, number, db_path):
        self.user, self.numbers = f"{kind}-{number}", itertools.count(1_000)
        self.pg = paygent.Paygent.init(db_path=db_path)
        self.pg.configure_plan("default", paygent.PlanConfig(max_spend_per_period=10**6))
        transport = httpx.MockTransport(self.answer)
        self.client = openai.OpenAI(api_key="k", http_client=httpx.Client(transport=transport))
        while not self.pg._parts.meter.shortcuts:  # on a busy machine the ledger answers late
            self.call()
        for _ in range(3):
            self.call()

    def answer(self, request):
        number = next(self.numbers)
        os.write(sent, f"{self.user} {number}\\n".encode())
        usage = {"prompt_tokens": number, "completion_tokens": 5, "total_tokens": number + 5}
        return httpx.Response(200, json={
            "id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o",
            "choices": [], "usage": usage})

    def call(self):
        with paygent.paygent_context(user_id=self.user):
            answer = self.client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "x"}])
        os.write(returned, f"{self.user} {answer.usage.prompt_tokens}\\n".encode())

    def call_on(self):
        while True:
            self.call()

def run(number, ready):
    child = Child(number, db_path)
    Meter.begin = lambda *args: os._exit(3)  # a call that does not take the shortcut
    if not threads:
        killed_at_signal(number, child.call, PARTS)
        os._exit(0)
    os.write(ready, b".")
    for _ in range(threads):
        threading.Thread(target=child.call_on, daemon=True).start()
    time.sleep(60)

Child(0, f"{notes}/{kind}.db").pg.shutdown()  # imports everything once, before the forks
for number in range(1, kills + 1):
    waits, ready = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            run(number, ready)
        finally:
            os._exit(1)
    os.close(ready)
    if threads and os.read(waits, 1):
        time.sleep(chance.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(waits)
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
print(number)
"""


def calls_in(path: Path) -> Counter[str]:
    """Return the calls that a file notes: user and input tokens of each. User 0 of each kind is of
    another store.
    """
    return Counter(line for line in path.read_text().splitlines() if "-0 " not in line)


def check_events(init: Init, db_path: str, notes: Path, in_flight_max: int) -> None:
    """Adopt what the dead have left, and compare the events with what their calls were."""
    pg = init()
    pg.flush()
    pg.shutdown()
    assert not any(Path(db_path + ".journal").rglob("*.seg"))
    assert not any(Path(db_path + ".journal").rglob("*.unreadable"))
    with closing(sqlite3.connect(db_path)) as connection:
        rows = connection.execute("SELECT user_id, input_tokens, quality FROM events").fetchall()
    exact = Counter(f"{user} {tokens}" for user, tokens, quality in rows if quality == "exact")
    estimated = Counter(user for user, _, quality in rows if quality == "estimated")
    sent, returned = calls_in(notes / "sent"), calls_in(notes / "returned")
    assert len(exact) + estimated.total() == len(rows)
    assert max(exact.values()) == 1
    assert returned - exact == Counter()  # 0 lost
    assert exact - sent == Counter()
    of_users = Counter(each.split()[0] for each in exact) + estimated
    sent_by = Counter(each.split()[0] for each in sent)
    assert sent_by - of_users == Counter()
    assert (of_users - sent_by).total() <= sum(estimated.values())  # begun, and not sent yet
    assert max(estimated.values()) <= in_flight_max


def killed(db_path: str, notes: Path, threads: int, kills: int) -> list[int]:
    """Let processes of both kinds be killed; return how many were, of each kind.

    Args:
        db_path: The store of all.
        notes: The folder in which they note their calls.
        threads: How many threads call until a random moment; with 0, one call is made, and killed
            at its first step, at its second, and so on.
        kills: How many to kill of each kind, at most.
    """
    parents = [
        start(KILLING, db_path, str(notes), kind, str(threads), str(kills))
        for kind in ("mapped", "written")
    ]
    try:
        outcomes = [parent.communicate(timeout=150) for parent in parents]
    finally:
        for parent in parents:
            kill(parent)
    assert [parent.returncode for parent in parents] == [0, 0], outcomes
    return [int(out) for out, _ in outcomes]


def test_p5__kill_9_at_each_step_of_a_call__loses_none_and_doubles_none(
    init: Init, db_path: str, tmp_path: Path
) -> None:
    """Between any two steps of ours, from the first to the last of the call."""
    mapped, written = killed(db_path, tmp_path, 0, 1_000)
    assert 50 < mapped < 1_000
    assert 50 < written < 1_000
    check_events(init, db_path, tmp_path, in_flight_max=1)


def test_p5__200_kills_at_random_moments_of_two_threads__lose_none_and_double_none(
    init: Init, db_path: str, tmp_path: Path
) -> None:
    """Also in the middle of a copy into the journal, of a delivery and of an adoption."""
    assert killed(db_path, tmp_path, THREADS, KILLS // 2) == [KILLS // 2] * 2
    check_events(init, db_path, tmp_path, in_flight_max=THREADS)
