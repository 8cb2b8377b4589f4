"""Sync: from a settled call to the ledger, with nothing lost on the way.

`journal.py` keeps each record in the operating system's hands before a call returns, `worker.py`
moves the records to the ledger and asks it about users, `callbacks.py` runs the application's
callbacks.
"""
