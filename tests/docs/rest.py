"""The routes of docs/reference/rest.md, made from the OpenAPI document of the server; what the
document does not say is in `rest_words.py`. `python -m tests.docs.rest` (`make docs`) writes them.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

from tests.docs.configuration import rows as fields_of
from tests.docs.configuration import table
from tests.docs.pages import ROOT
from tests.docs.rest_words import (
    EXAMPLES,
    GROUPS,
    MEANINGS,
    OBJECTS,
    REFUSALS,
    SAME_AS,
    Example,
)

from paygent import PlanConfig
from paygent.server.api.event_schema import USAGE_EVENT
from paygent.server.api.plan_schema import PLAN_FIELDS
from paygent.server.api.sync_schema import LEASES_BODY, SYNC_BODY
from paygent.server.app import create_app
from paygent.server.settings import API_PREFIX, ServerSettings
from paygent.store.sqlite import SqliteStore

PAGE = ROOT / "docs/reference/rest.md"

Schema = dict[str, Any]

INLINE: dict[str, Schema] = {
    "UsageEvent": USAGE_EVENT,
    "Question": LEASES_BODY["properties"]["questions"]["items"],
    "SyncMessage": SYNC_BODY,
    "LeasesMessage": LEASES_BODY,
}
"""Objects that the document spells out where they are used, by their names on the page."""

_REF = "#/components/schemas/"
_INT_MAX = (1 << 63) - 1
_INLINE_FIELDS_MAX = 2  # of an object that is shown where it is used, however often that is
_ONE_LINE_CHARS_MAX = 60
_KEYS = {"sdk": "$SDK_KEY", "admin": "$ADMIN_KEY", "usage_token": "$TOKEN"}
_SCOPES = {
    ("sdk", "get"): "`sdk`, `read` or `admin`",
    ("sdk", ""): "`sdk` or `admin`",
    ("admin", "get"): "`admin` or `read`",
    ("admin", ""): "`admin`",
    ("public", "get"): "none",
    ("setup", ""): "set-up token",
    ("usage_token", "get"): "usage token",
}


class Route(NamedTuple):
    """An operation of the document.

    Attributes:
        method: In lower case, as in the document.
        path: Below `/api/v1`, or from the root.
        operation: The document's own description.
    """

    method: str
    path: str
    operation: Schema

    @property
    def name(self) -> str:
        """Method and path: the heading, and the key of `EXAMPLES` and `REFUSALS`."""
        return f"{self.method.upper()} {self.path}"

    @property
    def scope(self) -> str:
        """The keys that may call it."""
        access = self.operation["x-paygent-access"]
        return _SCOPES[access, "get" if self.method == "get" else ""]


class Row(NamedTuple):
    """A field of an object, or a parameter.

    Attributes:
        path: Where it is: `limits[].cap`.
        owner: The object that it is a field of; "" for a parameter.
        schema: Its schema.
        is_required: Whether it must be given.
    """

    path: str
    owner: str
    schema: Schema
    is_required: bool


@cache
def document() -> Schema:
    """Return the OpenAPI document; the store is never opened for it."""
    store = SqliteStore(":memory:")
    made: Schema = create_app(store, ServerSettings(database_url="sqlite:///unused")).openapi()
    return made


def routes() -> list[Route]:
    """Return every route in the order of the page; `/health` alone, which answers in two places."""
    order = list(GROUPS)
    found = [
        Route(method, path.removeprefix(API_PREFIX), operation)
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if path != f"{API_PREFIX}/health"
    ]
    return sorted(found, key=lambda route: order.index(route.operation["tags"][0]))


# -- schemas


def models() -> dict[str, Schema]:
    """Return the objects of the document by name."""
    found: dict[str, Schema] = document()["components"]["schemas"]
    return found


def name_of(schema: Schema) -> str:
    """Return the name of the object that a schema refers to, also with null; "" for another."""
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    if len(options) == 1 and "$ref" in options[0]:
        return str(options[0]["$ref"]).removeprefix(_REF)
    written = list(map(_plain, options))
    return next((name for name, each in INLINE.items() if written == [_plain(each)]), "")


def _plain(schema: Schema) -> Any:
    """Return a schema as the document has it, with every bound as a double."""
    return json.loads(json.dumps(schema, sort_keys=True), parse_int=float)


def inner_of(schema: Schema) -> str:
    """Return the name of the object that a value is, or may be; "" for none."""
    options = [name_of(each) for each in schema.get("anyOf", ())]
    return name_of(schema) or next(filter(None, options), "")


def properties_of(name: str) -> Schema:
    """Return the schema of an object by its name."""
    return INLINE[name] if name in INLINE else models()[name]


def item_of(schema: Schema) -> Schema | None:
    """Return the schema of a list's items; None for anything else."""
    options = [each for each in schema.get("anyOf", [schema]) if each.get("type") == "array"]
    return options[0].get("items") if options else None  # a row has items of several types


