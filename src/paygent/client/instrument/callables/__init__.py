"""Callables outside the patched SDKs: `wrap` and registered providers."""
