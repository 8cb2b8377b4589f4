"""`paygent demo` end to end: the whole command in a process, and a scaled-down scenario."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import openai
import pytest

from paygent import GuardResult, Paygent, PlanConfig
from paygent.cli.demo_story import story
from paygent.cli.demo_story.backend import Backend, call
from paygent.cli.demo_story.provider import ProviderProcess
from paygent.cli.options import CommandError
from paygent.core.money import NANO_PER_USD, format_usd
from paygent.core.period import Window, to_datetime, to_us
from paygent.testing import Answer, FakeProvider

_MONTH = Window(
    to_us(datetime(2026, 10, 1, tzinfo=timezone.utc)),
    to_us(datetime(2026, 11, 1, tzinfo=timezone.utc)),
)
_FEW = tuple(dataclasses.replace(user, rounds=2) for user in story.USERS)
_LEFT_WAIT_S = 60.0  # as long as a busy machine may need to run a short process
_DEMO_WAIT_S = 300.0


class Notes:
    """A watch that records what happens."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.warnings: list[tuple[datetime, GuardResult]] = []
        self.refusals: list[tuple[datetime, GuardResult]] = []

    def called(self, user_id: str) -> None:
        self.calls.append(user_id)

    def warned(self, at: datetime, result: GuardResult) -> None:
        self.warnings.append((at, result))

    def refused(self, at: datetime, result: GuardResult) -> None:
        self.refusals.append((at, result))


class Machine:
    """The command's environment: an empty home and temporary folder, settings that it must ignore,
    and a mark that identifies its processes.
    """

    def __init__(self, root: Path) -> None:
        self.home, self.temporary = root / "home", root / "temporary"
        self.home.mkdir()
        self.temporary.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self._mark = uuid.uuid4().hex
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("OPENAI_", "ANTHROPIC_", "PAYGENT_"))
        }
        self.environ = {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PAYGENT_DISABLED": "1",
            "PAYGENT_API_KEY": "pg_live_not_for_the_demo",
            "PAYGENT_DB_PATH": str(self.home / "mine.db"),
            "HTTP_PROXY": "http://127.0.0.1:9",
            "ALL_PROXY": "http://127.0.0.1:9",
            "FORCE_COLOR": "1",
            "DEMO_MARK": self._mark,
        }

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the command."""
        demo = subprocess.Popen(
            [sys.executable, "-m", "paygent", "demo", *options],
            env=self.environ,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(demo)
        return demo

    def close(self) -> None:
        """Kill what a failed test has left running."""
        for demo in self._started:
            demo.kill()
            demo.communicate()

    def processes(self) -> dict[str, str]:
        """Return the command lines of the command's processes that are still running, by id."""
        lines = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has exited meanwhile
                if self._mark.encode() in (folder / "environ").read_bytes():
                    arguments = (folder / "cmdline").read_bytes().decode()
                    lines[folder.name] = arguments.replace("\0", " ")
        return lines

    def files(self) -> list[Path]:
        """Return the files that were left behind."""
        return [*self.home.rglob("*"), *self.temporary.rglob("*")]

    def start_calls(self, *options: str) -> subprocess.Popen[str]:
        """Start the command and return when it makes calls: the first one begins a journal."""
        demo = self.start(*options)
        deadline = time.monotonic() + _DEMO_WAIT_S
        while not list(self.temporary.glob("*/*.journal/*/*.seg")):
            assert demo.poll() is None, "the command ended before its first calls"
            assert time.monotonic() < deadline, "the command makes no calls"
            time.sleep(0.02)
        return demo

    def children(self) -> set[str]:
        """Return which of its modules the command runs in processes of their own."""
        return set(
            re.findall(r"paygent\.cli\.demo_story\.(\w+)", " ".join(self.processes().values()))
        )

    def assert_no_process(self) -> None:
        """Assert that no process of the command is left soon."""
        deadline = time.monotonic() + _LEFT_WAIT_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.processes() == {}

    def assert_clean(self) -> None:
        """Assert that no process and no file of the command is left."""
        self.assert_no_process()
        assert self.files() == []


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """An environment for the command."""
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_row_24__the_demo_as_a_command__prints_the_exact_figures_and_what_to_do_next(
    machine: Machine,
) -> None:
    """The command exits with 0, prints the exact figures, which it has read back from its backend,
    in plain lines, and leaves nothing behind.
    """
    demo = machine.start()
    out, err = demo.communicate(timeout=_DEMO_WAIT_S)
    assert (demo.returncode, err) == (0, "")
    first, _, rest = out.partition("\n2. ")
    assert re.search(r"^A backend at http://127\.0\.0\.1:\d+ \(paygent serve, SQLite\) ", out, re.M)
    assert out.count("Read back from the backend (GET /reports/spend):") == 2
    second, _, both = rest.partition("Side by side")
    assert _row(first, "light") == ["50", "$8.00", "$8.00", "$41.00"]
    assert _row(first, "typical") == ["400", "$23.00", "$23.00", "$26.00"]
    assert _row(first, "power") == ["4,000", "$139.48", "$140.00", "−$91.00"]
    assert _row(second, "power") == ["4,000", "$8.88", "$9.08", "$39.92"]
    assert "4,450 requests, 3,500 of them for gpt-4o; the backend has 4,450 calls" in first
    assert "4,450 requests, 5 of them for gpt-4o; the backend has 4,450 calls" in second
    assert "3,495 calls of gpt-4o were refused" in second
    assert "warning" not in first and "blocked" not in first
    assert -1 < second.index("warning") < second.index("blocked") < second.index("cost by model")
    assert re.search(r"warning .*power has used 41,360 of 50,000 tokens on gpt-4o", second)
    assert re.search(r"blocked .*power has used 51,700 of 50,000 tokens on gpt-4o", second)
    assert _amounts(both, "power") == ["$140.00", "−$91.00", "$9.08", "$39.92"]
    assert _amounts(both, "total") == ["$171.00", "−$24.00", "$40.08", "$106.92"]
    *_, title, install, use, read_on, share = out.splitlines()
    assert title == "Next, in your own application:"
    assert "pip install . in your clone" in install
    assert "Paygent.init() once" in use
    assert 'with paygent_context(user_id="user_123"):' in use
    assert "docs/guide/quickstart.md" in read_on
    assert "paygent serve" in share
    assert not any(ord(char) < 32 for char in out.replace("\n", ""))
    machine.assert_clean()


