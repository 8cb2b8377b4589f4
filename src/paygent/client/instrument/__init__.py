"""Patches: one folder for each SDK or protocol.

`registry.py` installs and removes them. `patching/` puts a patch in and takes it out. `http_sdks/`
is the one wrapper around a generated SDK's `request`, on which the thin folders `openai/` and
`anthropic/` stand; `streams/` taps what is read in pieces; `callables/` meters functions and
registered providers, `litellm/` the gateway in a process, `realtime/` web sockets.
"""
