"""CrewAI's callback, on a stand-in of a crew; the real one is run by `make test-peers`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from paygent.client.context.scopes import current_identity


def who() -> tuple[Any, Any]:
    """Return the user and session of a call made here."""
    identity = current_identity()
    return (None, None) if identity is None else (identity.user_id, identity.session_id)


class Crew:
    """A crew that returns the user it runs as."""

    def __init__(self, step: Any = None, task: Any = None, agents: Any = None) -> None:
        self.step_callback = step
        self.task_callback = task
        self.agents = agents

    def kickoff(self) -> tuple[Any, Any]:
        """Run here."""
        return who()

    async def kickoff_async(self) -> tuple[Any, Any]:
        """Run here, awaited."""
        return who()


@pytest.fixture
def integration(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The integration, loaded with a stand-in of CrewAI."""
    stand_in: Any = ModuleType("crewai")
    stand_in.Crew = type("Crew", (), {**vars(Crew), "__dict__": None, "__weakref__": None})
    monkeypatch.setitem(sys.modules, "crewai", stand_in)
    monkeypatch.delitem(sys.modules, "paygent.integrations.crewai", raising=False)
    yield importlib.import_module("paygent.integrations.crewai")
    sys.modules.pop("paygent.integrations.crewai", None)


async def test_callback__of_a_crew__names_its_user_wherever_it_is_set(integration: Any) -> None:
    """As the crew's step or task callback, or an agent's; sync and async."""
    new_crew = integration.Crew
    callback = integration.CrewAICallback(None, "u1", "s1")
    agent = new_crew(callback)
    for crew in (new_crew(callback), new_crew(task=callback), new_crew(agents=[new_crew(), agent])):
        assert crew.kickoff() == ("u1", "s1")
        assert await crew.kickoff_async() == ("u1", "s1")
    assert (callback("a step"), callback.user_id, who()) == (None, "u1", (None, None))


def test_callback__of_a_crew_that_another_library_has_wrapped__names_its_user(
    integration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The class attribute may be a descriptor that binds its object on access."""

    class Proxy:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __get__(self, crew: Any, kind: type) -> Any:
            return lambda *args: self.inner(crew, *args)

        def __call__(self, *args: Any) -> Any:
            raise TypeError("called without its object")

    class Wrapped(Crew):
        kickoff = Proxy(Crew.kickoff)

    monkeypatch.setattr(integration, "Crew", Wrapped)
    integration._hook()
    assert Wrapped(integration.CrewAICallback(None, "u1", "s1")).kickoff() == ("u1", "s1")


async def test_crew__without_a_callback__runs_as_the_surrounding_user(integration: Any) -> None:
    """Another library's callback names no user."""
    for crew in (integration.Crew(), integration.Crew(print)):
        assert crew.kickoff() == (None, None)
        assert await crew.kickoff_async() == (None, None)


def test_crew__of_another_shape__is_logged(
    integration: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A version that cannot be patched is no silent bypass."""
    monkeypatch.setattr(integration, "Crew", type("Crew", (), {}))
    integration._hook()
    assert "no known method that runs a crew" in caplog.text
