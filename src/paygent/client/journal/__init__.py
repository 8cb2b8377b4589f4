"""Durable records of calls, and their delivery to the ledger.

`journal.py` hands each record to the operating system before a call returns, `segments.py` has the
files, and `delivery.py` is the thread that moves records to the ledger and asks it about users.
"""
