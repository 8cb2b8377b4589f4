"""LangChain: the callback handler that applications pass, and how it reads usage."""

from paygent.integrations.langchain.handler import LangChainCallback

__all__ = ["LangChainCallback"]
