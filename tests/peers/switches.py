"""How each neighbour is switched on, as its documentation says, and what it saw. Nothing of it may
leave the machine. Imported only where a neighbour is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])


class Peer:
    """One neighbour in this process; subclasses say how it is switched on."""

    def switch_on(self) -> None:
        """Do what an application does once, when it starts."""

    def on_client(self, client: Any) -> None:
        """Do what an application does with each client that it makes."""

    def around(self, function: _F) -> _F:
        """Return a function of the application, decorated as the neighbour wants it."""
        return function

    def take(self) -> list[str]:
        """Return the names of the spans since the last time, sorted."""
        raise NotImplementedError


class _WithSpans(Peer):
    """A neighbour that makes OpenTelemetry spans; they go to a list in memory."""

    def __init__(self) -> None:
        exporters = import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        self.exporter = exporters.InMemorySpanExporter()

    def processor(self) -> Any:
        """Return what hands each span to the list when it ends."""
        return import_module("opentelemetry.sdk.trace.export").SimpleSpanProcessor(self.exporter)

    def tracer_provider(self) -> Any:
        """Return a provider whose spans go to the list."""
        provider = import_module("opentelemetry.sdk.trace").TracerProvider()
        provider.add_span_processor(self.processor())
        return provider

    def take(self) -> list[str]:
        """Return the names of the spans since the last time, sorted."""
        names = sorted(span.name for span in self.exporter.get_finished_spans())
        self.exporter.clear()
        return names


class OpenLlmetry(_WithSpans):
    """Instrumentors of OpenTelemetry that wrap resource methods."""

    package = "opentelemetry.instrumentation"

    def switch_on(self) -> None:
        provider = self.tracer_provider()
        for sdk, name in (("openai", "OpenAIInstrumentor"), ("anthropic", "AnthropicInstrumentor")):
            instrumentor = getattr(import_module(f"{self.package}.{sdk}"), name)
            instrumentor().instrument(tracer_provider=provider)


class OpenInference(OpenLlmetry):
    """The same protocol; takes `OpenAI.request`, and Anthropic's resource methods."""

    package = "openinference.instrumentation"


class Logfire(_WithSpans):
    """Sets `request` of the client classes."""

    def configure(self) -> None:
        """Start it without its backend."""
        import_module("logfire").configure(
            send_to_logfire=False, console=False, additional_span_processors=[self.processor()]
        )

    def switch_on(self) -> None:
        self.configure()
        logfire = import_module("logfire")
        logfire.instrument_openai()
        logfire.instrument_anthropic()


class LogfireInstance(Logfire):
    """Sets `request` of each client that it is given."""

    def switch_on(self) -> None:
        self.configure()

    def on_client(self, client: Any) -> None:
        logfire = import_module("logfire")
        is_openai = type(client).__module__.startswith("openai")
        (logfire.instrument_openai if is_openai else logfire.instrument_anthropic)(client)


class Sentry(Peer):
    """Wraps resource methods and the iterators of streams; its transport keeps what it is given."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    def switch_on(self) -> None:
        envelopes = self.envelopes
        base: Any = import_module("sentry_sdk.transport").Transport

        class Kept(base):  # type: ignore[misc]
            def capture_envelope(self, envelope: Any) -> None:
                envelopes.append(envelope)

        integrations = "sentry_sdk.integrations"
        import_module("sentry_sdk").init(
            dsn="http://key@127.0.0.1:9/1",
            transport=Kept,
            traces_sample_rate=1.0,
            integrations=[
                import_module(f"{integrations}.openai").OpenAIIntegration(),
                import_module(f"{integrations}.anthropic").AnthropicIntegration(),
            ],
        )

    def around(self, function: _F) -> _F:
        sentry: Any = import_module("sentry_sdk")

        def in_transaction(*args: Any) -> Any:
            with sentry.start_transaction(name="application"):
                return function(*args)

        return in_transaction  # type: ignore[return-value]

    def take(self) -> list[str]:
        import_module("sentry_sdk").flush()
        payloads = [item.payload.json for each in self.envelopes for item in each.items]
        self.envelopes.clear()
        spans = [each for payload in payloads for each in _spans_of(payload)]
        return sorted(str(span["name"]) for span in spans if _is_llm(span))


def _spans_of(payload: Any) -> list[Mapping[str, Any]]:
    return list(payload.get("items") or ()) if isinstance(payload, Mapping) else []


def _is_llm(span: Mapping[str, Any]) -> bool:
    return str(span["attributes"].get("sentry.op", {}).get("value")).startswith("gen_ai.")


class Ddtrace(Peer):
    """Its own tracer, which finds no agent; a processor keeps what it traced."""

    def __init__(self) -> None:
        self.names: list[str] = []
        os.environ.update(
            DD_TRACE_AGENT_URL="http://127.0.0.1:9",
            DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
            DD_REMOTE_CONFIGURATION_ENABLED="false",
            DD_TRACE_STARTUP_LOGS="false",
            DD_LLMOBS_ENABLED="false",
        )

    def switch_on(self) -> None:
        names = self.names
        base: Any = import_module("ddtrace.trace").TraceFilter

        class Keep(base):  # type: ignore[misc]
            def process_trace(self, trace: list[Any]) -> None:
                names.extend(f"{span.name} {span.resource}" for span in trace)

        tracer: Any = import_module("ddtrace.trace").tracer
        tracer.configure(trace_processors=[Keep()])
        import_module("ddtrace").patch(openai=True, anthropic=True)

    def take(self) -> list[str]:
        names = sorted(self.names)
        self.names.clear()
        return names


class Langfuse(_WithSpans):
    """The drop-in for OpenAI, and `observe` around the application's own function."""

    def switch_on(self) -> None:
        self.client = import_module("langfuse").Langfuse(
            public_key="pk-lf-x",
            secret_key="sk-lf-x",
            base_url="http://127.0.0.1:9",
            span_exporter=self.exporter,
        )
        import_module("langfuse.openai")

    def around(self, function: _F) -> _F:
        observed: _F = import_module("langfuse").observe(name="application")(function)
        return observed

    def take(self) -> list[str]:
        self.client.flush()
        return super().take()


SWITCHES: dict[str, type[Peer]] = {
    "openllmetry": OpenLlmetry,
    "openinference": OpenInference,
    "logfire": Logfire,
    "logfire-instance": LogfireInstance,
    "sentry": Sentry,
    "ddtrace": Ddtrace,
    "langfuse": Langfuse,
}
