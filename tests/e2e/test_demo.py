"""`paygent demo` end to end: the whole command in a process, and a scaled-down scenario."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from tests.e2e.demo_machine import DEMO_WAIT_S, Machine, get_json

from paygent import GuardResult, Paygent, PlanConfig
from paygent.cli.demo_story import child, story
from paygent.cli.demo_story.backend import PORTS, Backend, call
from paygent.cli.demo_story.child import ChildProcess
from paygent.cli.demo_story.provider import ProviderProcess
from paygent.cli.options import CommandError
from paygent.core.money import NANO_PER_USD, format_usd
from paygent.core.period import Window, calendar_month, to_datetime, to_us
from paygent.testing import Answer, FakeProvider


def _month(year: int, month: int) -> Window:
    return calendar_month(to_us(datetime(year, month, 1, tzinfo=timezone.utc)))


_MONTH, _NEXT_MONTH = _month(2026, 10), _month(2026, 11)
_LATE = re.compile(r"^.* did not answer (with)?in 0\.\d+ s.*\n", re.M)
"""Logged where a busy machine is slow to answer; the demo asks again."""

_FEW = tuple(dataclasses.replace(user, rounds=2) for user in story.USERS)


@pytest.fixture(autouse=True)
def _patient_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children end as slowly as on a busy machine before they are killed, but sooner than a
    server gives up on connections that do not end, which takes it 20 s.
    """
    monkeypatch.setattr(child, "_STOP_WAIT_S", 15.0)


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


def test_row_24__the_demo_as_a_command__prints_the_exact_figures_and_what_to_do_next(
    machine: Machine,
) -> None:
    """The command exits with 0, prints the exact figures, which it has read back from its backend,
    in plain lines, and leaves nothing behind.
    """
    demo = machine.start()
    out, err = demo.communicate(timeout=DEMO_WAIT_S)
    assert (demo.returncode, _LATE.sub("", err)) == (0, "")
    _, month = story.last_full_months(to_us(datetime.now(timezone.utc)))
    assert f"\n2. The next month, {to_datetime(month.start_us):%B %Y}, gpt-4o limited to " in out
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
    assert "dashboard" not in out and "pg_live_" not in out  # where nothing would be
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
    out, _ = demo.communicate(timeout=DEMO_WAIT_S)
    assert demo.returncode not in (0, 2)
    assert ("A backend at" in out) == ("backend" in children)
    assert "Side by side" not in out
    machine.assert_clean()


def test_demo__killed__leaves_no_process(machine: Machine) -> None:
    """SIGKILL leaves no time for anything, and provider and backend end by themselves."""
    demo = machine.start_calls()
    demo.kill()
    demo.communicate(timeout=DEMO_WAIT_S)
    machine.assert_no_process()


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend with its files below the folder of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Backend(os.environ, ports=(0,)) as running:
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


