"""Prices: from a provider's model name to the rates that a call is booked with.

`names.py` tells which model a name means, `catalogue.py` finds its rates: the plan's own rate, then
the plan's default, then the bundled catalogue (genai-prices), then what the plan says of unknown
models.
"""
