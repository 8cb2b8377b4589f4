"""Every call shape of the table, on the real SDKs: it works as without Paygent, is metered once at
its price or marked with the reason, and is refused before it leaves.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.coverage import PAGE, SHAPES, Shape, page_with_table
from tests.instrument.routing import through

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.testing import Answer, FakeProvider

Init = Callable[..., Paygent]

# The SDKs say of some routes that they are deprecated; they are called all the same.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

IS_OLDEST = openai.__version__.startswith("1.60")


def has(shape: Shape) -> bool:
    """Tell whether the installed SDK has the method of a shape, and its parameter after a colon."""
    path, _, parameter = shape.needs.partition(":")
    if shape.needs.startswith("Anthropic"):
        return hasattr(anthropic, shape.needs)
    found: Any = (
        openai.OpenAI(api_key="x") if shape.sdk == "openai" else anthropic.Anthropic(api_key="x")
    )
    for name in filter(None, path.split(".")):
        found = getattr(found, name, None)
        if found is None:
            return False
    return not parameter or parameter in inspect.signature(found).parameters


PRESENT = [shape for shape in SHAPES if has(shape)]
ASYNC = [shape for shape in PRESENT if shape.asynchronous is not None]
GATED = [shape for shape in PRESENT if shape.is_gated]
GATED_ASYNC = [shape for shape in ASYNC if shape.is_gated]


def test_shapes__those_that_the_sdk_lacks__are_listed_as_absent() -> None:
    """What is not proven here is missing in the SDK, and the table says so."""
    absent = {shape.name for shape in SHAPES if not has(shape)}
    listed = {shape.name for shape in SHAPES if not shape.in_oldest}
    assert absent == (listed if IS_OLDEST else set())


def test_page__its_table__is_what_the_tests_prove() -> None:
    """docs/guide/coverage.md shows these rows; `make docs` writes them."""
    page = PAGE.read_text(encoding="utf-8")
    assert page_with_table(page) == page


@contextmanager
def client_of(shape: Shape, fake: FakeProvider, *, is_async: bool) -> Iterator[Any]:
    """Make the client of a shape, without retries."""
    if shape.client == "module":
        openai.api_key, openai.base_url = "k", fake.openai_url
        try:
            yield openai
        finally:
            openai.api_key = openai.base_url = None
            openai._reset_client()
        return
    made = _made(shape, fake, "Async" if is_async else "")
    try:
        yield made
    finally:
        if not is_async:
            made.close()


def _made(shape: Shape, fake: FakeProvider, prefix: str) -> Any:
    module: Any = openai if shape.sdk == "openai" else anthropic
    common: dict[str, Any] = {"max_retries": 0}
    if shape.client == "azure":
        return getattr(module, prefix + "AzureOpenAI")(
            api_key="k", azure_endpoint=fake.url, api_version="2024-10-21", **common
        )
    if shape.client == "openrouter":
        http_client = through(fake, module, is_async=bool(prefix))
        url = "https://openrouter.ai/api/v1"
        made = getattr(module, prefix + "OpenAI")
        return made(api_key="k", base_url=url, http_client=http_client, **common)
    if shape.client == "bedrock":
        made = getattr(module, prefix + "AnthropicBedrock")
        keys = {"aws_access_key": "a", "aws_secret_key": "b", "aws_region": "us-east-1"}
        return made(base_url=fake.url, **keys, **common)
    if shape.client == "vertex":
        made = getattr(module, prefix + "AnthropicVertex")
        where = {"region": "us-east5", "project_id": "p", "access_token": "t"}
        return made(base_url=fake.url, **where, **common)
    if shape.client == "foundry":
        made = getattr(module, prefix + "AnthropicFoundry")
        return made(api_key="k", base_url=fake.url + "/anthropic", **common)
    if shape.client == "aws":
        made = getattr(module, prefix + "AnthropicAWS")
        return made(
            api_key="k", workspace_id="w", aws_region="us-east-1", base_url=fake.url, **common
        )
    if shape.sdk == "openai":
        return getattr(module, prefix + "OpenAI")(api_key="k", base_url=fake.openai_url, **common)
    return getattr(module, prefix + "Anthropic")(api_key="k", base_url=fake.url, **common)


def run(shape: Shape, fake: FakeProvider) -> Any:
    """Make the calls of a shape and return what the application saw."""
    fake.script(*shape.answers)
    with client_of(shape, fake, is_async=False) as client:
        return shape.sync(client)


async def run_async(shape: Shape, fake: FakeProvider) -> Any:
    """The same with the async client."""
    fake.script(*shape.answers)
    assert shape.asynchronous is not None
    with client_of(shape, fake, is_async=True) as client:
        try:
            return await shape.asynchronous(client)
        finally:
            await client.close()


def assert_metered(shape: Shape, pg: Paygent, fake: FakeProvider, requests: int) -> None:
    """Check what was booked on the one user there is."""
    assert len(fake.requests) - requests == shape.requests
    rows = pg.report(by=("user", "model"))
    assert sum(row.calls for row in rows) == shape.calls
    tokens = sum(row.input_tokens for row in rows), sum(row.output_tokens for row in rows)
    assert tokens == shape.tokens
    assert sum(row.cost_nano for row in rows) == shape.cost_nano
    assert {row.user_id for row in rows} <= {"u1"}
    usage = pg.get_usage("u1")
    assert (usage.period_cost_nano, usage.reserved_cost_nano) == (shape.cost_nano, 0)


def assert_events(shape: Shape, events: list[Any]) -> None:
    """Check what the application is told."""
    assert {event.user_id for event in events} == ({"u1"} if shape.calls else set())
    assert sum(event.corrects is None for event in events) == shape.calls
    if shape.calls:
        assert (events[-1].model or "", events[-1].quality) == (shape.model, shape.quality)


@pytest.mark.parametrize("shape", PRESENT, ids=lambda shape: f"{shape.sdk} {shape.name}")
def test_shape__a_sync_call__works_and_is_metered_once(
    shape: Shape, init: Init, fake: FakeProvider
) -> None:
    """The application sees what it sees without Paygent; the call is on its user, at its price."""
    bare = run(shape, fake)
    requests = len(fake.requests)
    events: list[Any] = []
    pg = init()
    pg.on_usage(events.append)
    with paygent_context(user_id="u1"):
        assert run(shape, fake) == bare
    assert_metered(shape, pg, fake, requests)
    pg._parts.callbacks.flush(10)
    assert_events(shape, events)


@pytest.mark.parametrize("shape", ASYNC, ids=lambda shape: f"{shape.sdk} {shape.name}")
async def test_shape__an_async_call__works_and_is_metered_once(
    shape: Shape, init: Init, fake: FakeProvider
) -> None:
    """The same for async clients."""
    bare = await run_async(shape, fake)
    requests = len(fake.requests)
    events: list[Any] = []
    pg = init()
    pg.on_usage(events.append)
    async with paygent_context(user_id="u1"):
        assert await run_async(shape, fake) == bare
    await _elsewhere(lambda: assert_metered(shape, pg, fake, requests))
    await _elsewhere(lambda: pg._parts.callbacks.flush(10))  # an async caller waits for none
    assert_events(shape, events)


async def _elsewhere(check: Callable[[], object]) -> None:
    """Run a check in a thread, since verbs on a loop's thread do not wait for the ledger."""
    import asyncio

    await asyncio.to_thread(check)


