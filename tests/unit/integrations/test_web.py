"""The user of a web request: headers and functions, ASGI and WSGI, streamed and not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES, Metered

import paygent.integrations
from paygent import InvalidValue, Paygent, paygent_context
from paygent.client.context.scopes import current_identity
from paygent.integrations import PaygentMiddleware, PaygentWSGIMiddleware
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]


def who() -> tuple[str | None, str | None]:
    """Return the user and session of a call made here."""
    identity = current_identity()
    return (None, None) if identity is None else (identity.user_id, identity.session_id)


async def serve(app: Any, scope: dict[str, Any]) -> None:
    """Serve one connection."""

    async def nothing(*message: Any) -> Any:
        return {}

    await app({"type": "http", "headers": [], **scope}, nothing, nothing)


# -- ASGI


async def test_asgi__headers__name_user_and_session() -> None:
    """In any letter case; without them there is no user."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(who())

    middleware = PaygentMiddleware(app, "X-User-Id", "X-Session")
    headers = [(b"x-user-id", b"u1"), (b"x-session", b"s1")]
    await serve(middleware, {"headers": headers})
    await serve(middleware, {"type": "websocket", "headers": headers[:1]})
    await serve(middleware, {})
    assert seen == [("u1", "s1"), ("u1", None), (None, None)]
    assert who() == (None, None)


async def test_asgi__a_function__is_called_at_the_first_call() -> None:
    """The application has signed in its user by then."""
    asked: list[Any] = []
    seen: list[Any] = []

    def user(scope: Any) -> Any:
        asked.append(scope)
        return scope.get("user")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["user"] = 7
        assert asked == []
        seen.append(who())
        await asyncio.to_thread(lambda: seen.append(who()))

    await serve(PaygentMiddleware(app, user), {})
    assert seen == [("7", None)] * 2
    assert len(asked) == 1


async def test_asgi__a_coroutine_function__is_awaited_first(swallowed: Swallowed) -> None:
    """One that fails is counted, and the request has no user."""
    swallowed.expect("ask_user")
    seen: list[Any] = []

    async def user(scope: Any) -> Any:
        return scope["user"]

    class Asks:
        async def __call__(self, scope: Any) -> str:
            return "u2"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(who())

    await serve(PaygentMiddleware(app, user), {"user": "u1"})
    await serve(PaygentMiddleware(app, Asks()), {})
    await serve(PaygentMiddleware(app, user), {})
    assert seen == [("u1", None), ("u2", None), (None, None)]


async def test_asgi__other_scopes__pass_untouched() -> None:
    """A server's startup and shutdown have no user."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], who()))

    with paygent_context("outer"):
        await serve(PaygentMiddleware(app, lambda scope: "u1"), {"type": "lifespan"})
    assert seen == [("lifespan", ("outer", None))]


async def test_asgi__calls_of_requests_at_once__are_each_their_users(
    init: Init, fake: FakeProvider
) -> None:
    """Metered with the metadata of the middleware; a block inside wins."""
    metered = Metered(init())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        with paygent_context("inner"):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)

    middleware = PaygentMiddleware(app, lambda scope: scope["user"], metadata={"via": "web"})
    async with openai.AsyncOpenAI(api_key="k", base_url=fake.openai_url) as client:
        await asyncio.gather(*(serve(middleware, {"user": f"u{number}"}) for number in range(3)))
    events = await asyncio.to_thread(lambda: metered.events)
    assert sorted(event.user_id for event in events) == ["inner"] * 3 + ["u0", "u1", "u2"]
    assert {str(event.metadata) for event in events} == {"{'via': 'web'}", "{}"}


# -- WSGI


def get(app: Any, **environ: Any) -> tuple[Any, list[bytes]]:
    """Serve one request as a server does; return the body object and its pieces."""
    setup_testing_defaults(environ)
    body = app(environ, lambda status, headers: None)
    pieces = list(body)
    if hasattr(body, "close"):
        body.close()
    return body, pieces


def test_wsgi__headers_and_functions__name_the_user() -> None:
    """The same as in ASGI; a list is returned as it is."""
    made = [b"ok"]
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(who())
        return made

    body, _ = get(PaygentWSGIMiddleware(app, "x-user-id", "x-session"), HTTP_X_USER_ID="u1")
    assert body is made
    get(PaygentWSGIMiddleware(app, lambda environ: environ["user"]), user=5)
    get(PaygentWSGIMiddleware(app, "x-user-id"))
    assert seen == [("u1", None), ("5", None), (None, None)]
    assert who() == (None, None)


def test_wsgi__a_streamed_response__is_made_as_its_user() -> None:
    """Each piece, on any thread, and its `close`; the server's own context stays as it was."""
    seen: list[Any] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            seen.append(who())
            yield b"a"
            seen.append(who())
            yield b"b"

        def close(self) -> None:
            seen.append(who())

    middleware = PaygentWSGIMiddleware(lambda environ, start: Body(), lambda environ: "u1")
    assert get(middleware)[1] == [b"a", b"b"]
    threads = threading.Thread(target=get, args=(middleware,))
    threads.start()
    threads.join()
    assert seen == [("u1", None)] * 6
    assert who() == (None, None)
    assert get(PaygentWSGIMiddleware(lambda environ, start: iter([b"c"]), "x-user"))[1] == [b"c"]


def test_wsgi__a_file__is_left_to_the_server(tmp_path: Any) -> None:
    """Servers that know the wrapper send the file by themselves."""
    path = tmp_path / "f"
    path.write_bytes(b"content")

    def app(environ: Any, start_response: Any) -> Any:
        return environ["wsgi.file_wrapper"](path.open("rb"))

    body, pieces = get(PaygentWSGIMiddleware(app, "x-user"), **{"wsgi.file_wrapper": FileWrapper})
    assert (type(body), pieces) == (FileWrapper, [b"content"])


# -- arguments and names


@pytest.mark.parametrize("kind", [PaygentMiddleware, PaygentWSGIMiddleware])
def test_middleware__bad_arguments__are_all_named(kind: Any) -> None:
    """Each is named with its rule."""
    with pytest.raises(InvalidValue) as caught:
        kind(None, "not a header", 5, "metadata")
    message = str(caught.value)
    for name in ("user_id", "session_id", "metadata"):
        assert name in message
    with pytest.raises(InvalidValue, match="user_id"):
        kind(None, None)


def test_integrations__names__are_loaded_when_they_are_used() -> None:
    """Each belongs to a library that may not be installed."""
    assert set(paygent.integrations.__all__) <= set(dir(paygent.integrations))
    assert paygent.integrations.PaygentMiddleware is PaygentMiddleware
    with pytest.raises(AttributeError, match="nothing"):
        _ = paygent.integrations.nothing
    with pytest.raises(ImportError, match="install it"):
        _ = paygent.integrations.CrewAICallback
