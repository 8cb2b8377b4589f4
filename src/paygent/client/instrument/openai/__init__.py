"""OpenAI: its operations, and how their answers are read."""