@pytest.mark.parametrize("shape", GATED, ids=lambda shape: f"{shape.sdk} {shape.name}")
def test_shape__a_user_at_the_cap__is_refused_before_anything_is_sent(
    shape: Shape, init: Init, fake: FakeProvider
) -> None:
    """A refused call sends nothing, whatever its shape."""
    pg = init()
    pg.configure_plan("none", PlanConfig(max_spend_per_period=0))
    pg.assign_plan("u1", "none")
    with paygent_context(user_id="u1"), pytest.raises(PaygentLimitExceeded):
        run(shape, fake)
    assert fake.requests == []
    assert pg.get_usage("u1").reserved_cost_nano == 0


@pytest.mark.parametrize("shape", GATED_ASYNC, ids=lambda shape: f"{shape.sdk} {shape.name}")
async def test_shape__an_async_user_at_the_cap__is_refused_before_anything_is_sent(
    shape: Shape, init: Init, fake: FakeProvider
) -> None:
    """The same for async clients."""
    pg = init()
    pg.configure_plan("none", PlanConfig(max_spend_per_period=0))
    pg.assign_plan("u1", "none")
    async with paygent_context(user_id="u1"):
        with pytest.raises(PaygentLimitExceeded):
            await run_async(shape, fake)
    assert fake.requests == []


@pytest.mark.parametrize(
    ("shape", "status"),
    list(zip(GATED, itertools.cycle([400, 429, 500]), strict=False)),
    ids=lambda each: f"{each.sdk} {each.name}" if isinstance(each, Shape) else str(each),
)
def test_shape__an_error_status__is_void_and_arrives_unchanged(
    shape: Shape, status: int, init: Init, fake: FakeProvider
) -> None:
    """The provider's own exception arrives, whatever the shape; nothing is spent or held."""
    pg = init()
    fake.default = Answer(status=status)
    module: Any = openai if shape.sdk == "openai" else anthropic
    with paygent_context(user_id="u1"), pytest.raises(module.APIStatusError) as caught:
        run(shape._replace(answers=()), fake)
    assert caught.value.status_code == status
    assert pg.report(by="user") == ()
    assert pg.get_usage("u1").reserved_cost_nano == 0


@pytest.mark.parametrize("shape", GATED, ids=lambda shape: f"{shape.sdk} {shape.name}")
def test_shape__an_answer_that_breaks_off__settles_an_estimate(
    shape: Shape, init: Init, fake: FakeProvider
) -> None:
    """What broke off may have been billed: it is booked, and said to be no exact figure."""
    events: list[Any] = []
    pg = init()
    pg.on_usage(events.append)
    fake.default = Answer(cut_after=0)
    with paygent_context(user_id="u1"), pytest.raises(Exception) as caught:
        run(shape._replace(answers=()), fake)
    assert type(caught.value).__module__.split(".")[0] in (shape.sdk, "httpx", "httpx2")
    assert [row.calls for row in pg.report(by="user")] == [1]
    pg._parts.callbacks.flush(10)
    assert {event.quality for event in events} <= {"estimated", "partial", "unpriced"}
    assert len(events) == 1
    assert pg.get_usage("u1").reserved_cost_nano == 0
