"""Registered providers: patched when there, gated and metered like the SDKs, restored exactly."""

from __future__ import annotations

import asyncio
import inspect
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import Metered
from tests.promises.scripts import run

from paygent import (
    Paygent,
    PaygentLimitExceeded,
    PlanConfig,
    ProviderConfig,
    ProviderRegistry,
    TokenInfo,
    paygent_context,
)
from paygent.client.instrument.registry import instrumentation
from paygent.failopen import diagnostics

Init = Callable[..., Paygent]

CALL_NANO = 450_000  # gpt-4o: 100 input at 2.50 and 20 output at 10.00 dollars per million


class Client:
    """A client of an SDK that we do not know."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.answer: Any = SimpleNamespace(model="gpt-4o", taken=100, given=20)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Answer, or raise."""
        self.seen.append((args, kwargs))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    @staticmethod
    def fixed(model: str) -> Any:
        """Answer without a client."""
        return SimpleNamespace(model=model, taken=100, given=20)

    @classmethod
    def of_class(cls, model: str) -> Any:
        """Answer for the class."""
        return SimpleNamespace(model=model, taken=100, given=20, cls=cls)

    def words(self, model: str) -> Iterator[str]:
        """Stream."""
        yield "a"


class AsyncClient(Client):
    """An async client, and one that inherits a method."""

    async def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Answer, or raise, after a while."""
        await asyncio.sleep(0)
        return Client.generate(self, *args, **kwargs)

    async def words(self, model: str) -> AsyncIterator[str]:  # type: ignore[override]
        """Stream."""
        yield "a"


def extract(answer: Any) -> TokenInfo:
    """Read an answer of the made-up SDK."""
    return TokenInfo(answer.model, answer.taken, answer.given)


@pytest.fixture
def acme(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The made-up SDK, imported."""
    module: Any = ModuleType("acme")
    module.Client = type("Client", (), dict(vars(Client)))
    module.AsyncClient = type("AsyncClient", (module.Client,), dict(vars(AsyncClient)))
    monkeypatch.setitem(sys.modules, "acme", module)
    found: ModuleType = module
    return found


def registry_of(*methods: str, extractor: Any = extract, **more: Any) -> ProviderRegistry:
    """A registry of the made-up SDK's methods, sync and async."""
    registry = ProviderRegistry()
    for method in methods or ("generate",):
        registry.register(
            ProviderConfig(
                f"acme-{method}" if methods else "acme",
                "acme",
                "Client",
                method,
                extract_tokens=extractor,
                **{"async_class_name": "AsyncClient", **more},
            )
        )
    return registry


def used_up(pg: Paygent) -> None:
    """Leave nothing of gpt-4o to user u1."""
    limits: Any = {"gpt-4o": 10}
    pg.configure_plan("small", PlanConfig(model_limits=limits))
    pg.assign_plan("u1", "small")
    pg.record_event("u1", model="gpt-4o", input_tokens=10)


# -- a call


async def test_custom__a_call__is_metered_by_its_extractor(init: Init, acme: Any) -> None:
    """Sync and async: one event of the context's user, the answer's model, the very object."""
    pg = init(registry=registry_of())
    metered = Metered(pg)
    client, other = acme.Client(), acme.AsyncClient()
    with paygent_context("u1"):
        assert client.generate(model="x", messages=[]) is client.answer
        assert await other.generate(model="x") is other.answer
    assert client.seen == [((), {"model": "x", "messages": []})]
    events = metered.events
    assert [event.cost_total_nano for event in events] == [CALL_NANO] * 2
    assert {(e.user_id, e.provider, e.model, e.quality) for e in events} == {
        ("u1", "acme", "gpt-4o", "exact")
    }


