"""The check of the patches: displaced ones are logged and, where that is safe, restored."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import openai
import pytest
from openai._base_client import AsyncAPIClient, SyncAPIClient
from openai.resources.chat.completions import Completions
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.litellm.litellm_stand_in import (
    ANSWER_NANO,
    CALL,
    TOLD,
    Init,
    started,
)

from paygent import Paygent, ProviderConfig, ProviderRegistry
from paygent.client.api import composition
from paygent.client.instrument.http_sdks import hook
from paygent.client.instrument.registry import instrumentation
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider


@pytest.fixture
def pg(init: Init, litellm: Any) -> Iterator[Paygent]:
    """A Paygent with a user."""
    yield from started(init)


@pytest.fixture
def ask(fake: FakeProvider) -> Iterator[Callable[[], Any]]:
    """A call of OpenAI's SDK."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:
        yield lambda: client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def logged() -> dict[str, int]:
    """The counts of displaced and restored hooks."""
    return {kind: count for kind, count in diagnostics.counts.items() if kind.startswith("hook_")}


def request() -> Any:
    """What stands at the place of OpenAI's hook."""
    return vars(SyncAPIClient)["request"]


@contextmanager
def patching() -> Iterator[None]:
    """Have another thread patch meanwhile, for five seconds at most."""
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with instrumentation._patches.lock:
            held.set()
            go_on.wait(5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    yield
    assert thread.is_alive()  # nobody has waited for it
    go_on.set()
    thread.join(30)


def test_check__where_all_is_in_place__says_and_changes_nothing(pg: Paygent) -> None:
    """A wrapper around ours that shows what is in it is in nobody's way."""
    ours = request()

    @functools.wraps(ours)
    def theirs(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SyncAPIClient, "request", theirs)
        instrumentation.check()
        assert request() is theirs
    assert logged() == {}


def test_check__what_it_logs__is_true_of_each_hook(
    pg: Paygent, litellm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls are lost only where nothing of Paygent is reached any more."""
    fake = lambda *args, **kwargs: None  # noqa: E731 - a value, not a name
    places = {
        (SyncAPIClient, "request"): (
            request().__wrapped__,
            "Other code removed Paygent's hook from SyncAPIClient.request; it was put back.",
        ),
        (Completions, "create"): (
            fake,
            "Other code replaced Completions.create; its calls are still metered, but do not pass"
            " paygent_* arguments to it.",
        ),
        (threading.Thread, "start"): (
            fake,
            "Other code replaced Thread.start; work started through it may run without a user.",
        ),
        (litellm, "completion"): (
            fake,
            "Other code replaced litellm.completion; calls through it may be neither metered nor"
            " limited.",
        ),
    }
    for (owner, name), (replacement, expected) in places.items():
        caplog.clear()
        diagnostics.counts.clear()  # each package logs only its first
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, name, replacement)
            instrumentation.check()
        assert caplog.messages == [expected]


def test_check__a_hook_that_was_replaced__is_reported_as_put_on_top(
    pg: Paygent, caplog: pytest.LogCaptureFixture
) -> None:
    """Its calls are seen, whether they go through the other code or not."""
    ours = request()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SyncAPIClient, "request", lambda *args, **kwargs: ours(*args, **kwargs))
        instrumentation.check()
    assert caplog.messages == [
        "Other code replaced SyncAPIClient.request; Paygent's hook was put on top of it."
    ]


def test_check__a_hook_that_was_taken_out__is_said_once_and_put_back(
    pg: Paygent, ask: Callable[[], Any]
) -> None:
    """Another library has restored what it found before us."""
    metered = Metered(pg)
    ours = request()
    SyncAPIClient.request = ours.__wrapped__  # type: ignore[method-assign]
    for _ in range(2):
        instrumentation.check()
        ask()
    assert (len(metered.events), request()) == (2, ours)
    assert logged() == {"hook_restored:openai": 1}


def test_check__by_the_delivering_thread_and_by_health__is_made(
    init: Init, ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application does not have to ask for it."""
    monkeypatch.setattr(composition, "_CHECK_EVERY_S", 0.0)
    pg = init()
    ask()
    ours = request()
    SyncAPIClient.request = ours.__wrapped__  # type: ignore[method-assign]
    assert pg.health()["counts"]["hook_restored:openai"] == 1
    assert request() is ours
    SyncAPIClient.request = ours.__wrapped__  # type: ignore[method-assign]
    pg.record_event("u1", cost=1)
    pg.flush()
    assert request() is ours


def test_check__an_sdk_under_import__is_left_until_its_hook_is_installed(
    pg: Paygent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its module has some of its classes by then, and none has lost a hook."""
    under_import: Any = ModuleType("openai")
    monkeypatch.setitem(sys.modules, "openai", under_import)
    instrumentation.check()
    under_import.OpenAI = under_import.AsyncOpenAI = type(
        "OpenAI", (), {"request": lambda client: "answer"}
    )
    instrumentation.check()
    assert under_import.OpenAI().request() == "answer"
    assert not hasattr(under_import.OpenAI.request, "__wrapped__")
    assert logged() == {}


def test_check__while_another_thread_patches__does_not_wait(pg: Paygent) -> None:
    """The delivering thread has other things to do than to wait for an import."""
    ours = request()
    SyncAPIClient.request = ours.__wrapped__  # type: ignore[method-assign]
    with patching():
        instrumentation.check()
        assert request() is not ours
    instrumentation.check()
    assert request() is ours


def test_client__made_while_another_thread_patches__does_not_wait(
    pg: Paygent, fake: FakeProvider
) -> None:
    """It may be made on an event loop: the next check puts the hook in place."""
    original = vars(openai.OpenAI).get("request")

    class OwnRequest(openai.OpenAI):
        """A client that overrides `request` and calls the provider past our hook."""

        def request(self, *args: Any, **kwargs: Any) -> Any:
            return request().__wrapped__(self, *args, **kwargs)

    metered = Metered(pg)
    with patching():
        client = OwnRequest(api_key="k", base_url=fake.openai_url)
    assert original is None
    OwnRequest(api_key="k", base_url=fake.openai_url).close()
    with client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert (len(metered.events), logged()) == (1, {})


def test_call__of_a_client__looks_for_no_displaced_hook(
    pg: Paygent, ask: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks are verified when a client is made and every two seconds, and not at each call."""
    monkeypatch.setattr(hook, "_owner", None)
    monkeypatch.setattr(hook, "_is_hooked", None)
    assert ask().model == "gpt-4o"


def test_litellm__a_stream_while_another_thread_patches__does_not_wait(
    pg: Paygent, litellm: Any
) -> None:
    """Its class has its taps since the first stream of it."""
    metered = Metered(pg)
    litellm.acts += [lambda: litellm.stream(TOLD)] * 2
    list(litellm.completion(**CALL))
    with patching():
        list(litellm.completion(**CALL))
    assert [event.cost_total_nano for event in metered.events] == [ANSWER_NANO] * 2


def test_check__a_mock_that_a_test_has_put_there__is_left_for_it_to_look_at(pg: Paygent) -> None:
    """When the test has ended, what it found is back."""
    ours = request()
    with mock.patch.object(SyncAPIClient, "request") as stand:
        instrumentation.check()
        client = openai.OpenAI(api_key="k")
        client.chat.completions.create(model="gpt-4o", messages=[])
        assert request() is stand
        stand.assert_called_once()
    instrumentation.check()
    assert (request(), logged()) == (ours, {})


def test_check__mocks_that_keep_a_signature__are_left_for_a_test_to_set(
    pg: Paygent, litellm: Any
) -> None:
    """A mock with `autospec` is a function: at the places of all hooks, and when one is displaced
    for another reason.
    """
    ours = [request(), vars(Completions)["create"], litellm.completion]
    with (
        mock.patch.object(SyncAPIClient, "request", autospec=True) as of_request,
        mock.patch.object(Completions, "create", autospec=True) as of_create,
        mock.patch.object(litellm, "completion", autospec=True) as of_completion,
    ):
        litellm.embedding = None
        instrumentation.check()
        instrumentation.install()
        stands = [request(), vars(Completions)["create"], litellm.completion]
        assert all(
            a is b for a, b in zip(stands, (of_request, of_create, of_completion), strict=True)
        )
        of_create.return_value = "set later"
        client: Any = openai.OpenAI(api_key="k")
        assert client.chat.completions.create(model="gpt-4o", messages=[]) == "set later"
        assert request() is of_request
    instrumentation.check()
    assert [request(), vars(Completions)["create"], litellm.completion] == ours


def test_check__a_mock_on_one_client__is_left_and_not_counted(pg: Paygent) -> None:
    """Its test looks at it there; nothing is sent."""
    metered = Metered(pg)
    with openai.OpenAI(api_key="k") as client, mock.patch.object(client, "request") as stand:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert client.request is stand
        stand.assert_called_once()
    assert (metered.events, logged()) == ([], {})


def test_check__a_stand_in_of_a_test__is_said_and_not_touched_anywhere(
    pg: Paygent, litellm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain function in the place of LiteLLM's: not metered, there and where it is defined."""

    def fake(**kwargs: Any) -> str:
        return "fake"

    helpers: Any = ModuleType("helpers")
    helpers.fake = fake
    monkeypatch.setitem(sys.modules, "helpers", helpers)
    metered = Metered(pg)
    ours = litellm.completion
    with mock.patch.object(litellm, "completion", fake):
        for _ in range(2):
            instrumentation.check()
        assert litellm.completion is helpers.fake is fake
        assert litellm.completion(**CALL) == "fake"
    assert litellm.completion is ours
    assert (metered.events, logged()) == ([], {"hook_displaced:litellm": 1})


def test_check__a_method_that_a_test_replaces__is_said_and_left(pg: Paygent) -> None:
    """Only a client's `request` gets a hook on top."""

    def fake(self: Any, **kwargs: Any) -> str:
        return "fake"

    ours = vars(Completions)["create"]
    with mock.patch.object(Completions, "create", fake):
        instrumentation.check()
        assert vars(Completions)["create"] is fake
    assert (vars(Completions)["create"], logged()) == (ours, {"hook_displaced:openai": 1})


def test_check__after_a_stand_in__looks_again(pg: Paygent, litellm: Any) -> None:
    """Its place was left to it, not to what comes then: ours, and LiteLLM's own once more."""
    ours = litellm.completion
    litellm.completion = lambda **kwargs: "fake"
    instrumentation.check()
    litellm.completion = ours.__wrapped__
    instrumentation.check()
    assert litellm.completion is ours
    litellm.completion = lambda **kwargs: "another"
    instrumentation.check()
    assert logged() == {"hook_displaced:litellm": 2, "hook_restored:litellm": 1}


def test_uninstall__after_a_stand_in_was_taken_away__restores_what_was_there(
    pg: Paygent, litellm: Any
) -> None:
    """Our wrapper is in its place again, where it was no longer looked for."""
    ours = litellm.completion
    with mock.patch.object(litellm, "completion", lambda **kwargs: "fake"):
        instrumentation.check()
    assert litellm.completion is ours
    instrumentation.uninstall()
    assert litellm.completion is ours.__wrapped__


def test_check__a_function_of_litellms_that_is_free__is_left(pg: Paygent, litellm: Any) -> None:
    """Put in the place of one that is not."""
    litellm.completion = litellm.get_responses
    instrumentation.check()
    assert litellm.completion is litellm.get_responses


def test_check__a_hook_that_was_replaced__goes_on_top_and_counts_once(
    pg: Paygent, ask: Callable[[], Any]
) -> None:
    """Whether the other code goes through ours, nobody can see; uninstalled, theirs is left."""
    metered = Metered(pg)
    ours = request()

    def theirs(client: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(client, *args, **kwargs)

    SyncAPIClient.request = theirs  # type: ignore[assignment, method-assign]
    for _ in range(2):
        instrumentation.check()
        ask()
    assert len(metered.events) == 2
    assert logged() == {"hook_restored:openai": 1}
    instrumentation.uninstall()
    assert request() is theirs
    SyncAPIClient.request = ours.__wrapped__  # type: ignore[method-assign]


def test_check__litellms_function_without_the_wrapper_below_ours__is_hooked_anew(
    init: Init, litellm: Any
) -> None:
    """Another instrumentation was there before us, and has taken itself out under us."""
    original = litellm.completion
    litellm.completion = lambda *args, **kwargs: original(*args, **kwargs)
    for pg in started(init):
        metered = Metered(pg)
        litellm.completion = original
        instrumentation.check()
        litellm.completion(**CALL)
        assert metered.only.cost_total_nano == ANSWER_NANO
        assert logged() == {"hook_restored:litellm": 1}


def test_check__litellms_functions_that_were_replaced__count_once(
    pg: Paygent, litellm: Any
) -> None:
    """Other code goes through ours, sync and async: no second layer is put around it."""
    metered = Metered(pg)
    sync, coroutine = litellm.completion, litellm.acompletion

    async def theirs(**kwargs: Any) -> Any:
        return await coroutine(**kwargs)

    litellm.completion = lambda **kwargs: sync(**kwargs)
    litellm.acompletion = theirs
    instrumentation.check()
    litellm.completion(**CALL)
    asyncio.run(litellm.acompletion(**CALL))
    assert [event.cost_total_nano for event in metered.events] == [ANSWER_NANO] * 2


def test_litellm__instrumented_again_over_code_around_our_wrapper__counts_once(
    pg: Paygent, litellm: Any
) -> None:
    """The wrapper that could not be taken out is below the new one."""
    metered = Metered(pg)
    sync, coroutine = litellm.completion, litellm.acompletion

    async def theirs(**kwargs: Any) -> Any:
        return await coroutine(**kwargs)

    litellm.completion = lambda **kwargs: sync(**kwargs)
    litellm.acompletion = theirs
    pg.uninstrument()
    pg.instrument()
    litellm.completion(**CALL)
    asyncio.run(litellm.acompletion(**CALL))
    assert [event.cost_total_nano for event in metered.events] == [ANSWER_NANO] * 2


def test_check__a_name_of_the_applications__is_its_own_to_change(pg: Paygent, litellm: Any) -> None:
    """It called a function of LiteLLM's by it once."""
    own = SimpleNamespace()
    litellm.app.complete = own
    instrumentation.check()
    assert litellm.app.complete is own
    assert logged() == {}
    assert list(instrumentation._patches.displaced()) == []  # it is not looked at again


@pytest.mark.parametrize(
    "stand_in",
    [
        mock.MagicMock(),
        lambda **kwargs: None,
        type("Fake", (), {}),
        type("Other", (), {"request": 1}),
    ],
)
def test_check__where_no_class_of_the_sdk_is_a_client__verifies_the_hooks_below(
    pg: Paygent, stand_in: Any
) -> None:
    """An application's test or factory in the place of one client costs the other no hook."""
    ours = AsyncAPIClient.request
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(openai, "OpenAI", stand_in)
        instrumentation.check()
        assert "self_check" not in diagnostics.counts
        patched.setattr(AsyncAPIClient, "request", lambda *args, **kwargs: ours(*args, **kwargs))
        instrumentation.check()
        assert instrumentation._patches.is_ours(vars(AsyncAPIClient)["request"])
    assert logged() == {"hook_restored:openai": 1}


def test_check__threads__are_only_said(pg: Paygent) -> None:
    """What has taken their place may be another kind of threads."""
    ours = threading.Thread.start

    def theirs(thread: threading.Thread) -> None:
        ours(thread)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(threading.Thread, "start", theirs)
        instrumentation.check()
        assert threading.Thread.start is theirs
    assert logged() == {"hook_displaced:threading": 1}


def test_check__when_switched_off__does_nothing(litellm: Any) -> None:
    """Nothing is patched then that calls have to come through."""
    instrumentation.install(arguments_only=True)
    litellm.completion = None
    instrumentation.check()
    assert litellm.completion is None
    assert logged() == {}
    instrumentation.uninstall()


def test_check__a_registered_provider__is_put_back_or_only_said(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application named its method once; a later `init` still takes it out."""
    acme: Any = ModuleType("acme")
    acme.Client = type("Client", (), {"ask": lambda client: "answer", "__module__": "acme"})
    monkeypatch.setitem(sys.modules, "acme", acme)
    registry = ProviderRegistry()
    registry.register(ProviderConfig("acme", "acme", "Client", "ask"))
    bare = acme.Client.ask
    init(registry=registry)
    # Hooks that are not asked to restore anything are not kept: providers come and go.
    assert set(instrumentation._installed) <= set(instrumentation._own)
    ours = acme.Client.ask
    acme.Client.ask = bare
    instrumentation.check()
    assert acme.Client.ask is ours
    acme.Client.ask = theirs = lambda client: ours(client)
    instrumentation.check()
    assert acme.Client.ask is theirs
    assert logged() == {"hook_restored:acme": 1, "hook_displaced:acme": 1}
    init(registry=ProviderRegistry())
    assert acme.Client.ask is theirs
