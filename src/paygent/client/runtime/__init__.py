"""The base of the client: settings, locks, fork and exit, callbacks, event loops, ids."""
