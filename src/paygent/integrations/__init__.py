"""Public integrations with web servers and agent frameworks, one module for each.

Each sets the user and session of the calls made inside; the hooks of the SDKs meter them. Names are
loaded when they are first used, since each belongs to a library that may not be installed.
"""

from importlib import import_module
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
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value  # from now on it is found without this function
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
