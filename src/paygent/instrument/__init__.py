"""Instrument: where provider SDKs are patched, and how request, usage and stream chunk are read.

`registry.py` says which SDKs, `funnel.py` is the one wrapper around a provider call, `stream.py`
the taps of streams; each SDK has a thin file of its own that only knows names and fields.
"""
