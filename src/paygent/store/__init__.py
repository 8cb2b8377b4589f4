"""The store: plans, users, events and what is derived from them, in one SQL database.

`port.py` is the contract, `sqlite.py` the embedded engine; the statements are in `sql/`, named,
with reasons.
"""
