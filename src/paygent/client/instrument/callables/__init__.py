"""Callables that are no patched SDK: `wrap`, registered providers, Bedrock."""
