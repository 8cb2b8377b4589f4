"""The example application, served over HTTP by a process of its own, and its nightly report."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from paygent.testing import Answer, PaygentFake, Tokens

EXAMPLES = Path(__file__).parents[2] / "examples"
READY_S = 60.0
"""How long the service may take to start, or a job to end; a busy machine is slow at imports."""

SERVE = """
import uvicorn
from chat_service import Running, ask, app

@app.post("/forgotten")
async def forgotten(running: Running) -> str:  # without sign_in
    return await ask(running, "gpt-4o", "Hello.")

uvicorn.run(app, port=0, access_log=False)
"""

ADA, BOB = ({"authorization": f"Bearer {name}-token"} for name in ("ada", "bob"))
USERS = {"ada": ADA, "bob": BOB}

LARGE = Answer(text="Hello.", tokens=Tokens(input=20_000, output=1_000))
"""Three of these use up the free plan's tokens of gpt-4o; each costs $0.06 there."""


class Service:
    """The running service, its log and its address."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE],
                env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.http = httpx2.Client(base_url=self._address(), timeout=READY_S)

    def _address(self) -> str:
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            found = re.search(r"http://127\.0\.0\.1:\d+", self.log)
            if found:
                return found[0]
            time.sleep(0.05)  # another process's start cannot be waited for in any other way
        self.process.kill()
        raise AssertionError(self.log)

    @property
    def log(self) -> str:
        """What the service has logged."""
        return self._log.read_text(encoding="utf-8")

    def post(self, path: str, user: dict[str, str] | None = None) -> httpx2.Response:
        """Send a text to a route as a user."""
        return self.http.post(path, json="Hello.", headers=user)

    def stop(self) -> str:
        """Stop the service as a server's supervisor does; return what it has printed."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        printed, _ = self.process.communicate(timeout=30)
        return printed


@pytest.fixture
def fake() -> Iterator[PaygentFake]:
    """A provider and a store that the service inherits through its environment."""
    with PaygentFake() as made:
        made.provider.default = LARGE
        yield made


@pytest.fixture
def service(fake: PaygentFake, tmp_path: Path) -> Iterator[Service]:
    """The service, serving."""
    running = Service(tmp_path / "log")
    yield running
    running.stop()


def booked(fake: PaygentFake, user_id: str) -> list[tuple[str | None, int]]:
    """Return model and tokens of a user's events."""
    return [(event.model, event.total_tokens) for event in fake.events(user_id)]


def report() -> str:
    """Run the nightly report and return what it prints."""
    script = [sys.executable, str(EXAMPLES / "nightly_report.py")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chat_service__chats_of_two_users__are_charged_to_each_and_fall_back_at_the_cap(
    service: Service, fake: PaygentFake
) -> None:
    """The free plan's user is warned, and answered by the cheaper model; the other is not."""
    answers = [service.post("/chat", ADA) for _ in range(4)]
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, "Hello.")] * 4
    assert service.post("/chat", BOB).status_code == 200
    models = [request.body["model"] for request in fake.requests]
    assert models == ["gpt-4o", "gpt-4o", "gpt-4o", "gpt-4o-mini", "gpt-4o"]
    printed = service.stop()
    assert booked(fake, "ada") == [("gpt-4o", 21_000)] * 3 + [("gpt-4o-mini", 21_000)]
    assert booked(fake, "bob") == [("gpt-4o", 21_000)]
    warning = "mail to ada@example.com: ada has used 42,000 of 50,000 tokens on gpt-4o"
    assert [line.partition(";")[0] for line in printed.splitlines()] == [warning]
    assert report() == (
        "ada: $0.183600, calls 4\n"
        "  gpt-4o: $0.180000, calls 3\n"
        "  gpt-4o-mini: $0.003600, calls 1\n"
        "bob: $0.060000, calls 1\n"
        "  gpt-4o: $0.060000, calls 1\n"
    )


def test_chat_service__a_user_has_spent_the_plan__is_refused_with_a_402_before_anything_is_sent(
    service: Service, fake: PaygentFake
) -> None:
    """Also the stream and the job; the response names the moment from which calls pass again."""
    fake.provider.script(replace(LARGE, tokens=Tokens(input=600_000)))  # $1.20
    story = service.post("/story", ADA)
    assert (story.status_code, story.text) == (200, "Hello. ")
    assert len(fake.requests) == 1
    for path in ("/chat", "/story"):
        refusal = service.post(path, ADA)
        assert refusal.status_code == 402
        assert "ada has used $1.20 of $1.00 in this billing period" in refusal.json()["error"]
        assert re.fullmatch(r"\d{4}-\d\d-01T00:00:00\+00:00", refusal.json()["resets_at"])
    job = service.post("/summaries", ADA).json()
    assert wait_for_summary(service, job, ADA).status_code == 402
    assert len(fake.requests) == 1
    assert service.post("/chat", BOB).status_code == 200
    service.stop()
    assert booked(fake, "ada") == [("claude-sonnet-5-5", 600_020)]


def test_chat_service__a_job_on_the_pool__is_charged_to_the_user_of_its_request(
    service: Service, fake: PaygentFake
) -> None:
    """One pool serves everyone; a summary can be read by its own user alone."""
    jobs = {name: service.post("/summaries", user).json() for name, user in USERS.items()}
    for name, job in jobs.items():
        assert wait_for_summary(service, job, USERS[name]).json() == {"summary": "Hello."}
    assert service.http.get(f"/summaries/{jobs['ada']}", headers=BOB).status_code == 404
    service.stop()
    assert {name: booked(fake, name) for name in USERS} == {
        name: [("gpt-4o-mini", 21_000)] for name in USERS
    }


def test_row_19__a_request_without_a_user__is_a_401_and_one_that_was_forgotten_a_500(
    service: Service, fake: PaygentFake
) -> None:
    """Never a 429: waiting does not help; and nothing is sent."""
    assert service.post("/chat").status_code == 401
    assert service.post("/chat", {"authorization": "Bearer eve-token"}).status_code == 401
    assert service.post("/forgotten").status_code == 500
    service.stop()
    assert "in forgotten" in service.log  # the traceback leads to the route
    assert fake.requests == []


def wait_for_summary(service: Service, job: str, user: dict[str, str]) -> httpx2.Response:
    """Ask for a summary until it is ready or refused."""
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        answer = service.http.get(f"/summaries/{job}", headers=user)
        if answer.status_code != 200 or answer.json()["summary"] is not None:
            return answer
    raise AssertionError("the job has not ended")