def answer_of(route: Route) -> tuple[str, Schema]:
    """Return the status and the schema of a successful answer."""
    ((status, answer),) = [
        each for each in route.operation["responses"].items() if each[0].startswith("2")
    ]
    content = next(iter(answer["content"].values()))  # a report has a table besides
    return status, content["schema"]


def body_of(route: Route) -> Schema | None:
    """Return the schema of a request's body."""
    if "requestBody" not in route.operation:
        return None
    schema: Schema = route.operation["requestBody"]["content"]["application/json"]["schema"]
    if route.path == "/config/plans":  # written out in the document, with all fields of a plan
        return {"$ref": f"{_REF}NewPlans"}
    return schema


@cache
def shared() -> frozenset[str]:
    """Return the objects that are shown once, at the end, since several places use them."""
    uses: list[str] = []

    def use(schema: Schema | None) -> None:
        if schema is None:
            return
        name = name_of(schema)
        item = item_of(schema)
        if name:
            uses.append(name)
            if uses.count(name) == 1:
                for each in properties_of(name)["properties"].values():
                    use(each)
        elif item is not None:
            use(item)

    for route in routes():
        use(body_of(route))
        use(answer_of(route)[1])
    use({"$ref": f"{_REF}Problem"})
    large = {n for n in uses if len(properties_of(n)["properties"]) > _INLINE_FIELDS_MAX}
    return frozenset(name for name in large if uses.count(name) > 1)


def flat(name: str, prefix: str = "") -> Iterator[Row]:
    """Yield the fields of an object, and those of the objects in it that are not shared."""
    schema = properties_of(name)
    for field, each in schema["properties"].items():
        path = f"{prefix}{field}"
        yield Row(path, name, each, field in schema.get("required", ()))
        item = item_of(each)
        inner = inner_of(each if item is None else item)
        if inner and inner not in shared():
            yield from flat(inner, f"{path}." if item is None else f"{path}[].")
    if schema.get("additionalProperties") is True:
        yield Row(f"{prefix}…", name, {}, is_required=False)


# -- words


def kind_of(schema: Schema) -> str:
    """Return the type of a value in words, with its bounds."""
    if not schema or schema.get("title") == "Value":
        return "any" if schema else ""
    name = name_of(schema)
    suffix = " or null" if {"type": "null"} in schema.get("anyOf", ()) else ""
    if name:
        return (f"[{name}](#{name.lower()})" if name in shared() else "object") + suffix
    if "anyOf" in schema:
        bounds = {key: schema[key] for key in ("minLength", "maxLength") if key in schema}
        options = [
            {**bounds, **each} if each.get("type") == "string" else each for each in schema["anyOf"]
        ]
        options.sort(key=lambda each: each.get("type") == "null")
        return " or ".join(dict.fromkeys(kind_of(each) for each in options))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " \\| ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in values)
    return _plain_kind(schema)


def _plain_kind(schema: Schema) -> str:
    kind = str(schema["type"])
    if kind == "array":
        inner = kind_of(schema["items"]) if "items" in schema else "any"
        return f"list of {inner}" + _bounds("items", schema.get("minItems"), schema.get("maxItems"))
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"object of {kind_of(values)}" if isinstance(values, dict) else "object"
    if schema.get("format") == "date-time":
        return "time"
    if kind == "string":
        return kind + _bounds("characters", schema.get("minLength"), schema.get("maxLength"))
    return kind + _bounds("", schema.get("minimum"), schema.get("maximum"))


def _bounds(unit: str, least: float | None, most: float | None) -> str:
    if most is None:
        return ""
    if most >= _INT_MAX:
        shown = "2⁶³ - 1"
    else:
        shown = f"10{_superscript(most)}" if most >= 10**6 else f"{int(most):,}"
    text = f"{least:g}–{shown}" if least is not None else f"at most {shown}"
    text = shown if least == most else text
    return f" ({text} {unit}".rstrip() + ")"