async def test_custom__a_user_at_the_cap__is_refused_before_the_method(
    init: Init, acme: Any
) -> None:
    """The provider's method does not run."""
    pg = init(registry=registry_of())
    used_up(pg)
    client, other = acme.Client(), acme.AsyncClient()
    with paygent_context("u1"):
        with pytest.raises(PaygentLimitExceeded):
            client.generate(model="gpt-4o")
        with pytest.raises(PaygentLimitExceeded):
            await other.generate(model="gpt-4o")
        client.generate(model="gpt-4o-mini")
    assert (len(client.seen), other.seen) == (1, [])


async def test_custom__the_arguments_of_a_call__name_its_user_and_stay_here(
    init: Init, acme: Any
) -> None:
    """`paygent_*` arguments win over the context and never reach the method."""
    pg = init(registry=registry_of())
    metered = Metered(pg)
    client, other = acme.Client(), acme.AsyncClient()
    own: Any = {"paygent_user_id": "u2", "paygent_session_id": "s", "paygent_metadata": {"a": 1}}
    with paygent_context("u1"):
        client.generate(5, model="m", **own)
        await other.generate(model="m", **own)
    assert client.seen + other.seen == [((5,), {"model": "m"}), ((), {"model": "m"})]
    for event in metered.events:
        assert (event.user_id, event.session_id, event.metadata) == ("u2", "s", {"a": 1})


