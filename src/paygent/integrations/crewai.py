"""The user of a crew's model calls: a step callback.

    Crew(agents=[…], tasks=[…], step_callback=CrewAICallback(pg, user_id="user_123")).kickoff()

CrewAI calls a step callback after a step, when its model calls have been made. So what counts is
that a crew has one: its `kickoff` runs as the callback's user, whatever threads it uses. The hooks
see the calls and meter them; the callback itself does nothing.

Read from crewai 1.15 (2026-11).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from paygent.client.context.identity import paygent_context
from paygent.client.instrument.patching.patches import as_function
from paygent.failopen import attempt, diagnostics

try:
    from crewai import Crew
except ImportError as error:
    raise ImportError("CrewAICallback needs crewai; install it") from error

if TYPE_CHECKING:
    from paygent.client.api.paygent import Paygent

_STARTS = (
    "kickoff",
    "kickoff_async",
    "akickoff",
    "kickoff_for_each",
    "kickoff_for_each_async",
    "akickoff_for_each",
    "replay",
)
"""Methods that run a crew; a version lacks some."""


class CrewAICallback:
    """Say whose the model calls of a crew are.

    Args:
        pg: The process's `Paygent`.
        user_id: The application's id of the user.
        session_id: The application's id of a session; None for the user's open one.
        metadata: Up to 16 keys and 1 kB, carried by every event.

    A refused call raises `PaygentLimitExceeded` out of `kickoff`, after CrewAI's own retries, which
    send nothing. Like any callback that is an object, it keeps CrewAI from writing checkpoints.
    """

    def __init__(
        self,
        pg: Paygent,
        user_id: Any,
        session_id: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.pg = pg
        self._whose = (user_id, session_id, None, metadata)

    @property
    def user_id(self) -> Any:
        """Whose calls they are."""
        return self._whose[0]

    def context(self) -> paygent_context:
        """Return a block that runs as the user."""
        return paygent_context(*self._whose)

    def __call__(self, step: Any = None) -> None:
        """Take a step's output, and do nothing: its calls were metered when they were made."""


def _callback_of(crew: Any) -> CrewAICallback | None:
    """Return the callback of a crew, or of one of its agents; None where there is none."""
    places = [
        getattr(crew, "step_callback", None),
        getattr(crew, "task_callback", None),
        *(getattr(agent, "step_callback", None) for agent in getattr(crew, "agents", None) or ()),
    ]
    return next((each for each in places if isinstance(each, CrewAICallback)), None)


def _as_user(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that runs a crew, as the user of the crew's callback."""

    run = as_function(original)

    def scope(crew: Any) -> paygent_context | None:
        callback = attempt("crewai", _callback_of, crew)
        return callback.context() if callback is not None else None

    if inspect.iscoroutinefunction(inspect.unwrap(original)):

        @functools.wraps(original)
        async def start_async(crew: Any, *args: Any, **kwargs: Any) -> Any:
            whose = scope(crew)
            if whose is None:
                return await run(crew, *args, **kwargs)
            with whose:
                return await run(crew, *args, **kwargs)

        return start_async

    @functools.wraps(original)
    def start(crew: Any, *args: Any, **kwargs: Any) -> Any:
        whose = scope(crew)
        if whose is None:
            return run(crew, *args, **kwargs)
        with whose:
            return run(crew, *args, **kwargs)

    return start


def _hook() -> None:
    """Have crews run as the users of their callbacks."""
    found = [name for name in _STARTS if callable(vars(Crew).get(name))]
    for name in found:
        setattr(Crew, name, _as_user(vars(Crew)[name]))
    if not found:
        diagnostics.warn_once(
            "unhooked:crewai", "a crew of this version cannot be told whose it is"
        )


attempt("patch:crewai", _hook)