def _superscript(value: float) -> str:
    digits = str(len(str(int(value))) - 1)
    assert int(value) == 10 ** int(digits), value
    return digits.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def meaning_of(row: Row, route: str = "") -> str:
    """Return the meaning of a field: the words of this folder, otherwise the document's.

    Raises:
        KeyError: if neither has one.
    """
    field = row.path.split(".")[-1].removesuffix("[]")
    method, _, path = route.partition(" ")
    owners = [row.owner, SAME_AS.get(row.owner, "")] if row.owner else [f"{method} {path[1:]}"]
    for name in [*(f"{owner}.{field}" for owner in owners)]:
        if name in MEANINGS:
            return MEANINGS[name]
    described = row.schema.get("description") or next(
        (each["description"] for each in row.schema.get("anyOf", ()) if "description" in each), ""
    )
    # A bare unit says less than the words for the field.
    if field in MEANINGS and len(described) < len(MEANINGS[field]):
        return MEANINGS[field]
    if not described:
        raise KeyError(f"{row.owner}.{field} has no meaning")
    return str(described)


def default_of(row: Row) -> str:
    """Return a default as JSON; "required" for what must be given."""
    if row.is_required:
        return "required"
    if "default" in row.schema:
        value = row.schema["default"]
        return f"`{value if value and isinstance(value, str) else json.dumps(value)}`"
    return "—"


# -- sections


def request_table(route: Route) -> str:
    """Return a table of parameters and of the body's fields."""
    lines = []
    for each in route.operation.get("parameters", ()):
        if each["in"] != "header":
            schema = _without_null(each["schema"])
            row = Row(each["name"], "", {**each, **schema}, each["required"])
            lines.append((each["in"], row))
    body = body_of(route)
    if body is not None:
        name = name_of(item_of(body) or body)
        lines += [("body", row) for row in flat(name)] if name else []
    if not lines:
        return ""
    return table(
        ("field", "in", "type", "default", "meaning"),
        (
            (
                f"`{row.path}`",
                place,
                kind_of(row.schema),
                default_of(row),
                meaning_of(row, route.name),
            )
            for place, row in lines
        ),
    ).replace("\\\\|", "\\|")


def _without_null(schema: Schema) -> Schema:
    """Return the schema of a parameter, which is absent rather than null."""
    options = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    return {**schema, "anyOf": options} if options else schema


def answer_text(route: Route) -> str:
    """Return the paragraph and the table about a successful answer."""
    status, schema = answer_of(route)
    name = name_of(schema)
    if not name:
        return f"Answer {status}: text.\n"
    if name in shared():
        return f"Answer {status}: {_link(name)}.\n"
    return f"Answer {status}:\n\n" + object_table(name)


def object_table(name: str) -> str:
    """Return the table of an object's fields."""
    return table(
        ("field", "type", "meaning"),
        ((f"`{row.path}`", kind_of(row.schema), meaning_of(row)) for row in flat(name)),
    ).replace("\\\\|", "\\|")


def _link(name: str) -> str:
    article = "an" if name[0] in "AEIO" else "a"
    return f"{article} [{name}](#{name.lower()})"


def body_note(route: Route) -> str:
    """Return a sentence about a body that is a list, or one that may be left out."""
    schema = body_of(route)
    if schema is None:
        return ""
    if item_of(schema) is not None:
        return f"The body is a list of at most {schema['maxItems']:,} objects."
    if route.method == "patch" and not name_of(schema):
        return "The body has the [plan fields](#plan-fields) that change; the others stay."
    if {"type": "null"} in schema.get("anyOf", ()):
        return "The body may be left out."
    return ""


def refusals_text(route: Route) -> str:
    """Return the refusals of a route, beyond those of every route."""
    found = REFUSALS.get(route.name, ())
    if not found:
        return ""
    return "Errors:\n" + "".join(f"- {status} `{kind}`: {why}\n" for status, kind, why in found)


