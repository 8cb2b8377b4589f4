"""Public integrations with web servers and agent frameworks, one module for each.

Each sets the user and session of the calls made inside; the hooks of the SDKs meter them. Names are
loaded when they are first used, since each belongs to a library that may not be installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paygent.integrations.asgi import PaygentMiddleware
    from paygent.integrations.crewai import CrewAICallback
    from paygent.integrations.langchain import LangChainCallback
    from paygent.integrations.wsgi import PaygentWSGIMiddleware

__all__ = ["CrewAICallback", "LangChainCallback", "PaygentMiddleware", "PaygentWSGIMiddleware"]

_MODULE_OF = {
    "CrewAICallback": "crewai",
    "LangChainCallback": "langchain",
    "PaygentMiddleware": "asgi",
    "PaygentWSGIMiddleware": "wsgi",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module, once."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # From now on the name is found without this function.
    globals()[name] = value = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
