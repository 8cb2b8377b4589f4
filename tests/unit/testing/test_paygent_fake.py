"""`PaygentFake` and `current_user`: what a test can assert with them, and what they restore."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from anthropic import Anthropic
from openai import OpenAI
from tests.conftest import Closing

import paygent.testing
from paygent import InvalidValue, Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.instrument.registry import instrumentation
from paygent.testing import Answer, PaygentFake, current_user


def ask(client: OpenAI, model: str = "gpt-4o") -> None:
    """Make one call, of 120 tokens unless something else is scripted."""
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello."}])


def test_paygent_fake__clients_without_arguments__reach_the_provider_and_are_booked(
    closing: Closing,
) -> None:
    """Both SDKs; each call is booked on its user, with model, tokens and cost."""
    with PaygentFake() as fake:
        with paygent_context("ada"):
            ask(closing(OpenAI()))
        with paygent_context("bob"):
            closing(Anthropic()).messages.create(
                model="claude-sonnet-5-5",
                max_tokens=5,
                messages=[{"role": "user", "content": "Hello."}],
            )
        assert [request.path for request in fake.requests] == [
            "/v1/chat/completions",
            "/v1/messages",
        ]
        booked = [
            (event.user_id, event.model, event.total_tokens, event.cost_total)
            for event in fake.events()
        ]
        assert booked == [
            ("ada", "gpt-4o", 120, 0.00045),
            ("bob", "claude-sonnet-5-5", 120, 0.0004),
        ]
        assert [event.user_id for event in fake.events("bob")] == ["bob"]
        assert fake.events("eve") == []


def test_paygent_fake__a_user_at_a_limit__is_refused_before_anything_is_sent(
    closing: Closing,
) -> None:
    """The plan is configured on `fake.paygent`; the refused call is no request and no event."""
    with PaygentFake() as fake:
        fake.paygent.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 100}))
        fake.paygent.assign_plan("ada", "free")
        client = closing(OpenAI())
        with paygent_context("ada"):
            ask(client)
            with pytest.raises(PaygentLimitExceeded):
                ask(client)
        assert (len(fake.requests), len(fake.events("ada"))) == (1, 1)


def test_paygent_fake__a_paygent_that_the_application_starts_and_ends__is_the_one_observed(
    closing: Closing,
) -> None:
    """As in a lifespan: plans configured before it apply, and its events are readable after it."""
    with PaygentFake() as fake:
        fake.paygent.configure_plan("free", PlanConfig(model_limits={"gpt-4o": 100}))
        application = Paygent.init(default_plan="free")
        assert fake.paygent is application
        client = closing(OpenAI())
        with paygent_context(7):
            ask(client)
            with pytest.raises(PaygentLimitExceeded):
                ask(client)
        application.shutdown()
        assert [event.user_id for event in fake.events(7)] == ["7"]
        with pytest.raises(RuntimeError, match=r"Paygent\.init"):
            _ = fake.paygent


def test_paygent_fake__a_child_process__books_in_the_same_store() -> None:
    """It inherits the environment, so its calls reach the same provider."""
    code = (
        "from openai import OpenAI\n"
        "from paygent import Paygent, paygent_context\n"
        "Paygent.init()\n"
        "with paygent_context('ada'):\n"
        "    OpenAI().chat.completions.create(model='gpt-4o', messages=[])\n"
    )
    with PaygentFake() as fake:
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        assert [event.model for event in fake.events("ada")] == ["gpt-4o"]


def test_paygent_fake__an_application_with_a_product_of_its_own__is_observed_too(
    closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API key or PAYGENT_PRODUCT select another product; its events are not silently missing."""
    with PaygentFake() as fake:
        client = closing(OpenAI())
        with paygent_context("ada"):
            ask(client)
            Paygent.init(api_key="pg_live_test", base_url="http://127.0.0.1:9")  # nothing is there
            ask(client, "gpt-4o-mini")
            monkeypatch.setenv("PAYGENT_PRODUCT", "shop")
            Paygent.init()
            ask(client, "gpt-4.1")
        with paygent_context("bob"):
            ask(client)
        assert [event.model for event in fake.events("ada")] == ["gpt-4o", "gpt-4o-mini", "gpt-4.1"]
        assert [event.user_id for event in fake.events()] == ["ada", "ada", "ada", "bob"]
        assert fake.events("eve") == []


