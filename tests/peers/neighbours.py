"""Who else may be in the process: other instrumentation of the same SDKs, and frameworks that call
them. One table, from which the venvs are made, the tests are parametrized and the page's rows come.

Versions are pinned, so that a failure is ours and not the day's. `PEERS="a b"` in the environment
selects by name; without it, everyone takes part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[2]
VENVS = ROOT / ".venv-peers"

SDK_PINS = ("openai==3.57.0", "anthropic==2.14.0")
OTEL_PINS = ("opentelemetry-sdk==1.45.2",)

Kind = Literal[
    "wraps the client's request", "one client instance", "wraps the methods", "its own tracer"
]

ORDERS = (
    "sdk, peer, paygent",
    "sdk, paygent, peer",
    "peer, paygent, sdk",
    "paygent, peer, sdk",
)
"""What an application imports or switches on, in order. Some peers import the SDK themselves."""

FRAMEWORK_ORDERS = {"framework, paygent": (), "paygent, framework": ("--paygent-first",)}
"""The same for frameworks: how the example is run."""


class Neighbour(NamedTuple):
    """Other instrumentation.

    Attributes:
        name: As it is selected, and the key of how it is switched on in `switches.py`.
        title: As its makers write it.
        kind: Where it sits.
        pins: Its own packages.
        sdks: Those whose calls it sees.
        displaces: SDKs whose `request` it takes over when it comes after Paygent.
        home: Name of the venv, where another entry has the same one; "" is its own name.
    """

    name: str
    title: str
    kind: Kind
    pins: tuple[str, ...]
    sdks: tuple[str, ...] = ("openai", "anthropic")
    displaces: tuple[str, ...] = ()
    home: str = ""


class Framework(NamedTuple):
    """A framework that calls the SDKs, with an example of ours that is run as it is.

    Attributes:
        name: As it is selected.
        title: As its makers write it.
        pins: Its own packages, and the SDKs if it wants certain ones.
        example: The script, below the repository's root; its docstring has a ```text block with
            what it prints.
    """

    name: str
    title: str
    pins: tuple[str, ...]
    example: str


NEIGHBOURS = (
    Neighbour(
        "openllmetry",
        "OpenLLMetry",
        "wraps the methods",
        (
            "opentelemetry-instrumentation-openai==0.62.4",
            "opentelemetry-instrumentation-anthropic==0.62.4",
            *OTEL_PINS,
        ),
    ),
    Neighbour(
        "openinference",
        "OpenInference",
        "wraps the client's request",
        (
            "openinference-instrumentation-openai==0.1.66",
            "openinference-instrumentation-anthropic==3.1.0",
            *OTEL_PINS,
        ),
        displaces=("openai",),
    ),
    Neighbour(
        "logfire",
        "Logfire",
        "wraps the client's request",
        ("logfire==5.4.0", *OTEL_PINS),
        displaces=("openai", "anthropic"),
    ),
    Neighbour(
        "logfire-instance",
        "Logfire on one client",
        "one client instance",
        ("logfire==5.4.0", *OTEL_PINS),
        displaces=("openai", "anthropic"),
        home="logfire",
    ),
    Neighbour("sentry", "Sentry", "wraps the methods", ("sentry-sdk==2.75.0",)),
    Neighbour("ddtrace", "Datadog (ddtrace)", "its own tracer", ("ddtrace==4.16.0",)),
    Neighbour(
        "langfuse",
        "Langfuse",
        "wraps the methods",
        ("langfuse==5.0.4", *OTEL_PINS),
        sdks=("openai",),
    ),
)

FRAMEWORKS = (
    Framework(
        "langchain",
        "LangChain",
        ("langchain-core==1.8.3", "langchain-openai==1.7.4", "langchain-anthropic==1.7.10"),
        "examples/langchain_chain.py",
    ),
    Framework(
        "langgraph",
        "LangGraph",
        ("langgraph==1.2.24", "langchain-openai==1.7.4", "langchain-anthropic==1.7.10"),
        "examples/langgraph_agent.py",
    ),
    Framework(
        "openai-agents",
        "OpenAI Agents SDK",
        ("openai-agents[litellm]==0.24.0",),
        "examples/openai_agents.py",
    ),
    Framework(
        "pydantic-ai",
        "pydantic-ai",
        ("pydantic-ai-slim[openai,anthropic]==2.68.0",),
        "examples/pydantic_ai_agent.py",
    ),
    Framework("crewai", "CrewAI", ("crewai==1.15.30", "openai==2.54.0"), "examples/crewai_crew.py"),
    Framework("litellm", "LiteLLM", ("litellm==1.110.2",), "examples/litellm_calls.py"),
    Framework(
        "fastapi", "FastAPI", ("fastapi==0.165.0", "httpx==0.28.1"), "examples/fastapi_app.py"
    ),
    Framework("flask", "Flask", ("flask==3.1.3",), "examples/flask_app.py"),
    Framework("gevent", "gevent", ("gevent==26.9.0",), "examples/gevent_pool.py"),
)

Entry = Neighbour | Framework
ENTRIES: tuple[Entry, ...] = (*NEIGHBOURS, *FRAMEWORKS)


def chosen(names: Iterable[str] | None = None) -> tuple[Entry, ...]:
    """Return the entries with these names.

    Args:
        names: None takes those of `PEERS`, and everyone if there are none.

    Raises:
        SystemExit: if nobody has one of the names.
    """
    wanted = set(os.environ.get("PEERS", "").split() if names is None else names)
    unknown = wanted - {entry.name for entry in ENTRIES}
    if unknown:
        raise SystemExit(f"no neighbour is called {', '.join(sorted(unknown))}")
    return tuple(entry for entry in ENTRIES if not wanted or entry.name in wanted)


def home(entry: Entry) -> str:
    """Return the name of an entry's venv."""
    return (entry.home if isinstance(entry, Neighbour) else "") or entry.name


def python(entry: Entry) -> Path:
    """Return the interpreter of an entry's venv."""
    return VENVS / home(entry) / "bin" / "python"


def pins(entry: Entry) -> tuple[str, ...]:
    """Return what is installed beside Paygent for an entry."""
    named = {pin.split("==")[0] for pin in entry.pins}
    return (*(pin for pin in SDK_PINS if pin.split("==")[0] not in named), *entry.pins)


if __name__ == "__main__":
    # One line for each venv, for `.ci/peers`: its name, and what goes into it.
    print(
        *{f"{home(entry)} {' '.join(pins(entry))}": 0 for entry in chosen(sys.argv[1:] or None)},
        sep="\n",
    )
