"""What of the supported SDKs reaches the network: found in their source, and classified.

Every operation is metered, free or unmetered, by an entry of the tables that the hooks use. What
an installed SDK has beyond them is *unclassified*, and fails `test_surfaces.py`. The source is read
and not imported, so that releases that are not installed can be read too:

    python -m tests.instrument.surfaces                    writes docs/reference/surfaces.md
    python -m tests.instrument.surfaces openai FOLDER      prints what is unclassified in a package

| surface | found as |
|---|---|
| HTTP requests of a generated SDK | `_get`, `_post` and the like, called or named; `request` |
| WebSockets of OpenAI's SDK | the paths that its connection managers put below the base URL |
| modules that reach the network by another library | imports of one, and clients of their own |
| functions of LiteLLM | definitions with its decorator `client` |
| ways to open a connection of `websockets` | classes with a `handshake` below a module `client` |
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from paygent.client.instrument.anthropic import operations as anthropic_operations
from paygent.client.instrument.anthropic import routes as anthropic_routes
from paygent.client.instrument.http_sdks.route import READING_METHODS, Operations, Route
from paygent.client.instrument.litellm import functions as litellm_functions
from paygent.client.instrument.openai import operations as openai_operations
from paygent.client.instrument.openai import routes as openai_routes
from paygent.client.instrument.realtime import hook as realtime

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "surfaces.md"

READ = {
    "openai": "1.60 1.66 1.72 1.78 1.84 1.91 1.97 1.99 1.104 1.109 2.0 2.6 2.12 2.18 2.24 2.30 2.36"
    " 2.42 2.48 2.54 3.0 3.8 3.16 3.24 3.32 3.40 3.48 3.57",
    "anthropic": "0.40 0.42 0.45 0.49 0.54 0.60 0.66 0.72 0.78 0.84 0.90 0.96 0.102 0.108 0.114"
    " 0.120 0.125 1.0 1.5 1.10 1.17 2.0 2.5 2.10 2.14",
    "litellm": "1.60 1.70 1.80 1.90 1.100 1.110",
    "websockets": "14.0 15.0 16.1 17.4",
}
"""The releases that were read (2026-11)."""

Table = Mapping[str, tuple[str, str]]
"""The class of each operation, and why it is in it."""


# -- the tables of the hooks


def _sdk_table(
    metered: Mapping[str, Route], free: Iterable[Operations], unmetered: Iterable[Operations]
) -> dict[str, tuple[str, str]]:
    table = {}
    for operation, route in metered.items():
        why = f"as `{route.name}`"
        if route.reports_job_usage:
            why = "never refused: it reports the usage of the work that it names"
        table[operation] = ("metered", why)
    for kind, groups in (("free", free), ("unmetered", unmetered)):
        for each in groups:
            table |= {f"POST {path}": (kind, each.why) for path in each.paths}
    return table


def _litellm_table() -> Table:
    table = {
        function.name: ("metered", "with its async twin") for function in litellm_functions.METERED
    }
    tables = (("free", litellm_functions.FREE), ("unmetered", litellm_functions.UNMETERED))
    for kind, groups in tables:
        for each in groups:
            table |= dict.fromkeys(each.paths, (kind, each.why))
    return table


OPENAI = _sdk_table(openai_routes.METERED, openai_operations.FREE, openai_operations.UNMETERED) | {
    f"WS {path}": ("metered", f"as `{route}`, from its own events")
    for path, route in realtime.METERED.items()
}
ANTHROPIC = _sdk_table(
    anthropic_routes.METERED, anthropic_operations.FREE, anthropic_operations.UNMETERED
)
LITELLM = _litellm_table()
WEBSOCKETS: Table = {
    hook.module: (
        ("metered", "to the addresses above")
        if isinstance(hook, realtime.SocketHook)
        else ("unmetered", "it has no taps; connections to known providers are logged or refused")
    )
    for hook in realtime.HOOKS
    if hook.module.startswith("websockets.")
}

_OWN = "the SDK's own HTTP client, behind its `request`"
_SOCKET = "connects by `websockets` to the addresses above"
_TOKEN = "exchanges an identity for a token"
_KEYS = "signs requests; the cloud's library may fetch credentials"
_SLEEP = "imports a library for its tasks or settings, and sends nothing with it"

MODULES: Mapping[str, Table] = {
    "openai": {
        "_base_client.py": ("metered", _OWN),
        "_httpx2.py": ("metered", _OWN),
        "_vendor/httpx_aiohttp/transport.py": ("metered", _OWN),
        "_websocket_connection.py": ("metered", _SOCKET),
        "lib/_websocket.py": ("metered", _SOCKET),
        "lib/responses_websocket/_session.py": ("metered", _SOCKET),
        "resources/beta/realtime/realtime.py": ("metered", _SOCKET),
        "resources/beta/responses/responses.py": ("metered", _SOCKET),
        "resources/live/forks.py": ("metered", _SOCKET),
        "resources/live/live.py": ("metered", _SOCKET),
        "resources/live/sideband.py": ("metered", _SOCKET),
        "resources/realtime/realtime.py": ("metered", _SOCKET),
        "resources/realtime/translations/translations.py": ("metered", _SOCKET),
        "resources/responses/responses.py": ("metered", _SOCKET),
        "auth/_workload.py": ("free", _TOKEN),
        "auth/_x509.py": ("free", _TOKEN),
        "providers/vertex.py": ("free", _TOKEN),
        "lib/_bedrock_auth.py": ("free", _KEYS),
        "cli/_cli.py": ("free", "the SDK's command line, which sends what it sends as above"),
        "cli/_tools/migrate.py": ("free", "downloads a migration tool"),
        "lib/_vector_stores.py": ("free", _SLEEP),
        "resources/beta/vector_stores/file_batches.py": ("free", _SLEEP),
        "resources/vector_stores/file_batches.py": ("free", _SLEEP),
    },
    "anthropic": {
        "_base_client.py": ("metered", _OWN),
        "_vendor/httpx_aiohttp/transport.py": ("metered", _OWN),
        "_utils/_httpx.py": ("free", _SLEEP),
        "lib/_extras/_google_auth.py": ("free", _TOKEN),
        "lib/aws/_auth.py": ("free", _KEYS),
        "lib/bedrock/_auth.py": ("free", _KEYS),
        "lib/bedrock/_client.py": ("free", _KEYS),
        "lib/bedrock/_stream_decoder.py": ("metered", "decodes the streams of `request`"),
        "lib/credentials/_providers.py": ("free", _TOKEN),
        "lib/credentials/_workload.py": ("free", _TOKEN),
        "lib/environments/_poller.py": ("free", _SLEEP),
        "lib/google_cloud/_client.py": ("free", _TOKEN),
        "lib/vertex/_auth.py": ("free", _TOKEN),
        "lib/vertex/_client.py": ("free", _TOKEN),
    },
}
"""Modules of the SDKs that import a library for the network, or make a client of it."""


# -- what a package has


def folder_of(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, package
    return Path(spec.origin).parent


def _modules(folder: Path, *words: str) -> Iterator[tuple[str, ast.Module]]:
    """Parse the modules that have one of these words, or all of them."""
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("types/"):
            continue  # thousands of declarations, which send nothing
        source = path.read_text(encoding="utf-8")
        if not words or any(word in source for word in words):  # parsing them all takes seconds
            yield name, ast.parse(source)


_VERBS = {
    verb: name.removeprefix("_").partition("_")[0].upper()
    for name in ("_get", "_post", "_put", "_patch", "_delete", "_get_api_list")
    for verb in (name, name.removeprefix("_"))
}
_BEHIND_A_NAME = {"batch.results_url": "/messages/batches/{}/results"}
"""Addresses that the SDK takes from an answer, by the expression."""

_GIVES_VERBS = "_resource.py"
"""The module that gives every resource its `_get`, `_post` and so on."""

_TRANSPORTS = {name for table in MODULES.values() for name in table if table[name][1] == _OWN}
"""Modules below `request`, which build and send what is found elsewhere."""

_HAS_CLIENTS = {name for table in MODULES.values() for name in table if table[name][0] == "free"}
"""Modules with clients of other libraries: their `client` may be no client of the SDK."""


@cache
def operations_of(folder: Path) -> set[str]:
    """Return the HTTP operations of a generated SDK: `POST /files/{}`; with an expression where the
    path is no literal, or where a method is given another name.
    """
    found: set[str] = set()
    for name, module in _modules(folder):
        called = set()
        for call in ast.walk(module):
            if isinstance(call, ast.Call):
                is_partial = _word(call.func) == "partial" and call.args
                sends = call.args[0] if is_partial else call.func
                called.add(sends)
                arguments = call.args[1:] if is_partial else call.args
                found |= _operation(name, sends, arguments, call.keywords)
        if name not in (_GIVES_VERBS, *_TRANSPORTS):
            found |= {
                f"{_VERBS[node.attr]} {ast.unparse(node)}"
                for node in ast.walk(module)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
                and node not in called and _is_verb(name, node)
            }  # fmt: skip
    return found


def _operation(
    module: str, sends: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]
) -> set[str]:
    """Return the operation that a call sends, if any."""
    named = {keyword.arg: keyword.value for keyword in keywords}
    method = named.get("method")
    if _makes_options(sends):
        # Sockets take their headers from such options, to read; their paths are found elsewhere.
        sent = _path(method).upper() if method is not None else "REQUEST"
        is_read = sent in READING_METHODS or module in _TRANSPORTS
        return set() if is_read else {f"{sent} {_path(named.get('url', sends))}"}
    if not isinstance(sends, ast.Attribute):
        return set()
    if sends.attr == "request" and _is_client(module, sends.value):
        is_built = any(
            isinstance(each, ast.Call) and _makes_options(each.func) for each in arguments
        )
        return set() if is_built or module in _TRANSPORTS else {f"REQUEST {ast.unparse(sends)}"}
    if sends.attr not in _VERBS:
        return set()
    path = _path(named.get("path", arguments[0] if arguments else sends))
    # Any object has a `get`: only one that is given a path is a request.
    if not path.startswith("/") and not _is_verb(module, sends):
        return set()
    verb = _VERBS[sends.attr] if method is None else _path(method).upper()
    return {f"{verb} {path}"}


def _makes_options(node: ast.expr) -> bool:
    """Return whether a call of this makes the options of a request."""
    if isinstance(node, ast.Attribute) and node.attr == "construct":
        node = node.value
    return _word(node) == "FinalRequestOptions"


def _is_verb(module: str, node: ast.Attribute) -> bool:
    """Return whether an attribute is a method of the SDK's that sends, wherever it is used."""
    is_own = node.attr.startswith("_") or _is_client(module, node.value)
    return node.attr in _VERBS and is_own


