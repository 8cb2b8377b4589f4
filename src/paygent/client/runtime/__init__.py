"""What every other part of the client stands on: settings, locks, fork and exit, callbacks, ids."""
