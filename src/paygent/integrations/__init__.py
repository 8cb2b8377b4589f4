"""What applications import to say whose calls they are, one module for each kind of host.

Each takes an application as it is and sets the user and session of the calls inside; none of them
meters what the hooks see. Names are loaded when they are first used, since each belongs to a
library that may not be there.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paygent.integrations.asgi import PaygentMiddleware
    from paygent.integrations.crewai import CrewAICallback
    from paygent.integrations.langchain import LangChainCallback
    from paygent.integrations.wsgi import PaygentWSGIMiddleware

__all__ = ["CrewAICallback", "LangChainCallback", "PaygentMiddleware", "PaygentWSGIMiddleware"]

_HOMES = {
    "CrewAICallback": "crewai",
    "LangChainCallback": "langchain",
    "PaygentMiddleware": "asgi",
    "PaygentWSGIMiddleware": "wsgi",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home, once."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(f"{__name__}.{home}"), name)
    return found


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
