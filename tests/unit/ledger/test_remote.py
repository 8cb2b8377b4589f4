"""The ledger over HTTP: what each answer of a server means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.samples import NOON_US, ask, make_event, period_key

from paygent.core.messages import Batch
from paygent.failopen import diagnostics
from paygent.ledger.backend import BackendLedger
from paygent.ledger.polling import PollingLedger
from paygent.ledger.port import LedgerRefused, LedgerUnauthorised, LedgerUnavailable
from paygent.ledger.remote import RemoteLedger
from paygent.ledger.transport import HttpResponse, TransportError

PROBLEM = json.dumps(
    {"type": "x", "title": "No.", "status": 422, "detail": "events[0].id"}
).encode()


class Scripted:
    """A transport that answers from a list, and keeps what it was asked."""

    def __init__(self, *answers: HttpResponse | Exception) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, str, Any]] = []
        self.calls: list[str] = []

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Return or raise the next answer."""
        assert timeout_s > 0
        self.seen.append((method, path, None if body is None else json.loads(body)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Note it."""
        self.calls.append("close")

    def forget_after_fork(self) -> None:
        """Note it."""
        self.calls.append("forget")


def remote(*answers: HttpResponse | Exception) -> tuple[RemoteLedger, Scripted]:
    """Return a ledger and its transport."""
    transport = Scripted(*answers)
    return RemoteLedger(transport), transport  # type: ignore[arg-type]


def ok(**fields: Any) -> HttpResponse:
    """Return an answer with a JSON body."""
    return HttpResponse(200, json.dumps({"booked_through": 0, **fields}).encode())


def test_settle__a_batch__goes_to_sync_and_its_answer_comes_back() -> None:
    """Ids that are not named as duplicates were new."""
    batch = Batch(events=(make_event("a"), make_event("b")), holder="h", number=7, at_us=NOON_US)
    ledger, transport = remote(ok(booked_through=7, duplicates=["b"]))
    answer = ledger.settle(batch)
    assert (set(answer.counted), answer.booked_through) == ({"a"}, 7)
    ((method, path, body),) = transport.seen
    assert (method, path, body["number"], len(body["events"])) == ("POST", "/api/v1/sync", 7, 2)


def test_state__questions__go_to_leases() -> None:
    """The express lane carries no events."""
    user = {"user_id": "ann", "spent": [5]}
    ledger, transport = remote(ok(users=[user]))
    answer = ledger.state(Batch(questions=ask("ann", period_key()), at_us=NOON_US))
    assert answer.users["ann"].spent == {period_key(): 5}
    assert transport.seen[0][:2] == ("POST", "/api/v1/leases")


def test_settle__an_id_with_a_lone_surrogate__is_sent_as_a_local_store_keeps_it() -> None:
    """No server reads it, and one odd id must not keep a batch from being booked."""
    question = ask("a\udc80", period_key())
    ledger, transport = remote(ok(users=[{"user_id": "a\ufffd", "spent": [5]}]))
    answer = ledger.state(Batch(questions=question, at_us=NOON_US))
    assert transport.seen[0][2]["questions"][0]["user_id"] == "a\ufffd"
    assert answer.users["a\udc80"].spent == {period_key(): 5}


@pytest.mark.parametrize("status", [400, 413, 422])
def test_settle__a_problem_about_the_batch__refuses_it(status: int) -> None:
    """The same batch would be refused again."""
    ledger, _ = remote(HttpResponse(status, PROBLEM))
    with pytest.raises(LedgerRefused, match=r"events\[0\]\.id"):
        ledger.settle(Batch())


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "bad gateway"}', b""])
def test_settle__400_of_something_else__is_not_now(body: bytes) -> None:
    """A proxy's page says nothing about the events: they must not be set aside."""
    ledger, _ = remote(HttpResponse(400, body))
    with pytest.raises(LedgerUnavailable, match="status 400"):
        ledger.settle(Batch())


@pytest.mark.parametrize("status", [401, 403])
def test_settle__a_rejected_key__is_unauthorised_and_keeps_the_events(status: int) -> None:
    """A key may be rotated a moment later."""
    ledger, _ = remote(HttpResponse(status, PROBLEM, 3.0))
    with pytest.raises(LedgerUnauthorised) as raised:
        ledger.settle(Batch())
    assert raised.value.retry_after_s == 3.0


@pytest.mark.parametrize("status", [204, 302, 404, 405, 408, 409, 429, 499, 500, 502, 503, 504])
def test_settle__any_other_status__is_not_now(status: int) -> None:
    """The batch is sent again, after what the server asks for."""
    ledger, _ = remote(HttpResponse(status, PROBLEM, 9.0))
    with pytest.raises(LedgerUnavailable) as raised:
        ledger.settle(Batch())
    assert (type(raised.value), raised.value.retry_after_s) == (LedgerUnavailable, 9.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"<html>",
        b"[" * 100_000,
        b'{"booked_through": 0, "users": 1}',
        b'{"booked_through": 0, "users": [{"user_id": "someone"}]}',
        b'{"booked_through": 0, "users": [{"user_id": "ann", "spent": []}]}',
    ],
)
def test_state__an_answer_that_is_none__is_not_now(body: bytes) -> None:
    """A server that answers 200 to everything has booked nothing."""
    ledger, _ = remote(HttpResponse(200, body))
    with pytest.raises(LedgerUnavailable):
        ledger.state(Batch(questions=ask("ann", period_key())))


def test_settle__without_an_answer__is_not_now() -> None:
    """Whether the batch was booked is not known."""
    ledger, _ = remote(TransportError("ReadTimeout"))
    with pytest.raises(LedgerUnavailable, match="ReadTimeout"):
        ledger.settle(Batch())


def test_remote__its_life__is_the_transports() -> None:
    """A child drops the connections, and the end closes them."""
    ledger, transport = remote()
    ledger.open()
    ledger.pause_for_fork()
    ledger.resume_after_fork()
    ledger.forget_after_fork()
    ledger.close()
    assert transport.calls == ["forget", "close"]


def test_event__of_a_backend__is_not_shown() -> None:
    """It raises what callers of the port expect."""
    ledger, _ = remote()
    with pytest.raises(LedgerUnavailable):
        ledger.event("a")


# -- which kind of backend


def backend(*answers: HttpResponse | Exception) -> tuple[BackendLedger, Scripted]:
    """Return a ledger that has not chosen yet, and its transport."""
    transport = Scripted(*answers)
    return BackendLedger(transport, PollingLedger), transport  # type: ignore[arg-type]


def test_backend__with_our_capabilities__is_synced_with() -> None:
    """The handshake happens once."""
    ledger, transport = backend(ok(status="ok", capabilities=["sync"]), ok(), ok())
    ledger.settle(Batch())
    ledger.state(Batch())
    assert [path for _, path, _ in transport.seen] == [
        "/api/v1/health",
        "/api/v1/sync",
        "/api/v1/leases",
    ]
    assert not ledger.is_polling


@pytest.mark.parametrize("capabilities", [None, [], ["events_1000"], "sync", {"sync": 1}])
def test_backend__without_them__is_polled_and_that_is_logged_once(capabilities: Any) -> None:
    """An older server, or one of another maker."""
    fields = {} if capabilities is None else {"capabilities": capabilities}
    ledger, _ = backend(ok(status="ok", **fields))
    ledger.open()
    ledger.open()
    assert ledger.is_polling
    assert diagnostics.counts == {"backend_polled": 1}


@pytest.mark.parametrize("health", [b"[]", b"{}", b'"ok"'])
def test_backend__a_health_page_of_something_else__is_no_backend(health: bytes) -> None:
    """Nothing is sent there."""
    ledger, transport = backend(HttpResponse(200, health))
    with pytest.raises(LedgerUnavailable, match="no Paygent backend"):
        ledger.open()
    assert len(transport.seen) == 1


def test_backend__a_mere_404__chooses_nothing() -> None:
    """A proxy in front of a server that is starting answers like that."""
    ledger, _ = backend(HttpResponse(404, b""), ok(status="ok", capabilities=["sync"]), ok())
    with pytest.raises(LedgerUnavailable):
        ledger.settle(Batch())
    ledger.settle(Batch())
    assert not ledger.is_polling


def test_backend__in_a_forked_child__keeps_its_choice_and_drops_connections() -> None:
    """The server is the same one."""
    ledger, transport = backend(ok(status="ok", capabilities=["sync"]), ok())
    ledger.open()
    ledger.pause_for_fork()
    ledger.resume_after_fork()
    ledger.forget_after_fork()
    ledger.state(Batch())
    ledger.close()
    assert transport.calls == ["forget", "forget", "close"]
    with pytest.raises(LedgerUnavailable):
        ledger.event("a")


def test_settle__an_answer_that_lacks_the_batch__is_not_now() -> None:
    """A server that answers 200 with some number has not booked it."""
    ledger, _ = remote(ok(booked_through=6))
    with pytest.raises(LedgerUnavailable, match="not booked"):
        ledger.settle(Batch(holder="h", number=7))


def test_settle__ids_that_differ_by_what_cannot_be_sent__are_one_question() -> None:
    """The server would refuse two about one user, for ever."""
    ledger, transport = remote(ok(users=[{"user_id": "a\ufffd", "spent": [5]}]))
    questions = ask("a\ud800", period_key()) + ask("a\ufffd", period_key())
    answer = ledger.state(Batch(questions=questions, at_us=NOON_US))
    assert [each["user_id"] for each in transport.seen[0][2]["questions"]] == ["a\ufffd"]
    assert list(answer.users) == ["a\ud800"]