def test_story__interrupted_while_its_plan_is_set__cleans_up(
    run: Callable[[PlanConfig, Notes], story.Outcome],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """No Paygent goes on writing into a folder that is being removed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Paygent, "configure_plan", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(story.WITHOUT_LIMITS, Notes())
    assert Paygent.get_instance() is None
    assert list(tmp_path.glob("paygent-demo-*")) == []


def test_story__interrupted_while_its_users_start__stops_those_who_have(
    fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not finish the month first."""
    begun = threading.Event()

    class Begun(Notes):
        def called(self, user_id: str) -> None:
            super().called(user_id)
            begun.set()

    class InterruptedPool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Any:
            if begun.is_set():
                raise KeyboardInterrupt
            submitted = super().submit(*arguments, **options)
            assert begun.wait(30)
            return submitted

    monkeypatch.setattr(story, "ThreadPoolExecutor", InterruptedPool)
    notes, users = Begun(), story.USERS[::-1]  # the first one has the most calls
    with pytest.raises(KeyboardInterrupt):
        story.run(story.WITHOUT_LIMITS, users, fake, _MONTH, notes)
    assert 0 < len(notes.calls) < users[0].calls


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
    tenant = backend.tenant
    outcome = story.run(plan, _FEW, fake, _MONTH, connected, tenant)
    assert outcome == expected
    assert connected.warnings == alone.warnings
    assert connected.refusals == alone.refusals
    path = "/users/power/usage?from=2026-10-01&to=2026-11-01"
    power = get_json(backend.url, tenant.sdk_key, path)
    assert power["cost_nano"] == expected.margins[2].cost_nano
    session = get_json(backend.url, tenant.sdk_key, "/users/power/session")
    assert session["plan"] == story.PLAN_NAME


def test_story__two_months_of_one_product__have_their_own_plan_spend_and_payments(
    fake: FakeProvider, run: Callable[[PlanConfig, Notes], story.Outcome], backend: Backend
) -> None:
    """The second run is on the new version of the plan and begins at no spend, and each user's
    margin of each month is the payment less the cost, exactly.
    """
    tenant, limited = backend.tenant, Notes()
    first = story.run(story.WITHOUT_LIMITS, _FEW, fake, _MONTH, Notes(), tenant)
    second = story.run(story.WITH_LIMITS, _FEW, fake, _NEXT_MONTH, limited, tenant)
    assert first == run(story.WITHOUT_LIMITS, Notes())
    assert second == run(story.WITH_LIMITS, Notes())
    assert [result.current_value for _, result in limited.refusals] == [51_700] * 9
    (plan,) = get_json(tenant.url, tenant.admin_key, "/config/plans")["plans"]
    assert (plan["name"], plan["version"]) == (story.PLAN_NAME, 2)
    for outcome, month, end in ((first, "2026-10", "2026-11"), (second, "2026-11", "2026-12")):
        path = f"/reports/margin?from={month}-01&to={end}-01"
        rows = get_json(tenant.url, tenant.admin_key, path)["rows"]
        assert {row["revenue_source"] for row in rows} == {"recorded"}
        margins = {row["user"]: row["margin_nano"] for row in rows}
        assert margins == {each.user_id: each.margin_nano for each in outcome.margins}
        path = f"/revenue?user_id=power&from={month}-01&to={end}-01"
        entry = get_json(tenant.url, tenant.admin_key, path)["revenue"][0]
        assert (entry["id"], entry["kind"]) == (f"power {month}", "payment")
        assert entry["amount_nano"] == 49 * NANO_PER_USD


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
        story.run(story.WITHOUT_LIMITS, _FEW, fake, _MONTH, Ends(), backend.tenant)


def test_backend__stopped__has_left_neither_process_nor_file(
    backend: Backend, tmp_path: Path
) -> None:
    """It drains and ends with status 0; `stop` may be called again."""
    assert list(tmp_path.glob("paygent-demo-*/*/server.db")) != []
    pid = backend.pid
    backend.check_running()
    backend.stop()
    backend.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert backend._child is not None
    assert backend._child.exit_status == 0
    with pytest.raises(FileNotFoundError):  # its log is gone as well
        backend.check_running()
    assert list(tmp_path.glob("paygent-demo-*")) == []


def test_backend__with_idle_connections__ends_with_status_0(backend: Backend) -> None:
    """Those of a browser do not delay the end until the server is killed."""
    address = urlsplit(backend.url)
    used, unused = (
        http.client.HTTPConnection(address.hostname or "", address.port) for _ in range(2)
    )
    used.request("GET", "/ready")
    assert used.getresponse().read()
    unused.connect()
    backend.stop()
    used.close()
    unused.close()
    assert backend._child is not None
    assert backend._child.exit_status == 0


def test_backend__its_port__is_the_preferred_one_unless_that_is_in_use() -> None:
    """The documented port is preferred, and one in use is no error."""
    assert PORTS == (8790, 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Backend(os.environ, ports=(port, 0)) as elsewhere:
            assert urlsplit(elsewhere.url).port not in (port, None)
    with Backend(os.environ, ports=(port, 0)) as preferred:
        assert urlsplit(preferred.url).port == port


def test_backend__another_one_answers_on_its_port__goes_to_a_free_one(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that start at once may both bind the port; the demo never uses the server of another."""
    read = Backend._read_first_lines
    addresses: list[str] = []

    def read_wrongly(self: Backend, child: ChildProcess) -> tuple[str, str]:
        url, token = read(self, child)
        addresses.append(url)
        return (backend.url if len(addresses) == 1 else url), token

    monkeypatch.setattr(Backend, "_read_first_lines", read_wrongly)
    with Backend(os.environ, ports=(0, 0)) as own:
        assert [own.url] == addresses[1:]
        assert get_json(own.url, own.tenant.admin_key, "/products")["products"]


def test_backend__that_ends_before_it_is_ready__is_an_error_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command does not wait for a server that has ended."""
    read = Backend._read_first_lines

    def read_and_stop(self: Backend, child: ChildProcess) -> tuple[str, str]:
        lines = read(self, child)
        child.stop()
        return lines

    monkeypatch.setattr(Backend, "_read_first_lines", read_and_stop)
    with pytest.raises(CommandError, match=r"^the backend did not start: "):
        Backend(os.environ, ports=(0,))


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


@pytest.mark.parametrize(
    ("now", "first", "second"),
    [
        (datetime(2027, 1, 15, 12), (2026, 11), (2026, 12)),
        (datetime(2027, 2, 1), (2026, 12), (2027, 1)),
        (datetime(2027, 3, 31, 23), (2027, 1), (2027, 2)),
    ],
)
def test_last_full_months__any_day__are_the_two_before_its_month(
    now: datetime, first: tuple[int, int], second: tuple[int, int]
) -> None:
    """They follow each other and end before the month of the day, across the end of a year too."""
    now_us = to_us(now.replace(tzinfo=timezone.utc))
    assert story.last_full_months(now_us) == (_month(*first), _month(*second))


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
