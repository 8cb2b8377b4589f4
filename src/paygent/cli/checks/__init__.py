"""The checks of `paygent doctor`, by subject; each yields findings and changes nothing.

`finding.py` is their result. `installation.py` checks Python, provider SDKs (with `hook_probe.py`
in processes of their own) and the environment's settings; `files.py` the database, its journal and
the clock; `plans.py` the plans and prices.
"""
