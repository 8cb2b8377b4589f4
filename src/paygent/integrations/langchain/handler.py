"""The user of LangChain's model calls: a callback handler.

    chain.invoke(question, config={"callbacks": [LangChainCallback(pg, user_id="user_123")]})

LangChain reports the start of a model call to its handlers in the context in which the model then
makes it. So the handler puts the user into effect there, until LangChain reports the end or the
first token: from then on a stream's reader runs in that context.

Embeddings run no callbacks, and an awaited text model (`BaseLLM.ainvoke`) reports its start from
another task: put them into a `paygent_context`. Read from langchain-core 1.8 (2026-11).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from paygent.client.runtime.event_loops import runs_loop
from paygent.failopen import attempt
from paygent.integrations.callback import UserCallback
from paygent.integrations.langchain.runs import Run, find_run, start_run, take_run

try:
    from langchain_core.callbacks import BaseCallbackHandler
except ImportError as error:
    raise ImportError("LangChainCallback needs langchain-core; install it") from error


class LangChainCallback(UserCallback, BaseCallbackHandler):
    """Set the user of the model calls of a chain, agent or graph; one handler may serve many.

    Args:
        pg: The process's `Paygent`.
        user_id: The application's id of the user.
        session_id: The application's id of a session; None for the user's open one.
        metadata: Up to 16 keys and 1 kB, carried by every event.

    A refused call raises `PaygentLimitExceeded` out of the chain. Where several handlers receive
    one call, it belongs to the first. Each prompt of a batch is a call, and a refused one refuses
    the batch; where a text model reports one usage for all, the first prompt's call counts it. A
    model without a hook that is awaited cannot wait here, as a handler runs on its event loop: it
    is refused at once where calls in flight hold what is left, and its user's first call in a
    process passes.
    """

    raise_error = True  # a refusal must reach the application
    run_inline = True  # in the context of the call, and not in a thread of its own

    def on_chat_model_start(
        self, serialized: Any, messages: list[list[Any]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Begin a call of a chat model; raise `PaygentLimitExceeded` if a limit refuses it."""
        texts = [getattr(message, "content", None) for batch in messages for message in batch]
        attempt("langchain", self._start, run_id, serialized, texts, kwargs)

    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Begin a call of a text model; see `on_chat_model_start`."""
        attempt("langchain", self._start, run_id, serialized, prompts, kwargs, not runs_loop())

    def _start(
        self, run_id: UUID, model: Any, texts: list[Any], options: Any, is_findable: bool = True
    ) -> None:
        # Begun before LangChain's other handlers run: one of them may still refuse the call.
        run = Run(self, self._identity, model, options)
        run.is_findable = is_findable
        start_run(run, run_id, texts, options)

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End the user's scope: the request is sent, and a stream's reader runs next."""
        run = find_run(self, run_id)
        if run is not None:
            run.end_scope()

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End the user's scope; see `on_llm_new_token`."""
        self.on_llm_new_token(event, run_id=run_id)

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that was answered."""
        run = take_run(self, run_id)
        if run is not None:
            attempt("settle", run.end_answered, response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End a call that raised, or a stream that was closed early."""
        run = take_run(self, run_id)
        if run is not None:
            attempt("settle", run.end_raised, error)
