"""Prices: from a provider's model name to the rates with which a call is booked.

`model_names.py` normalizes names, `catalogue.py` resolves them to rates: the plan's own rate, then
the plan's default, then the bundled catalogue (genai-prices), then the plan's policy for unknown
models. `usage_cost.py` prices a usage, `max_output.py` bounds an answer.
"""
