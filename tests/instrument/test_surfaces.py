"""No surface of the installed SDKs that reaches the network is unclassified."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.instrument.surfaces import (
    ANTHROPIC,
    LITELLM,
    MODULES,
    OPENAI,
    PAGE,
    WEBSOCKETS,
    Table,
    connectors_of,
    folder_of,
    modules_of,
    operations_of,
    page,
    sockets_of,
    unclassified,
)

from paygent.client.instrument.anthropic import operations as anthropic_operations
from paygent.client.instrument.anthropic import routes as anthropic_routes
from paygent.client.instrument.http_sdks.route import Passing
from paygent.client.instrument.litellm import functions as litellm_functions
from paygent.client.instrument.openai import operations as openai_operations
from paygent.client.instrument.openai import routes as openai_routes
from paygent.client.instrument.realtime import hook as realtime

SDKS: list[tuple[str, Any, Table]] = [
    ("openai", openai_routes, OPENAI),
    ("anthropic", anthropic_routes, ANTHROPIC),
]
CLIENTS: list[tuple[str, Any]] = [
    ("openai", openai.OpenAI(api_key="k")),
    ("anthropic", anthropic.Anthropic(api_key="k")),
]


@pytest.mark.parametrize("package", ["openai", "anthropic", "websockets"])
def test_surfaces__of_the_installed_package__are_all_classified(package: str) -> None:
    """A new operation needs an entry: metered, free or unmetered."""
    assert unclassified(package, folder_of(package)) == []


def test_surfaces__of_the_installed_packages__are_found() -> None:
    """The source is read whole: what every version has is among what is found."""
    found = operations_of(folder_of("openai"))
    assert {"POST /chat/completions", "POST /batches/{}/cancel", "GET /models"} <= found
    assert len(found) > 60
    found = operations_of(folder_of("anthropic"))
    assert {"POST /messages", "GET /messages/batches/{}/results"} <= found
    assert "WS /realtime" in sockets_of(folder_of("openai"))
    assert "_base_client.py" in modules_of(folder_of("openai"))
    assert "websockets.sync.client" in connectors_of(folder_of("websockets"))


@pytest.mark.parametrize(
    ("package", "source", "expected"),
    [
        ("openai", "self._post(f'/new/{id}?x=1')", ["POST /new/{}"]),
        ("openai", "self._client.put('/new', body=b)", ["PUT /new"]),
        ("openai", "self._get_api_list('/new', page=p, method='post')", ["POST /new"]),
        ("openai", "self._post(path_template('/a/{x}/new', x=x))", ["POST /a/{}/new"]),
        ("openai", "self._post(somewhere)", ["POST somewhere"]),
        ("openai", "self._post(path='/new', body=b)", ["POST /new"]),
        ("openai", "self._post(**given)", ["POST self._post"]),
        ("openai", "self._client.post('/new/' + id)", ["POST /new/{}"]),
        ("openai", "self._client.post(path, body=b)", ["POST path"]),
        ("openai", "client.post(f'{root}/new')", ["POST {}/new"]),
        ("openai", "partial(self._post, '/new', body=b)", ["POST /new"]),
        ("openai", "functools.partial(self._post, '/files', body=b)", []),
        ("openai", "post = self._post\npost('/new')", ["POST self._post"]),
        ("openai", "send = self._client.put", ["PUT self._client.put"]),
        ("openai", "self._client.request(T, FinalRequestOptions(method='post', url='/new'))",
         ["POST /new"]),
        ("openai", "FinalRequestOptions.construct(method='post', url=url)", ["POST url"]),
        ("openai", "FinalRequestOptions.construct(method=verb, url='/new')", ["VERB /new"]),
        ("openai", "_models.FinalRequestOptions(**given)",
         ["REQUEST _models.FinalRequestOptions"]),
        ("openai", "FinalRequestOptions.construct(method='get', url=str(url))", []),
        ("openai", "self._client.request(T, options)", ["REQUEST self._client.request"]),
        ("openai", "self._client.request(T, cast(FinalRequestOptions, options))",
         ["REQUEST self._client.request"]),
        ("openai", "run.request(options) or session.post(address)", []),
        ("openai", "def _prepare_url(self):\n    return url + b'/new'", ["WS /new"]),
        ("openai", "def f():\n    from google import auth", ["new.py"]),
        ("openai", "self._http_client.send(request)", ["new.py"]),
        ("openai", "self._get('/new') or table.get('x') or self._post('/files')", []),
        ("anthropic", "self._post('/v1/new')", ["POST /new"]),
        ("anthropic", "self._get(batch.results_url)", []),
        (
            "litellm",
            "from utils import client as made\n@made\nasync def anew():\n    ...",
            ["litellm.new.anew"],
        ),
        ("litellm", "from utils import client\n@client\ndef get_run():\n    ...", []),
        ("litellm", "from utils import client\n@client\ndef create():\n    ...",
         ["litellm.new.create"]),
    ],
)  # fmt: skip
def test_unclassified__of_a_package_with_something_new__names_it(
    package: str, source: str, expected: list[str], tmp_path: Path
) -> None:
    """In whatever form a version adds it."""
    (tmp_path / "new.py").write_text(source, encoding="utf-8")
    assert unclassified(package, tmp_path) == expected


def test_unclassified__of_a_new_way_to_open_a_socket__names_it(tmp_path: Path) -> None:
    """A part of `websockets` without a hook."""
    (tmp_path / "curio").mkdir()
    source = "class ClientConnection:\n    async def handshake(self): ..."
    (tmp_path / "curio" / "client.py").write_text(source, encoding="utf-8")
    assert unclassified("websockets", tmp_path) == ["websockets.curio.client"]


@pytest.mark.parametrize(("name", "routes", "table"), SDKS)
def test_table__each_operation__is_treated_as_it_says(name: str, routes: Any, table: Table) -> None:
    """What the page says of an operation is what the hook does."""
    for operation, (kind, _) in table.items():
        method, path = operation.split(" ")
        if method == "WS":
            assert realtime._route_of("/v1" + path.replace("{}", "id_1234567")), operation
            continue
        found = routes.route(method, path.replace("{}", "id_1234567"))
        assert (found.value if isinstance(found, Passing) else "metered") == kind, operation


def test_tables__an_operation__is_in_one_class() -> None:
    """No entry hides another."""
    for routes, module in (
        (openai_routes, openai_operations),
        (anthropic_routes, anthropic_operations),
    ):
        paths = [path for each in (*module.FREE, *module.UNMETERED) for path in each.paths]
        paths += [name.removeprefix("POST ") for name in routes.METERED]
        assert len(set(paths)) == len(paths)
    names = [name for each in litellm_functions.FREE for name in each.paths]
    names += [name for each in litellm_functions.UNMETERED for name in each.paths]
    names += [function.name for function in litellm_functions.METERED]
    assert len(set(names)) == len(names) == len(LITELLM)


def test_table__of_socket_libraries__says_which_are_tapped() -> None:
    """The two that the SDKs use are."""
    assert {module: kind for module, (kind, _) in WEBSOCKETS.items()} == {
        "websockets.asyncio.client": "metered",
        "websockets.sync.client": "metered",
        "websockets.legacy.client": "unmetered",
        "websockets.trio.client": "unmetered",
    }


def test_page__is_what_the_tables_say() -> None:
    """`make docs` writes it; it is the same whatever versions are installed."""
    assert PAGE.read_text(encoding="utf-8") == page()
    assert {kind for table in MODULES.values() for kind, _ in table.values()} == {"metered", "free"}


# -- a cross-check: what the methods of the installed SDKs really send


class _Sent(Exception):
    """Raised in the place of a request."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("package", "client"), CLIENTS)