def _line(text: str, user_id: str) -> str:
    return next(line for line in text.splitlines() if re.match(rf"\s*{user_id}\s.*\$", line))


def _amounts(text: str, user_id: str) -> list[str]:
    return re.findall(r"−?\$[\d,.]+", _line(text, user_id))


def _row(text: str, user_id: str) -> list[str]:
    """Return calls, cost of the first model, cost and margin from a user's row."""
    table = text[text.index("cost by model") :]
    return [_line(table, user_id).split()[1], *_amounts(table, user_id)]


@pytest.mark.parametrize(
    ("options", "sign", "children"),
    [
        ([], signal.SIGINT, {"backend", "provider"}),
        ([], signal.SIGTERM, {"backend", "provider"}),
        (["--local"], signal.SIGINT, {"provider"}),
    ],
)
def test_demo__interrupted__leaves_nothing_behind(
    machine: Machine, options: list[str], sign: signal.Signals, children: set[str]
) -> None:
    """Ctrl-C or SIGTERM in mid-run ends the command, its provider and its backend, of which
    `--local` has none, and removes its folders.
    """
    demo = machine.start_calls(*options)
    assert machine.children() == children
    demo.send_signal(sign)
    out, _ = demo.communicate(timeout=_DEMO_WAIT_S)
    assert demo.returncode not in (0, 2)
    assert ("A backend at" in out) == ("backend" in children)
    assert "Side by side" not in out
    machine.assert_clean()


def test_demo__killed__leaves_no_process(machine: Machine) -> None:
    """SIGKILL leaves no time for anything, and provider and backend end by themselves."""
    demo = machine.start_calls()
    demo.kill()
    demo.communicate(timeout=_DEMO_WAIT_S)
    machine.assert_no_process()


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend with its files below the folder of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Backend(os.environ) as running:
        yield running