def curl(route: Route, example: Example) -> str:
    """Return a request as a command."""
    access = route.operation["x-paygent-access"]
    parts = ["curl --fail"]
    if access in _KEYS:
        parts.append(f'--header "Authorization: Bearer {_KEYS[access]}"')
    elif access == "setup":
        parts.append('--header "X-Setup-Token: $SETUP_TOKEN"')
    verb = route.method.upper()
    if verb in ("PATCH", "DELETE") or (verb == "POST" and example.body is None):
        parts.append(f"--request {verb}")
    base = "$API" if route.operation["tags"] != ["health"] else "$SERVER"
    parts.append(f'"{base}{example.path}"')
    if example.body is None:
        return " ".join(parts) + "\n"
    text = json.dumps(example.body)
    if len(text) > _ONE_LINE_CHARS_MAX:
        text = _wrapped(example.body)
    # Outside of the quotes the shell replaces a name by its value.
    text = re.sub(r"\$[A-Z_]+", lambda name: f"'{name[0]}'", text)
    return " ".join(parts) + f" \\\n    --json '{text}'\n"


def _wrapped(body: Any) -> str:
    """Return JSON with a line for each field of the outermost objects."""
    if isinstance(body, list):
        return "[" + ", ".join(map(_wrapped, body)) + "]"
    lines = ",\n".join(f"        {json.dumps(key)}: {json.dumps(v)}" for key, v in body.items())
    return "{\n" + lines + "\n    }"


def section(route: Route) -> str:
    """Return the section of a route."""
    described = inspect.cleandoc(route.operation["description"])
    paragraphs = [" ".join(each.split()) for each in described.split("\n\n")]
    note = body_note(route)
    parts = [
        f"### {route.name}\n",
        "\n\n".join([*paragraphs, *([note] if note else [])]) + "\n",
        f"Key: {route.scope}.\n",
        request_table(route),
        answer_text(route),
        refusals_text(route),
        f"```sh\n{curl(route, EXAMPLES[route.name])}```\n",
    ]
    return "\n".join(part for part in parts if part)


def objects() -> Iterator[str]:
    """Yield the sections of objects that several routes share, by name, and of a plan's fields."""
    for name in sorted(shared()):
        described = OBJECTS.get(name) or properties_of(name)["description"]
        yield f"### {name}\n\n{described}\n\n{object_table(name)}"
    meanings = {name.strip("`"): row for name, *row in fields_of(PlanConfig, "Attributes")}
    lines = (
        (
            f"`{name}`",
            kind_of(schema),
            _json_default(meanings[name][1]),
            _json_words(meanings[name][2]),
        )
        for name, schema in PLAN_FIELDS.items()
    )
    shown = table(("field", "type", "default", "meaning"), lines).replace("\\\\|", "\\|")
    text = (
        "The fields of a plan, as JSON; [Configuration](../guide/configuration.md#planconfig) has"
    )
    yield f"### Plan fields\n\n{text}\nthose of limits and rates.\n\n{shown}"


def _json_default(shown: str) -> str:
    """Return a default of Python as one of JSON."""
    value = ast.literal_eval(shown.strip("`"))
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _json_words(meaning: str) -> str:
    """Return words about Python's constants as words about JSON's."""
    words = {"None or infinite": "`null`", "None": "`null`", "True": "`true`", "False": "`false`"}
    return re.sub("|".join(words), lambda word: words[word[0]], meaning)


def overview(listed: Iterable[Route]) -> str:
    """Return the table of all routes, with links."""
    lines = (
        (f"[{route.name}](#{_anchor(route.name)})", route.scope, first_sentence(route.operation))
        for route in listed
    )
    return table(("route", "key", "meaning"), lines)


def _anchor(heading: str) -> str:
    """Return the anchor that a heading has where the page is shown."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def first_sentence(operation: Mapping[str, Any]) -> str:
    """Return the first sentence about an operation."""
    text = " ".join(operation["description"].split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", text)[0]


def parts() -> dict[str, str]:
    """Return the generated parts of the page by the names of their places."""
    listed = routes()
    groups = []
    for tag, members in groupby(listed, key=lambda route: route.operation["tags"][0]):
        heading, sentence = GROUPS[tag]
        groups.append(f"## {heading}\n{sentence}\n\n" + "\n".join(map(section, members)))
    return {
        "overview": overview(listed),
        "routes": "\n".join(groups),
        "objects": "\n".join(objects()),
    }


def with_parts(page: str) -> str:
    """Return the page with its generated parts as they should be.

    Raises:
        ValueError: if the page lacks the place of a part.
    """
    for name, content in parts().items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->\n")
        if not begin or not end:
            raise ValueError(f"{PAGE.name} has no place for {name}")
        page = f"{before}{begin}{content}{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_parts(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
