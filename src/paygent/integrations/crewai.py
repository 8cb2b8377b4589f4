"""The user of a crew's model calls: a step callback.

    Crew(agents=[…], tasks=[…], step_callback=CrewAICallback(pg, user_id="user_123")).kickoff()

CrewAI calls a step callback after a step's model calls. So the callback only marks the crew: its
`kickoff` runs as the callback's user, on whatever threads it uses. The hooks of the SDKs meter the
calls. Read from crewai 1.15 (2026-11).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from paygent.client.context.scopes import paygent_context
from paygent.client.context.track import wrap_in_scope
from paygent.client.instrument.patching.patches import as_function
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics
from paygent.integrations.callback import UserCallback

try:
    from crewai import Crew
except ImportError as error:
    raise ImportError("CrewAICallback needs crewai; install it") from error

# Methods that run a crew; a version lacks some.
_RUNS = ("kickoff", "kickoff_async", "akickoff", "replay")
_RUNS_FOR_EACH = ("kickoff_for_each", "kickoff_for_each_async", "akickoff_for_each")


class CrewAICallback(UserCallback):
    """Set the user of a crew's model calls.

    Args:
        pg: The process's `Paygent`.
        user_id: The application's id of the user.
        session_id: The application's id of a session; None for the user's open one.
        metadata: Up to 16 keys and 1 kB, carried by every event.

    A refused call raises `PaygentLimitExceeded` out of `kickoff`, after CrewAI's own retries, which
    send nothing. Like any callback that is an object, it keeps CrewAI from writing checkpoints.
    """

    def context(self) -> paygent_context:
        """Return a block that runs as the user."""
        identity = self._identity
        return paygent_context(identity.user_id, identity.session_id, None, identity.metadata)

    def __call__(self, step: Any = None) -> None:
        """Ignore a step's output: its calls were metered when they were made."""


def _callback_of(crew: Any) -> CrewAICallback | None:
    """Return the callback of a crew, or of one of its agents; None without one."""
    agents = getattr(crew, "agents", None) or ()
    callbacks = [getattr(crew, name, None) for name in ("step_callback", "task_callback")]
    callbacks += [getattr(agent, "step_callback", None) for agent in agents]
    return next((item for item in callbacks if isinstance(item, CrewAICallback)), None)


def _scope(crew: Any) -> AbstractContextManager[Any]:
    callback = attempt("crewai", _callback_of, crew)
    return callback.context() if callback is not None else nullcontext()


def _as_user(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that runs a crew as the user of the crew's callback."""
    run = as_function(original)

    @functools.wraps(original)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        return await run(*args, **kwargs)

    # What another library wrapped is still a coroutine function below its wrapper.
    is_async = inspect.iscoroutinefunction(inspect.unwrap(original))
    return wrap_in_scope(run_async if is_async else run, lambda args, _: _scope(args[0]))


def _hook() -> None:
    """Patch the methods that run a crew."""
    names = [name for name in (*_RUNS, *_RUNS_FOR_EACH) if callable(vars(Crew).get(name))]
    for name in names:
        setattr(Crew, name, _as_user(vars(Crew)[name]))
    if not names:
        # Its calls are still metered, but counted on the surrounding user.
        diagnostics.warn_once(Notice.NO_CREW_METHOD, "CrewAI", subject="crewai")


# Importing the callback patches the class: a crew without one runs as before.
attempt("patch:crewai", _hook)