@pytest.fixture
def run(fake: FakeProvider) -> Callable[[PlanConfig, Notes], story.Outcome]:
    """The scenario with two rounds of calls per user."""

    def go(plan: PlanConfig, notes: Notes) -> story.Outcome:
        return story.run(plan, _FEW, fake, _MONTH, notes)

    return go


def _requests(fake: FakeProvider) -> dict[str, int]:
    return Counter(request.body["model"] for request in fake.requests)


def test_story__without_limits__every_call_is_made_at_its_exact_cost(
    fake: FakeProvider, run: Callable[[PlanConfig, Notes], story.Outcome]
) -> None:
    """Without limits each call reaches the provider once and is reported at its exact cost."""
    notes = Notes()
    outcome = run(story.WITHOUT_LIMITS, notes)
    assert _requests(fake) == {"claude-sonnet-5": 2, "gpt-5": 2, "gpt-4o": 14, "gpt-4o-mini": 2}
    assert [margin.user_id for margin in outcome.margins] == ["light", "typical", "power"]
    costs = [format_usd(margin.cost_nano, decimals=5) for margin in outcome.margins]
    assert costs == ["$0.32000", "$0.11500", "$0.56000"]
    assert (outcome.calls, outcome.refused, len(notes.calls)) == (20, 0, 20)
    assert outcome.margin_nano == 3 * 49 * NANO_PER_USD - outcome.cost_nano
    assert (notes.warnings, notes.refusals) == ([], [])
    assert all(row.doubtful_calls == 0 for margin in outcome.margins for row in margin.by_model)


def test_story__with_limits__refused_calls_never_reach_the_provider(
    fake: FakeProvider, run: Callable[[PlanConfig, Notes], story.Outcome]
) -> None:
    """Past the cap the application continues with the smaller model, and refused calls are never
    sent.
    """
    notes = Notes()
    outcome = run(story.WITH_LIMITS, notes)
    assert _requests(fake) == {"claude-sonnet-5": 2, "gpt-5": 2, "gpt-4o": 5, "gpt-4o-mini": 11}
    assert (outcome.calls, outcome.refused, outcome.capped_tokens) == (20, 9, 51_700)
    power = {row.model: row.calls for row in outcome.margins[2].by_model}
    assert power == {"gpt-4o": 5, "gpt-4o-mini": 11}
    ((_, warning),) = notes.warnings
    assert (warning.gate_reason, warning.current_value) == ("model_limit:gpt-4o", 41_360)
    assert len(notes.refusals) == 9
    assert [result.current_value for _, result in notes.refusals] == [51_700] * 9


