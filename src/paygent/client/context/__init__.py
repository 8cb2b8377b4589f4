"""The current user: `paygent_context`, `paygent_track`, and propagation to threads and tasks."""