@pytest.mark.parametrize("how", ["disabled", "not instrumented", "uninstrumented", "shut down"])
def test_custom__where_nothing_is_metered__the_arguments_are_taken_off_all_the_same(
    init: Init, acme: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switching Paygent off must not break calls that name their user."""
    if how == "disabled":
        monkeypatch.setenv("PAYGENT_DISABLED", "1")
    pg = init(registry=registry_of(), auto_instrument=how != "not instrumented")
    metered = Metered(pg)
    if how == "uninstrumented":
        pg.uninstrument()
    if how == "shut down":
        pg.shutdown()
    client = acme.Client()
    assert client.generate(model="m", paygent_user_id="u") is client.answer
    assert client.seen == [((), {"model": "m"})]
    assert metered._events == []
    if how in ("not instrumented", "uninstrumented"):
        pg.instrument()
        client.generate(model="gpt-4o")
        assert metered.only.model == "gpt-4o"


def test_custom__max_tokens_and_messages__are_what_is_held(init: Init, acme: Any) -> None:
    """The keyword arguments are read as a request of any SDK."""
    pg = init(registry=registry_of())
    limits: Any = {"gpt-4o": 1_000_000}
    pg.configure_plan("p", PlanConfig(model_limits=limits, pre_call_estimate=True))
    pg.assign_plan("u1", "p")
    held: list[Any] = []

    class Looking:
        model, given = "gpt-4o", 20

        @property
        def taken(self) -> int:
            """Look at what is held, then tell."""
            held.append(pg.get_usage("u1").reserved_tokens_by_model["gpt-4o"])
            return 40  # not more than it sends

    client = acme.Client()
    client.answer = Looking()
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        with paygent_context("u1"):
            client.generate(model="gpt-4o", prompt="x" * 40, **{name: 30})
    assert held == [70, 70, 70]


@pytest.mark.parametrize("returned", [None, (0, 0), "text", {"input_tokens": -1}, KeyError("x")])
def test_custom__an_extractor_that_fails_or_returns_nonsense__is_estimated_and_said_once(
    init: Init, acme: Any, returned: Any, swallowed: Swallowed, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer arrives, the estimate counts, one line says so."""

    def broken(answer: Any) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    if isinstance(returned, Exception):
        swallowed.expect("extract_tokens:acme")
    pg = init(registry=registry_of(extractor=broken))
    metered = Metered(pg)
    client = acme.Client()
    for _ in range(2):
        assert client.generate(model="gpt-4o", max_tokens=5) is client.answer
    assert [(e.quality, e.output_tokens) for e in metered.events] == [("estimated", 5)] * 2
    assert sum("cannot be read" in each.getMessage() for each in caplog.records) == 1


def test_custom__without_an_extractor__known_shapes_are_read(init: Init, acme: Any) -> None:
    """Many providers answer as OpenAI does."""
    pg = init(registry=registry_of(extractor=None))
    metered = Metered(pg)
    client = acme.Client()
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    client.answer = {"model": "gpt-4o", "usage": usage}
    client.generate()
    assert metered.only.cost_total_nano == CALL_NANO


@pytest.mark.parametrize(("error", "counts"), [(TimeoutError(), 1), (TypeError("x"), 0)])
async def test_custom__an_exception__arrives_and_ends_the_call(
    init: Init, acme: Any, error: Exception, counts: int
) -> None:
    """The very exception; what may have been paid counts, and nothing stays held."""
    pg = init(registry=registry_of())
    metered = Metered(pg)
    client, other = acme.Client(), acme.AsyncClient()
    client.answer = other.answer = error
    with paygent_context("u1"):
        with pytest.raises(type(error)) as caught:
            client.generate(model="gpt-4o")
        assert caught.value is error
        with pytest.raises(type(error)):
            await other.generate(model="gpt-4o")
    assert [event.quality for event in metered.events] == ["estimated"] * 2 * counts
    assert pg.get_usage("u1").reserved_cost_nano == 0


async def test_custom__methods_of_every_kind__stay_of_their_kind(init: Init, acme: Any) -> None:
    """Static and class methods, generators and coroutines look and work as before."""
    registry = registry_of("fixed", "of_class", "words", "generate", async_class_name=None)
    for method in ("words", "generate"):
        registry.register(
            ProviderConfig(f"a-{method}", "acme", "AsyncClient", method, extract_tokens=extract)
        )
    pg = init(registry=registry)
    metered = Metered(pg)
    assert acme.Client.fixed(model="gpt-4o").model == "gpt-4o"
    assert acme.Client().fixed("gpt-4o").model == "gpt-4o"
    assert acme.Client.of_class("gpt-4o").cls is acme.Client
    assert inspect.iscoroutinefunction(acme.AsyncClient.generate)
    assert list(acme.Client().words(model="gpt-4o")) == ["a"]
    assert [each async for each in acme.AsyncClient().words(model="gpt-4o")] == ["a"]
    qualities = [event.quality for event in metered.events]
    assert sorted(qualities) == ["estimated", "estimated", "exact", "exact", "exact"]
    assert list(inspect.signature(acme.Client.words).parameters) == ["self", "model"]


# -- in and out


def test_custom__uninstall__restores_every_method_exactly(init: Init, acme: Any) -> None:
    """Also one that was inherited, which its class does not own afterwards."""
    before = {name: dict(vars(getattr(acme, name))) for name in ("Client", "AsyncClient")}
    registry = registry_of("generate", "fixed", "of_class")
    init(registry=registry)
    assert vars(acme.AsyncClient)["generate"] is not before["AsyncClient"]["generate"]
    instrumentation.uninstall()
    assert {name: dict(vars(getattr(acme, name))) for name in before} == before


def test_custom__a_second_init__has_its_own_providers_only(init: Init, acme: Any) -> None:
    """Those of the first are taken out; those registered later come with `instrument`."""
    bare = vars(acme.Client)["generate"]
    init(registry=registry_of())
    assert vars(acme.Client)["generate"] is not bare
    registry = ProviderRegistry()
    pg = init(registry=registry)
    assert vars(acme.Client)["generate"] is bare
    registry.register(ProviderConfig("acme", "acme", "Client", "generate"))
    pg.instrument()
    once = vars(acme.Client)["generate"]
    assert once is not bare
    pg.instrument()
    assert vars(acme.Client)["generate"] is once


def test_custom__a_second_init_with_the_same_provider__never_takes_its_patch_out(
    init: Init, acme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of other threads go on meanwhile; without it they would pass ungated."""
    providers = registry_of()
    init(registry=providers)
    patched = vars(acme.Client)["generate"]
    seen: list[Any] = []
    install = instrumentation.install

    def installing(*args: Any) -> None:
        seen.append(vars(acme.Client)["generate"])
        install(*args)

    monkeypatch.setattr(instrumentation, "install", installing)
    init(registry=providers)
    assert (seen, vars(acme.Client)["generate"]) == ([patched], patched)


def test_custom__a_method_that_was_displaced__is_said_and_hooked_again(
    init: Init, acme: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`instrument` puts the hook on top of what other code has put there."""
    bare = vars(acme.Client)["generate"]
    pg = init(registry=registry_of())
    metered = Metered(pg)
    monkeypatch.setattr(acme.Client, "generate", bare)
    pg.instrument()
    with paygent_context("u1"):
        acme.Client().generate(model="gpt-4o")
    assert metered.only.user_id == "u1"
    assert diagnostics.counts["hook_restored:acme"] == 1


@pytest.mark.parametrize(
    "more",
    [
        {"class_name": "Missing"},
        {"method_name": "missing"},
        {"class_name": "Client.Inner"},
        {"class_name": "__name__"},
        {"method_name": "__doc__"},
    ],
)
def test_custom__a_method_that_is_not_there__is_said_loudly(
    init: Init, acme: Any, more: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No silent bypass: a config that names nothing is a line in the log and in `health`."""
    fields: Any = {"module_path": "acme", "class_name": "Client", "method_name": "generate", **more}
    registry = ProviderRegistry()
    registry.register(ProviderConfig("acme", **fields))
    pg = init(registry=registry)
    assert pg.health()["counts"]["unhooked:acme"] == 1
    assert "neither metered nor limited" in caplog.text


def test_custom__a_class_that_refuses_the_patch__is_said_and_left_alone(
    init: Init, acme: Any
) -> None:
    """A class that drops what is set on it fails the self-check."""

    class Stubborn(type):
        def __setattr__(cls, name: str, value: Any) -> None:
            """Drop what is set."""

    acme.Client = Stubborn("Client", (), dict(vars(Client)))
    init(registry=registry_of(async_class_name=None))
    assert diagnostics.counts["unhooked:acme"] == 1


LATER = """
    import sys
    sys.path.insert(0, sys.argv[2])
    from paygent import Paygent, ProviderConfig, ProviderRegistry, paygent_context
    registry = ProviderRegistry()
    registry.register(ProviderConfig("acme", "acme.client", "Client", "run",
                                     extract_tokens=lambda answer: (100, 20)))
    registry.register(ProviderConfig("two", "acme.client", "Other", "run",
                                     extract_tokens=lambda answer: (1, 2)))
    registry.register(ProviderConfig("three", "acme.client", "Third", "run",
                                     extract_tokens=lambda answer: (10, 2)))
    registry.register(ProviderConfig("top", "openai", "OpenAI", "close"))
    pg = Paygent.init(db_path=sys.argv[1], registry=registry)
    assert "acme" not in sys.modules and "openai" not in sys.modules
    import acme.client, openai
    with paygent_context("u1"):
        for each in (acme.client.Client, acme.client.Other, acme.client.Third):
            print(each().run(model="gpt-4o"), end=" ")
        print()
    print(type(acme.client.__spec__.loader).__name__, openai.OpenAI.close.__wrapped__ is not None)
    print([(row.calls, row.input_tokens) for row in pg.report()], sorted(pg.health()["counts"]))
    pg.shutdown()
"""


def test_custom__a_module_imported_after_init__is_patched(tmp_path: Path) -> None:
    """Nothing is imported for it, and providers may share a module and a base."""
    package = tmp_path / "lib" / "acme"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    source = """
class Client:
    def run(self, model): return 'answer'
class Other(Client): pass
class Third(Other): pass
"""
    (package / "client.py").write_text(source)
    code = textwrap.dedent(LATER)
    out, _ = run(code, str(tmp_path / "x" / "local.db"), str(package.parent))
    lines = out.splitlines()
    assert lines[0] == "answer answer answer "
    assert lines[1] == "SourceFileLoader True"
    assert lines[2].startswith("[(3, 111)] ")
    assert "unhooked" not in lines[2]
