"""How calls end: by an answer, a stream, an error."""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import Metered
from tests.unit.client.instrument.requests import Init, prepared

from paygent import PlanConfig, paygent_context
from paygent.client.accounts.forecasts import Use
from paygent.client.accounts.user_state import Hold, Lane
from paygent.client.instrument.http_sdks.outcome import end_answered, end_failed
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.estimate import Estimate
from paygent.core.usage import Usage


class Ends:
    """Stands for a meter: notes how a call ended."""

    def __init__(self) -> None:
        self.ended: list[Any] = []

    def settle(self, call: Call, usage: Usage | None) -> None:
        """Note a settlement."""
        self.ended.append(("settle", usage))

    def void(self, call: Call, why: str) -> None:
        """Note a void."""
        self.ended.append(("void", why))


def error_of(name: str, *bases: type[Exception], **fields: Any) -> Exception:
    """An exception of a class of this name."""
    made = cast(Exception, type(name, bases or (Exception,), {})("x"))
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def caused(error: BaseException, cause: BaseException) -> BaseException:
    """An exception with its cause."""
    error.__cause__ = cause
    return error


def call_of(plan: PlanConfig | None = None) -> Call:
    """A call under way."""
    call = Call()
    call.ends, call.drops_usage_chunk = [None], False
    call.hold = Hold()
    call.hold.use = Use(Estimate(5, 7), 0)
    call.hold.lane = cast(Lane, SimpleNamespace(plan=plan or PlanConfig()))
    return call


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (error_of("APIStatusError", status_code=400), "void"),
        (error_of("RateLimitError", status_code=429), "void"),
        (error_of("InternalServerError", status_code=529), "void"),
        (error_of("APIResponseValidationError", status_code=200), "settle"),
        (error_of("APITimeoutError"), "settle"),
        (caused(error_of("APIConnectionError"), error_of("ReadError")), "settle"),
        (caused(error_of("APIConnectionError"), error_of("ConnectError")), "void"),
        (caused(error_of("APITimeoutError"), error_of("ConnectTimeout")), "void"),
        (caused(error_of("APITimeoutError"), error_of("PoolTimeout")), "void"),
        (caused(error_of("APIConnectionError"), error_of("UnsupportedProtocol")), "void"),
        (caused(error_of("ConnectError"), ConnectionResetError()), "void"),
        (caused(error_of("TimeoutError"), error_of("ConnectionTimeoutError")), "void"),
        (ConnectionResetError(), "settle"),
        (json.JSONDecodeError("x", "y", 0), "settle"),
        (TimeoutError(), "settle"),
        (error_of("ValidationError", ValueError), "settle"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "not UTF-8"), "settle"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "not ASCII"), "void"),
        (ValueError("Out of range float values are not JSON compliant"), "void"),
        (TypeError("not serializable"), "void"),
        (RuntimeError("of the app"), "void"),
        (KeyboardInterrupt(), "settle"),
        (SystemExit(), "settle"),
        (asyncio.CancelledError(), "settle"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_end_failed__each_kind_of_error__is_void_or_settled(
    error: BaseException, expected: str
) -> None:
    """What cannot have cost anything is void; what may have been billed counts as estimated."""
    ends = Ends()
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    assert [how for how, _ in ends.ended] == [expected]
    if expected == "settle":
        assert ends.ended == [("settle", None)]


def test_end_failed__an_answer_that_could_not_be_parsed__counts_its_usage() -> None:
    """A completion that was cut at its length was paid; the error carries it."""
    completion = {"model": "gpt-4o", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    ends = Ends()
    error = error_of("LengthFinishReasonError", completion=completion)
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    ((how, usage),) = ends.ended
    assert (how, usage.input_tokens, usage.output_tokens) == ("settle", 3, 4)


def test_end_failed__a_chain_without_end__is_looked_at_within_bounds() -> None:
    """An error that is its own cause does not hang the app."""
    error = error_of("Loop")
    error.__context__ = other = error_of("Loop")
    other.__context__ = error
    ends = Ends()
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    assert [how for how, _ in ends.ended] == ["void"]


@pytest.mark.parametrize("handled", ["APITimeoutError", "ConnectError"])
def test_end_failed__while_the_app_handles_another_error__looks_at_its_own_only(
    handled: str,
) -> None:
    """A fallback inside `except` has the first call's error as context, which tells nothing."""
    ends = Ends()
    own = json.JSONDecodeError("x", "y", 0) if handled == "ConnectError" else TypeError("bad body")
    own.__context__ = error_of(handled)
    end_failed(cast(Meter, ends), call_of(), prepared({}), own)
    assert [how for how, _ in ends.ended] == ["settle" if handled == "ConnectError" else "void"]


class Unreadable:
    """A response whose body cannot be read again."""

    def __init__(self) -> None:
        self.is_stream_consumed = True

    stream = None
    headers = MappingProxyType({"content-type": "application/json"})
    content = b"no JSON"


def test_end_answered__a_raw_answer_without_a_response__settles_the_estimate() -> None:
    """What nobody can read counts as estimated."""
    ends = Ends()
    raw = prepared({}, headers={"x-stainless-raw-response": "true"})
    assert raw.is_raw is True
    end_answered(cast(Meter, ends), call_of(), raw, object())
    assert ends.ended == [("settle", None)]


class Consumed(Unreadable):
    """A response whose body was consumed as a stream."""

    @property
    def content(self) -> bytes:  # type: ignore[override]
        """Fail as httpx does."""
        raise RuntimeError("consumed")


@pytest.mark.parametrize("response", [Unreadable(), Consumed()])
def test_end_answered__a_body_that_cannot_be_read__settles_the_estimate(
    response: Unreadable, swallowed: Swallowed
) -> None:
    """A response that was read already and is not JSON counts as estimated."""
    if isinstance(response, Consumed):
        swallowed.expect("usage")
    ends = Ends()
    end_answered(cast(Meter, ends), call_of(), prepared({}), response)
    assert ends.ended == [("settle", None)]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
@pytest.mark.parametrize("length", [1, 17 * 1024 * 1024])
def test_end_answered__a_raw_answer_in_memory__is_read_whatever_its_type_and_size(
    content_type: str | None, length: int
) -> None:
    """Some gateways send JSON as plain text, and an answer with images or sound is large."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    body = {"model": "gpt-4o", "choices": [{"message": {"content": "x" * length}}], "usage": usage}
    headers = {} if content_type is None else {"content-type": content_type}
    content = json.dumps(body).encode()
    response = SimpleNamespace(
        is_stream_consumed=True, stream=None, headers=headers, content=content
    )
    ends = Ends()
    raw = prepared({}, headers={"x-stainless-raw-response": "true"})
    end_answered(cast(Meter, ends), call_of(), raw, SimpleNamespace(http_response=response))
    ((how, read),) = ends.ended
    assert (how, read.input_tokens, read.output_tokens) == ("settle", 3, 4)


def test_end_answered__a_response_without_a_stream_to_watch__settles_the_estimate() -> None:
    """An HTTP library of a kind that we do not know is not broken by us."""
    ends = Ends()
    response = SimpleNamespace(is_stream_consumed=False, stream=object(), headers={})
    end_answered(cast(Meter, ends), call_of(), prepared({}), response)
    assert ends.ended == [("settle", None)]


def test_end_answered__a_stream_that_cannot_be_tapped__is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No silent bypass: the type is named, the call counts as estimated."""
    ends = Ends()
    stream = prepared({}, kwargs={"stream": True})
    end_answered(cast(Meter, ends), call_of(), stream, object())
    assert ends.ended == [("settle", None)]
    assert "A stream of type object cannot be read" in caplog.text


def test_end_failed__before_it_was_sent__is_void() -> None:
    """An interruption between the gate and the provider has cost nothing."""
    ends = Ends()
    end_failed(cast(Meter, ends), call_of(), prepared({}), KeyboardInterrupt(), False)
    assert [how for how, _ in ends.ended] == ["void"]


def test_end_failed__an_answer_refused_for_its_content__was_paid() -> None:
    """Older SDKs raise it without the completion; then it counts as estimated."""
    ends = Ends()
    error = error_of("ContentFilterFinishReasonError")
    end_failed(cast(Meter, ends), call_of(), prepared({}), error)
    assert ends.ended == [("settle", None)]


def test_settle__a_usage_that_tells_who_answered__is_priced_and_booked_as_theirs(
    init: Init,
) -> None:
    """A gateway may have fallen back to another provider than the one that was asked."""
    pg = init()
    metered = Metered(pg)
    pg.get_usage("u1")  # from now on nothing has to be asked
    with paygent_context("u1"):
        call = pg._parts.meter.begin(Request("openai", "chat.completions", "gpt-4o", {}))
    assert isinstance(call, Call)
    answered = Usage(100, 20, model="claude-sonnet-4-5", provider="anthropic")
    pg._parts.meter.settle(call, answered)
    booked = metered.only
    assert (booked.provider, booked.model) == ("anthropic", "claude-sonnet-4-5")
    assert (booked.cost_total_nano, booked.quality) == (600_000, "exact")
    assert pg.get_usage("u1").period_cost == 0.0006
