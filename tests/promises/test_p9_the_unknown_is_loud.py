"""P9: unknown models, users and usage are marked, said and counted; never $0 in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import openai
import pytest
from tests.instrument.shapes import MESSAGES, Metered

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A client of the fake provider."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def test_p9__an_unknown_model__counts_its_tokens_and_is_marked_unpriced(
    init: Init, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Default `unknown_model="count"`: tokens count, cost 0, marked unpriced, warned, a column."""
    pg = init()
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        for _ in range(2):
            client.chat.completions.create(model="model-of-tomorrow", messages=MESSAGES)
    assert [(event.quality, event.total_tokens) for event in metered.events] == [
        ("unpriced", 120)
    ] * 2
    assert caplog.text.count("model-of-tomorrow") == 1
    assert pg.health()["counts"]["unpriced:model-of-tomorrow"] == 2
    assert [row.doubtful_calls for row in pg.report("model")] == [2]


def test_p9__an_unknown_model__counts_toward_its_token_limit(
    init: Init, fake: FakeProvider
) -> None:
    """A limit in tokens holds for models that have no price."""
    pg = init()
    pg.configure_plan("p", PlanConfig(model_limits={"local-llm": 100}))
    pg.assign_plan("u1", "p")
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            client.chat.completions.create(model="local-llm", messages=MESSAGES)
            with pytest.raises(PaygentLimitExceeded):
                client.chat.completions.create(model="local-llm", messages=MESSAGES)


def test_p9__unknown_model_block__refuses_before_anything_is_sent(
    init: Init, fake: FakeProvider
) -> None:
    """The reason names the model."""
    pg = init()
    pg.configure_plan("p", PlanConfig(unknown_model="block"))
    pg.assign_plan("u1", "p")
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded) as caught:
            client.chat.completions.create(model="nobody-knows", messages=MESSAGES)
    assert caught.value.guard_result.gate_reason == "unknown_model:nobody-knows"
    assert fake.requests == []


def test_p9__unknown_model_dearest__books_the_dearest_rate_as_estimated(
    init: Init, fake: FakeProvider
) -> None:
    """100 input at $10 and 20 output at $30 per million, marked estimated."""
    pg = init()
    rates = {"a": {"input": 0.001, "output": 0.002}, "b": {"input": 0.01, "output": 0.03}}
    pg.configure_plan("p", PlanConfig(unknown_model="dearest", cost_rates=rates))
    pg.assign_plan("u1", "p")
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            client.chat.completions.create(model="nobody-knows", messages=MESSAGES)
    event = metered.only
    assert (event.cost_total_nano, event.quality) == (1_000_000 + 600_000, "estimated")


def test_p9__a_free_local_model__is_silent(
    init: Init, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """A model whose plan rates are all 0 costs nothing and says nothing."""
    pg = init(default_plan="free")
    free = {"llama": {"input": 0, "output": 0}}
    pg.configure_plan("free", PlanConfig(cost_rates=free))
    metered = Metered(pg)
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        with paygent_context(user_id="u1"):
            client.chat.completions.create(model="llama", messages=MESSAGES)
    assert (metered.only.cost_total_nano, metered.only.quality) == (0, "exact")
    assert "llama" not in caplog.text


def test_p9__missing_usage__settles_the_estimate_and_says_so(
    init: Init, fake: FakeProvider
) -> None:
    """An answer without usage is estimated, never free."""
    fake.default = Answer(without_usage=True)
    metered = Metered(init())
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=30)
    event = metered.only
    assert (event.quality, event.output_tokens) == ("estimated", 30)
    assert event.cost_total_nano > 300_000


def test_p9__a_plan_that_nobody_configured__is_said_once(
    init: Init, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """The default plan without a configuration has no limits; that is no secret."""
    pg = init()
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        for user in ("u1", "u2"):
            with paygent_context(user_id=user):
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert caplog.text.count("is not configured") == 1
    assert pg.health()["counts"]["plan_not_configured:default"] == 1


def test_p9__users_who_are_all_on_a_plan__are_told_of_no_other(
    init: Init, fake: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Configuring and assigning says nothing of the default plan that nobody needs."""
    pg = init()
    pg.configure_plan("pro", PlanConfig(max_spend_per_period=1))
    pg.assign_plan("u1", "pro")
    pg.start_session("u2", "pro")
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        for user in ("u1", "u2"):
            with paygent_context(user_id=user):
                client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (caplog.text, pg.health()["counts"]) == ("", {})