def _is_client(module: str, node: ast.expr) -> bool:
    """Return whether an expression is a client of the SDK, by its name."""
    word = _word(node)
    return word.lstrip("_") == "client" and (word != "client" or module not in _HAS_CLIENTS)


def _word(node: ast.expr) -> str:
    """Return the last word of a dotted name, or ""."""
    # Not by text: turning every call of an SDK back into text takes long.
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _path(node: ast.expr) -> str:
    """Return a path as a template, below the API's root and without its query."""
    if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) == "path_template":
        node = node.args[0]  # the newer SDKs' own f-string, which quotes its values
    text = ast.unparse(node)
    text = _literal(node) or _BEHIND_A_NAME.get(text, text)
    return re.sub(r"\{[^}]*\}", "{}", text.partition("?")[0]).removeprefix("/v1")


def _literal(node: ast.expr) -> str:
    """Return a text that begins as a literal, with "{}" for what varies; otherwise ""."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_literal(part) or "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        begin = _literal(node.left)
        return begin and begin + (_literal(node.right) or "{}")
    return ""


def sockets_of(folder: Path) -> set[str]:
    """Return the WebSocket operations of OpenAI's SDK: `WS /realtime`."""
    found = set()
    for _, module in _modules(folder, "_prepare_url"):
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef) and function.name == "_prepare_url":
                found |= set(map(_socket_path, ast.walk(function))) - {""}
    return {f"WS {path}" for path in found}