def test_paygent_fake__a_store_of_the_applications_own__is_refused_with_the_remedy(
    init: Callable[..., Paygent],
) -> None:
    """Its events are elsewhere; an empty list would look as if nothing had been booked."""
    with PaygentFake() as fake:
        init(db_path=":memory:")
        with pytest.raises(InvalidValue, match="db_path = ':memory:': must not be given in a test"):
            fake.events()
        with pytest.raises(InvalidValue, match="user_id"):
            fake.events("")


def test_paygent_fake__at_its_end__restores_the_environment_and_the_patches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine's settings are hidden inside and the same afterwards; no Paygent goes on."""
    monkeypatch.setenv("OPENAI_API_KEY", "of the machine")
    monkeypatch.setenv("PAYGENT_API_KEY", "pg_live_of_the_machine")
    monkeypatch.setenv("no_proxy", "intranet")
    before = dict(os.environ)
    with PaygentFake() as fake:
        assert fake.paygent.is_local_mode
        assert os.environ["OPENAI_API_KEY"] == "fake"
        assert os.environ["no_proxy"] == "intranet,127.0.0.1"
        assert instrumentation.is_installed
        folder, started = os.path.dirname(fake.db_path), fake.paygent
        started.record_event("ada", cost=1)
        assert started.queue_stats["is_running"]
    assert dict(os.environ) == before
    assert Paygent.get_instance() is None
    assert not started.queue_stats["is_running"]
    assert not instrumentation.is_installed
    assert not os.path.exists(folder)


def test_paygent_fake__the_process_has_a_paygent__is_set_aside_and_continues(
    init: Callable[..., Paygent], closing: Closing
) -> None:
    """It sees no call of the test, and meters again afterwards."""
    application = init(auto_instrument=True)
    with PaygentFake() as fake:
        client = closing(OpenAI())
        assert fake.paygent is not application
        with paygent_context("ada"):
            ask(client)
        with PaygentFake() as inner, paygent_context("ada"):
            ask(closing(OpenAI()))
            assert len(inner.events()) == 1
        assert len(fake.events()) == 1
    assert Paygent.get_instance() is application
    assert application.get_usage("ada").period_tokens_total == 0
    with PaygentFake() as fake:
        Paygent.exchange(application)
        with paygent_context("ada"):
            ask(closing(OpenAI()))
        assert application.get_usage("ada").period_tokens_total == 120


def test_paygent_fake__the_previous_paygent_was_shut_down_meanwhile__stays_so(
    init: Callable[..., Paygent],
) -> None:
    """It is not started again by the end of the test."""
    application = init()
    with PaygentFake():
        application.shutdown()
    assert Paygent.get_instance() is None


def test_paygent_fake__an_entry_that_fails__leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The provider is stopped and the environment restored."""
    before = dict(os.environ)

    def fail() -> None:
        raise OSError("no threads left")

    monkeypatch.setattr(Paygent, "init", fail)
    with pytest.raises(OSError, match="no threads left"), PaygentFake():
        pass
    assert dict(os.environ) == before


def test_paygent_fake__a_scripted_error__reaches_the_application(closing: Closing) -> None:
    """A retry is a request of its own, and an answer that costs nothing is not booked."""
    with PaygentFake() as fake, paygent_context("ada"):
        fake.provider.script(Answer(status=500))
        ask(closing(OpenAI()))
        assert (len(fake.requests), len(fake.events())) == (2, 1)


def test_current_user__contexts_and_pools__is_the_user_of_a_call_made_there(
    init: Callable[..., Paygent],
) -> None:
    """None without a user; the pool's own thread has none."""
    init()
    assert current_user() is None
    with ThreadPoolExecutor(1) as pool:
        with paygent_context(7):
            assert current_user() == "7"
            assert pool.submit(current_user).result() == "7"
            with paygent_context(user_id=None):
                assert current_user() is None
        assert pool.submit(current_user).result() is None


@pytest.mark.parametrize("name", paygent.testing.__all__)
def test_testing__each_public_name__can_be_used_and_is_listed(name: str) -> None:
    """Names are loaded at their first use."""
    assert getattr(paygent.testing, name) is not None
    assert name in dir(paygent.testing)


def test_testing__an_unknown_name__is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'fake'"):
        _ = paygent.testing.fake
