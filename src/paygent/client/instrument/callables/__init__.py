"""Callables that are no patched SDK: `wrap` and registered providers."""
