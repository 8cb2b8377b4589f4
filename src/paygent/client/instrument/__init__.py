"""Patches: one folder for each SDK or protocol.

`registry.py` installs and removes them. `patching/` puts a patch in and takes it out. `http_sdks/`
is the one wrapper around a generated SDK's `request`, for which `openai/` and `anthropic/` describe
their operations; `streams/` taps answers that are read in pieces; `callables/` meters functions and
registered providers, `litellm/` LiteLLM's functions, `realtime/` WebSockets.
"""