def _socket_path(node: ast.AST) -> str:
    value = node.value if isinstance(node, ast.Constant) else b""
    text = value.decode() if isinstance(value, bytes) else str(value)
    is_path = text.startswith("/") and text != "/" and not text.startswith("/openai")
    return re.sub(r"\{[^}]*\}", "{}", text) if is_path else ""


_LIBRARIES = (
    "aiohttp", "azure", "boto3", "botocore", "google.auth", "grpc", "http.client",
    "httpx_aiohttp", "requests", "socket", "trio", "urllib.request", "urllib3", "websockets",
)  # fmt: skip
_CLIENTS = re.compile(r"httpx2?\.(Async)?(Client|HTTPTransport)|\w*client\.send|\w+\.urlopen")
_MADE = ("Client", "AsyncClient", "HTTPTransport", "AsyncHTTPTransport", "send", "urlopen")


def modules_of(folder: Path) -> set[str]:
    """Return the modules that import a library for the network, or make a client of it."""
    found = set()
    for name, module in _modules(folder):
        for node in ast.walk(module):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # A name may be a module: `from google import auth`.
                imported = [f"{node.module}.{alias.name}" for alias in node.names]
            called = node.func if isinstance(node, ast.Call) else None
            # Few calls are turned back into text, which takes long.
            is_made = isinstance(called, ast.Attribute) and called.attr in _MADE
            made = ast.unparse(called) if called is not None and is_made else ""
            if (
                any(f"{each}.".startswith(f"{library}.")
                    for each in imported for library in _LIBRARIES)
                or _CLIENTS.fullmatch(made.removeprefix("self."))
            ):  # fmt: skip
                found.add(name)
    return found


