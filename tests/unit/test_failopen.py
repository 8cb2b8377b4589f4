"""The only guard that swallows: what passes, what is counted, and what is said."""

from __future__ import annotations

import asyncio
import functools
import logging
import types
import warnings
from typing import Any

import pytest
from tests.conftest import Swallowed

from paygent import GuardResult, Paygent, PaygentLimitExceeded, PlanConfig
from paygent.core.notices import Notice
from paygent.errors import PaygentWarning
from paygent.failopen import Diagnostics, attempt, diagnostics, guard, isolate, isolate_async


def fail(error: BaseException) -> Any:
    """Raise what is given."""
    raise error


def test_attempt__an_action_that_works__returns_its_result() -> None:
    """A guard adds nothing to what goes well."""
    assert attempt("kind", max, 2, 3) == 3
    assert diagnostics.counts == {}


def test_attempt__an_action_that_fails__is_none_counted_and_said_once(
    swallowed: Swallowed, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the kind and the type, never the message, which may quote a user's text."""
    swallowed.expect("kind")
    results = [attempt("kind", fail, ValueError("secret text")) for _ in range(3)]
    assert results == [None] * 3
    assert diagnostics.counts == {"kind": 3}
    assert [each.getMessage() for each in caplog.records] == [
        "step kind failed (ValueError); the application is not affected"
    ]
    assert caplog.records[0].name == "paygent"
    assert "secret" not in caplog.text


def test_attempt__at_debug_level__shows_the_traceback(
    swallowed: Swallowed, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks for it sees where it failed."""
    swallowed.expect("kind")
    with caplog.at_level(logging.DEBUG, logger="paygent"):
        attempt("kind", fail, ValueError("a user's text"))
    assert "in fail" in caplog.text
    assert "a user's text" not in caplog.text


def test_attempt__a_refusal__passes() -> None:
    """`PaygentLimitExceeded` is the one exception that is meant for the application."""
    refusal = PaygentLimitExceeded(GuardResult("hard_gate", "total_spend", message="no"))
    with pytest.raises(PaygentLimitExceeded) as caught:
        attempt("kind", fail, refusal)
    assert caught.value is refusal
    assert diagnostics.counts == {}


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit(), asyncio.CancelledError()]
)
def test_attempt__what_is_no_exception__passes(error: BaseException) -> None:
    """Ctrl-C, an exit and a cancellation are the application's."""
    with pytest.raises(type(error)):
        attempt("kind", fail, error)
    assert diagnostics.counts == {}


async def test_guard__around_a_block_that_awaits__swallows_as_attempt_does(
    swallowed: Swallowed,
) -> None:
    """Failures are counted; a refusal and a cancellation pass."""
    swallowed.expect("kind")
    with guard("kind"):
        await asyncio.sleep(0)
        raise ValueError
    assert diagnostics.counts == {"kind": 1}
    refusal = PaygentLimitExceeded(GuardResult("hard_gate", "no_user", message="no"))
    for error in (refusal, asyncio.CancelledError()):
        with pytest.raises(type(error)), guard("kind"):
            raise error


async def test_isolate_async__a_failure__is_counted_and_a_cancellation_passes(
    swallowed: Swallowed,
) -> None:
    """What an async callback raises stays with us, a cancellation does not."""

    async def raises(error: BaseException) -> None:
        raise error

    swallowed.expect("kind")
    await isolate_async("kind", raises, ValueError("x"))
    assert diagnostics.counts == {"kind": 1}
    with pytest.raises(asyncio.CancelledError):
        await isolate_async("kind", raises, asyncio.CancelledError())


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_isolate__whatever_is_raised__stays_on_our_thread(
    error: BaseException, swallowed: Swallowed
) -> None:
    """A callback cannot end a thread that it does not own."""
    swallowed.expect("kind")
    isolate("kind", fail, fail, error)
    assert diagnostics.counts == {"kind": 1}


def test_say__an_observation__is_counted_each_time_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once per kind, with its figures."""
    for number in (1, 2):
        diagnostics.warn_once(Notice.LEDGER_SLOW, number)
    assert caplog.messages == ["The ledger did not answer within 1 s; calls proceed."]
    assert diagnostics.counts == {"ledger_slow": 2}


def test_failures__kinds_without_end__stay_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Kinds are made from model names too: neither memory nor the log may grow with them."""
    own = Diagnostics()
    for number in range(2_000):
        own.warn_once(Notice.UNPRICED, number, "", subject=f"model-{number}")
    assert len(caplog.records) <= 200
    assert len(own.counts) <= 201


def test_diagnostics__after_many_subjects__still_log_every_other_kind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """250 models without a price do not hide that the journal cannot be written."""
    own = Diagnostics()
    for number in range(250):
        own.warn_once(Notice.UNPRICED, number, "", subject=f"model-{number}")
    own.warn_once(Notice.JOURNAL_IN_MEMORY)
    own.record_error("settle", ValueError())
    kinds = [record.getMessage().split()[0] for record in caplog.records[-2:]]
    assert kinds == ["The", "step"]
    assert (own.counts["journal_in_memory"], own.counts["settle"]) == (1, 1)


def test_failures__a_listener__hears_of_failures_and_not_of_observations() -> None:
    """Tests turn what production swallows into failures by listening."""
    own = Diagnostics()
    heard: list[str] = []
    own.listeners.append(lambda kind, error: heard.append(f"{kind} {error}"))
    own.warn_once(Notice.JOURNAL_LOST)
    own.record_error("failed", ValueError("x"))
    assert heard == ["failed x"]


def test_renew_after_fork__a_lock_that_was_held__does_not_stop_the_child() -> None:
    """The child counts on, whatever a thread of the parent held."""
    own = Diagnostics()
    own._lock.acquire()
    own.renew_after_fork()
    own.warn_once(Notice.JOURNAL_LOST)
    assert own.counts == {"journal_lost": 1}


def test_say__a_log_filter_of_the_application_that_raises__is_counted_only() -> None:
    """Whatever the application does with our log, the call goes on."""
    own = Diagnostics()

    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("a filter's own defect")

    logger = logging.getLogger("paygent")
    logger.addFilter(refuse)
    try:
        own.warn_once(Notice.JOURNAL_LOST)
        own.record_error("failed", ValueError("x"))
    finally:
        logger.removeFilter(refuse)
    assert own.counts == {"journal_lost": 1, "log": 2, "failed": 1}


def test_warn__of_a_configuring_verb__points_at_the_line_that_called_it() -> None:
    """A warning names the application's file, however deep in ours it was found."""
    pg = Paygent.init(db_path=":memory:", auto_instrument=False)
    with pytest.warns(PaygentWarning) as caught:
        pg.assign_plan("u1", "nobody configured this")
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(PaygentWarning) as caught:
        pg.configure_plan("p", PlanConfig(max_spend_per_period=10**10))
    assert [each.filename for each in caught] == [__file__]


def test_warn__where_warnings_are_errors__is_logged_and_passes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`-W error` must not break an application over a plan's name."""
    pg = Paygent.init(db_path=":memory:", auto_instrument=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pg.assign_plan("u1", "nobody configured this").plan == "nobody configured this"
    assert "is not configured" in caplog.text


class Plain:
    """A callable without a name, as some decorators make."""

    def __call__(self, payload: object) -> None:
        raise ValueError(payload)


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (fail, "test_failopen.fail"),
        (functools.partial(fail, ValueError("x")), "test_failopen.fail"),
        (Plain(), "test_failopen.Plain"),
        (types.MethodType(Plain(), "x"), "test_failopen.Plain"),
        (Diagnostics().warn_once, "paygent.failopen.Diagnostics.warn_once"),
        (len, "builtins.len"),
    ],
)
def test_isolate__a_callback_of_any_kind__is_named_and_ends_nothing(
    callback: object, name: str, swallowed: Swallowed, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure to name it would end the thread that runs all callbacks."""
    swallowed.expect("kind")
    diagnostics._callbacks.clear()
    isolate("kind", callback, fail, ValueError("x"))
    assert f"{name} raised an exception" in caplog.messages[0]
