"""The ledger: what users have spent and what calls in flight hold.

`port.py` is the contract, `local.py` the ledger over a store in this process, `accounts.py` what
one process knows and decides with.
"""