def test_operations__of_methods_that_are_called__are_those_found_in_the_source(
    package: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every resource method is called with an "x" for each argument; most get as far as a request,
    and no request is of an operation that reading the source has missed.
    """
    sent = {operation for _, operation in _sent(client, monkeypatch)}
    found = operations_of(folder_of(package))
    assert sent - found == set()
    assert len(sent) > len(found) / 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("package", "client"), CLIENTS)
def test_resources__that_send_a_metered_operation__accept_the_arguments_of_one_call(
    package: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`paygent_user_id=` and so on; only `cancel` takes none."""
    routes = next(routes for name, routes, _ in SDKS if name == package)
    accepting = set()
    for method, operation in _sent(client, monkeypatch):
        if operation in routes.METERED and method.__name__ != "cancel":
            kind = type(method.__self__)
            assert kind.__name__ in routes.resources.get(kind.__module__, ()), operation
            assert method.__name__ in routes.resource_methods, operation
            accepting.add(operation)
    assert accepting


def _sent(client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str]]:
    """Yield each method of a client's resources with the operation that it sends, if it gets as far
    as a request.
    """
    sent: list[str] = []

    def request(*args: Any, **kwargs: Any) -> Any:
        options = kwargs["options"] if "options" in kwargs else args[1]
        segments = str(options.url).partition("?")[0].removeprefix("/v1").split("/")
        path = "/".join("{}" if segment == "x" else segment for segment in segments)
        sent.append(f"{options.method.upper()} {path}")
        raise _Sent

    monkeypatch.setattr(client, "request", request)
    for method in _methods(client):
        parameters = inspect.signature(method).parameters.values()
        needed = [each for each in parameters if each.default is each.empty and each.kind < 4]
        named = {each.name: "x" for each in needed if each.kind in (1, 3)}
        with suppress(Exception):  # whatever an SDK says of such arguments
            method(*("x" for each in needed if each.kind == 0), **named)
        while sent:
            yield method, sent.pop()


def _methods(resource: Any) -> Iterator[Any]:
    """Yield the methods of a client's resources, and of theirs."""
    for name in dir(resource):  # older clients set them on the instance
        if name.startswith(("_", "with_")):
            continue
        value = getattr(resource, name)
        if inspect.ismethod(value):
            if ".resources." in type(resource).__module__:
                yield value
        elif ".resources." in type(value).__module__ and hasattr(value, "_client"):
            yield from _methods(value)