def test_story__events_of_the_watch__are_in_the_simulated_month(
    run: Callable[[PlanConfig, Notes], story.Outcome],
) -> None:
    """The watch receives the times of the calls: the fifth and sixth of 16."""
    notes = Notes()
    run(story.WITH_LIMITS, notes)
    length_us = _MONTH.end_us - _MONTH.start_us
    assert notes.warnings[0][0] == to_datetime(_MONTH.start_us + 9 * length_us // 32)
    assert notes.refusals[0][0] == to_datetime(_MONTH.start_us + 11 * length_us // 32)


def test_story__a_call_fails__raises_it_and_cleans_up(
    fake: FakeProvider,
    run: Callable[[PlanConfig, Notes], story.Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The run raises the provider's error; no Paygent and no folder stays behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake.default = Answer(status=500)
    with pytest.raises((openai.APIStatusError, Exception), match="fake 500"):
        run(story.WITHOUT_LIMITS, Notes())
    assert Paygent.get_instance() is None
    assert list(tmp_path.glob("paygent-demo-*")) == []


@pytest.mark.parametrize("plan", [story.WITHOUT_LIMITS, story.WITH_LIMITS])
def test_story__on_a_backend__is_the_same_and_read_back_from_there(
    fake: FakeProvider,
    run: Callable[[PlanConfig, Notes], story.Outcome],
    backend: Backend,
    plan: PlanConfig,
) -> None:
    """The plan that was configured over REST applies, and the backend has every call."""
    alone, connected = Notes(), Notes()
    expected = run(plan, alone)
    tenant = backend.new_tenant("demo")
    outcome = story.run(plan, _FEW, fake, _MONTH, connected, tenant)
    assert outcome == expected
    assert connected.warnings == alone.warnings
    assert connected.refusals == alone.refusals
    headers = {"Authorization": f"Bearer {tenant.sdk_key}"}
    path = "/api/v1/users/power/usage?from=2026-10-01&to=2026-11-01"
    power = call(backend.url, "GET", path, headers=headers)
    assert power["cost_nano"] == expected.margins[2].cost_nano
    session = call(backend.url, "GET", "/api/v1/users/power/session", headers=headers)
    assert session["plan"] == story.PLAN_NAME


def test_story__the_backend_ends_in_mid_run__is_an_error(
    fake: FakeProvider, backend: Backend
) -> None:
    """Figures that lack events are not shown."""

    class Ends(Notes):
        def called(self, user_id: str) -> None:
            super().called(user_id)
            if len(self.calls) == 10:
                backend.stop()

    with pytest.raises(CommandError, match=r"^\d+ events did not reach the backend"):
        story.run(story.WITHOUT_LIMITS, _FEW, fake, _MONTH, Ends(), backend.new_tenant("demo"))


def test_backend__stopped__has_left_neither_process_nor_file(
    backend: Backend, tmp_path: Path
) -> None:
    """It drains and ends with status 0; `stop` may be called again."""
    assert list(tmp_path.glob("paygent-demo-*/server.db")) != []
    pid = backend.pid
    backend.stop()
    backend.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert backend._child is not None
    assert backend._child._process.returncode == 0
    assert list(tmp_path.glob("paygent-demo-*")) == []


def test_call__an_error_or_no_answer__names_the_request(backend: Backend) -> None:
    """The command prints that as its reason."""
    with pytest.raises(CommandError, match=r"answers GET /api/v1/users with status 401$"):
        call(backend.url, "GET", "/api/v1/users")
    backend.stop()
    with pytest.raises(CommandError, match=r"does not answer GET /ready: ConnectionRefusedError"):
        call(backend.url, "GET", "/ready")


def test_backend__that_does_not_start__is_an_error_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the last line that the server has logged."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "uvicorn.py").write_text("raise SystemExit('the disk is full')")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with pytest.raises(CommandError, match=r"^the backend did not start: the disk is full$"):
        Backend(environ)
    assert list(tmp_path.glob("paygent-demo-*")) == []


def test_last_full_month__in_january__is_december() -> None:
    """The result is the previous month, across the end of a year too."""
    now_us = to_us(datetime(2027, 1, 15, 12, tzinfo=timezone.utc))
    month = story.last_full_month(now_us)
    assert to_datetime(month.start_us) == datetime(2026, 12, 1, tzinfo=timezone.utc)
    assert to_datetime(month.end_us) == datetime(2027, 1, 1, tzinfo=timezone.utc)


def test_clock__outside_of_any_user__is_at_the_latest_moment() -> None:
    """A user who is behind does not turn back the clock of others."""
    clock = story.Clock(0)
    assert clock() == 0
    clock.move(7)
    clock.move(5)
    assert clock() == 5
    ahead = story.Clock(0)
    contexts: list[int] = []
    import contextvars

    contextvars.Context().run(ahead.move, 9)
    contexts.append(contextvars.Context().run(ahead))
    assert contexts == [9]


def test_provider_process__used_and_stopped__counts_and_ends() -> None:
    """The process counts requests by model and exits when it is stopped."""
    with ProviderProcess() as provider:
        client = openai.OpenAI(api_key="x", base_url=provider.openai_url, max_retries=0)
        with client:
            for _ in range(2):
                client.chat.completions.create(model="gpt-4o", messages=[])
        assert provider.requests() == {"gpt-4o": 2}
    provider.stop()
    assert provider._child._process.returncode == 0


def test_provider_process__killed__raises() -> None:
    """A provider that has exited is an error, never a count of zero."""
    with ProviderProcess() as provider:
        provider._child._process.kill()
        provider._child._process.wait()
        with pytest.raises(RuntimeError, match="has exited"):
            provider.requests()
