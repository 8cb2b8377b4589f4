"""LiteLLM: its function is the call, whatever it calls below."""