def functions_of(folder: Path) -> set[tuple[str, str]]:
    """Return LiteLLM's functions that call a provider, each with its module."""
    found = set()
    for name, module in _modules(folder):
        if name.startswith("proxy/"):
            continue  # a server of its own
        decorators = {"litellm.client", "litellm.utils.client"}
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom):
                decorators |= {
                    alias.asname or alias.name for alias in node.names if alias.name == "client"
                }
        place = "litellm." + name.removesuffix(".py").replace("/", ".")
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                used = {ast.unparse(each).partition("(")[0] for each in node.decorator_list}
                if used & decorators or node.name in litellm_functions.OTHERS:
                    found.add((node.name, place))
    return found


def connectors_of(folder: Path) -> set[str]:
    """Return the modules of `websockets` that open connections."""
    return {
        "websockets." + name.removesuffix(".py").replace("/", ".")
        for name, module in _modules(folder, "handshake")
        for node in ast.walk(module)
        if name.endswith("client.py")
        and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name == "handshake"
    }


# -- what is in no table


def unclassified(package: str, folder: Path) -> list[str]:
    """Return what a package has beyond the tables."""
    if package == "litellm":
        return sorted(
            f"{module}.{function}"
            for function, module in functions_of(folder)
            if litellm_functions.names_of(function, module).isdisjoint(LITELLM)
        )
    if package == "websockets":
        return sorted(connectors_of(folder) - WEBSOCKETS.keys())
    table = OPENAI if package == "openai" else ANTHROPIC
    found = operations_of(folder) | sockets_of(folder)
    is_read = re.compile(rf"({'|'.join(READING_METHODS)}) /.*")
    operations = {each for each in found if each not in table and not is_read.fullmatch(each)}
    return sorted(operations | modules_of(folder) - MODULES[package].keys())


# -- the page

_HEAD = """# Surfaces

Everything in the supported SDKs that reaches the network, and what Paygent does about it.
`make docs` writes this page from the tables that the hooks use; a test reads the source of the
installed SDKs, the newest and the oldest, and fails for an operation that is in no table.

| class | meaning |
|---|---|
| metered | gated before it is sent, and booked |
| free | costs nothing at the provider by itself: it passes |
| unmetered | may cost something, and no adapter can meter it: `on_unmetered` applies |

An operation in no table is treated as unmetered. See
[Calls that no adapter can meter](../guide/coverage.md#calls-that-no-adapter-can-meter).

"""


def page() -> str:
    """Return the page."""
    sections = [
        ("OpenAI", "openai", "operation", OPENAI),
        ("Anthropic", "anthropic", "operation", ANTHROPIC),
        ("LiteLLM", "litellm", "function", LITELLM),
        ("websockets", "websockets", "module", WEBSOCKETS),
    ]
    parts = [_HEAD]
    for title, package, kind, table in sections:
        parts.append(f"## {title}\nRead: {package} {', '.join(READ[package].split())}.\n\n")
        parts.append(f"| {kind} | class | why |\n|---|---|---|\n")
        parts += [_row(name, *entry) for name, entry in sorted(table.items(), key=_order)]
        if package in MODULES:
            parts.append(
                "| `GET`, `HEAD`, `DELETE` of all else | free | reads or removes what exists |\n\n"
                "Modules that import a library for the network, or make a client of it:\n\n"
                "| module | class | why |\n|---|---|---|\n"
            )
            parts += [_row(name, *entry) for name, entry in MODULES[package].items()]
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


_CLASSES = ("metered", "unmetered", "free")


def _order(item: tuple[str, tuple[str, str]]) -> tuple[int, str, str]:
    name, (kind, why) = item
    return _CLASSES.index(kind), "" if kind == "metered" else why, name.partition(" ")[2] or name


def _row(name: str, kind: str, why: str) -> str:
    return f"| `{name}` | {kind} | {why} |\n"


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(*unclassified(sys.argv[1], Path(sys.argv[2])), sep="\n")
    else:
        PAGE.write_text(page(), encoding="utf-8")
