"""The ledger: the seam between the client and the place where plans and spend are kept.

`port.py` is the contract and `local.py` the ledger over a store in this process; `transport.py` and
`handshake.py` talk to a backend.
"""
