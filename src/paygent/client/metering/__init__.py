"""One call, from begin to settle: `meter.py` has the whole flow."""
