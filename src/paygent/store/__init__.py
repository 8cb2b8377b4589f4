"""The store: plans, users, events and the counters derived from them, in one SQL database.

`port.py` is the contract and `sqlite.py` the embedded engine; `rows.py` maps values to rows. The
named statements, with reasons, are in `sql/`.
"""
