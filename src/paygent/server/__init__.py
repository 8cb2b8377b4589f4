"""The backend: the ledger of a team's applications over HTTP.

`run.py` serves an application that `app.py` composes; `api/` has a module for each group of routes.
The server imports the store and the core, and nothing of the client.
"""
