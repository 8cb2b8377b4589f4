"""Prices: from a provider's model name to the rates with which a call is booked.

`model_names.py` normalizes names, `catalogue.py` resolves them to rates, `usage_cost.py` prices a
usage.
"""
